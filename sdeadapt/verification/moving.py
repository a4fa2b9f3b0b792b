r"""Laws as weighted points, thinned out in a frame that moves with them: for two or three coordinates.

A step takes every point to its images, one for every noise, exactly. When there are more points than a tensor grid of
Gauss and Hermite has nodes, this replaces them. In the coordinates $\xi = L^{-1}(y - \bar y)$, in which the law has
mean 0 and covariance 1, the node $\xi_i$ with the Gaussian weight $w_i$ gets the weight
$$\mu_i = w_i \sum_{a \in A} He_a(\xi_i)\, E\,He_a(\xi),$$
with which the moments of every polynomial in A are those of the points replaced: total degree 1, an axis with n nodes
having degrees $0, 1/(n-1), \dots, 1$. So the error is what E[phi | state now] has beyond these polynomials. They are
orthonormal under the Gaussian of the frame, in whose norm a conditional expectation is a contraction, or nearly so:
many small steps do no more harm than few, also where a coordinate has no noise of its own and is only sheared.

An average of squares enters by its logarithm: $1/(\sqrt u + \epsilon)$ has a pole near 0, which no grid in u or its
root can keep away from, and its law has a long tail on the other side.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import torch
from numpy.polynomial.hermite_e import hermegauss
from torch import Tensor

from sdeadapt.simulation.paths import Level
from sdeadapt.verification.images import chain_images, coefficients, euler_images, gradient_law
from sdeadapt.verification.propagation import Mean, Propagation, time_units
from sdeadapt.verification.resolution import Resolution

__all__ = ["Cloud", "Frame", "Moving"]

_BLOCK = 1 << 20  # numbers held at a time
_THIN = 1e-4  # least spread of a coordinate beside those before it, as a share of its own
_POINT = 1e-10  # least spread at all, relative to the mean
_SQUARES = ("u", "q")  # what methods call their averages of squares
_LEAST = 1e-3  # of an average of squares, as a share of its mean: Euler steps can make it negative
_DIVERGED = 1e10  # sum of |weights|: no digit of use is left
_MANY = 16  # nodes of an axis from which on the frame is wider: high polynomials see the tails


class Cloud(NamedTuple):
    """Points with coordinates (n,); their weights (n,), which sum to 1 and may be negative; the mass moved inwards."""

    rows: tuple[Tensor, ...]
    weights: Tensor
    moved: float = 0.0


@dataclass(frozen=True, eq=False)
class Frame:
    """The grid in coordinates of mean 0 and covariance 1.

    Args:
        points: nodes along each axis, two or more.
        logs: of which coordinates the logarithm is used: averages of squares.
        radius: standard deviations about the mean, along each axis, to which points further out are moved.

    >>> z = torch.linspace(-1, 1, 40, dtype=torch.float64)
    >>> thin = Frame((5,), (False,), 9.0).thinned(Cloud((z,), torch.full_like(z, 1 / 40)))
    >>> len(thin.weights), bool(((thin.weights * thin.rows[0] ** 4).sum() - (z**4).mean()).abs() < 1e-14)
    (5, True)
    """

    points: tuple[int, ...]
    logs: tuple[bool, ...]
    radius: float

    @cached_property
    def _rules(self) -> list[tuple[Tensor, Tensor]]:
        rules = [hermegauss(n) for n in self.points]
        return [(torch.as_tensor(x), torch.as_tensor(w / w.sum())) for x, w in rules]

    @cached_property
    def _spread(self) -> list[float]:
        """Standard deviations of the Gaussian along each axis, in units of the law's own."""
        return [max(1.0, n / _MANY) ** 0.25 for n in self.points]

    @cached_property
    def _nodes(self) -> Tensor:
        """All nodes, (F, N)."""
        axes = [s * x for s, (x, _) in zip(self._spread, self._rules, strict=True)]
        return torch.stack([x.reshape(-1) for x in torch.meshgrid(*axes, indexing="ij")])

    @cached_property
    def _values(self) -> list[Tensor]:
        """The polynomials at the nodes of each axis."""
        return [_hermite(x, len(x)) for x, _ in self._rules]

    @cached_property
    def _gaussian(self) -> Tensor:
        """The Gaussian weights, (N,)."""
        weights = torch.ones(1, dtype=torch.float64)
        for _, w in self._rules:
            weights = torch.outer(weights, w).reshape(-1)
        return weights

    @cached_property
    def _kept(self) -> Tensor:
        """Which products of polynomials are in A, of the grid's shape."""
        degree = torch.zeros(1, dtype=torch.float64)
        for n in self.points:
            degree = degree[..., None] + torch.arange(n) / (n - 1)
        return degree[0] <= 1 + 1e-9

    def thinned(self, cloud: Cloud) -> Cloud:
        """Return the cloud itself, or a smaller one with the same moments."""
        if len(cloud.weights) <= math.prod(self.points):
            return cloud
        y = torch.stack([
            x.clamp_min(max(_LEAST * float(x @ cloud.weights), 1e-300)).log() if log else x
            for x, log in zip(cloud.rows, self.logs, strict=True)
        ])  # fmt: skip
        mean = y @ cloud.weights
        about = y - mean[:, None]
        root = _root((about * cloud.weights) @ about.T, mean.abs())
        xi = torch.linalg.solve_triangular(root, about, upper=False)
        far = (xi.abs() > self.radius).any(0)
        moved = cloud.moved + abs(float(cloud.weights[far].sum()))
        nodes = mean[:, None] + root @ self._nodes
        rows = tuple(x.exp() if log else x for x, log in zip(nodes, self.logs, strict=True))
        return Cloud(rows, self._weights(xi.clamp_(-self.radius, self.radius), cloud.weights), moved)

    def _weights(self, xi: Tensor, weights: Tensor) -> Tensor:
        """Return the weights of the nodes for points xi (F, n) with weights (n,)."""
        moments = torch.zeros(self.points, dtype=xi.dtype)
        size = max(1, _BLOCK // math.prod(self.points))
        for part, w in zip(xi.split(size, 1), weights.split(size), strict=True):
            values = [_hermite(x / s, n) for x, s, n in zip(part, self._spread, self.points, strict=True)]
            product = values[0] * w
            for other in values[1:-1]:
                product = (product[:, None] * other).flatten(0, 1)
            last = (product @ values[-1].T) if len(values) > 1 else product.sum(1)
            moments += last.reshape(self.points)
        moments *= self._kept
        for axis, at_nodes in enumerate(self._values):
            moments = torch.movedim(torch.tensordot(at_nodes, moments, ([0], [axis])), 0, axis)
        return moments.reshape(-1) * self._gaussian


def _hermite(x: Tensor, count: int) -> Tensor:
    """Return the orthonormal Hermite polynomials of degree a < count at x, a in front."""
    found = torch.empty(count, *x.shape, dtype=x.dtype)
    found[0] = 1
    found[1] = x
    for a in range(2, count):
        torch.mul(x, found[a - 1], out=found[a]).sub_(found[a - 2], alpha=math.sqrt(a - 1)).div_(math.sqrt(a))
    return found


def _root(covariance: Tensor, size: Tensor) -> Tensor:
    """Return L with L L^T the covariance, its diagonal kept from 0: a law may have no spread in some direction."""
    own = covariance.diagonal().clamp_min(0).sqrt()
    root = torch.zeros_like(covariance)
    for j in range(len(root)):
        left = covariance[j:, j] - root[j:, :j] @ root[j, :j]
        least = torch.maximum(_THIN * own[j], _POINT * (1 + size[j]))
        root[j, j] = torch.maximum(left[0].clamp_min(0).sqrt(), least)
        root[j + 1 :, j] = (left[1:] / root[j, j]).clamp(-own[j + 1 :], own[j + 1 :])
    return root


class Moving(Propagation):
    """Chain and SDE of a study as clouds of points.

    Args:
        levels: of the study.
        resolution: with every number chosen.
    """

    def __init__(self, levels: tuple[Level, ...], resolution: Resolution) -> None:
        assert resolution.points is not None
        assert resolution.radius is not None
        logs = tuple(name in _SQUARES for name in levels[0].initial._fields)
        self.frame = Frame(resolution.points, logs, resolution.radius)
        self.units = time_units(levels[0])

    def chain(self, level: Level, nodes: int) -> Iterator[tuple[int, Cloud]]:
        """Yield the law of the chain at `level.start` and at every recorded iteration, with that iteration."""
        rows = tuple(x[:, 0] for x in level.initial)
        count = len(rows[0])
        cloud = Cloud(rows, torch.full((count,), 1 / count, dtype=rows[0].dtype))
        for k in range(level.begin, level.records[-1] + 1):
            if k == level.start or k in level.records:
                yield k, cloud
            if k < level.records[-1]:
                theta, where = cloud.rows[0].unique(return_inverse=True)
                g, weights = (x[:, where] for x in gradient_law(level, theta, nodes))
                cloud = self._moved(cloud, chain_images(level, cloud.rows, g, k), cloud.weights * weights)

    def sde(self, level: Level, law: Cloud, per_unit: int) -> Iterator[Cloud]:
        """Yield the law of the SDE at every record, by `per_unit` Euler steps to a unit of time."""
        sde, per_level = level.sde, level.records[-1] // self.units
        assert sde is not None
        dt, k = per_level * level.method.time_step / per_unit, level.start // per_level * per_unit
        for stop in (record // per_level * per_unit for record in level.records):
            while k < stop:
                images, weights = euler_images(*coefficients(sde, k * dt, law.rows), law.rows, dt)
                law, k = self._moved(law, images, weights[:, None] * law.weights), k + 1
            yield law

    def _moved(self, cloud: Cloud, images: Sequence[Tensor], weights: Tensor) -> Cloud:
        """Return the cloud of all images of a cloud, each (Q, n) or (1, n), with weights (Q, n).

        Raises:
            FloatingPointError: if the weights diverge.
        """
        rows = tuple(x.expand_as(weights).reshape(-1) for x in images)
        found = self.frame.thinned(Cloud(rows, weights.reshape(-1), cloud.moved))
        if not float(found.weights.abs().sum()) < _DIVERGED:
            raise FloatingPointError(
                f"The law has tails too long for a grid of {' x '.join(map(str, self.frame.points))} points. "
                "Take fewer `points`, a smaller lr, or `paths`."
            )
        return found

    def mean(self, level: Level, law: Cloud) -> Mean:
        """Return expectations under a law."""
        phi = level.evaluate(type(level.initial)(*(x[:, None] for x in law.rows)))
        return Mean(law.weights @ phi, law.weights @ phi.square(), law.weights.abs() @ phi.abs(), law.moved)

    def rows(self, law: Cloud) -> tuple[Tensor, ...]:
        """Return the coordinates of the points, (n,) each."""
        return law.rows
