r"""The weak error of a small problem without noise: laws of chain and SDE on a grid of Chebyshev points.

Nothing is used but `method.step`, `oracle.rule` and `sde.at`. The chain's law is moved by its transition operator
iteration by iteration (by powers of it where iterations are alike), the SDE's by Euler steps with a three-point noise,
extrapolated in their length. What a coarser grid, fewer nodes and a smaller domain change in the weak error bounds it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import product
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from sdeadapt.checks import check_integer, check_positive
from sdeadapt.methods.base import ItoSDE
from sdeadapt.oracles.base import Draw, NotDeclared, Oracle
from sdeadapt.simulation.paths import Level
from sdeadapt.verification.domain import Moves, find_bounds
from sdeadapt.verification.noise_free import Means
from sdeadapt.verification.transition import Axis, Grid, Operator, compressed

__all__ = ["Resolution", "quadrature_means", "why_no_quadrature"]

# by the number of coordinates; other fields than theta and u have the points of ""
_POINTS = {1: {"theta": 128}, 2: {"theta": 72, "u": 22, "": 40}, 3: {"theta": 48, "u": 20, "": 34}}
_NODES = {1: 24, 2: 16, 3: 10}
_RADIUS = {1: 6.5, 2: 6.5, 3: 6.0}
_EULER = {1: 16, 2: 16, 3: 8}
_COARSER = {1: 0.82, 2: 0.82, 3: 0.87}
_DECAY = {1: 0.5, 2: 0.5, 3: 0.45}  # of the weight of interpolation, in units of the law's own
_MULTIPLES = (1, 2, 3, 4, 6, 8)  # of the fewest steps, by which the SDE is extrapolated
_ROWS = 1 << 18  # gradients drawn at a time
_TRAVEL = 0.15  # of the widest spread: a mean that moves further takes the grid along
_WALK = 64  # fewest Euler steps along the SDE's mean path
_PROBES = 7  # grid points at which two steps are compared


@dataclass(frozen=True)
class Resolution:
    """How fine the quadrature estimator is. Everything left out is chosen by the dimension of the state.

    Args:
        points: of the grid, one number per coordinate of the Point.
        nodes: of the gradient's law, at every point.
        radius: of the domain, in standard deviations about the mean path; positive.
        euler: fewest Euler steps of the SDE over the horizon; it is solved with 1, 2, 3, 4, 6 and 8 times as many (up
            to 6 times for three coordinates: many small steps without noise of their own in theta are unstable).

    Example:
        >>> Resolution(points=(48, 20)).filled(("theta", "u")).nodes
        16
    """

    points: tuple[int, ...] | None = None
    nodes: int | None = None
    radius: float | None = None
    euler: int | None = None

    def __post_init__(self) -> None:
        if self.radius is not None:
            check_positive("radius", self.radius)
        if self.euler is not None:
            check_integer("euler", self.euler)
        if self.nodes is not None:
            check_integer("nodes", self.nodes, minimum=2)
        for n in self.points or ():
            check_integer("points", n, minimum=4)

    def filled(self, fields: tuple[str, ...]) -> Resolution:
        """Return it with every number chosen, for a Point with these fields.

        Raises:
            ValueError: if `points` has another number of entries.
        """
        size = len(fields)
        own = _POINTS[size]
        points = self.points or tuple(own.get(name, own.get("", 32)) for name in fields)
        if len(points) != len(fields):
            raise ValueError(f"`points` must have {len(fields)} entries, for {', '.join(fields)}; got {points}.")
        radius, euler = self.radius or _RADIUS[size], self.euler or _EULER[size]
        return Resolution(points, self.nodes or _NODES[size], radius, euler)

    @property
    def coarser(self) -> Resolution:
        """A grid with fewer points."""
        assert self.points is not None
        return replace(self, points=tuple(max(4, math.floor(_COARSER[len(self.points)] * n)) for n in self.points))

    @property
    def fewer(self) -> Resolution:
        """Fewer nodes."""
        assert self.nodes is not None
        return replace(self, nodes=max(1, self.nodes - max(1, self.nodes // 6)))

    @property
    def smaller(self) -> Resolution:
        """A smaller domain."""
        assert self.radius is not None
        return replace(self, radius=0.86 * self.radius)


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
    if not first.method.smooth:
        return f"a step of {type(first.method).__name__} is not smooth in the gradient"
    if first.method.bias_correction and first.begin == 0:
        return "the first steps after m = u = 0 are not smooth: give the state at `start` by `initial`"
    try:
        for level in levels:
            level.oracle.rule(4)
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
    for n, one in enumerate((fine, coarse, coarse.fewer, coarse.smaller)):
        passes.append(_pass(levels, one, passes[1] if n == 2 else None))  # the SDE needs no nodes
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


@dataclass(frozen=True, eq=False)
class _Stage:
    """The grids of a study: one for all times, or one that moves with a law that travels.

    units: of time up to the end, whole numbers of every level's steps; begin: the first; low, high (units + 1, F): the
    bounds at the ends of units; travel (F,): how far the mean moves.
    """

    units: int
    begin: int
    low: Tensor
    high: Tensor
    travel: Tensor
    points: tuple[int, ...]
    roots: tuple[bool, ...]
    decay: float
    found: dict[float, Grid]

    @cached_property
    def moves(self) -> bool:
        """Whether the law travels: an edge that it moves away from would be carried into the middle of one grid.

        Not with three coordinates: theta is driven by m there, and a grid that widens as both spread is unstable.
        """
        return len(self.points) < 3 and bool((self.travel > _TRAVEL * (self.high - self.low).amax(0)).any())

    def grid(self, time: float) -> Grid:
        """Return the grid at a time in units; of a law that stays, always the same one."""
        if not self.moves:
            low, high, time = self.low.amin(0), self.high.amax(0), 0.0
        else:
            place = min(max(time - self.begin, 0.0), len(self.low) - 1.0)
            unit = min(int(place), len(self.low) - 2)
            low, high = (torch.lerp(x[unit], x[unit + 1], place - unit) for x in (self.low, self.high))
        if time not in self.found:
            axes = (
                Axis(*one, self.decay) for one in zip(low.tolist(), high.tolist(), self.points, self.roots, strict=True)
            )
            self.found[time] = Grid(tuple(axes))
        return self.found[time]


@torch.no_grad()
def _pass(levels: tuple[Level, ...], resolution: Resolution, known: _Law | None = None) -> _Law:
    """Return chain and SDE of every level at one resolution, all on the same grids; `known` has the SDE already."""
    assert resolution.nodes is not None
    assert resolution.euler is not None
    stage = _stage(levels, resolution)
    shared = _same_sde(levels, stage.grid(stage.begin)) and all(level.begin == level.start for level in levels)
    looks: dict[int, _Look] = {}
    chains, solutions, edge, steps = [], [], 0.0, 0
    for i, level in enumerate(levels):
        laws = dict(_chain_law(level, stage, resolution.nodes))
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


def _stage(levels: tuple[Level, ...], resolution: Resolution) -> _Stage:
    """Return the grids, wide enough for the coarsest chain and the SDEs of both ends."""
    assert resolution.points is not None
    assert resolution.nodes is not None
    assert resolution.radius is not None
    first, nodes, count = levels[0], resolution.nodes, len(levels[0].initial)
    units = math.gcd(*(level.records[-1] for level in levels))
    begin = first.begin * units // first.records[-1]

    def chain(k: int, points: Tensor) -> tuple[Tensor, Tensor]:
        g, weights = gradient_law(first.oracle, points[:, 0].contiguous(), nodes)
        rows = tuple(points[:, f] for f in range(count))
        return torch.stack(chain_images(first, rows, g, first.begin + k), -1), weights

    walks: list[tuple[int, Moves]] = [(first.records[-1] // units, chain)]
    per_unit = math.ceil(_WALK / (units - begin))
    dt = first.records[-1] * first.method.time_step / (units * per_unit)
    for level in (first, levels[-1]):

        def euler(k: int, points: Tensor, sde: ItoSDE | None = level.sde) -> tuple[Tensor, Tensor]:
            assert sde is not None
            rows = tuple(points[:, f] for f in range(count))
            images, weights = euler_images(*coefficients(sde, (begin * per_unit + k) * dt, rows), rows, dt)
            size = len(weights)
            return torch.stack([x.expand(size, -1) for x in images], -1), weights[:, None].expand(-1, len(points))

        walks.append((per_unit, euler))
    roots = tuple(name == "u" for name in first.initial._fields)
    low, high, travel = find_bounds(torch.cat(tuple(first.initial), 1), units - begin, walks, resolution.radius, roots)
    low = torch.minimum(torch.cat([low[:1], low]), torch.cat([low, low[-1:]]))  # at the ends of units
    high = torch.maximum(torch.cat([high[:1], high]), torch.cat([high, high[-1:]]))
    return _Stage(units, begin, low, high, travel, resolution.points, roots, _DECAY[count] * resolution.radius, {})


# -- chain ------------------------------------------------------------------------------------------------------------


def gradient_law(oracle: Oracle, theta: Tensor, nodes: int) -> tuple[Tensor, Tensor]:
    """Return the law of the noisy gradient at each theta (n,): values and weights, (Q, n) each, with Q <= about nodes.

    A law with more atoms, of minibatches or of SVAG's pairs, is replaced by its Gauss rule.
    """
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


def _chain_law(level: Level, stage: _Stage, nodes: int) -> Iterator[tuple[int, tuple[Grid, Tensor]]]:
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
                g, weights = gradient_law(level.oracle, grid.axes[0].nodes, nodes)  # (Q, points)
                everywhere, known = g.repeat_interleave(math.prod(grid.shape[1:]), 1), grid
                if bool((weights == weights[:, :1]).all()):
                    weights = weights[:, 0]
            n, after = 1, stage.grid((k + 1) / per_unit)
            if after is grid:
                few, near = _probed(rows), everywhere[:, _probes(rows)]
                here = chain_images(level, few, near, k)
                while k + n < stop and _equal(here, chain_images(level, few, near, k + n)):
                    n += 1
            images = [x.reshape(-1, *grid.shape) for x in chain_images(level, rows, everywhere, k)]
            operator = Operator(grid, images, weights, n, operator if after is grid else None, after)
            moments, k, grid = operator.push(moments, n), k + n, after
        yield k, (grid, moments)


def _probes(rows: tuple[Tensor, ...]) -> Tensor:
    return torch.linspace(0, len(rows[0]) - 1, _PROBES).long()


def _probed(rows: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return tuple(x[_probes(rows)] for x in rows)


def _equal(first: tuple[Tensor, ...], second: tuple[Tensor, ...]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


# -- SDE --------------------------------------------------------------------------------------------------------------


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


def _sde_means(
    level: Level, stage: _Stage, law: tuple[Grid, Tensor], looks: dict[int, _Look], euler: int
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


def _euler_laws(level: Level, stage: _Stage, law: tuple[Grid, Tensor], per_unit: int) -> Iterator[tuple[Grid, Tensor]]:
    """Yield the law at every record, by `per_unit` Euler steps to a unit of time."""
    sde, per_level = level.sde, level.records[-1] // stage.units
    assert sde is not None
    dt = per_level * level.method.time_step / per_unit
    (grid, moments), k, operator = law, level.start // per_level * per_unit, None
    for stop in (record // per_level * per_unit for record in level.records):
        while k < stop:
            n, after = 1, stage.grid((k + 1) / per_unit)
            if after is grid:
                few = _probed(grid.rows)
                here = coefficients(sde, k * dt, few)
                while k + n < stop and _equal(here, coefficients(sde, (k + n) * dt, few)):
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
                if a.shape != b.shape or float((a - b).abs().max()) > 1e-11 * float(a.abs().max()):
                    return False
    return True
