r"""The weak error of a small problem without noise: laws of chain and SDE on a grid of Chebyshev points.

Nothing is used but `method.step`, `oracle.rule` or `method.outcomes`, and `sde.at`. The chain's law is moved by its
transition operator iteration by iteration (by powers of it where iterations are alike), the SDE's by Euler steps with
a three-point noise, extrapolated in their length. What a coarser grid, fewer nodes and a smaller domain change in the
weak error bounds it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from sdeadapt.oracles.base import NotDeclared
from sdeadapt.simulation.paths import Level
from sdeadapt.verification.images import alike, chain_images, coefficients, euler_images, gradient_law, probed, probes
from sdeadapt.verification.noise_free import Means
from sdeadapt.verification.resolution import Resolution
from sdeadapt.verification.stage import Stage, make_stage
from sdeadapt.verification.transition import Grid, Operator

__all__ = ["quadrature_means", "why_no_quadrature"]

_MULTIPLES = (1, 2, 3, 4, 6, 8)  # of the fewest steps, by which the SDE is extrapolated


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
    """What one pass over all levels found, (L, J) each: E phi, E phi^2, and E phi(SDE) extrapolated one step less.

    edge: the most mass that can be at the domain's edge; steps: how many were taken.
    """

    chain: np.ndarray
    sde: np.ndarray
    before: np.ndarray
    square: np.ndarray
    edge: float
    steps: int
    shared: bool


def quadrature_means(
    levels: tuple[Level, ...], resolution: Resolution, tick: Callable[[int, int], None] = lambda done, total: None
) -> tuple[list[Means], float]:
    """Return the expectations of every level with their bounds, and the most mass that was at the domain's edge.

    Args:
        levels: to which the estimator applies.
        resolution: of the grid.
        tick: called with the number of passes done, and of all.
    """
    fine = resolution.filled(levels[0].initial._fields)
    coarse = fine.coarser
    passes: list[_Law] = []
    for n, one in enumerate((fine, coarse, coarse, coarse.smaller)):
        fewer = n == 2  # on the same grids, so that nothing else changes
        passes.append(_pass(levels, one, coarse.fewer if fewer else None, passes[1] if fewer else None))
        tick(n + 1, 4)
    first, second = passes[:2]
    errors = [law.chain - law.sde for law in passes]
    epsilon = float(torch.finfo(torch.float64).eps)
    bounds = {
        "grid": np.abs(errors[0] - errors[1]),
        "nodes": np.abs(errors[1] - errors[2]),
        "domain": np.abs(errors[1] - errors[3]),
        "extrapolation": np.abs(first.sde - first.before),
        "rounding": 4 * epsilon * math.sqrt(first.steps) * np.sqrt(first.square),
    }
    shared = ("extrapolation",) if first.shared else ()
    means = [
        Means(first.chain[i], first.sde[i], first.square[i], {k: v[i] for k, v in bounds.items()}, shared)
        for i in range(len(levels))
    ]
    return means, max(first.edge, second.edge)


@torch.no_grad()
def _pass(
    levels: tuple[Level, ...], resolution: Resolution, nodes: int | None = None, known: _Law | None = None
) -> _Law:
    """Return chain and SDE of every level at one resolution, all on the same grids.

    `nodes` replaces those of the resolution, on the grids that belong to it; `known` then has the SDE already.
    """
    nodes = nodes or resolution.nodes
    assert nodes is not None
    assert resolution.euler is not None
    stage = make_stage(levels, resolution)
    shared = _same_sde(levels, stage.grid(stage.begin)) and all(level.begin == level.start for level in levels)
    looks: dict[int, _Look] = {}
    chains, solutions, edge, steps = [], [], 0.0, 0
    for i, level in enumerate(levels):
        laws = dict(_chain_law(level, stage, nodes))
        steps = max(steps, level.records[-1] - level.begin)
        chain = [_means(level, *laws[k], looks) for k in level.records]
        edge = max(edge, *(one.edge for one in chain))
        chains.append(torch.cat([one.phi for one in chain]))
        if known is None and (i == 0 or not shared):
            solutions.append(_sde_means(level, stage, laws[level.start], looks, resolution.euler))
    if known is not None:
        return known._replace(chain=torch.stack(chains).numpy())
    sde, before, square = (np.stack([s[n] for s in solutions] * (len(levels) if shared else 1)) for n in range(3))
    return _Law(torch.stack(chains).numpy(), sde, before, square, edge, steps, shared)


class _Look(NamedTuple):
    """The test functions on a grid, (N, functions), and a polynomial that is 1 or more at its edge."""

    phi: Tensor
    tail: Tensor


class _Mean(NamedTuple):
    phi: Tensor
    square: Tensor
    edge: float


def _look(level: Level, grid: Grid) -> _Look:
    phi = level.evaluate(type(level.initial)(*(x[:, None] for x in grid.rows)))
    tail = torch.stack(
        [axis.unit(x) ** (2 * ((axis.points - 1) // 2)) for axis, x in zip(grid.axes, grid.rows, strict=True)]
    ).sum(0)
    return _Look(phi, tail)


def _means(level: Level, grid: Grid, moments: Tensor, looks: dict[int, _Look]) -> _Mean:
    if id(grid) not in looks:  # all levels have the same functions, and `looks` does not outlive the grids
        looks[id(grid)] = _look(level, grid)
    look, weights = looks[id(grid)], grid.weights(moments).reshape(-1)
    return _Mean(weights @ look.phi, weights @ look.phi.square(), float((weights @ look.tail).abs()))


def _chain_law(level: Level, stage: Stage, nodes: int) -> Iterator[tuple[int, tuple[Grid, Tensor]]]:
    """Yield the law of the chain, a grid and moments on it, at `level.start` and at every recorded iteration."""
    k, per_unit = level.begin, level.records[-1] // stage.units
    grid, n = stage.grid(k / per_unit), level.initial.theta.shape[0]
    moments = grid.moments([x[:, 0] for x in level.initial], torch.full((n,), 1 / n, dtype=torch.float64))
    if k == level.start:
        yield k, (grid, moments)
    operator, known = None, None
    for stop in sorted({level.start, *level.records} - {k}):
        while k < stop:
            rows = grid.rows
            if known is not grid:
                g, weights = gradient_law(level, grid.axes[0].nodes, nodes)  # (Q, points)
                everywhere, known = g.repeat_interleave(math.prod(grid.shape[1:]), 1), grid
                if bool((weights == weights[:, :1]).all()):
                    weights = weights[:, 0]
            n, after = 1, stage.grid((k + 1) / per_unit)
            if after is grid:
                few, near = probed(rows), everywhere[:, probes(rows)]
                here = chain_images(level, few, near, k)
                while k + n < stop and alike(here, chain_images(level, few, near, k + n)):
                    n += 1
            images = [x.reshape(-1, *grid.shape) for x in chain_images(level, rows, everywhere, k)]
            operator = Operator(grid, images, weights, n, operator if after is grid else None, after)
            moments, k, grid = operator.push(moments, n), k + n, after
        yield k, (grid, moments)


def _sde_means(
    level: Level, stage: Stage, law: tuple[Grid, Tensor], looks: dict[int, _Look], euler: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return E phi(SDE) at every record, extrapolated; the same without the finest solution; E phi^2. (J,) each."""
    units = stage.units * (level.records[-1] - level.start) // level.records[-1]
    runs, squares = [], [torch.zeros(0)]
    multiples = _MULTIPLES if len(stage.points) < 3 else _MULTIPLES[:-1]
    for multiple in multiples:
        found = [
            _means(level, *one, looks) for one in _euler_laws(level, stage, law, math.ceil(euler / units) * multiple)
        ]
        runs.append(torch.cat([one.phi for one in found]))
        squares = [one.square for one in found]
    sizes = [1 / n for n in multiples]
    square = torch.cat(squares).clamp_min(0).numpy()
    return _neville(sizes, runs).numpy(), _neville(sizes[:-1], runs[:-1]).numpy(), square


