r"""Near a quadratic minimum chains and SDEs come to rest where the closed forms say, for SGD, Adam, AdamW and SignSGD.

Three diagonal directions, four noise levels sigma at one lr. The loss grows as sigma² for SGD and as sigma for Adam;
SignSGD's is sqrt(pi/2) times Adam's; AdamW's stays below (lr/4) Tr(H)/lambda however large the noise. Closed forms:
Compagnoni et al. 2024 (arXiv 2411.15958), Section 3, in our units; for AdamW with the memory of m, which multiplies
theirs by 1 / (1 + lr lambda / (1 − beta1)).

Each chain runs at h and at h/2 and is extrapolated, so that what is compared has no error of order h; SDEs are solved
by the extrapolated solver. Four wrong closed forms are put to the same runs, and must be REFUTED.

    python experiments/stationary_laws.py --out results/stationary_laws
"""

import argparse
import math
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from sdeadapt import SGD, Adam
from sdeadapt.analysis.long_run import long_run
from sdeadapt.analysis.long_run_report import CHAIN
from sdeadapt.analysis.stationary import stationary
from sdeadapt.methods.adamw import AdamW
from sdeadapt.methods.sign_sgd import SignSGD
from sdeadapt.oracles.analytic import Quadratic
from sdeadapt.statistics.intervals import critical_value, fieller_interval
from sdeadapt.text import duration, short, table
from sdeadapt.verification.decision import Verdict

LR, DECAY, BETA1, BETA2 = 0.1, 0.1, 0.9, 0.99
HESSIAN, SIGMA, NOISE = (2.0, 1.0, 1.0), (1.0, 0.25, 1.0), (2.0, 8.0, 32.0, 128.0)
METHODS = {
    "SGD": SGD(LR),
    "Adam": Adam(LR, BETA1, BETA2, eps=0.0),
    "AdamW": AdamW(LR, BETA1, BETA2, eps=0.0, weight_decay=DECAY),
    "SignSGD": SignSGD(LR),
}
COLOURS = {"SGD": "0.5", "Adam": "#4c72b0", "AdamW": "#1b7837", "SignSGD": "#b2182b"}
CONFIDENCE = 1 - 0.05 / (len(METHODS) * len(NOISE))  # of each study, so that all hold together


def problem(noise):
    return Quadratic(HESSIAN, SIGMA, noise)


def relaxation(name, noise):
    """Steps in which the slowest direction forgets its start."""
    rate = min(
        LR * h if name == "SGD" else LR * h / (noise * math.sqrt(s)) for h, s in zip(HESSIAN, SIGMA, strict=True)
    )
    return math.ceil(1 / (rate + LR * DECAY * (name == "AdamW")))


def study(seed, name, noise, smoke):
    unit = 8 * math.ceil(relaxation(name, noise) / 8)
    return long_run(
        METHODS[name], problem(noise), theta0=[0.0] * len(HESSIAN), burn_in=(2 if smoke else 4) * unit,
        steps=(2 if smoke else 16) * unit, paths=64 if smoke else 4096, every=unit // 8,
        confidence=CONFIDENCE, rng=seed,
        test_functions=["theta_0", "theta_norm_squared", "gradient_norm_squared", "loss"],
    )  # fmt: skip


def controls(reports):
    """The verdicts on closed forms that are wrong."""
    low, high = NOISE[0], NOISE[-1]
    memory = 1 + LR * DECAY / (1 - BETA1)
    wrong = {
        "SignSGD without sqrt(pi/2)": (("SignSGD", low), stationary(METHODS["Adam"], problem(low)), 1.0),
        "AdamW without decay": (("AdamW", high), stationary(METHODS["Adam"], problem(high)), 1.0),
        "AdamW without the memory of m": (("AdamW", high), stationary(METHODS["AdamW"], problem(high)), memory),
        "Adam with SGD's law": (("Adam", low), stationary(METHODS["SGD"], problem(low)), 1.0),
    }
    for name, (which, law, factor) in wrong.items():
        report = reports[which]  # theta_0 has mean 0 in every law
        expected = factor * np.array([law.expectation(phi) for phi in report.names])
        yield name, replace(report, expected=expected)


