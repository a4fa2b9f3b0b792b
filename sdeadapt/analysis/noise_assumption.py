"""An assumption on gradient noise as a region that a quantity must lie in, at every time and in every direction."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from sdeadapt.verification.decision import Verdict

__all__ = ["DOMINANCE", "MOMENTS", "SKEWNESS", "Assumption"]

DOMINANCE, SKEWNESS, MOMENTS = "noise dominates", "low skewness", "bounded moments"


class Assumption(NamedTuple):
    """An assumption at every time: the quantity, (times, cases), its bounds, and the region (a, b) that it must lie in.

    The cases are the paths' mean for N/G, and every direction of every path for the others. judged: (times,).
    """

    name: str
    value: np.ndarray
    low: np.ndarray
    high: np.ndarray
    region: tuple[float, float]
    judged: np.ndarray

    @property
    def inside(self) -> np.ndarray:
        """(times, cases): provably in the region, or without noise to speak of."""
        a, b = self.region
        return ((a <= self.low) & (self.high <= b)) | np.isnan(self.value)

    @property
    def outside(self) -> np.ndarray:
        """(times, cases): provably not in it."""
        a, b = self.region
        return (self.high < a) | (self.low > b)

    @property
    def verdicts(self) -> tuple[Verdict | None, ...]:
        """The verdict at every time; None where it is not asked for."""
        return tuple(
            None if not judged else Verdict.REFUTED if out.any() else Verdict.CONFIRMED if in_.all()
            else Verdict.INCONCLUSIVE for judged, in_, out in zip(self.judged, self.inside, self.outside, strict=True)
        )  # fmt: skip

    def verdict(self, time: int, case: int) -> Verdict:
        """Return the verdict on one case at one time."""
        if self.outside[time, case]:
            return Verdict.REFUTED
        return Verdict.CONFIRMED if self.inside[time, case] else Verdict.INCONCLUSIVE

    def worst(self, time: int) -> int:
        """Return the case that decides at a time: the farthest outside, or whose bound reaches farthest."""
        a, b = self.region
        reach = (self.low, self.high) if self.outside[time].any() else (self.high, self.low)
        beyond = np.fmax(reach[0][time] - b, a - reach[1][time])
        return 0 if np.isnan(beyond).all() else int(np.nanargmax(beyond))

    def severity(self, time: int, case: int) -> float:
        """Return how far a case lies outside the region, in units of its edge."""
        a, b = self.region
        value = float(self.value[time, case])
        return a / max(value, 1e-300) if math.isinf(b) else abs(value) / b
