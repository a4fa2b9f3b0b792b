"""The grid of a study whose laws stay in place: wide enough for the coarsest chain and the SDEs of both ends."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from sdeadapt.methods.base import ItoSDE
from sdeadapt.simulation.paths import Level
from sdeadapt.verification.domain import Moves, find_bounds
from sdeadapt.verification.images import chain_images, coefficients, euler_images, gradient_law
from sdeadapt.verification.propagation import time_units
from sdeadapt.verification.resolution import Resolution
from sdeadapt.verification.transition import Axis, Grid

__all__ = ["Stage", "make_stage"]

_DECAY = 0.5  # of the weight of interpolation, in units of the law's own
_WALK = 64  # fewest Euler steps along the SDE's mean path


class Stage(NamedTuple):
    """A grid; units of time up to the end, see `time_units`."""

    grid: Grid
    units: int


def make_stage(levels: tuple[Level, ...], resolution: Resolution) -> Stage:
    """Return the grid for the laws of all levels at all times."""
    assert resolution.points is not None
    assert resolution.nodes is not None
    assert resolution.radius is not None
    first, nodes, count = levels[0], resolution.nodes, len(levels[0].initial)
    units = time_units(first)
    begin = first.begin * units // first.records[-1]

    def chain(k: int, points: Tensor) -> tuple[Tensor, Tensor]:
        g, weights = gradient_law(first, points[:, 0].contiguous(), nodes)
        rows = tuple(points[:, f] for f in range(count))
        return torch.stack(chain_images(first, rows, g, first.begin + k), -1), weights

    walks: list[tuple[int, Moves]] = [(first.records[-1] - first.begin, chain)]
    per_unit = math.ceil(_WALK / (units - begin))
    dt = first.records[-1] * first.method.time_step / (units * per_unit)
    for level in (first, levels[-1]):

        def euler(k: int, points: Tensor, sde: ItoSDE | None = level.sde) -> tuple[Tensor, Tensor]:
            assert sde is not None
            rows = tuple(points[:, f] for f in range(count))
            images, weights = euler_images(*coefficients(sde, (begin * per_unit + k) * dt, rows), rows, dt)
            size = len(weights)
            return torch.stack([x.expand(size, -1) for x in images], -1), weights[:, None].expand(-1, len(points))

        walks.append((per_unit * (units - begin), euler))
    roots = tuple(name == "u" for name in first.initial._fields)
    low, high = find_bounds(torch.cat(tuple(first.initial), 1), walks, resolution.radius, roots)
    bounds = zip(low.tolist(), high.tolist(), resolution.points, roots, strict=True)
    grid = Grid(tuple(Axis(*one, _DECAY * resolution.radius) for one in bounds))
    return Stage(grid, units)
