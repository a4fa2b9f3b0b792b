"""An SDE on its own, from a given start: one solution, or a fine and a coarse one that are extrapolated."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from sdeadapt.methods.base import ItoSDE
from sdeadapt.oracles.base import Oracle
from sdeadapt.simulation.observables import TestFunction, evaluate
from sdeadapt.simulation.paths import draw_initial
from sdeadapt.simulation.solvers import Pair, draw_increments, solver

__all__ = ["Shown", "Solution"]


class Shown(NamedTuple):
    """What a chunk shows: values and bias (paths, times, functions), kept (keep, times, dim)."""

    values: Tensor
    bias: Tensor | None
    kept: Tensor | None


@dataclass(frozen=True, eq=False)
class Solution:
    """An SDE from `start` on, looked at now and then.

    Args:
        sde: the SDE.
        initial: a Point with rows (rows, dim); a path starts at a row drawn at random.
        start: SDE time of it.
        step: in SDE time; the finer of the two for "extrapolated", whose coarse solution makes steps of 2 `step`.
        records: steps after which the test functions are evaluated, increasing; even for "extrapolated".
        functions: name -> test function.
        oracle: the one that they are of, or None.
        solver: name of the one-step solver.
    """

    sde: ItoSDE
    initial: Any
    start: float
    step: float
    records: tuple[int, ...]
    functions: dict[str, TestFunction]
    oracle: Oracle | None
    solver: str

    @property
    def paired(self) -> bool:
        """Whether a coarse solution runs along."""
        return self.solver == "extrapolated"

    @torch.no_grad()
    def walk(self, generator: torch.Generator, paths: int) -> Iterator[tuple[int, Pair]]:
        """Yield the number of steps made and the solutions there; with one solution the coarse one stays behind."""
        advance, area = solver(self.solver)
        n = 2 if self.paired else 1
        x = draw_initial(self.initial, generator, paths)
        pair, dtype = Pair(x, x), x.theta.dtype
        for k in range(0, self.records[-1], n):
            t = self.start + k * self.step
            fine = draw_increments(generator, n, self.step, paths, self.sde.noise_dim, dtype, area=area)
            if self.paired:
                pair = pair.advance(advance, self.sde, t, fine, fine.halved())
            else:
                pair = pair._replace(fine=advance(self.sde, t, pair.fine, fine))
            yield k + n, pair

    def look(self, pair: Pair) -> tuple[Tensor, Tensor | None]:
        """Return the test functions of a solution, and fine − coarse of a pair; (paths, functions)."""
        fine = evaluate(self.functions, pair.fine, self.oracle)
        if not self.paired:
            return fine, None
        bias = fine - evaluate(self.functions, pair.coarse, self.oracle)
        return fine + bias, bias

    @torch.no_grad()
    def run(self, generator: torch.Generator, paths: int, keep: int) -> Shown:
        """Run `paths` paths and keep theta of the first `keep`."""
        looks, kept = [], []
        for k, pair in self.walk(generator, paths):
            if k in self.records:
                looks.append(self.look(pair))
                kept.append(pair.fine.theta[:keep].clone())  # a view would hold on to all paths
        values, bias = zip(*looks, strict=True)
        stacked = torch.stack(bias, 1) if self.paired else None
        return Shown(torch.stack(values, 1), stacked, torch.stack(kept, 1) if keep else None)

    def first_divergence(self, generator: torch.Generator, paths: int) -> int:
        """Return the step after which a path of this chunk first ceased to be finite, looking after every one."""
        return next(k for k, pair in self.walk(generator, paths) if not self.look(pair)[0].isfinite().all())
