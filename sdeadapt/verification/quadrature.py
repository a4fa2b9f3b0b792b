r"""The weak error of a small problem without noise: laws of chain and SDE moved step by step.

Nothing is used but `method.step`, `oracle.rule` or `method.outcomes`, and `sde.at`. The chain's law is moved by its
iterations, the SDE's by Euler steps with a three-point noise, extrapolated in their length. A law of one coordinate, or
with long tails, lives on one Chebyshev grid (`resting`); others on a grid in a frame of their own (`moving`). What a
coarser grid, fewer nodes and a smaller domain change in the weak error bounds it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from sdeadapt.oracles.base import NotDeclared
from sdeadapt.simulation.paths import Level
from sdeadapt.verification.domain import LEAST
from sdeadapt.verification.images import coefficients, gradient_law
from sdeadapt.verification.moving import Moving
from sdeadapt.verification.noise_free import Means
from sdeadapt.verification.propagation import Propagation
from sdeadapt.verification.resolution import Resolution
from sdeadapt.verification.resting import Resting
from sdeadapt.verification.stage import make_stage

__all__ = ["quadrature_means", "why_no_quadrature"]

_TAIL = 8.0  # standard deviations, within which Gaussian noise has all its nodes of any weight
_MULTIPLES = (1, 2, 3, 4, 6, 8)  # of the fewest steps, by which the SDE is extrapolated

_AMPLIFIED = 82  # by which that multiplies the rounding of a mean: the sum of its coefficients' sizes


def why_no_quadrature(levels: tuple[Level, ...]) -> str:
    """Return why the estimator does not apply to these levels; "" if it does."""
    first = levels[0]
    fields, oracle = first.initial._fields, first.oracle
    if oracle.dim != 1:
        return f"theta must have one dimension, not {oracle.dim}"
    if len(fields) > 3:
        return f"the state must have at most three coordinates, not {len(fields)}"
    if oracle.dtype != torch.float64 or oracle.device.type != "cpu":
        return f"it runs in float64 on the CPU, not in {oracle.dtype} on {oracle.device}"
    if not first.method.invertible:
        return f"a Point of {type(first.method).__name__} does not hold all that the chain remembers"
    if first.method.bias_correction and first.begin == 0:
        return "the first steps after m = u = 0 are not smooth: give the state at `start` by `initial`"
    try:
        for level in levels:
            if level.method.smooth:
                level.oracle.rule(4)
            else:
                level.method.outcomes(level.oracle, level.initial.theta[:, 0])
    except NotDeclared as missing:
        return str(missing)
    return ""


class _Law(NamedTuple):
    """What one pass over all levels found, (L, J) each: E phi, E phi(SDE), the same extrapolated one step less.

    square: E phi(SDE)^2; size: sum |weight phi|, which rounding is relative to; edge: the most mass that can have been
    cut off; steps: how many were taken; shared: one SDE serves all levels.
    """

    chain: np.ndarray
    sde: np.ndarray
    before: np.ndarray
    square: np.ndarray
    size: np.ndarray
    edge: float
    steps: int
    shared: bool


def quadrature_means(
    levels: tuple[Level, ...], resolution: Resolution, tick: Callable[[int, int], None] = lambda done, total: None
) -> tuple[list[Means], float]:
    """Return the expectations of every level with their bounds, and the most mass that was cut off.

    Args:
        levels: to which the estimator applies.
        resolution: of the grid.
        tick: called with the number of passes done, and of all.
    """
    moves = _moves(levels, resolution)
    fine = resolution.filled(levels[0].initial._fields, moves=moves)
    coarse = fine.coarser
    passes: list[_Law] = []
    for n, one in enumerate((fine, coarse, coarse, coarse.smaller)):
        fewer = n == 2  # on the same grids, so that nothing else changes
        passes.append(_pass(levels, one, moves, coarse.fewer if fewer else None, passes[1] if fewer else None))
        tick(n + 1, 4)
    first, second = passes[:2]
    errors = [law.chain - law.sde for law in passes]
    epsilon = float(torch.finfo(torch.float64).eps)
    bounds = {
        "grid": np.abs(errors[0] - errors[1]),
        "nodes": np.abs(errors[1] - errors[2]),
        "domain": np.abs(errors[1] - errors[3]),
        "extrapolation": np.abs(first.sde - first.before),
        "rounding": _AMPLIFIED * epsilon * math.sqrt(first.steps) * first.size,
    }
    shared = ("extrapolation",) if first.shared else ()
    means = [
        Means(first.chain[i], first.sde[i], first.square[i], {k: v[i] for k, v in bounds.items()}, shared)
        for i in range(len(levels))
    ]
    return means, max(first.edge, second.edge)


def _moves(levels: tuple[Level, ...], resolution: Resolution) -> bool:
    """Whether the grid goes along with the law, which is more precise, but has no place for long tails.

    One coordinate can afford a wide grid at rest; for three, where theta is driven by m, it is unstable.
    """
    first = levels[0]
    if len(first.initial) != 2:
        return len(first.initial) > 2
    nodes = resolution.filled(first.initial._fields).nodes
    assert nodes is not None
    g, weights = gradient_law(first, first.initial.theta[:, 0], nodes)
    about = g - (weights * g).sum(0)
    reach = torch.where(weights > LEAST, about.abs(), 0.0).amax(0)
    return bool((reach <= _TAIL * (weights * about.square()).sum(0).sqrt()).all())


@torch.no_grad()
def _pass(
    levels: tuple[Level, ...],
    resolution: Resolution,
    moves: bool,
    nodes: int | None = None,
    known: _Law | None = None,
) -> _Law:
    """Return chain and SDE of every level at one resolution, all on the same grids.

    `nodes` replaces those of the resolution, on the grids that belong to it; `known` then has the SDE already.
    """
    nodes = nodes or resolution.nodes
    assert nodes is not None
    assert resolution.euler is not None
    way: Propagation = Moving(levels, resolution) if moves else _resting(levels, resolution)
    chains: list[Tensor] = []
    solutions: list[_Solution] = []
    edge, steps, shared = 0.0, 0, False
    for i, level in enumerate(levels):
        laws = dict(way.chain(level, nodes))
        steps = max(steps, level.records[-1] - level.begin)
        found = [way.mean(level, laws[k]) for k in level.records]
        edge = max(edge, *(one.edge for one in found))
        chains.append(torch.cat([one.phi for one in found]))
        if i == 0:
            rows = way.rows(laws[level.records[-1]])
            shared = all(one.begin == one.start for one in levels) and _same_sde(levels, rows)
        if known is None and (i == 0 or not shared):
            solutions.append(_solve(level, way, laws[level.start], resolution.euler))
    chain = torch.stack(chains).numpy()
    if known is not None:
        return known._replace(chain=chain)
    times = len(levels) if shared else 1
    sde, before, square, size = (
        np.stack([part.numpy() for part in parts] * times) for parts in zip(*solutions, strict=True)
    )
    return _Law(chain, sde, before, square, size, edge, steps, shared)


def _resting(levels: tuple[Level, ...], resolution: Resolution) -> Resting:
    stage = make_stage(levels, resolution)
    return Resting(levels[0], stage.grid, stage.units)


class _Solution(NamedTuple):
    """E phi(SDE) at every record, extrapolated; without the finest solution; E phi^2; sum |weight phi|. (J,) each."""

    phi: Tensor
    before: Tensor
    square: Tensor
    size: Tensor


def _solve(level: Level, way: Propagation, law: Any, euler: int) -> _Solution:
    units = way.units * (level.records[-1] - level.start) // level.records[-1]
    runs = []
    for multiple in _MULTIPLES:
        found = [way.mean(level, one) for one in way.sde(level, law, math.ceil(euler / units) * multiple)]
        runs.append(torch.cat([one.phi for one in found]))
    sizes = [1 / n for n in _MULTIPLES]
    square, size = torch.cat([one.square for one in found]).clamp_min(0), torch.cat([one.size for one in found])
    return _Solution(_neville(sizes, runs), _neville(sizes[:-1], runs[:-1]), square, size)


def _neville(sizes: list[float], values: list[Tensor]) -> Tensor:
    """Return the value at 0 of the polynomial through (size, value)."""
    table = list(values)
    for order in range(1, len(table)):
        for i in range(len(table) - order):
            x, y = sizes[i], sizes[i + order]
            table[i] = table[i + 1] + (table[i + 1] - table[i]) * (y / (x - y))
    return table[0]


def _same_sde(levels: tuple[Level, ...], rows: tuple[Tensor, ...]) -> bool:
    """Whether all levels have an SDE with the same coefficients at some points, at the start and at the end."""
    base = levels[0]
    for level in levels[1:]:
        for k, other in ((base.start, level.start), (base.records[-1], level.records[-1])):
            times = (max(k, 1) * base.method.time_step, max(other, 1) * level.method.time_step)
            if abs(times[0] - times[1]) > 1e-9 * times[0] and k:
                return False
            found = [coefficients(one.sde, times[0], rows) for one in (base, level) if one.sde is not None]
            for a, b in zip(*found, strict=True):
                if a.shape != b.shape or (a.numel() and float((a - b).abs().max()) > 1e-11 * float(a.abs().max())):
                    return False
    return True
