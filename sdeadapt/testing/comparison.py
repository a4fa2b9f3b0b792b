"""One quantity that was compared, and how far it was off."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Comparison"]


@dataclass(frozen=True)
class Comparison:
    """One quantity that was compared.

    Attributes:
        name: of the quantity.
        worst: where it deviates, in words.
        deviation: the largest |z| (in standard errors), or the largest relative difference of an exact comparison.
        limit: what the deviation must not exceed.
        count: numbers that were compared.
    """

    name: str
    worst: str
    deviation: float
    limit: float
    count: int

    @property
    def passed(self) -> bool:
        """Whether the deviation is within the limit; NaN is not."""
        return self.deviation <= self.limit
