"""Where the law of a small problem lives: the mean path of chain and SDE, and the spread that noise makes about it."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

__all__ = ["LEAST", "Moves", "find_bounds"]

Moves = Callable[[int, Tensor], tuple[Tensor, Tensor]]
"""(k, points (n, F)) -> coordinates after step k, (Q, n, F), and weights (Q, n)."""

_STEP = 1e-5  # of finite differences, relative
LEAST = 1e-13  # weight of a node that the domain has to hold
_MARGIN = 0.02
_FLOOR = 0.8  # of the smallest image: much of a skewed law sits there, and nodes may miss where a gradient vanishes


def find_bounds(
    start: Tensor, walks: Sequence[tuple[int, Moves]], radius: float, roots: Sequence[bool]
) -> tuple[Tensor, Tensor]:
    r"""Return where the law is at any time, mean path ± radius standard deviations: low and high, (F,) each.

    Mean and covariance are moved by $m' = E F(m, z)$, $C' = J C J^T + \mathrm{Cov} F(m, z)$ with the Jacobian J of the
    mean; the images of the mean itself are held in any case, for laws with one long tail. An average of squares is not
    sought where it cannot fall to: below the smallest image of its smallest value.

    Args:
        start: (rows, F), starting points.
        walks: how many steps and what makes them, of chain and SDE.
        radius: in standard deviations.
        roots: of which coordinates the bounds are of the root.

    Raises:
        FloatingPointError: if a mean path overflows.
    """
    root = torch.tensor(roots)
    y = _flat(start, root)
    low, high = y.amin(0), y.amax(0)
    for steps, moves in walks:
        for under, over in _walk(y, steps, moves, radius, root):
            low, high = torch.minimum(low, under), torch.maximum(high, over)
    if not bool((low.isfinite() & high.isfinite()).all()):
        raise FloatingPointError("The mean path of chain or SDE overflows. Use a smaller lr or a larger eps.")
    margin = (_MARGIN * (high - low)).maximum(1e-3 * high.abs().clamp_min(1e-3))
    return torch.where(root, (low - margin).clamp_min(0), low - margin), high + margin


def _flat(x: Tensor, root: Tensor) -> Tensor:
    return torch.where(root, x.clamp_min(0).sqrt(), x)


def _walk(y: Tensor, steps: int, moves: Moves, radius: float, root: Tensor) -> list[tuple[Tensor, Tensor]]:
    """Return the bounds of the law after every step."""
    mean = y.mean(0)
    covariance = (y - mean).T @ (y - mean) / len(y)
    size, bounds, floor = len(mean), [], y.amin(0)
    for k in range(steps):
        length = _STEP * mean.abs().clamp_min(1e-2)
        shift = torch.diag(length)
        points = torch.cat([mean[None], mean + shift, mean - shift, torch.where(root, floor, mean)[None]])
        images, weights = moves(k, torch.where(root, points.clamp_min(0).square(), points))
        images = _flat(images, root)
        means = (weights[..., None] * images).sum(0)
        floor = images[:, -1].amin(0)
        jacobian = ((means[1 : size + 1] - means[size + 1 : -1]) / (2 * length[:, None])).T
        about = images[:, 0] - means[0]
        covariance = jacobian @ covariance @ jacobian.T + (weights[:, :1] * about).T @ about
        mean, seen = means[0], images[:, 0][weights[:, 0] > LEAST]
        reach = radius * covariance.diagonal().clamp_min(0).sqrt()
        under = torch.where(root, torch.maximum(mean - reach, _FLOOR * floor), mean - reach)
        bounds.append((torch.minimum(under, seen.amin(0)), torch.maximum(mean + reach, seen.amax(0))))
    return bounds
