r"""On a linear loss the square-root rule keeps the law of theta where noise dominates; the linear rule where none does.

Malladi et al. 2022, Section 4.1: f = <gbar, theta>, Sigma = I. For sigma >> |gbar|, RMSprop's theta_k − theta_0 tends
to N(−(k lr/sigma) gbar, k lr² I), which lr → sqrt(kappa) lr, k → k/kappa at sigma/sqrt(kappa) keeps. For sigma <<
|gbar| a step is −lr sign(gbar): the drift k lr is kept by lr → kappa lr alone, and no noise is left for an SDE.

A loud problem (sigma = 32 |gbar|) and a quiet one (sigma = |gbar|/32), from v = E g², where it stays. Drift and
variance are held against the prediction by intervals; the law by the Kolmogorov distance, with the band of Dvoretzky,
Kiefer, Wolfowitz and Massart. 1 − beta is small, as E g²/v, with the new g in v, falls short of 1 by about 1 − beta.

    python experiments/linear_warm_up.py --out results/linear_warm_up
"""

import math
import sys
import time

import numpy as np
import torch
from claims import Claim, arguments, conclude, decide, joint
from matplotlib.figure import Figure
from replications import kolmogorov_reach, mean_interval
from scipy import stats

import sdeadapt as sa
from sdeadapt.methods.rmsprop import RMSpropState
from sdeadapt.oracles import FromFunctions
from sdeadapt.statistics.intervals import critical_value, fieller_interval
from sdeadapt.verification.rules import learning_rate, own

CLAIM = __doc__.split("\n")[0]
GRADIENT = torch.tensor([0.6, -0.8], dtype=torch.float64)  # gbar, of norm 1
LOUD, QUIET, STEPS, KAPPAS = 32.0, 1 / 32, 1024, (4, 16)
BASE = sa.RMSprop(1 / 32, 1 - 1 / 4096, 0.0)  # k lr² = 1
RULES = {"square root": own, "linear": learning_rate(1.0)}
DRIFT, VARIANCE, DISTANCE, TESTS = 0.1, 0.05, 0.03, 48  # how close is close


def problem(scale):
    eye = torch.eye(2, dtype=torch.float64)
    return FromFunctions(lambda theta: theta @ GRADIENT, dim=2, diffuse=lambda theta, xi: eye @ xi, scale=scale)


