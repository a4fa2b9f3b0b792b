"""What the two ways to move a law have in common: see `resting` and `moving`."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import Any, NamedTuple

from torch import Tensor

from sdeadapt.simulation.paths import Level

__all__ = ["Mean", "Propagation", "time_units"]


def time_units(level: Level) -> int:
    """Return the fewest equal parts of the time up to the end that make up its start and its records."""
    last = level.records[-1]
    return last // math.gcd(last, level.begin, level.start, *level.records)


class Mean(NamedTuple):
    """Expectations at one time, (functions,) each: E phi, E phi^2, sum |weight phi|; most mass that was cut off."""

    phi: Tensor
    square: Tensor
    size: Tensor
    edge: float


class Propagation(ABC):
    """How the laws of all levels of a study are moved at one resolution; a law is whatever `mean` takes.

    units: of time up to the end, see `time_units`; all levels have the same.
    """

    units: int

    @abstractmethod
    def chain(self, level: Level, nodes: int) -> Iterator[tuple[int, Any]]:
        """Yield the law of the chain at `level.start` and at every recorded iteration, with that iteration."""

    @abstractmethod
    def sde(self, level: Level, law: Any, per_unit: int) -> Iterator[Any]:
        """Yield the law of the SDE at every record, by `per_unit` Euler steps to a unit of time."""

    @abstractmethod
    def mean(self, level: Level, law: Any) -> Mean:
        """Return expectations under a law."""

    @abstractmethod
    def rows(self, law: Any) -> tuple[Tensor, ...]:
        """Return the coordinates of points that are typical of a law, (n,) each."""
