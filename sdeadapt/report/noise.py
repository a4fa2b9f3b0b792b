"""The figure of `gradient_noise`: noise against signal along the run, batches, and what skewness and kurtosis leave."""

from __future__ import annotations

import textwrap

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, NullFormatter, StrMethodFormatter

from sdeadapt.analysis.noise_assumption import Assumption
from sdeadapt.analysis.noise_report import NoiseReport
from sdeadapt.report.figures import VERDICT_COLOURS

__all__ = ["batch_panel", "noise_figure", "ratio_panel", "shape_panel", "size_panel"]

_NOISE, _SIGNAL, _SIGN = "#2166ac", "#b2182b", "#e08214"
_KINDS = {"random": "#2166ac", "theta": "#1b7837", "gradient": "#b2182b"}


def _band(report: NoiseReport, ax: Axes, bounds: np.ndarray, colour: str) -> None:
    """Draw bounds (T, 2) as a band, and as bars where the run has one time."""
    beyond = 1e3 * bounds[np.isfinite(bounds)].max(initial=1e-3)  # beyond the axis
    low, high = np.minimum(bounds, beyond).T
    if len(report.steps) == 1:
        ax.vlines(report.steps, low, high, color=colour, lw=2)
    else:
        ax.fill_between(report.steps, low, high, color=colour, alpha=0.2, lw=0)


def _ranged(ax: Axes, values: np.ndarray, *lines: float) -> None:
    """Make the vertical axis logarithmic and let it hold the finite values, and lines, with some room."""
    shown = np.concatenate([np.ravel(values), lines])
    shown = shown[np.isfinite(shown) & (shown > 0)]
    ax.set_yscale("log")
    if shown.size:
        low, high = shown.min() / 1.6, shown.max() * 1.6
        ax.set_ylim(low, high)
        ax.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
        ax.yaxis.set_minor_formatter(NullFormatter() if high > 20 * low else StrMethodFormatter("{x:g}"))
        ax.tick_params(which="minor", labelsize=7)


def size_panel(report: NoiseReport, ax: Axes) -> Axes:
    r"""Draw $N = \sigma^2\,\mathrm{Tr}\,\Sigma$ and $G = |\nabla f|^2$, as Malladi et al. 2022 do in Figures 4 and 5.

    Args:
        report: what `gradient_noise` returned.
        ax: where to draw.
    """
    ax.plot(
        report.steps, report.noise, "o-", color=_NOISE, ms=3.5, lw=1.4, label=r"noise $N = \sigma^2\mathrm{Tr}\,\Sigma$"
    )
    signal = np.where(report.signal > 0, report.signal, np.nan)
    ax.plot(report.steps, signal, "s-", color=_SIGNAL, ms=3.5, lw=1.4, label=r"signal $G = |\nabla f|^2$")
    _ranged(ax, np.stack([report.noise, signal]))
    ax.set_title("noise and signal", fontsize=9)
    ax.legend(fontsize=8)
    return ax


def ratio_panel(report: NoiseReport, ax: Axes) -> Axes:
    """Draw N/G with its simultaneous bounds, over the line that it must exceed.

    Args:
        report: what `gradient_noise` returned.
        ax: where to draw.
    """
    dominance = report.assumptions[0]
    least = dominance.region[0]
    _band(report, ax, report.ratio_bounds, _NOISE)
    ax.plot(report.steps, report.ratio, "-", color=_NOISE, lw=1.4, zorder=1)
    colours = ["0.6" if v is None else VERDICT_COLOURS[v.value] for v in dominance.verdicts]
    ax.scatter(report.steps, report.ratio, c=colours, s=24, zorder=2)
    ax.axhline(least, color="0.3", lw=1, ls="--")
    ax.annotate(f"1/(C² − 1) = {least:.3g}", (0.99, least), xycoords=("axes fraction", "data"), xytext=(0, -3),
                textcoords="offset points", ha="right", va="top", fontsize=8, color="0.3")  # fmt: skip
    _ranged(ax, np.concatenate([report.ratio, report.ratio_bounds[:, 0]]), least, least / 2)
    ax.set_title("noise-to-signal N/G: noise dominates above", fontsize=9)
    return ax


