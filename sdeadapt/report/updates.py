"""The figure of `network_updates`: histograms beside the law, the variance of the size, the distance over the steps."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from sdeadapt.analysis.updates import update_law
from sdeadapt.analysis.updates_report import UpdateReport
from sdeadapt.report.figures import VERDICT_COLOURS

__all__ = ["distance_panel", "histogram_panel", "size_panel", "updates_figure"]

_COLOURS = ("#2166ac", "#b2182b", "#1b7837", "#e08214", "#762a83", "#35978f")
_REACH = 3.5  # of the horizontal axis


def histogram_panel(report: UpdateReport, network: str, m: int, ax: Axes) -> Axes:
    """Draw the density of the updates at step m, a histogram with bars of two standard errors, and the law's.

    Args:
        report: what `network_updates` returned.
        network: one of its networks.
        m: one of the steps looked at; at m = 1 the shares of -1 and 1 are drawn.
        ax: where to draw.
    """
    i, j = report.networks.index(network), int(np.flatnonzero(report.looks == m)[0])
    colour = _COLOURS[i % len(_COLOURS)]
    share, sem = report.share[i, j], 2 * report.share_sem[i, j]
    if m == 1:
        ax.bar([-1, 1], share[[0, -1]], 0.25, yerr=sem[[0, -1]], color=colour, alpha=0.35)
        ax.plot([-1, 1], [0.5, 0.5], "ko", ms=4)
        ax.set(xlim=(-1.6, 1.6), ylim=(0, 0.8), xticks=(-1, 0, 1))
        return ax
    # the mass beyond the outer edges is drawn up to where the law ends, or up to the axis
    end = min(np.sqrt(m), _REACH)
    edges = np.concatenate([[-end], np.clip(report.edges[j], -end, end), [end]])
    width, middle = np.diff(edges), (edges[1:] + edges[:-1]) / 2
    ax.stairs(share / width, edges, fill=True, color=colour, alpha=0.35)
    ax.errorbar(middle, share / width, sem / width, fmt="none", ecolor=colour, elinewidth=0.8)
    x = np.linspace(-end, end, 801)[1:-1]
    law = np.diff(report.law_cdf[j], prepend=0, append=1) / width if report.config["beta"] else update_law(m).pdf(x)
    ax.plot(middle if report.config["beta"] else x, law, "k-", lw=1.2)
    top = 1.15 * max(np.median(share / width) * 2, np.quantile(share / width, 0.9), update_law(m).pdf(0.0) * 1.6)
    ax.set(xlim=(-end * 1.08, end * 1.08), ylim=(0, top))
    return ax


def size_panel(report: UpdateReport, ax: Axes) -> Axes:
    """Draw Var|X| of every network over the steps, with simultaneous intervals; black: the law.

    Args:
        report: what `network_updates` returned.
        ax: where to draw.
    """
    low, high = report.var_abs_interval
    ax.plot(report.looks, report.law_var_abs, "k-", lw=1.4, label="law")
    for i, network in enumerate(report.networks):
        at = report.looks * 1.05 ** (i - (len(report.networks) - 1) / 2)
        bars = np.array([report.var_abs[i] - low[i], high[i] - report.var_abs[i]])
        ax.errorbar(
            at, report.var_abs[i], bars, fmt="o-", ms=3.5, lw=1, color=_COLOURS[i % len(_COLOURS)], label=network
        )
    ax.set(xscale="log", xlabel="step m", ylabel="Var|Δθ|", ylim=(0, None))
    return ax


def distance_panel(report: UpdateReport, ax: Axes) -> Axes:
    """Draw the distance of every network from the law, with simultaneous bounds; dotted: the tolerance.

    Args:
        report: what `network_updates` returned.
        ax: where to draw.
    """
    low, high = report.bounds
    for i, network in enumerate(report.networks):
        at = report.looks * 1.05 ** (i - (len(report.networks) - 1) / 2)
        bars = np.array([report.distance[i] - low[i], high[i] - report.distance[i]])
        ax.errorbar(
            at, report.distance[i], bars, fmt="o-", ms=3.5, lw=1, color=_COLOURS[i % len(_COLOURS)], label=network
        )
    ax.axhline(report.config["tolerance"], color="0.3", lw=1, ls=":")
    ax.set(xscale="log", xlabel="step m", ylabel="distance from the law", ylim=(0, None))
    return ax


def updates_figure(report: UpdateReport, steps: Iterable[int] | None = None) -> Figure:
    """Return the figure: a row of histograms per network, and below them sizes and distances over the steps.

    Args:
        report: what `network_updates` returned.
        steps: to draw histograms of, among those looked at; by default the last seven.
    """
    looks = report.looks.tolist()
    chosen = looks[-7:] if steps is None else list(steps)
    rows, columns = len(report.networks), len(chosen)
    wide = max(1.9 * columns, 8.0)
    figure = Figure(figsize=(wide, 1.8 * rows + 4.0), layout="constrained")
    upper, lower = np.ravel(figure.subfigures(2, 1, squeeze=False, height_ratios=(1.8 * rows, 3.2)))
    for network, line in zip(report.networks, upper.subplots(rows, columns, squeeze=False), strict=True):
        for m, ax in zip(chosen, line, strict=True):
            histogram_panel(report, network, m, ax)
            ax.tick_params(labelsize=7)
            if network == report.networks[0]:
                ax.set_title(f"m = {m}", fontsize=9)
            if network == report.networks[-1]:
                ax.set_xlabel("Δθ", fontsize=8)
        line[0].set_ylabel(network, fontsize=9)
    left, right = lower.subplots(1, 2)
    for ax in (size_panel(report, left), distance_panel(report, right)):
        ax.set_xticks(looks, [str(m) for m in looks])
        ax.minorticks_off()
        ax.tick_params(labelsize=8)
        ax.grid(alpha=0.3)
    left.legend(fontsize=8, frameon=False, loc="upper left")
    title = f"{report.verdict}: {report.message} Black: the law; bars: two standard errors above, simultaneous below."
    figure.suptitle(
        textwrap.fill(title, int(12 * wide)), fontsize=9, color=VERDICT_COLOURS[report.verdict.value], x=0.01, ha="left"
    )
    return figure
