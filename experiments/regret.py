r"""Adam's regret grows as sqrt(T) on some convex losses and as T on others, though Kingma and Ba's covers both.

R(T) = sum_t f_t(theta_t) − min_theta sum_t f_t(theta) over theta in [−1, 1]^d, with alpha/sqrt(t) and a beta1 that
fades, as in Theorem 4.1 of Kingma and Ba 2015. The growth is that of what is added, (R(16T) − R(4T))/(R(4T) − R(T)),
which a start far off does not enter: 2 for sqrt(T), 4 for T. It is decided on the linear scale, from independent paths.

* Quadratic losses with bounded symmetric noise, ten coordinates of different curvature: sqrt(T). Controls: a constant
  alpha, and no learning, both 4.
* Reddi, Kale and Kumar 2018 (Section 3, stochastic): f_t = C theta with probability (1 + delta)/(C + 1), else −theta.
  The best point is −1 and Adam goes to +1, since sqrt(v) makes the rare large gradient small. Adagrad, Adam's own limit
  (beta2 → 1), learns it: sqrt(T) or less.

    python experiments/regret.py --out results/regret
"""

import math
import sys
import time
from typing import NamedTuple

import numpy as np
import torch
from claims import Claim, arguments, conclude, decide
from matplotlib.figure import Figure

import sdeadapt as sa
from sdeadapt.methods.schedules import inverse_root
from sdeadapt.statistics.intervals import critical_value, fieller_interval

CLAIM = __doc__.split("\n")[0]
LR, C, DELTA = 0.5, 10.0, 0.1
CURVATURE = torch.logspace(-1, 1, 10, dtype=torch.float64)


class Quadratics:
    """f_t = sum_i h_i (theta_i − y_ti)²/2 with y uniform about .5, wide ±.5: bounded gradients, exact best point."""

    dim, start = 10, -1.0

    def draw(self, generator, paths):
        return torch.rand(paths, self.dim, generator=generator, dtype=torch.float64)

    def loss(self, theta, y):
        return (CURVATURE * (theta - y) ** 2).sum(1) / 2

    def gradient(self, theta, y):
        return CURVATURE * (theta - y)

    def best(self, count, total, squares):
        mean = total / count
        return (CURVATURE * (squares - count * mean**2)).sum(1) / 2  # mean lies in [0, 1]


class Rare:
    """f_t = c theta with c = C, rarely, or −1: E f_t falls towards −1."""

    dim, start = 1, 0.0

    def draw(self, generator, paths):
        rare = torch.rand(paths, 1, generator=generator, dtype=torch.float64) < (1 + DELTA) / (C + 1)
        return torch.where(rare, C, -1.0).double()

    def loss(self, theta, c):
        return (c * theta)[:, 0]

    def gradient(self, theta, c):
        return c

    def best(self, count, total, squares):
        return -total[:, 0].abs()


class Study(NamedTuple):
    """A method on losses, and what its growth is to be."""

    method: sa.Method | None
    losses: Quadratics | Rare
    growth: tuple[float, float]
    text: str


def studies():
    root, linear = (1.8, 2.2), (3.8, 4.2)
    fading = inverse_root(LR**2)
    adam = sa.FadingAdam(LR, 0.9, 0.9, schedule=fading, fading=0.99)
    plain = sa.FadingAdam(LR, 0.9, 0.9, fading=0.99)
    return {
        "Adam": Study(adam, Quadratics(), root, "Adam on quadratics: regret grows as sqrt(T)"),
        "Adam, constant α": Study(plain, Quadratics(), linear, "constant alpha on quadratics: as T (control)"),
        "no learning": Study(None, Quadratics(), linear, "theta never moves: as T (control)"),
        "Adam, rare gradients": Study(
            adam, Rare(), linear, "Adam on the losses of Reddi, Kale and Kumar: as T, against Theorem 4.1"
        ),
        "Adagrad, rare gradients": Study(
            sa.Adagrad(LR), Rare(), (0.0, 2.2), "Adagrad on the same losses: as sqrt(T) or slower (control)"
        ),
    }