def batch_panel(report: NoiseReport, ax: Axes) -> Axes:
    """Draw the noise scale, the sign's, and the largest batch of the linear rule, beside the batch in use.

    Args:
        report: what `gradient_noise` returned.
        ax: where to draw.
    """
    batch = 1 / report.scale**2
    for bounds, colour, label in (
        (report.noise_scale_bounds, _NOISE, "noise scale: N = G"),
        (report.sign_noise_scale_bounds, _SIGN, "the sign's noise scale"),
        (report.largest_batch_bounds, "0.5", "linear rule at most"),
    ):
        _band(report, ax, bounds, colour)
        middle = np.where(np.isfinite(bounds[:, 1]), np.sqrt(bounds[:, 0] * bounds[:, 1]), bounds[:, 0])
        ax.plot(report.steps, middle, "o-", color=colour, ms=3, lw=1.4, label=label)
    ax.axhline(batch, color="0.3", lw=1, ls="--", label="in use" if report.batch_size else r"in use, $1/\sigma^2$")
    every = np.stack([report.noise_scale_bounds, report.sign_noise_scale_bounds, report.largest_batch_bounds])
    _ranged(ax, every[:, :, 0], batch)
    ax.set_title("batch size", fontsize=9)
    ax.legend(fontsize=7)
    return ax


def shape_panel(report: NoiseReport, assumption: Assumption, label: str, ax: Axes) -> Axes:
    """Draw what is left of skewness or kurtosis in every direction, with simultaneous bounds, and what is allowed.

    Args:
        report: what `gradient_noise` returned.
        assumption: one of its last two.
        label: of the quantity.
        ax: where to draw.
    """
    low, high = assumption.region
    ax.axhspan(low, high, color="#1b7837", alpha=0.1, lw=0)
    ax.axhline(0, color="0.6", lw=0.8)
    gap = np.diff(report.steps).min() if len(report.steps) > 1 else 1
    seen = set()
    for case in range(assumption.value.shape[1]):
        kind = report.directions[case % len(report.directions)].split("_")[0].split()[0]
        value = assumption.value[:, case]
        reach = np.abs(np.stack([value - assumption.low[:, case], assumption.high[:, case] - value]))
        shift = 0.25 * gap * (list(_KINDS).index(kind) - 1)
        label_of_kind = None if kind in seen else {"theta": "coordinate"}.get(kind, kind)
        ax.errorbar(report.steps + shift, value, np.nan_to_num(reach, posinf=1e3), fmt="o", ms=2.5, lw=0.7, alpha=0.6,
                    color=_KINDS[kind], label=label_of_kind)  # fmt: skip
        seen.add(kind)
    most = np.nanmax(np.abs(assumption.value), initial=high)
    ax.set_ylim(-1.25 * most, 1.6 * most)
    ax.set_title(f"{label}: green is allowed", fontsize=9)
    ax.legend(fontsize=7, ncols=3, loc="upper right")
    return ax


def noise_figure(report: NoiseReport) -> Figure:
    """Return the figure of a report: sizes, ratio, batches, and what is left of skewness and kurtosis.

    Args:
        report: what `gradient_noise` returned.
    """
    figure = Figure(figsize=(13, 7.2), layout="constrained")
    grid = figure.add_gridspec(2, 6)
    size_panel(report, figure.add_subplot(grid[0, :2]))
    ratio_panel(report, figure.add_subplot(grid[0, 2:4]))
    batch_panel(report, figure.add_subplot(grid[0, 4:]))
    n = report.config["window"]
    _, skewness, moments = report.assumptions
    shape_panel(report, skewness, f"skewness / √{n:.3g}", figure.add_subplot(grid[1, :3]))
    shape_panel(report, moments, f"excess kurtosis / {n:.3g}", figure.add_subplot(grid[1, 3:]))
    for ax in figure.axes:
        ax.set_xlabel("step", fontsize=8)
        ax.tick_params(labelsize=8)
        ax.xaxis.set_major_locator(MaxNLocator(6, integer=True))
        if len(report.steps) == 1:
            ax.set_xlim(report.steps[0] - 1, report.steps[0] + 1)
    method, oracle = report.config["method"]["class"], report.config["oracle"]["class"]
    title = f"{report.verdict} — {method} on {oracle}. {report.message}"
    figure.suptitle(
        textwrap.fill(title, 150), fontsize=10, color=VERDICT_COLOURS[report.verdict.value], x=0.01, ha="left"
    )
    return figure