def _euler_laws(level: Level, stage: Stage, law: tuple[Grid, Tensor], per_unit: int) -> Iterator[tuple[Grid, Tensor]]:
    """Yield the law at every record, by `per_unit` Euler steps to a unit of time."""
    sde, per_level = level.sde, level.records[-1] // stage.units
    assert sde is not None
    dt = per_level * level.method.time_step / per_unit
    (grid, moments), k, operator = law, level.start // per_level * per_unit, None
    for stop in (record // per_level * per_unit for record in level.records):
        while k < stop:
            n, after = 1, stage.grid((k + 1) / per_unit)
            if after is grid:
                few = probed(grid.rows)
                here = coefficients(sde, k * dt, few)
                while k + n < stop and alike(here, coefficients(sde, (k + n) * dt, few)):
                    n += 1
            images, weights = euler_images(*coefficients(sde, k * dt, grid.rows), grid.rows, dt)
            images = [x.reshape(-1, *grid.shape) for x in images]
            operator = Operator(grid, images, weights, n, operator if after is grid else None, after)
            moments, k, grid = operator.push(moments, n), k + n, after
        yield grid, moments


def _neville(sizes: list[float], values: list[Tensor]) -> Tensor:
    """Return the value at 0 of the polynomial through (size, value)."""
    table = list(values)
    for order in range(1, len(table)):
        for i in range(len(table) - order):
            x, y = sizes[i], sizes[i + order]
            table[i] = table[i + 1] + (table[i + 1] - table[i]) * (y / (x - y))
    return table[0]


def _same_sde(levels: tuple[Level, ...], grid: Grid) -> bool:
    """Whether all levels have an SDE with the same coefficients, at the start and at the end."""
    base = levels[0]
    for level in levels[1:]:
        for k, other in ((base.start, level.start), (base.records[-1], level.records[-1])):
            times = (max(k, 1) * base.method.time_step, max(other, 1) * level.method.time_step)
            if abs(times[0] - times[1]) > 1e-9 * times[0] and k:
                return False
            found = [coefficients(one.sde, times[0], grid.rows) for one in (base, level) if one.sde is not None]
            for a, b in zip(*found, strict=True):
                if a.shape != b.shape or (a.numel() and float((a - b).abs().max()) > 1e-11 * float(a.abs().max())):
                    return False
    return True
