"""Laws on one grid of Chebyshev points for all times and levels: one coordinate, or two and long tails.

Where iterations are alike, powers of their operator serve for many at once.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import cached_property

import torch
from torch import Tensor

from sdeadapt.simulation.paths import Level
from sdeadapt.verification.images import alike, chain_images, coefficients, euler_images, gradient_law, probed, probes
from sdeadapt.verification.propagation import Mean, Propagation
from sdeadapt.verification.transition import Grid, Operator

__all__ = ["Resting"]


class Resting(Propagation):
    """Chain and SDE of a study as moments on a grid.

    Args:
        level: any of the study; all have the same test functions.
        grid: wide enough for all of them.
        units: see `Propagation`.
    """

    def __init__(self, level: Level, grid: Grid, units: int) -> None:
        self._level, self.grid, self.units = level, grid, units

    def chain(self, level: Level, nodes: int) -> Iterator[tuple[int, Tensor]]:
        """Yield the law of the chain at `level.start` and at every recorded iteration, with that iteration."""
        grid, n, k = self.grid, level.initial.theta.shape[0], level.begin
        moments = grid.moments([x[:, 0] for x in level.initial], torch.full((n,), 1 / n, dtype=torch.float64))
        if k == level.start:
            yield k, moments
        g, weights = gradient_law(level, grid.axes[0].nodes, nodes)  # (Q, points)
        g = g.repeat_interleave(math.prod(grid.shape[1:]), 1)
        if bool((weights == weights[:, :1]).all()):
            weights = weights[:, 0]
        few, near, operator = probed(grid.rows), g[:, probes(grid.rows)], None
        for stop in sorted({level.start, *level.records} - {k}):
            while k < stop:
                n, here = 1, chain_images(level, few, near, k)
                while k + n < stop and alike(here, chain_images(level, few, near, k + n)):
                    n += 1
                images = [x.reshape(-1, *grid.shape) for x in chain_images(level, grid.rows, g, k)]
                operator = Operator(grid, images, weights, n, operator)
                moments, k = operator.push(moments, n), k + n
            yield k, moments

    def sde(self, level: Level, law: Tensor, per_unit: int) -> Iterator[Tensor]:
        """Yield the law of the SDE at every record, by `per_unit` Euler steps to a unit of time."""
        grid, sde, per_level = self.grid, level.sde, level.records[-1] // self.units
        assert sde is not None
        dt, k = per_level * level.method.time_step / per_unit, level.start // per_level * per_unit
        few, operator = probed(grid.rows), None
        for stop in (record // per_level * per_unit for record in level.records):
            while k < stop:
                n, here = 1, coefficients(sde, k * dt, few)
                while k + n < stop and alike(here, coefficients(sde, (k + n) * dt, few)):
                    n += 1
                images, weights = euler_images(*coefficients(sde, k * dt, grid.rows), grid.rows, dt)
                operator = Operator(grid, [x.reshape(-1, *grid.shape) for x in images], weights, n, operator)
                law, k = operator.push(law, n), k + n
            yield law

    @cached_property
    def _look(self) -> tuple[Tensor, Tensor]:
        """The test functions at the nodes, (N, functions), and a polynomial that is 1 or more at the edge, (N,)."""
        grid, level = self.grid, self._level
        phi = level.evaluate(type(level.initial)(*(x[:, None] for x in grid.rows)))
        powers = [a.unit(x) ** (2 * ((a.points - 1) // 2)) for a, x in zip(grid.axes, grid.rows, strict=True)]
        return phi, torch.stack(powers).sum(0)

    def mean(self, level: Level, law: Tensor) -> Mean:
        """Return expectations under a law."""
        phi, tail = self._look
        weights = self.grid.weights(law).reshape(-1)
        square = weights @ phi.square()
        return Mean(weights @ phi, square, square.clamp_min(0).sqrt(), float((weights @ tail).abs()))

    def rows(self, law: Tensor) -> tuple[Tensor, ...]:
        """Return the coordinates of the nodes, (n,) each."""
        return self.grid.rows
