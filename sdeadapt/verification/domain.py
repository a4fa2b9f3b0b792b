"""Where the law of a small problem lives: the mean path of chain and SDE, and the spread that noise makes about it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

__all__ = ["Moves", "Window", "find_windows"]

Moves = Callable[[int, Tensor], tuple[Tensor, Tensor]]
"""(k, points (n, F)) -> coordinates after step k, (Q, n, F), and weights (Q, n)."""

_STEP = 1e-5  # of finite differences, relative
_LEAST = 1e-13  # weight of a node that the domain has to hold
_MARGIN = 0.02
_GROWTH = 1.15  # of a window, over the widest of the units that it serves


class Window(NamedTuple):
    """A stretch of time that ends after `end` units, and the bounds of every coordinate within it."""

    end: int
    bounds: tuple[tuple[float, float], ...]


def find_windows(
    start: Tensor, units: int, walks: Sequence[tuple[int, Moves]], radius: float, roots: Sequence[bool]
) -> list[Window]:
    r"""Return where the law is: mean path ± radius standard deviations, in as few windows of time as hold it closely.

    Mean and covariance are moved by $m' = E F(m, z)$, $C' = J C J^T + \mathrm{Cov} F(m, z)$ with the Jacobian J of the
    mean; the images of the mean itself are held in any case, for laws with one long tail. A law that travels gets
    several windows: an edge that it moves away from would be carried into the middle of one.

    Args:
        start: (rows, F), starting points.
        units: of time.
        walks: steps per unit and what makes them, of chain and SDE.
        radius: in standard deviations.
        roots: of which coordinates the bounds are of the root.

    Raises:
        FloatingPointError: if a mean path overflows.
    """
    root = torch.tensor(roots)
    y = _flat(start, root)
    low, high = y.amin(0).repeat(units, 1), y.amax(0).repeat(units, 1)
    low[1:], high[1:] = torch.inf, -torch.inf
    for per_unit, moves in walks:
        for k, (under, over) in enumerate(_walk(y, units * per_unit, moves, radius, root)):
            for unit in {k // per_unit, min((k + 1) // per_unit, units - 1)}:  # the ends of a unit belong to both
                low[unit] = torch.minimum(low[unit], under)
                high[unit] = torch.maximum(high[unit], over)
    if not bool((low.isfinite() & high.isfinite()).all()):
        raise FloatingPointError("The mean path of chain or SDE overflows. Use a smaller lr or a larger eps.")
    margin = (_MARGIN * (high - low)).maximum(1e-3 * high.abs().clamp_min(1e-3))
    low, high = torch.where(root, (low - margin).clamp_min(0), low - margin), high + margin
    windows, first = [], 0
    for unit in range(1, units + 1):
        if unit < units:
            widest = (high - low)[first : unit + 1].amax(0)
            together = high[first : unit + 1].amax(0) - low[first : unit + 1].amin(0)
            if bool((together <= _GROWTH * widest).all()):
                continue
        lows, highs = low[first:unit].amin(0).tolist(), high[first:unit].amax(0).tolist()
        windows.append(Window(unit, tuple(zip(lows, highs, strict=True))))
        first = unit
    return windows


def _flat(x: Tensor, root: Tensor) -> Tensor:
    return torch.where(root, x.clamp_min(0).sqrt(), x)


def _walk(y: Tensor, steps: int, moves: Moves, radius: float, root: Tensor) -> list[tuple[Tensor, Tensor]]:
    """Return the bounds of the law after every step."""
    mean = y.mean(0)
    covariance = (y - mean).T @ (y - mean) / len(y)
    size, bounds = len(mean), []
    for k in range(steps):
        length = _STEP * mean.abs().clamp_min(1e-2)
        shift = torch.diag(length)
        points = torch.cat([mean[None], mean + shift, mean - shift])
        images, weights = moves(k, torch.where(root, points.clamp_min(0).square(), points))
        images = _flat(images, root)
        means = (weights[..., None] * images).sum(0)
        jacobian = ((means[1 : size + 1] - means[size + 1 :]) / (2 * length[:, None])).T
        about = images[:, 0] - means[0]
        covariance = jacobian @ covariance @ jacobian.T + (weights[:, :1] * about).T @ about
        mean, seen = means[0], images[:, 0][weights[:, 0] > _LEAST]
        reach = radius * covariance.diagonal().clamp_min(0).sqrt()
        bounds.append((torch.minimum(mean - reach, seen.amin(0)), torch.maximum(mean + reach, seen.amax(0))))
    return bounds