def displacement(scale, rule, kappa, paths, seed):
    """Return theta_k − theta_0 after the same epochs at kappa times the batch, (paths, 2)."""
    method, oracle = BASE if rule is None else rule(BASE, kappa), problem(scale).rescaled(kappa)
    generator = torch.Generator().manual_seed(seed)
    theta = torch.zeros(paths, 2, dtype=torch.float64)
    state = RMSpropState(theta, (GRADIENT.square() + oracle.scale**2).expand(paths, 2))
    g_mean, stream = oracle.at(theta[:1]), oracle.stream(generator, paths)
    for k in range(STEPS // kappa):
        state = method.step(state, oracle.sample(g_mean, stream.next()), k)
    return state.theta.numpy()


def gaussian(scale):
    """Mean (2,) and standard deviation of the predicted law at kappa = 1."""
    return -(STEPS * BASE.lr / scale) * GRADIENT.numpy(), math.sqrt(STEPS) * BASE.lr


def law(x, scale):
    """The verdict on "x follows the predicted law", all parts together, and the intervals it rests on."""
    mean, spread = gaussian(scale)
    centred = (x - x.mean(0)) / spread
    band = kolmogorov_reach(len(x), TESTS)
    distance = max(stats.kstest(x[:, i], stats.norm(mean[i], spread).cdf).statistic for i in range(2))
    parts = {
        "drift": (mean_interval(x @ mean / (mean @ mean), TESTS), (1 - DRIFT, 1 + DRIFT)),
        "variance": (mean_interval(centred[:, 0] ** 2, TESTS), (1 - VARIANCE, 1 + VARIANCE)),
        "and": (mean_interval(centred[:, 1] ** 2, TESTS), (1 - VARIANCE, 1 + VARIANCE)),
        "covariance": (mean_interval(centred[:, 0] * centred[:, 1], TESTS), (-VARIANCE, VARIANCE)),
        "Kolmogorov distance": ((max(distance - band, 0.0), distance + band), (0.0, DISTANCE)),
    }
    verdict = joint(decide(*found, region) for found, region in parts.values())
    return verdict, ", ".join(f"{name} {low:.3f} to {high:.3f}" for name, ((low, high), _) in parts.items())


def kept(before, after, z):
    """The verdict on "the displacement is kept to 5 %", in both coordinates, and the ratios' intervals."""
    pairs = []
    for i in range(2):
        variances = np.diag([after[:, i].var(ddof=1) / len(after), before[:, i].var(ddof=1) / len(before)])
        pairs.append(fieller_interval(after[:, i].mean(), before[:, i].mean(), variances, z))
    return joint(decide(*p, (0.95, 1.05)) for p in pairs), ", ".join("{:.3f} to {:.3f}".format(*p) for p in pairs)


def sweep(paths):
    """Drift at kappa = 4 over that at 1, and its error, for noise from quiet to loud, under both rules."""
    noise, found = 2.0 ** np.arange(-5, 6), {}
    for name, rule in RULES.items():
        found[name] = []
        for i, scale in enumerate(noise):
            base, scaled = (displacement(scale, rule, kappa, paths, 100 + 2 * i + kappa) for kappa in (1, 4))
            along = [x @ GRADIENT.numpy() for x in (base, scaled)]
            (a, b), (c, d) = ((y.mean(), y.std() / math.sqrt(paths)) for y in along)
            found[name].append((c / a, math.hypot(d, b * c / a) / abs(a)))
    return noise, {name: np.array(values) for name, values in found.items()}


def draw(loud, quiet, noise, ratios):
    figure = Figure(figsize=(14, 4.4), layout="constrained")
    left, middle, right = figure.subplots(1, 3)
    mean, spread = gaussian(LOUD)
    x = np.linspace(mean[0] - 4 * spread, mean[0] + 4 * spread, 200)
    colours = {"κ = 1": "0.4", "square root, κ = 16": "#1b7837", "linear, κ = 16": "#b2182b"}
    for (name, colour), values in zip(colours.items(), loud, strict=True):
        left.hist(values[:, 0], bins=80, range=(-9, 8), density=True, histtype="step", color=colour, lw=1.3, label=name)
    left.plot(x, stats.norm(mean[0], spread).pdf(x), "k:", lw=1.5, label="prediction")
    left.set(xlabel="θ₀ after the warm-up", ylabel="density", title=f"σ = {LOUD:g} |ḡ|", xlim=(-9, 8))
    left.legend(frameon=False, fontsize=8)
    for (name, colour), values, size in zip(colours.items(), quiet, (90, 25, 25), strict=True):
        middle.plot(*values[:200].T, "o", ms=size**0.5, color=colour, alpha=0.5, label=name)
    end = -STEPS * BASE.lr * np.sign(GRADIENT.numpy())
    middle.plot(*end, "k+", ms=14, label="−k η sign(ḡ)")
    middle.set(xlabel="θ₀ after the warm-up", ylabel="θ₁", title="σ = |ḡ| / 32", xlim=(-36, 4), ylim=(-4, 36))
    middle.legend(frameon=False, fontsize=8, loc="lower left")
    for name, colour in (("square root", "#1b7837"), ("linear", "#b2182b")):
        value, error = ratios[name].T
        right.errorbar(noise, value, 3 * error, fmt="o-", ms=4, color=colour, label=name)
    right.axhline(1, color="0.5", lw=0.8)
    right.set_xscale("log", base=2)
    right.set(xlabel="σ / |ḡ|", ylabel="drift at κ = 4 / drift at κ = 1", title="each rule has its regime")
    right.legend(frameon=False, fontsize=8)
    for axis in (left, middle, right):
        axis.grid(alpha=0.25)
    return figure


def main(argv=None):
    options, began = arguments(CLAIM, argv), time.perf_counter()
    print(CLAIM)
    paths, z = 512 if options.smoke else 1 << 16, critical_value(0.95, TESTS)
    cases = [(None, 1), *((rule, kappa) for rule in RULES for kappa in KAPPAS)]
    loud, quiet = (
        {
            (name, kappa): displacement(scale, RULES.get(name), kappa, n, seed + i)
            for i, (name, kappa) in enumerate(cases)
        }
        for scale, n, seed in ((LOUD, paths, 0), (QUIET, paths // 16, 10))
    )
    most = max(KAPPAS)
    shown = (None, 1), ("square root", most), ("linear", most)
    figure = draw([loud[key] for key in shown], [quiet[key] for key in shown], *sweep(paths // 16))
    figure.savefig(options.out / "linear_warm_up.png", dpi=130)
    claims = []
    for name, kappa in cases:
        what = "RMSprop" if name is None else f"{name} rule, kappa = {kappa}"
        verdict, evidence = law(loud[name, kappa], LOUD)
        claims.append(Claim(f"Noise 32 times the gradient: theta has the predicted Gaussian law ({what})", verdict,
                            evidence, "REFUTED" if name == "linear" else "CONFIRMED"))  # fmt: skip
    end = -quiet[None, 1] * np.sign(GRADIENT.numpy()) / (STEPS * BASE.lr)
    signs = [mean_interval(end[:, i], TESTS) for i in range(2)]
    claims += [
        Claim("Gradient 32 times the noise: theta has the Gaussian law (RMSprop)", *law(quiet[None, 1], QUIET),
              "REFUTED"),
        Claim("There every coordinate moves by −k lr sign(gbar), to 1 %",
              joint(decide(*pair, (0.99, 1.01)) for pair in signs),
              "displacement over it " + ", ".join("{:.4f} to {:.4f}".format(*pair) for pair in signs)),
    ]  # fmt: skip
    for name in RULES:
        verdict, evidence = kept(quiet[None, 1], quiet[name, most], z)
        claims.append(Claim(f"There the {name} rule keeps the displacement at kappa = {most}, to 5 %", verdict,
                            f"ratios {evidence}", "CONFIRMED" if name == "linear" else "REFUTED"))  # fmt: skip
    return conclude(claims, options, began)


if __name__ == "__main__":
    sys.exit(main())