def draw(reports):
    figure = Figure(figsize=(11, 4.6), layout="constrained")
    left, right = figure.subplots(1, 2)
    fine = np.geomspace(NOISE[0] / 1.5, NOISE[-1] * 1.5, 60)
    for i, name in enumerate(METHODS):
        mine = [reports[name, noise] for noise in NOISE]
        estimates = [report.estimate("loss") for report in mine]
        z, j = mine[0].critical, mine[0].names.index("loss")
        mean, bar = (np.array([getattr(e, what) for e in estimates]) for what in ("mean", "sem"))
        left.plot(fine, [stationary(METHODS[name], problem(noise)).loss for noise in fine], color=COLOURS[name])
        left.errorbar(NOISE, mean, z * bar, fmt="o", ms=5, color=COLOURS[name], label=name)
        exact, at = np.array([report.expected[j] for report in mine]), np.array(NOISE) * 1.12 ** (i - 1.5)
        sde = [report.estimate("loss", "sde") for report in mine]
        right.errorbar(at, mean / exact, z * bar / exact, fmt="o", ms=5, color=COLOURS[name], label=name)
        ratio, width = np.array([(e.mean, z * e.sem) for e in sde]).T / exact
        right.errorbar(at * 1.03, ratio, width, fmt="x", ms=5, color=COLOURS[name])
        right.plot(at, [r.mean[CHAIN, j] for r in mine] / exact, "o", ms=5, mfc="none", color=COLOURS[name])
    left.axhline(LR / 4 * sum(HESSIAN) / DECAY, color=COLOURS["AdamW"], lw=0.8, ls=":")
    left.text(NOISE[0], LR / 4 * sum(HESSIAN) / DECAY * 1.1, "bound of AdamW", color=COLOURS["AdamW"], fontsize=9)
    left.set(xscale="log", yscale="log", xlabel="noise σ", ylabel="stationary loss", title="lines: closed form")
    right.axhline(1, color="0.3", lw=0.8)
    right.set(xscale="log", xlabel="noise σ", ylabel="loss / closed form")
    right.set_title("dots: chain, h → 0; circles: chain at h; crosses: SDE")
    for axis in (left, right):
        axis.set_xticks(NOISE, [f"{noise:g}" for noise in NOISE])
        axis.minorticks_off()
        axis.grid(alpha=0.3)
    left.legend(frameon=False, loc="lower right")
    return figure


def main(argv=None):
    claim = __doc__.split("\n")[0]
    parser = argparse.ArgumentParser(description=claim)
    parser.add_argument("--out", type=Path, required=True, help="new directory: a run directory per study, a figure")
    parser.add_argument("--smoke", action="store_true", help="64 paths, short runs: some seconds, no claim")
    options = parser.parse_args(argv)
    began, reports = time.perf_counter(), {}
    print(claim)
    for seed, which in enumerate((name, noise) for name in METHODS for noise in NOISE):
        reports[which] = study(seed, *which, options.smoke)
        reports[which].save(options.out / "{}_{:g}".format(*which))
    rows = [
        [f"{name}, σ = {noise:g}", short(report.expected[-1], 4), repr(report.estimate("loss")),
         repr(report.estimate("loss", "sde")), f"{report.z('chain')[-1]:.1f}", f"{report.z('sde')[-1]:.1f}",
         f"{100 * report.discretisation[-1] / report.expected[-1]:.1f} %", str(report.verdict)]
        for (name, noise), report in reports.items()
    ]  # fmt: skip
    header = ["loss of", "closed form", "chain, h -> 0", "SDE", "z chain", "z SDE", "chain's O(h)", "all 4 functions"]
    print("\n" + table(header, rows))

    z, bound, right = critical_value(0.95, len(NOISE)), LR / 4 * sum(HESSIAN) / DECAY, math.sqrt(math.pi / 2)
    intervals = []
    for noise in NOISE:
        sign, adam = (reports[name, noise].estimate("loss") for name in ("SignSGD", "Adam"))
        intervals.append(fieller_interval(sign.mean, adam.mean, np.diag([sign.sem**2, adam.sem**2]), z))
    held = all(low <= right <= high and not low <= 1 <= high for low, high in intervals)
    print("\nSignSGD : Adam, chains, 95 % together: " + ", ".join("{:.3f} to {:.3f}".format(*i) for i in intervals))
    print(f"sqrt(pi/2) = {right:.4f} in every interval and 1 in none: {'yes' if held else 'no'}")
    last = [reports["AdamW", noise].estimate("loss") for noise in NOISE]
    bounded = all(e.mean + z * e.sem < bound for e in last)
    print(
        f"AdamW below {bound:g}, (lr/4) Tr(H)/lambda: {'yes' if bounded else 'no'}; {last[-1]!r} at σ = {NOISE[-1]:g}"
    )

    refuted = True
    for name, report in controls(reports):
        refuted &= report.verdict is Verdict.REFUTED
        print(f"Control, {name}: {report.verdict}. {report.message}")
    draw(reports).savefig(options.out / "stationary_laws.png", dpi=130)
    confirmed = sum(report.verdict is Verdict.CONFIRMED for report in reports.values())
    print(f"\n{confirmed} of {len(reports)} CONFIRMED. Cost: {duration(time.perf_counter() - began)} of wall time.")
    return 0 if options.smoke or (held and bounded and refuted and confirmed == len(reports)) else 1


if __name__ == "__main__":
    sys.exit(main())
