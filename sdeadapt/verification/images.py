"""Where a step takes the points of a grid: an iteration of a chain, and an Euler step of an SDE, in one dimension."""

from __future__ import annotations

import math
from itertools import product
from typing import Any

import torch
from torch import Tensor

from sdeadapt.methods.base import ItoSDE
from sdeadapt.oracles.base import Draw
from sdeadapt.simulation.paths import Level
from sdeadapt.verification.transition import compressed

__all__ = ["alike", "chain_images", "coefficients", "euler_images", "gradient_law", "probed", "probes"]

_ROWS = 1 << 18  # gradients drawn at a time
_PROBES = 7  # grid points at which two steps are compared


def gradient_law(level: Level, theta: Tensor, nodes: int) -> tuple[Tensor, Tensor]:
    """Return the law of the noisy gradient at each theta (n,): values and weights, (Q, n) each, with Q <= about nodes.

    A law with more atoms, of minibatches or of SVAG's pairs, is replaced by its Gauss rule; one that the method sees
    no more of than a few outcomes, by these.
    """
    oracle = level.oracle
    if not level.method.smooth:
        return level.method.outcomes(oracle, theta)
    draws, weights = oracle.rule(nodes)
    atoms = len(weights)
    rows = max(1, _ROWS // atoms)
    found = [
        oracle.sample(oracle.at(part.repeat_interleave(atoms)[:, None]), _repeated(draws, len(part))).reshape(-1, atoms)
        for part in theta.split(rows)
    ]
    pairs = [compressed(part, weights, nodes) for part in found]
    return torch.cat([values for values, _ in pairs]).T, torch.cat([w for _, w in pairs]).T


def _repeated(draws: Draw, times: int) -> Draw:
    if isinstance(draws, Tensor):
        return draws.repeat(times, *[1] * (draws.dim() - 1))
    return tuple(_repeated(d, times) for d in draws)


def chain_images(level: Level, rows: tuple[Tensor, ...], g: Tensor, k: int) -> tuple[Tensor, ...]:
    """Return the coordinates (Q, n) after iteration k, from points with coordinates (n,) and gradients g (Q, n)."""
    point = type(level.initial)(*(x.expand(g.shape).reshape(-1, 1) for x in rows))
    state = level.method.step(level.method.from_point(point, level.oracle.scale), g.reshape(-1, 1), k)
    return tuple(x.reshape(g.shape) for x in level.method.to_point(state, level.oracle.scale))


def probes(rows: tuple[Tensor, ...]) -> Tensor:
    """Return the indices of a few points spread over all of them."""
    return torch.linspace(0, len(rows[0]) - 1, _PROBES).long()


def probed(rows: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """Return the coordinates of those points."""
    return tuple(x[probes(rows)] for x in rows)


def alike(first: tuple[Tensor, ...], second: tuple[Tensor, ...]) -> bool:
    """Whether two steps take the points to the very same places."""
    return all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def coefficients(sde: ItoSDE, t: float, rows: tuple[Tensor, ...]) -> tuple[Tensor, Tensor]:
    """Return drift (fields, n) and diffusion (columns, fields, n) at points with coordinates (n,).

    There are at most as many columns as fields: more are replaced by a root of their covariance.
    """
    point = sde.point(*(x[:, None] for x in rows))
    n = len(rows[0])
    drift, diffuse = sde.at(t, point)

    def filled(value: Any) -> Tensor:
        return torch.stack([rows[0].new_zeros(n) if f is None else f.reshape(-1).expand(n) for f in value])

    units = torch.eye(sde.noise_dim, dtype=rows[0].dtype)
    columns = [filled(diffuse(unit.expand(n, -1))) for unit in units]
    columns = [c for c in columns if bool((c != 0).any())]
    spread = torch.stack(columns) if columns else rows[0].new_zeros(0, len(rows), n)
    if len(columns) > len(rows):
        values, vectors = torch.linalg.eigh(torch.einsum("cfn,cgn->nfg", spread, spread))
        spread = (vectors * values.clamp_min(0).sqrt()[:, None, :]).permute(2, 1, 0)
        spread = spread[spread.abs().amax((1, 2)) > 0]
    return filled(drift), spread


def euler_images(drift: Tensor, spread: Tensor, rows: tuple[Tensor, ...], dt: float) -> tuple[list[Tensor], Tensor]:
    """Return the coordinates (Q, n) after an Euler step with a three-point noise, and the weights (Q,)."""
    node, weight = (-math.sqrt(3), 0.0, math.sqrt(3)), (1 / 6, 2 / 3, 1 / 6)
    tuples = list(product(range(3), repeat=len(spread)))
    xi = torch.tensor([[node[i] for i in one] for one in tuples], dtype=drift.dtype).reshape(len(tuples), len(spread))
    weights = torch.tensor([math.prod(weight[i] for i in one) for one in tuples], dtype=drift.dtype)
    images = []
    for f, x in enumerate(rows):
        moved = (x + dt * drift[f])[None]
        if len(spread) and bool((spread[:, f] != 0).any()):
            moved = moved + math.sqrt(dt) * (xi @ spread[:, f])
        images.append(moved)
    return images, weights
