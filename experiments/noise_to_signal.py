"""Noise dominates the gradient of a network at small batches, and at large ones towards the end of training.

Figures 4 and 5 of Malladi et al. 2022 on digits: N = sigma² Tr Sigma beside G = |grad f|² along runs of RMSprop and
Adam at four batch sizes, scaled by the square-root rule from a batch of 32, with eps as good as none and with one that
counts. N and G are exact at every point; the intervals are over independent runs, Fieller's for the ratio of the means.

    python experiments/noise_to_signal.py --out results/noise_to_signal
"""

import math
import sys
import time

import numpy as np
from claims import Claim, arguments, conclude, decide, joint
from matplotlib import colormaps
from matplotlib.figure import Figure
from scipy.stats import t as student

from sdeadapt import Adam, RMSprop, gradient_noise
from sdeadapt.problems import digits_mlp
from sdeadapt.statistics.intervals import fieller_interval
from sdeadapt.text import short, table

BASE, BATCHES, LR, BETA = 32, (8, 32, 128, 512), 2.0**-9, 0.999
EPS = {"small": 1e-30, "large": 2.0**-8}
STEPS, TIMES, RUNS = 1024, 8, 8  # steps and looks at the base batch
METHODS = {"RMSprop": lambda eps: RMSprop(LR, BETA, eps), "Adam": lambda eps: Adam(LR, BETA, BETA, eps)}


def ratios(report, tests):
    """N/G at every time with simultaneous bounds over the runs, (T, 3)."""
    runs = report.sums.shape[1]
    z = float(student.ppf(1 - 0.05 / (2 * tests), runs - 1))
    rows = []
    for sums in report.sums:
        (n, g), covariance = sums.mean(0), np.cov(sums.T) / runs
        rows.append((n / g, *fieller_interval(n, g, covariance, z)))
    return np.array(rows)


def draw(reports, found):
    """A column for every method and eps: N and G over SDE time, their ratio below."""
    figure = Figure(figsize=(14, 6.6), layout="constrained")
    axes = figure.subplots(2, 4, sharex=True, sharey="row")
    shades = colormaps["viridis"](np.linspace(0, 0.9, len(BATCHES)))
    for column, (method, eps) in enumerate((m, e) for m in METHODS for e in EPS):
        top, below = axes[:, column]
        for batch, shade in zip(BATCHES, shades, strict=True):
            report, bounds = reports[method, eps, batch], found[method, eps, batch]
            top.semilogy(report.times, report.noise, "-", color=shade, lw=1.5)
            top.semilogy(report.times, report.signal, ":", color=shade, lw=1.5)
            below.fill_between(report.times, bounds[:, 1], bounds[:, 2], color=shade, alpha=0.2, lw=0)
            below.semilogy(report.times, bounds[:, 0], "o-", color=shade, ms=3, lw=1.5, label=f"B = {batch}")
        below.axhline(1, color="0.3", lw=1, ls="--")
        top.set_title(f"{method}, {eps} ε ({EPS[eps]:.2g} at B = {BASE})", fontsize=10)
        below.set_xlabel("SDE time k η²")
    axes[0, 0].set_ylabel("noise N (solid), signal G (dotted)")
    axes[1, 0].set_ylabel("noise-to-signal N/G")
    axes[1, 0].legend(fontsize=8)
    for ax in axes.flat:
        ax.grid(alpha=0.3)
    return figure


def claims(found):
    """Small batches: dominated by noise throughout. Large ones: by the signal first, by noise at the end."""
    small, large = BATCHES[0], BATCHES[-1]

    def dominated(names, batch, times, region):
        bounds = [found[m, e, batch][times] for m, e in names]
        verdict = joint(decide(low, high, region) for rows in bounds for _, low, high in rows)
        flat = np.concatenate(bounds)
        return verdict, f"N/G from {short(flat[:, 1].min())} to {short(flat[:, 2].max())}"

    noise, signal = (1.0, math.inf), (0.0, 1.0)
    for method in METHODS:
        names = [(method, eps) for eps in EPS]
        for text, batch, times, region, expected in (
            (f"at B = {small} noise dominates at every time", small, slice(None), noise, "CONFIRMED"),
            (f"at B = {large} the signal dominates at the start", large, slice(0, 1), signal, "CONFIRMED"),
            (f"at B = {large} noise dominates at the last time", large, slice(-1, None), noise, "CONFIRMED"),
            (f"at B = {large} noise dominates at every time (control)", large, slice(None), noise, "REFUTED"),
        ):
            yield Claim(f"{method}, both eps: {text}", *dominated(names, batch, times, region), expected)


def main(argv=None):
    claim = __doc__.split("\n")[0]
    options, began = arguments(claim, argv), time.perf_counter()
    print(claim)
    steps, times, runs = (32, 2, 2) if options.smoke else (STEPS, TIMES, RUNS)
    problem = digits_mlp(batch_size=BASE)
    reports, found = {}, {}
    tests = len(METHODS) * len(EPS) * len(BATCHES) * (times + 1)
    for name, make in METHODS.items():
        for label, eps in EPS.items():
            for batch in BATCHES:
                kappa = batch / BASE
                report = gradient_noise(
                    make(eps).rescaled(kappa), problem.oracle.with_batch(batch), theta0=problem.theta0,
                    steps=round(steps / kappa), times=times, paths=runs, directions=1, rng=0,
                )  # fmt: skip
                reports[name, label, batch], found[name, label, batch] = report, ratios(report, tests)
    rows = [
        [*map(str, key), short(float(reports[key].loss[-1].mean())),
         *(f"{short(r)} [{short(low)}, {short(high)}]" for r, low, high in bounds[[0, times // 2, -1]])]
        for key, bounds in found.items()
    ]  # fmt: skip
    print("\n" + table(["method", "eps", "B", "last loss", "N/G first", "half-way", "last"], rows, left=2))
    draw(reports, found).savefig(options.out / "noise_to_signal.png", dpi=130)
    return conclude(claims(found), options, began)


if __name__ == "__main__":
    sys.exit(main())
