"""The report of `gradient_noise` as text."""

from __future__ import annotations

import math
import textwrap
from typing import TYPE_CHECKING, Any

import numpy as np

from sdeadapt.analysis.noise_assumption import DOMINANCE, MOMENTS, SKEWNESS, Assumption
from sdeadapt.text import short, table
from sdeadapt.verification.decision import Verdict

if TYPE_CHECKING:
    from sdeadapt.analysis.noise_report import NoiseReport

__all__ = ["message", "summarise"]


def message(report: NoiseReport) -> str:
    """Return the verdict in plain sentences."""
    if report.verdict is Verdict.CONFIRMED:
        parts = ["The SDE's assumptions hold here because", _held(report)]
    else:
        which = Verdict.REFUTED if report.verdict is Verdict.REFUTED else Verdict.INCONCLUSIVE
        reasons = [_about(report, a, which) for a in report.assumptions if which in a.verdicts]
        fails = (
            "The SDE's assumptions fail here because"
            if which is Verdict.REFUTED
            else "Whether the SDE's assumptions hold here is open:"
        )
        parts = [fails, "; ".join(reasons) + "."]
        if report.holds_from:
            parts.append(f"From step {report.holds_from} on they hold.")
        if which is Verdict.INCONCLUSIVE:
            parts.append("Use more draws.")
    if report.equilibrium and len(report.steps) > 1:
        parts.append(
            "Without an average of squares the signal does no harm on the way: N/G is asked at the last time alone."
        )
    return " ".join(parts)


def summarise(report: NoiseReport) -> str:
    """Return the report as text: the verdict, noise against signal, the shape of the noise, what was assumed."""
    parts = [textwrap.fill(f"{report.verdict}: {message(report)}", 118), _noise_table(report), _shape_table(report)]
    source = "as the oracle declares them" if report.declared else "from independent gradients"
    shape = "from every example" if report.enumerated else "from independent gradients"
    drawn = "" if report.declared and report.enumerated else f", {report.config['draws']:,} at a point"
    parts.append(
        textwrap.fill(
            f"{report.sums.shape[1]} path(s). N = sigma² Tr Sigma and G = |grad f|² {source}, skewness and kurtosis "
            f"{shape}{drawn}; {report.config['confidence']:.0%} bounds for everything at once. Noise scale: the "
            "batch at which N = G; the sign's: |s|_1² / |grad f|_1². Batch at most: C² (1 + N/G) / sigma², Li, "
            "Malladi and Arora's necessary condition for SGD's linear rule at equilibrium. What a failure costs, "
            "`sdeadapt compare` measures.",
            118,
        )
    )
    return "\n\n".join(parts)


def _held(report: NoiseReport) -> str:
    dominance, *shapes = report.assumptions
    ratio = np.where(dominance.judged, dominance.low[:, 0], np.inf).min()
    most = [max(float(np.nanmax(np.fmax(a.high, -a.low), initial=0)), 0) for a in shapes]
    return (
        f"noise dominates the signal (N/G is at least {short(float(ratio))}, and "
        f"C = {short(report.config['closeness'])} needs {short(dominance.region[0])}), and of skewness and excess "
        f"kurtosis at most {short(most[0], 2)} and {short(most[1], 2)} are left in {short(report.config['window'])} "
        f"draws ({short(report.config['tolerance'])} is allowed)."
    )


def _about(report: NoiseReport, assumption: Assumption, which: Verdict) -> str:
    at = [t for t, v in enumerate(assumption.verdicts) if v is which]
    t = max(at, key=lambda t: assumption.severity(t, assumption.worst(t)))
    case = assumption.worst(t)
    value, low, high = (float(a[t, case]) for a in (assumption.value, assumption.low, assumption.high))
    often = f" (and at {len(at) - 1} more of {len(report.steps)} times)" if len(at) > 1 else ""
    sure = "" if low == high else f" [{short(low)}, {short(high)}]"
    where = f"at step {report.steps[t]}{often}"
    if assumption.name == DOMINANCE:
        what = "the signal dominates" if which is Verdict.REFUTED else "it is not resolved whether noise dominates"
        needs = f"C = {short(report.config['closeness'])} needs {short(assumption.region[0])}"
        return f"{what}: N/G = {short(value)}{sure} {where}, and {needs}"
    what = "skewness" if assumption.name == SKEWNESS else "excess kurtosis"
    direction = report.directions[case % len(report.directions)]
    cases = assumption.outside[t] if which is Verdict.REFUTED else ~assumption.inside[t]
    return (
        f"{what} {short(value)}{sure} is left in {short(report.config['window'])} draws, in direction {direction} "
        f"({cases.sum()} of {cases.size}) {where}, and {short(report.config['tolerance'])} is allowed"
    )


def _noise_table(report: NoiseReport) -> str:
    rows = [
        [str(report.steps[t]), short(float(report.times[t])), short(float(report.loss[t].mean())),
         short(float(report.noise[t])), short(float(report.signal[t])),
         _interval(report.ratio_bounds[t], float(report.ratio[t])),
         _interval(report.noise_scale_bounds[t], float(report.noise_scale[t])),
         _interval(report.sign_noise_scale_bounds[t]), _interval(report.largest_batch_bounds[t]),
         _word(report.assumptions[0].verdicts[t])]
        for t in range(len(report.steps))
    ]  # fmt: skip
    header = ["step", "time", "loss", "N", "G", "N/G", "noise scale", "sign's", "batch at most", DOMINANCE]
    return table(header, rows, indent="")


def _shape_table(report: NoiseReport) -> str:
    rows = []
    for t in range(len(report.steps)):
        cells = [str(report.steps[t])]
        for assumption in report.assumptions[1:]:
            case = assumption.worst(t)
            low, high = (float(a[t, case]) for a in (assumption.low, assumption.high))
            cells += [
                report.directions[case % len(report.directions)],
                _interval((low, high), float(assumption.value[t, case])),
                f"{assumption.inside[t].sum()}/{assumption.value.shape[1]}",
                _word(assumption.verdicts[t]),
            ]
        rows.append(cells)
    n = short(report.config["window"])
    header = ["step", "worst in", f"skewness / sqrt({n})", "inside", SKEWNESS,
              "worst in", f"excess / {n}", "inside", MOMENTS]  # fmt: skip
    return table(header, rows, indent="")


def _interval(bounds: Any, value: float = math.nan) -> str:
    """Return a value with its bounds; the value alone where they agree."""
    low, high = (float(b) for b in bounds)
    if low == high or math.isnan(low):
        return short(high if math.isnan(value) else value)
    span = f"[{short(low)}, {short(high)}]"
    return span if math.isnan(value) else f"{short(value)} {span}"


def _word(verdict: Verdict | None) -> str:
    return "-" if verdict is None else str(verdict)
