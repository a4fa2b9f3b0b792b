"""The figure of `verify`: does e(h)/h^p stay flat, is there a plateau, and the customary log-log picture beside it.

Functions draw on axes that they are given and return them; none saves, shows, or touches matplotlib's global state.
"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, MaxNLocator, NullLocator

from sdeadapt.statistics.intervals import critical_value
from sdeadapt.verification.report import WeakErrorReport
from sdeadapt.verification.self_reference import SelfReferenceReport

__all__ = ["VERDICT_COLOURS", "log_log", "plateaus", "scaled_errors", "targets_shown", "weak_error_figure"]

MOST = 8  # targets in a figure
_MARKERS = "osD^vPX*"
VERDICT_COLOURS = {"CONFIRMED": "#1b7837", "REFUTED": "#b2182b", "INCONCLUSIVE": "#7f6000"}


def targets_shown(report: WeakErrorReport) -> list[int]:
    """Return the targets to draw, at most 8: the violated ones first, then the latest; none that is constant."""
    varying = [j for j, test in enumerate(report.tests) if test.status != "dropped"]
    ranked = sorted(varying, key=lambda j: (report.tests[j].status != "violated", -report.times[j], j))
    return sorted(ranked[:MOST])


def _labels(report: WeakErrorReport, shown: Sequence[int]) -> list[str]:
    if len(set(report.times[list(shown)])) > 1:
        return [report.tests[j].label for j in shown]
    return [report.names[j] for j in shown]


def _bars(report: WeakErrorReport) -> tuple[float, str]:
    """Return the critical value of error bars, and what to call them."""
    if report.noise_free:
        return 2.0, "bound"
    confidence = report.config["confidence"]
    return critical_value(confidence), f"{100 * confidence:g} % interval"


def _error(report: WeakErrorReport) -> str:
    return "difference to the next h" if isinstance(report, SelfReferenceReport) else "weak error e(h)"


def _style(k: int) -> dict[str, Any]:
    return {"color": f"C{k}", "marker": _MARKERS[k % len(_MARKERS)]}


def scaled_errors(report: WeakErrorReport, ax: Axes, shown: Sequence[int] | None = None) -> Axes:
    r"""Draw $e(h) / (s\,h^p)$ over h, linear: flat where the claim holds, rising towards h = 0 over a plateau.

    The curve is the one through the three finest levels that the plateau is read off, $a h^{-p} + b + c h$.

    Args:
        report: what `verify` returned.
        ax: where to draw.
        shown: the targets; by default `targets_shown`.
    """
    shown = targets_shown(report) if shown is None else shown
    h, p = report.h, report.config["order"]
    z, sure = _bars(report)
    fine = np.linspace(h[-1], h[-3], 200)
    powers = np.stack([np.ones(3), h[-3:] ** p, h[-3:] ** (p + 1)], 1)
    for k, (j, label) in enumerate(zip(shown, _labels(report, shown), strict=True)):
        scale = report.scale[j] * h**p
        ax.errorbar(
            h, report.error[j] / scale, z * report.sem[j] / scale, **_style(k), ls="none", ms=5, capsize=2, label=label
        )  # fmt: skip
        a, b, c = np.linalg.solve(powers, report.error[j, -3:] / report.scale[j])
        ax.plot(fine, a / fine**p + b + c * fine, color=f"C{k}", lw=1, alpha=0.7)
    ax.axhline(0, color="0.6", lw=0.8, zorder=0)
    ax.set_xlim(0, 1.06 * h[0])
    ax.set_xlabel("time step h (SDE time)")
    ax.set_ylabel(rf"{_error(report)} $/\,(s\,h{'' if p == 1 else f'^{p}'})$,  bars: {sure}")
    ax.set_title("flat: the order holds;  rising to the left: plateau", fontsize=9)
    return ax


def plateaus(report: WeakErrorReport, ax: Axes, shown: Sequence[int] | None = None) -> Axes:
    """Draw each target's plateau at h = 0 with its interval, beside what the claim allows.

    A plateau outside its dark band speaks against the claim, unless the target is small beside the others: then the
    light band, which is the widest of all, is what counts.

    Args:
        report: what `verify` returned.
        ax: where to draw.
        shown: the targets; by default `targets_shown`.
    """
    shown = targets_shown(report) if shown is None else shown
    tests = [report.tests[j] for j in shown]
    widest = max((max(t.plateau_bound, t.allowed) / t.scale for t in tests), default=1.0)
    power = math.floor(math.log10(widest or 1.0))
    unit = [test.scale * 10.0**power for test in tests]
    allowed = [test.allowed / s for test, s in zip(tests, unit, strict=True)]
    ax.axvspan(-max(allowed, default=0), max(allowed, default=0), color="#1b7837", alpha=0.1, lw=0)
    ax.barh(range(len(shown)), [2 * x for x in allowed], 0.6, [-x for x in allowed], color="#1b7837", alpha=0.25, lw=0)
    ax.axvline(0, color="0.6", lw=0.8)
    for k, (test, s) in enumerate(zip(tests, unit, strict=True)):
        reach = test.plateau_bound - abs(test.plateau)
        ax.errorbar(test.plateau / s, k, xerr=reach / s, **_style(k), ms=5, capsize=2, ls="none")
        weight = "bold" if test.status == "violated" else "normal"
        ax.annotate(test.status, (0.98, k - 0.32), xycoords=ax.get_yaxis_transform(), ha="right", va="center",
                    fontsize=7, color=f"C{k}", weight=weight)  # fmt: skip
    ax.set_ylim(len(shown) - 0.5, -0.6)
    ax.set_yticks(range(len(shown)), _labels(report, shown), fontsize=8)
    for k, label in enumerate(ax.get_yticklabels()):  # the legend of the whole figure
        label.set_color(f"C{k}")
    ax.xaxis.set_major_locator(MaxNLocator(4))
    ax.set_xlabel(rf"plateau / s, in $10^{{{power}}}$ ({_bars(report)[1]}; green: allowed)")
    ax.set_title(f"{_error(report)} extrapolated to h = 0", fontsize=9)
    return ax


def log_log(report: WeakErrorReport, ax: Axes, shown: Sequence[int] | None = None) -> Axes:
    """Draw |e(h)| / s over h, both logarithmic, with lines of the claimed order and of half of it: for the eye.

    Hollow markers are errors whose sign is unresolved; their bars reach down to the edge.

    Args:
        report: what `verify` returned.
        ax: where to draw.
        shown: the targets; by default `targets_shown`.
    """
    shown = targets_shown(report) if shown is None else shown
    h, p = report.h, report.config["order"]
    size, reach = np.abs(report.error) / report.scale[:, None], _bars(report)[0] * report.sem / report.scale[:, None]
    ax.set(xscale="log", yscale="log")
    floor = 0.5 * min((float(size[j, i]) for j in shown for i in range(len(h)) if size[j, i] > 0), default=1.0)
    for k, (j, label) in enumerate(zip(shown, _labels(report, shown), strict=True)):
        style, resolved = _style(k), size[j] > reach[j]
        low = np.where(resolved, reach[j], np.maximum(size[j] - floor, 0))
        ax.errorbar(h, np.maximum(size[j], floor), [low, reach[j]], **style, ls=":", lw=0.8, ms=5, capsize=2,
                    fillstyle="full" if resolved.all() else "none", label=label)  # fmt: skip
        if resolved.any() and not resolved.all():
            ax.plot(h[resolved], size[j][resolved], **style, ls="none", ms=5)
    top = max((float(size[j, 0]) for j in shown), default=1.0)
    for order, line in ((p, "-"), (p / 2, "--")):
        ax.plot(h, 1.6 * top * (h / h[0]) ** order, line, color="0.5", lw=1, zorder=0)
        ax.annotate(f"order {order:g}", (h[-1], 1.6 * top * (h[-1] / h[0]) ** order), fontsize=7, color="0.4",
                    xytext=(-3, 0), textcoords="offset points", ha="right", va="center")  # fmt: skip
    ax.set_xlim(h[-1] * (h[-1] / h[0]) ** 0.28, h[0] * (h[0] / h[-1]) ** 0.06)
    ax.xaxis.set_major_locator(FixedLocator(h.tolist()))
    ax.xaxis.set_minor_locator(NullLocator())
    ax.set_xticks(h.tolist(), [_step_label(report, i) for i in range(len(h))], fontsize=8)
    ax.set_xlabel("time step h; below it, the divisor of lr")
    ax.set_ylabel(f"|{_error(report)}| / s")
    ax.set_title("customary log–log picture (decides nothing)", fontsize=9)
    return ax


def _step_label(report: WeakErrorReport, i: int) -> str:
    return f"{report.h[i]:.3g}\n÷{report.multipliers[i]}"


def weak_error_figure(report: WeakErrorReport) -> Figure:
    """Return the figure of a report: scaled errors, plateaus, log-log.

    Args:
        report: what `verify` returned.
    """
    figure = Figure(figsize=(13, 4.6), layout="constrained")
    left, middle, right = figure.subplots(1, 3, width_ratios=(1.25, 1, 1.15))
    shown = targets_shown(report)
    scaled_errors(report, left, shown)
    plateaus(report, middle, shown)
    log_log(report, right, shown)
    name = report.config["method"]["class"]
    title = f"{report.verdict} — {name} on {report.config['oracle']['class']}, lr = {report.lr:g}. {report.message}"
    figure.suptitle(
        textwrap.fill(title, 150), fontsize=10, color=VERDICT_COLOURS[report.verdict.value], x=0.01, ha="left"
    )
    hidden = len(report.tests) - len(shown)
    note = "s = sqrt(E phi²) of the test function phi at that time"
    figure.supxlabel(note + (f"; {hidden} more targets not drawn" if hidden else ""), fontsize=8, color="0.4")
    return figure
