"""Several processes whose test functions are kept path by path, as quantiles and distances of laws need them."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch

from sdeadapt.simulation.paths import Level, Mode, first_divergence, run_paths
from sdeadapt.simulation.randomness import Purpose, SeedTree
from sdeadapt.simulation.run import Run, run_chunks

__all__ = ["Processes"]

MOST_BYTES = 1 << 31


@dataclass(frozen=True, eq=False)
class Processes:
    """All processes as one list of chunks, each a pure function of its index.

    Args:
        levels: one per process; the last is the SDE's if it has an SDE.
        seeds: of all.
        paths: per process.
        chunk: paths per chunk.
        purpose: of the chains' seeds.
    """

    levels: tuple[Level, ...]
    seeds: SeedTree
    paths: int
    chunk: int
    purpose: Purpose = Purpose.COMPARE_CHAIN

    @property
    def chunks(self) -> int:
        """Chunks of one process."""
        return math.ceil(self.paths / self.chunk)

    def _what(self, process: int, chunk: int) -> tuple[Level, Mode, torch.Generator, int]:
        level = self.levels[process]
        purpose, index = (self.purpose, process) if level.sde is None else (Purpose.COMPARE_SDE, 0)
        generator = self.seeds.generator(purpose, index, chunk, level.oracle.device)
        rows = min(self.chunk, self.paths - chunk * self.chunk)
        return level, "chain" if level.sde is None else "sde", generator, rows

    def __call__(self, index: int) -> tuple[np.ndarray, np.ndarray | None]:
        """Return the test functions, (rows, times, functions), and the SDE's fine − coarse."""
        level, mode, generator, rows = self._what(*divmod(index, self.chunks))
        found = run_paths(level, mode, generator, rows)

        def shaped(part: torch.Tensor) -> np.ndarray:
            return part.double().cpu().numpy().reshape(len(part), len(level.records), -1)

        if found.sde is None or found.bias is None:
            assert found.chain is not None
            return shaped(found.chain), None
        return shaped(found.sde), shaped(found.bias)

    @property
    def stored(self) -> int:
        """Bytes that `collect` returns."""
        first, arrays = self.levels[0], len(self.levels) + (self.levels[-1].sde is not None)
        return 8 * self.paths * len(first.records) * len(first.functions) * arrays

    def collect(self, run: Run) -> tuple[list[np.ndarray], np.ndarray | None]:
        """Run everything: per process (paths, times, functions), and the same of the SDE's fine − coarse.

        Raises:
            ValueError: if that needs more than 2 GiB; quantiles need it in full.
        """
        first = self.levels[0]
        if self.stored > MOST_BYTES:
            gib, most = self.stored / (1 << 30), MOST_BYTES / (1 << 30)
            raise ValueError(
                f"The values of all paths must fit into {most:.3g} GiB; got {gib:.3g} GiB "
                f"({len(self.levels)} processes, {self.paths:,} paths, {len(first.records)} times, "
                f"{len(first.functions)} test functions). Take fewer of one of them."
            )
        shape = (self.paths, len(first.records), len(first.functions))
        values = [np.empty(shape) for _ in self.levels]
        bias = None if self.levels[-1].sde is None else np.empty(shape)
        for index, (part, difference) in enumerate(run_chunks(self, len(self.levels) * self.chunks, run)):
            process, chunk = divmod(index, self.chunks)
            rows = slice(chunk * self.chunk, chunk * self.chunk + len(part))
            values[process][rows] = part
            if bias is not None and difference is not None:
                bias[rows] = difference
        return values, bias

    def first_divergence(self, process: int, finite: np.ndarray) -> int:
        """Return the iteration at which a path was first lost in the first chunk that lost one; −1 if none was."""
        if finite.all():
            return -1
        return first_divergence(*self._what(process, int(np.argmin(finite)) // self.chunk))
