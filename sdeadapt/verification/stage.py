"""The grids of a study: wide enough for the laws of the coarsest chain and of the SDEs, at rest or moving with them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from sdeadapt.methods.base import ItoSDE
from sdeadapt.simulation.paths import Level
from sdeadapt.verification.domain import Moves, find_bounds
from sdeadapt.verification.images import chain_images, coefficients, euler_images, gradient_law
from sdeadapt.verification.resolution import Resolution
from sdeadapt.verification.transition import Axis, Grid

__all__ = ["Stage", "make_stage"]

_DECAY = {1: 0.5, 2: 0.5, 3: 0.45}  # of the weight of interpolation, in units of the law's own
_TRAVEL = 0.15  # of the widest spread: a mean that moves further takes the grid along
_WALK = 64  # fewest Euler steps along the SDE's mean path


@dataclass(frozen=True, eq=False)
class Stage:
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


def make_stage(levels: tuple[Level, ...], resolution: Resolution) -> Stage:
    """Return the grids, wide enough for the coarsest chain and the SDEs of both ends."""
    assert resolution.points is not None
    assert resolution.nodes is not None
    assert resolution.radius is not None
    first, nodes, count = levels[0], resolution.nodes, len(levels[0].initial)
    units = math.gcd(*(level.records[-1] for level in levels))
    begin = first.begin * units // first.records[-1]

    def chain(k: int, points: Tensor) -> tuple[Tensor, Tensor]:
        g, weights = gradient_law(first, points[:, 0].contiguous(), nodes)
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
    return Stage(units, begin, low, high, travel, resolution.points, roots, _DECAY[count] * resolution.radius, {})
