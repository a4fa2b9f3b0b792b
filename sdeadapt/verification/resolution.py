"""How fine a grid a noise-free law is computed on."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from sdeadapt.checks import check_integer, check_positive

__all__ = ["Resolution"]

# by the number of coordinates and whether the grid moves; other fields than theta and u have the points of ""
_POINTS = {
    (1, False): {"theta": 128},
    (2, False): {"theta": 60, "u": 24, "": 40},
    (2, True): {"theta": 20, "u": 10, "": 16},
    (3, True): {"theta": 12, "u": 8, "q": 8, "": 12},
}
_NODES = {(1, False): 24, (2, False): 32, (2, True): 14, (3, True): 10}
_RADIUS = {False: 6.5, True: 10.0}
_EULER = 16
_COARSER = {1: 0.82, 2: 0.82, 3: 0.87}


@dataclass(frozen=True)
class Resolution:
    """How fine the quadrature estimator is. Everything left out is chosen by the dimension of the state.

    Args:
        points: of the grid, one number per coordinate of the Point; four or more.
        nodes: of the gradient's law, at every point; three or more.
        radius: of the domain, in standard deviations about the mean path; positive.
        euler: fewest Euler steps of the SDE over the horizon; it is solved with 1, 2, 3, 4, 6 and 8 times as many.

    Example:
        >>> Resolution(points=(48, 20)).filled(("theta", "u")).nodes
        32
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
            check_integer("nodes", self.nodes, minimum=3)
        for n in self.points or ():
            check_integer("points", n, minimum=3)

    def filled(self, fields: tuple[str, ...], *, moves: bool = False) -> Resolution:
        """Return it with every number chosen, for a Point with these fields and a grid that moves or rests.

        Raises:
            ValueError: if `points` has another number of entries, or one is below 4.
        """
        size = len(fields)
        moves = moves or size > 2
        own = _POINTS[size, moves]
        points = self.points or tuple(own.get(name, own.get("", 32)) for name in fields)
        if len(points) != len(fields):
            raise ValueError(f"`points` must have {len(fields)} entries, for {', '.join(fields)}; got {points}.")
        for n in points:
            check_integer("points", n, minimum=4)
        radius = self.radius or _RADIUS[moves]
        return Resolution(points, self.nodes or _NODES[size, moves], radius, self.euler or _EULER)

    @property
    def coarser(self) -> Resolution:
        """A grid with fewer points."""
        assert self.points is not None
        return replace(self, points=tuple(max(3, math.floor(_COARSER[len(self.points)] * n)) for n in self.points))

    @property
    def fewer(self) -> int:
        """Fewer nodes: their number."""
        assert self.nodes is not None
        return self.nodes - max(1, self.nodes // 6)

    @property
    def smaller(self) -> Resolution:
        """A smaller domain."""
        assert self.radius is not None
        return replace(self, radius=0.92 * self.radius)
