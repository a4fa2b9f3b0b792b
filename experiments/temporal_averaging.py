r"""Averaging the weights of Adam over time takes away the variance of the last iterate, and not its bias.

Kingma and Ba 2015, Section 7.2: the uniform average (Polyak) and the exponential one with beta2, from 0 and
bias-corrected. With `Averaged`, which starts at theta_0, the latter is (zeta_t − rho^t theta_0)/(1 − rho^t). A
parabola in three directions; errors are mean squares of the distance to the minimum, summed over the directions.

    python experiments/temporal_averaging.py --out results/temporal_averaging
"""

import math
import sys
import time

import numpy as np
import torch
from claims import Claim, arguments, conclude, decide, joint
from matplotlib.figure import Figure

import sdeadapt as sa
from sdeadapt.oracles.analytic import Quadratic
from sdeadapt.statistics.intervals import critical_value, fieller_interval

CLAIM = __doc__.split("\n")[0]
HESSIAN, COVARIANCE, FAR = (0.5, 1.0, 2.0), (1.0, 1.0, 1.0), 3.0
ADAM = sa.Adam(0.05, 0.9, 0.99)
SHORT = sa.Adam(0.05, 0.5, 0.8, eps=0.0)  # remembers little, so that skewed noise moves its rest
NAMES = ("last", "uniform", "exponential")


def errors(method, noise, theta0, times, paths, seed):
    """The squared distance to the minimum, (times, 3, paths): last iterate, uniform and exponential average."""
    oracle, generator = Quadratic(HESSIAN, COVARIANCE, 1.0, noise), torch.Generator().manual_seed(seed)
    start = torch.full((paths, 3), theta0, dtype=torch.float64)
    kinds = [sa.Averaged(method, "uniform"), sa.Averaged(method, "exponential", method.beta2)]
    states, stream, found = [kind.init(start) for kind in kinds], oracle.stream(generator, paths), []
    for k in range(times[-1]):
        g = oracle.sample(oracle.at(states[0].theta), stream.next())
        states = [kind.step(state, g, k) for kind, state in zip(kinds, states, strict=True)]
        if k + 1 in times:
            forgotten = method.beta2 ** (k + 1)
            kingma = (states[1].average - forgotten * start) / (1 - forgotten)
            shown = (states[0].theta, states[0].average, kingma)
            found.append(torch.stack([x.square().sum(1) for x in shown]).numpy())
    return np.array(found)


def ratio(over, under, z):
    """The interval of E over / E under, from the same paths (paths,)."""
    covariance = np.cov(over, under) / len(over)
    return fieller_interval(over.mean(), under.mean(), covariance, z)


def draw(found, times):
    figure = Figure(figsize=(14, 4.4), layout="constrained")
    axes = figure.subplots(1, 3)
    for axis, (name, values) in zip(axes, found.items(), strict=True):
        for i, (label, colour) in enumerate(zip(NAMES, ("0.4", "#4c72b0", "#1b7837"), strict=True)):
            mean, sem = values[:, i].mean(1), values[:, i].std(1) / math.sqrt(values.shape[2])
            axis.loglog(times, mean, "o-", ms=4, color=colour, label=label)
            axis.fill_between(times, mean - 3 * sem, mean + 3 * sem, color=colour, alpha=0.2, lw=0)
        t = np.array(times[-4:], dtype=float)
        axis.loglog(t, values[-4, 1].mean() * t[0] / t, "k:", lw=1, label="1/T")
        axis.set(xlabel="iterations T", title=name)
        axis.grid(alpha=0.25, which="both")
    axes[0].set_ylabel("E |θ − minimum|²")
    axes[0].legend(frameon=False, fontsize=8)
    return figure


def main(argv=None):
    options, began = arguments(CLAIM, argv), time.perf_counter()
    print(CLAIM)
    paths, most = (128, 9) if options.smoke else (4096, 13)
    times = [2**k for k in range(4, most)]
    found = {
        "from the minimum": errors(ADAM, "gaussian", 0.0, times, paths, 0),
        "from far off": errors(ADAM, "gaussian", FAR, times, paths, 1),
        "skewed noise, β = (.5, .8)": errors(SHORT, "exponential", 0.0, times, paths, 2),
    }
    z = critical_value(0.95, 10)
    (last, uniform, exponential), early = found["from the minimum"].transpose(1, 0, 2), times.index(64)
    rest, far, skewed = last[-1], found["from far off"], found["skewed noise, β = (.5, .8)"]
    whole, memory = ratio(uniform[-1], rest, z), ratio(exponential[-1], rest, z)
    halves = [ratio(uniform[i], uniform[i + 1], z) for i in (-3, -2)]
    plain = ratio(last[-2], last[-1], z)
    slow = ratio(far[early, 1], far[early, 0], z)
    late = ratio(far[-1, 2], far[-1, 0], z)
    biased = ratio(skewed[-2, 1], skewed[-1, 1], z)
    texts = ["{:.3f} to {:.3f}".format(*pair) for pair in (whole, memory, plain, slow, late, biased)]
    claims = [
        Claim(f"The uniform average over {times[-1]:,} iterations has less than a tenth of the last iterate's error",
              decide(*whole, (0, 0.1)), f"ratio {texts[0]}"),
        Claim("The exponential average has less of it too", decide(*memory, (0, 1)), f"ratio {texts[1]}"),
        Claim("The uniform average's error halves when T doubles (2 within 10 %)",
              joint(decide(*pair, (1.8, 2.2)) for pair in halves),
              "ratios " + ", ".join("{:.3f} to {:.3f}".format(*pair) for pair in halves)),
        Claim("The last iterate's does (control)", decide(*plain, (1.8, 2.2)), f"ratio {texts[2]}", "REFUTED"),
        Claim("From far off, after 64 iterations, the uniform average is the better point",
              decide(*slow, (0, 1)), f"uniform : last {texts[3]}", "REFUTED"),
        Claim(f"There the exponential average is better in the end, at T = {times[-1]:,}", decide(*late, (0, 1)),
              f"exponential : last {texts[4]}"),
        Claim("With skewed noise, beta = (.5, .8), the uniform average's error halves too: it tends to the minimum",
              decide(*biased, (1.8, 2.2)), f"ratio {texts[5]}; {skewed[-1, 1].mean():.4f} is left",
              "REFUTED"),
    ]  # fmt: skip
    draw(found, times).savefig(options.out / "temporal_averaging.png", dpi=130)
    return conclude(claims, options, began)


if __name__ == "__main__":
    sys.exit(main())
