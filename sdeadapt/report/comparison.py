"""The figure of `compare`: means and quantile bands of every process on one clock."""

from __future__ import annotations

import math
import textwrap
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from sdeadapt.report.figures import VERDICT_COLOURS
from sdeadapt.verification.comparison_report import ComparisonReport

__all__ = ["bands", "comparison_figure"]

MOST = 9  # panels


def bands(report: ComparisonReport, name: str, ax: Axes) -> Axes:
    """Draw the mean of a test function over time for every process, with its outer quantiles.

    The reference's band is grey; the others' quantiles are thin lines.

    Args:
        report: what `compare` returned.
        name: of the test function.
        ax: where to draw.

    Raises:
        ValueError: if the report has no such test function.
    """
    if name not in report.names:
        raise ValueError(f"`name` must be one of {', '.join(report.names)}; got {name!r}.")
    f = report.names.index(name)
    for p, process in enumerate(report.processes):
        low, high = report.quantiles[p, 0, :, f], report.quantiles[p, -1, :, f]
        style: dict[str, Any] = {"color": f"C{p}", "ls": "-"}
        if process == report.reference:
            style = {"color": "k", "ls": "--"}
            ax.fill_between(report.times, low, high, color="0.5", alpha=0.2, lw=0)
        else:
            ax.plot(report.times, np.stack([low, high], 1), color=f"C{p}", lw=0.6, alpha=0.8)
        ax.plot(report.times, report.mean[p, :, f], lw=1.6, label=process, **style)
    ax.set_title(name, fontsize=9)
    ax.margins(x=0)
    ax.tick_params(labelsize=8)
    return ax


def comparison_figure(report: ComparisonReport) -> Figure:
    """Return the figure of a report: one panel for every test function, at most nine.

    Args:
        report: what `compare` returned.
    """
    names = report.names[:MOST]
    columns = min(3, len(names))
    rows = math.ceil(len(names) / columns)
    figure = Figure(figsize=(4.2 * columns, 2.6 * rows + 1.1), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False).ravel()
    for ax, name in zip(axes, names, strict=False):
        bands(report, name, ax)
    for ax in axes[len(names) :]:
        ax.remove()
    handles, labels = axes[0].get_legend_handles_labels()
    low, high = report.quantile_levels[0], report.quantile_levels[-1]
    hidden = len(report.names) - len(names)
    caption = f"over SDE time: means, quantiles {low:g} and {high:g}" + (f"; {hidden} more not drawn" if hidden else "")
    figure.legend(
        handles, labels, loc="outside lower center", ncols=len(labels), fontsize=8, title=caption, title_fontsize=8
    )
    method, oracle = report.config["method"]["class"], report.config["oracle"]["class"]
    title = f"{report.verdict} — {method} on {oracle}, lr = {report.lr:g}. {report.message}"
    figure.suptitle(
        textwrap.fill(title, 45 * columns), fontsize=10, color=VERDICT_COLOURS[report.verdict.value], x=0.01, ha="left"
    )
    return figure
