"""The figure of `verify_scaling`: every batch size on one clock, rules side by side, noise-to-signal below."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from matplotlib.figure import Figure

from sdeadapt.report.figures import VERDICT_COLOURS
from sdeadapt.verification.scaling_report import ScalingReport

__all__ = ["noise_to_signal_panel", "scaling_figure", "trajectory_panel"]


def _chains(report: ScalingReport) -> list[tuple[str, str]]:
    """Return label and colour of every chain: the base black, larger batches lighter."""
    shades = colormaps["viridis"](np.linspace(0.15, 0.85, len(report.kappas)))
    return [("base", "black"), *((f"κ = {k}", to_hex(shade)) for k, shade in zip(report.kappas, shades, strict=True))]


def trajectory_panel(report: ScalingReport, metric: str, ax: Axes) -> Axes:
    """Draw the mean of a metric at every batch size, with bands of two standard errors; grey: the margin of the base.

    Args:
        report: what `verify_scaling` returned.
        metric: one of its metrics.
        ax: where to draw.
    """
    m = report.metrics.index(metric)
    base, margin = report.mean[0, :, m], report.margin[:, m]
    ax.fill_between(report.times, base - margin, base + margin, color="0.85", lw=0, zorder=0)
    for p, (label, colour) in enumerate(_chains(report)):
        mean = report.mean[p, :, m]
        reach = 2 * report.sd[p, :, m] / math.sqrt(max(int(report.runs[p]), 1))
        ax.fill_between(report.times, mean - reach, mean + reach, color=colour, alpha=0.2, lw=0)
        ax.plot(report.times, mean, "o-" if p else "s--", color=colour, lw=1.4, ms=3.5, label=label, zorder=3 - p / 10)
    return ax


def noise_to_signal_panel(report: ScalingReport, ax: Axes) -> Axes:
    """Draw the noise-to-signal ratio of every batch size, logarithmic, with bands of two standard errors.

    Args:
        report: what `verify_scaling` returned.
        ax: where to draw.
    """
    for p, (label, colour) in enumerate(_chains(report)):
        ratio, reach = report.noise_to_signal[p], 2 * report.noise_to_signal_sem[p]
        ax.fill_between(
            report.times, np.maximum(ratio - reach, ratio / 10), ratio + reach, color=colour, alpha=0.2, lw=0
        )
        ax.plot(report.times, ratio, "o-" if p else "s--", color=colour, lw=1.4, ms=3.5, label=label)
    ax.axhline(1, color="0.5", lw=0.8, ls=":")
    ax.set_yscale("log")
    return ax


def scaling_figure(reports: ScalingReport | Sequence[ScalingReport]) -> Figure:
    """Return the figure of one report, or of several rules side by side: a row per metric, the ratio in the last.

    Args:
        reports: what `verify_scaling` returned; several of the same problem, one per rule.

    Raises:
        ValueError: if their metrics differ.
    """
    columns = [reports] if isinstance(reports, ScalingReport) else list(reports)
    first = columns[0]
    if any(report.metrics != first.metrics for report in columns):
        raise ValueError("The reports of a figure must have the same metrics; run every rule with the same ones.")
    panels = len(first.metrics) + 1
    if len(columns) == 1:
        wide = min(3, panels)
        tall = math.ceil(panels / wide)
        figure = Figure(figsize=(4.2 * wide, 2.7 * tall + 1.1), layout="constrained")
        cells = figure.subplots(tall, wide, squeeze=False)
        for spare in cells.ravel()[panels:]:
            spare.remove()
        _column(first, list(cells.ravel()[:panels]), titles=True)
        title = (
            f"{first.verdict} — {first.config['method']['class']} on {first.config['oracle']['class']}. {first.message}"
        )
        figure.suptitle(
            textwrap.fill(title, 50 * wide), fontsize=10, color=VERDICT_COLOURS[first.verdict.value], x=0.01, ha="left"
        )
    else:
        figure = Figure(figsize=(3.6 * len(columns) + 0.6, 2.1 * panels + 1.1), layout="constrained")
        cells = figure.subplots(panels, len(columns), squeeze=False, sharex="col", sharey="row")
        for report, column in zip(columns, cells.T, strict=True):
            _column(report, list(column), titles=False)
            held = "none" if report.largest_kappa is None else f"κ ≤ {report.largest_kappa}"
            column[0].set_title(
                f"{report.rule}\n{report.verdict}, holds: {held}", fontsize=9,
                color=VERDICT_COLOURS[report.verdict.value],
            )  # fmt: skip
        for ax, name in zip(cells[:, 0], (*first.metrics, "noise-to-signal ratio"), strict=True):
            ax.set_ylabel(name, fontsize=8)
        for ax in cells[:-1].ravel():
            ax.set_xlabel("")
        methods = first.config["method"]["class"], first.config["oracle"]["class"]
        figure.suptitle("{} on {}: batch-size rules".format(*methods), fontsize=10, x=0.01, ha="left")
    for ax in figure.axes:
        ax.tick_params(labelsize=8)
        ax.margins(x=0.03)
    figure.legend(
        *figure.axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=len(first.kappas) + 1,
        fontsize=9, title="mean ± 2 standard errors; grey: the margin around the base", title_fontsize=8,
    )  # fmt: skip
    return figure


def _column(report: ScalingReport, axes: Sequence[Axes], *, titles: bool) -> None:
    for metric, ax in zip(report.metrics, axes, strict=False):
        trajectory_panel(report, metric, ax)
        if titles:
            ax.set_title(metric, fontsize=9)
    noise_to_signal_panel(report, axes[-1])
    if titles:
        axes[-1].set_title("noise-to-signal ratio", fontsize=9)
    for ax in axes:
        ax.set_xlabel("SDE time of the base", fontsize=8)