def regrets(study, times, paths, seed):
    """R(T) of every path, (times, paths), and where theta_0 is at the end, (paths,)."""
    generator, losses, method = torch.Generator().manual_seed(seed), study.losses, study.method
    theta = torch.full((paths, losses.dim), losses.start, dtype=torch.float64)
    state = None if method is None else method.init(theta)
    paid, total, squares, found = torch.zeros(paths, dtype=torch.float64), 0.0, 0.0, []
    for k in range(times[-1]):
        y = losses.draw(generator, paths)
        paid += losses.loss(theta, y)
        total, squares = total + y, squares + y * y
        if method is not None:
            state = method.step(state, losses.gradient(theta, y), k)
            theta = state.theta.clamp(-1, 1)
            state = state._replace(theta=theta)
        if k + 1 in times:
            found.append((paid - losses.best(k + 1, total, squares)).numpy())
    return np.array(found), theta[:, 0].numpy()


def log_slope(times, values):
    """The log-log slope of E R over T, with its standard error: R at different T is of the same paths."""
    x = np.log(times) - np.mean(np.log(times))
    weights, mean = x / (x @ x), values.mean(1)
    influence = weights @ (values / mean[:, None])
    return weights @ np.log(mean), influence.std(ddof=1) / math.sqrt(values.shape[1])


def draw(found, times):
    figure = Figure(figsize=(11.5, 4.6), layout="constrained")
    left, right = figure.subplots(1, 2)
    colours = ("#1b7837", "#c98a1b", "0.5", "#b2182b", "#4c72b0")
    t = np.array(times, dtype=float)
    for (name, values), colour in zip(found.items(), colours, strict=True):
        axis = right if "rare" in name else left
        mean, low, high = values.mean(1), *np.quantile(values, (0.05, 0.95), axis=1)
        axis.loglog(t, mean, "o-", ms=4, color=colour, label=name)
        axis.fill_between(t, np.maximum(low, 1e-2), high, color=colour, alpha=0.15, lw=0)
    for axis, anchor in ((left, found["Adam"].mean(1)[0]), (right, found["Adam, rare gradients"].mean(1)[0])):
        axis.loglog(t, anchor * (t / t[0]) ** 0.5, "k:", lw=1, label="√T")
        axis.loglog(t, anchor * t / t[0], "k--", lw=0.8, label="T")
        axis.set(xlabel="T", ylabel="regret R(T)")
        axis.legend(frameon=False, fontsize=8)
        axis.grid(alpha=0.25)
    left.set_title("quadratic losses; bands hold 90 % of the paths")
    right.set_title(f"{C:g} θ with probability {(1 + DELTA) / (C + 1):.2f}, else −θ")
    return figure


def main(argv=None):
    options, began = arguments(CLAIM, argv), time.perf_counter()
    print(CLAIM)
    times, paths = ((64, 256, 1024), 64) if options.smoke else ((256, 1024, 4096, 16384, 65536), 1024)
    found, ends, claims = {}, {}, []
    z = critical_value(0.95, len(studies()))
    for seed, (name, study) in enumerate(studies().items()):
        values, ends[name] = regrets(study, times, paths, seed)
        found[name] = values
        added = np.diff(values[-3:], axis=0)[::-1]
        low, high = fieller_interval(*added.mean(1), np.cov(added) / paths, z)
        slope, error = log_slope(times[-3:], values[-3:])
        evidence = (
            f"growth at T = {times[-3]:,}: {low:.2f} to {high:.2f}; log-log slope of the last three {slope:.3f} "
            f"± {error:.3f}, for the eye; theta_0 at the end {ends[name].mean():.3f}"
        )
        claims.append(Claim(study.text, decide(low, high, study.growth), evidence))
        if name == "Adam, rare gradients":
            text = "Theorem 4.1 of Kingma and Ba, R(T) = O(sqrt(T)), on these losses"
            claims.append(Claim(text, decide(low, high, (0.0, 2.2)), "the same interval", "REFUTED"))
        print(f"{name}: {evidence}", flush=True)
    draw(found, times).savefig(options.out / "regret.png", dpi=130)
    return conclude(claims, options, began)


if __name__ == "__main__":
    sys.exit(main())
