"""The figure of `compare`: chain, SVAG and SDE on one clock, their differences, and the ratios of C-closeness."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, NullFormatter, StrMethodFormatter

from sdeadapt.checks import check_choice
from sdeadapt.report.figures import VERDICT_COLOURS
from sdeadapt.verification.comparison_report import SYMBOLS, ComparisonReport

__all__ = ["comparison_figure", "differences", "ratios", "trajectories"]

MOST = 8  # test functions in a figure
_CHAINS = ("#b2182b", "#e08214", "#35978f", "#2166ac", "#762a83")  # coarse to fine; the SDE is black


def _colours(report: ComparisonReport) -> list[str]:
    return ["black" if p == "SDE" else _CHAINS[i % len(_CHAINS)] for i, p in enumerate(report.processes)]


def trajectories(report: ComparisonReport, name: str, ax: Axes) -> Axes:
    """Draw means and outer quantiles of every process over SDE time.

    Args:
        report: what `compare` returned.
        name: the test function.
        ax: where to draw.
    """
    f = report.names.index(name)
    for p, (process, colour) in enumerate(zip(report.processes, _colours(report), strict=True)):
        low, high = report.quantiles[p, 0, :, f], report.quantiles[p, -1, :, f]
        if process == report.reference:
            ax.fill_between(report.times, low, high, color=colour, alpha=0.12, lw=0)
        else:
            for edge in (low, high):
                ax.plot(report.times, edge, color=colour, lw=0.8, ls=":")
        style = "--" if process == "SDE" else "-"
        ax.plot(report.times, report.mean[p, :, f], style, color=colour, lw=1.6, label=process)
    ax.set_title(f"{name} (not judged)" if name in report.config["shown"] else name, fontsize=9)
    return ax


def differences(report: ComparisonReport, name: str, ax: Axes) -> Axes:
    """Draw the mean of every process less that of the reference, with bands of two standard errors.

    Args:
        report: what `compare` returned.
        name: the test function.
        ax: where to draw.
    """
    f = report.names.index(name)
    ax.axhline(0, color="0.6", lw=0.8)
    for process, colour in zip(report.processes, _colours(report), strict=True):
        if process != report.reference:
            mean, sem = (a[:, f] for a in report.difference(process))
            ax.fill_between(report.times, mean - 2 * sem, mean + 2 * sem, color=colour, alpha=0.15, lw=0)
            ax.plot(report.times, mean, color=colour, lw=1)
    ax.set_ylabel(f"less {report.reference},\n± 2 se", fontsize=8)
    return ax


def ratios(report: ComparisonReport, ax: Axes) -> Axes:
    """Draw the ratios of the metrics, chain to reference, with simultaneous bounds, between the lines 1/C and C.

    Args:
        report: what `compare` returned, with a reference.
        ax: where to draw.

    Raises:
        ValueError: if the chain ran alone.
    """
    found = report.closeness
    if found is None:
        raise ValueError("Ratios need a second process to compare the chain with; this chain ran alone.")
    c = found.threshold
    reach = 1.25 * max(c, found.factor)
    for m, name in enumerate(report.metrics):
        low, high = (np.clip(a[:, m], 1 / reach, reach) for a in (found.low, found.high))
        ax.fill_between(report.times, low, high, color=f"C{m}", alpha=0.15, lw=0)
        ax.plot(report.times, found.ratio[:, m], color=f"C{m}", lw=1.4, label=SYMBOLS[name])
    for level, label in ((c, f"C = {c:.3g}"), (1 / c, "1/C")):
        ax.axhline(level, color="0.3", lw=1, ls="--")
        ax.annotate(label, (1, level), xycoords=("axes fraction", "data"), xytext=(-3, 3), textcoords="offset points",
                    ha="right", fontsize=8, color="0.3")  # fmt: skip
    ax.set_yscale("log")
    ax.set_ylim(1 / reach, reach)
    ax.yaxis.set_major_locator(FixedLocator([0.05, 0.1, 0.2, 0.3, 0.5, 0.7, 0.85, 1, 1.2, 1.4, 2, 3, 5, 10, 20]))
    ax.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    ax.yaxis.set_minor_formatter(NullFormatter())
    ax.legend(fontsize=8, loc="best")
    ax.set_title(f"C-closeness: chain / {report.reference}, {report.config['confidence']:.0%} bounds", fontsize=9)
    return ax


def comparison_figure(report: ComparisonReport, names: Sequence[str] | None = None) -> Figure:
    """Return the figure of a comparison: one panel per test function with the differences below it, and the ratios.

    Args:
        report: what `compare` returned.
        names: test functions to draw; by default those that were asked for or are shown, at most the first eight.

    Raises:
        ValueError: if one of them is not in the report.
    """
    names = names or (report.config["test_functions"] + report.config["shown"])[:MOST]
    names = [check_choice("names", name, report.names) for name in names]
    panels = len(names) + (report.closeness is not None)
    columns = min(3, panels)
    rows = math.ceil(panels / columns)
    figure = Figure(figsize=(4.2 * columns, 3.6 * rows + 0.9), layout="constrained")
    grid = figure.add_gridspec(rows, columns)
    heights = (2, 1) if report.reference else (1,)
    for i, name in enumerate(names):
        cell = grid[divmod(i, columns)].subgridspec(len(heights), 1, height_ratios=heights, hspace=0.05)
        top = last = trajectories(report, name, figure.add_subplot(cell[0]))
        if report.reference:
            last = differences(report, name, figure.add_subplot(cell[1], sharex=top))
            top.tick_params(labelbottom=False)
        last.set_xlabel("SDE time", fontsize=8)
    if report.closeness is not None:
        ratios(report, figure.add_subplot(grid[divmod(len(names), columns)])).set_xlabel("SDE time", fontsize=8)
    for ax in figure.axes:
        ax.tick_params(labelsize=8)
        ax.margins(x=0)
        ax.locator_params(axis="x", nbins=5)
        ax.ticklabel_format(axis="x", scilimits=(-2, 4))
    first = figure.axes[0]
    low, high = report.quantile_levels[0], report.quantile_levels[-1]
    figure.legend(*first.get_legend_handles_labels(), loc="outside lower center", ncols=len(report.processes),
                  fontsize=9, title=f"mean; band and dotted lines: quantiles {low:g} and {high:g}",
                  title_fontsize=8)  # fmt: skip
    method, oracle = report.config["method"]["class"], report.config["oracle"]["class"]
    title = f"{report.verdict} — {method} on {oracle}, lr = {report.lr:g}. {report.message}"
    figure.suptitle(
        textwrap.fill(title, 45 * columns), fontsize=10, color=VERDICT_COLOURS[report.verdict.value], x=0.01, ha="left"
    )
    return figure
