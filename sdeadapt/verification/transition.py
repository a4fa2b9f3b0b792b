r"""Transition operators of Markov chains on tensor grids of Chebyshev points, with no random number.

A law is held by its moments $M_{abc} = E\,T_a T_b T_c$, of Chebyshev polynomials of the coordinates (divided by a
weight, see `Axis`). One step takes them to nodal weights $\mu$, by polynomial interpolation of whatever is averaged,
and then to the moments after the step, $M'_{abc} = \sum_{x,z} \mu_x w_z\, T_a(x'_1) T_b(x'_2) T_c(x'_3)$, for the
images $x' = F(x, z)$ of all nodes x and noises z. The sum is taken axis by axis: an image that does not depend on a
coordinate is not summed over it twice.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor

__all__ = ["Axis", "Grid", "Operator", "compressed"]

_LETTERS, _IMAGES, _NOISE = "ijkl", "abcd", "z"
_DENSE = 4096  # grid points up to which an operator is held as a matrix


@dataclass(frozen=True)
class Axis:
    """One coordinate: `points` Chebyshev nodes on [low, high], of the value itself or, with `root`, of its root.

    The root is for averages of squares: what methods make of u is smooth in it. Functions are interpolated with the
    weight $w(x) = e^{-d^2 x^2/2}$ on [-1, 1]: what they do at the edge, where no mass is, is not felt in the middle.
    """

    low: float
    high: float
    points: int
    root: bool = False
    decay: float = 0.0

    @property
    def nodes(self) -> Tensor:
        """Values of the coordinate at the nodes, (points,)."""
        x = torch.cos(math.pi * (torch.arange(self.points, dtype=torch.float64) + 0.5) / self.points)
        y = (self.low + self.high) / 2 + (self.high - self.low) / 2 * x
        return y.square() if self.root else y

    def unit(self, value: Tensor) -> Tensor:
        """Return values of the coordinate mapped affinely, [low, high] to [-1, 1]."""
        y = value.clamp_min(0).sqrt() if self.root else value
        return (2 * y - (self.low + self.high)) / (self.high - self.low)

    def polynomials(self, value: Tensor) -> Tensor:
        """Return T_a/w of the values moved into the interval, the degree a < points in front."""
        x = self.unit(value).clamp_(-1, 1)
        found = torch.empty(self.points, *x.shape, dtype=x.dtype)
        torch.exp(x.square().mul_(self.decay**2 / 2), out=found[0])
        if self.points > 1:
            torch.mul(x, found[0], out=found[1])
        twice = 2 * x
        for a in range(2, self.points):
            torch.mul(twice, found[a - 1], out=found[a]).sub_(found[a - 2])
        return found

    @property
    def interpolation(self) -> Tensor:
        """The matrix (points, points) from moments to nodal weights."""
        size, index = self.points, torch.arange(self.points, dtype=torch.float64)
        matrix = torch.cos(math.pi * (index[:, None] + 0.5) * index / size) * (2 / size)
        matrix[:, 0] /= 2
        return matrix * torch.exp(self.unit(self.nodes).square() * (-(self.decay**2) / 2))[:, None]


@dataclass(frozen=True)
class Grid:
    """The tensor product of axes."""

    axes: tuple[Axis, ...]

    @property
    def shape(self) -> tuple[int, ...]:
        """Nodes along each axis."""
        return tuple(axis.points for axis in self.axes)

    @cached_property
    def rows(self) -> tuple[Tensor, ...]:
        """Coordinates of every node, one (N,) per axis, the last axis fastest."""
        return tuple(x.reshape(-1) for x in torch.meshgrid(*(axis.nodes for axis in self.axes), indexing="ij"))

    @cached_property
    def interpolation(self) -> tuple[Tensor, ...]:
        """The matrices from moments to nodal weights, one per axis."""
        return tuple(axis.interpolation for axis in self.axes)

    def weights(self, moments: Tensor) -> Tensor:
        """Return the nodal weights of a law, from moments of the grid's shape."""
        for axis, matrix in enumerate(self.interpolation):
            moments = torch.movedim(torch.tensordot(matrix, moments, ([1], [axis])), 0, axis)
        return moments

    def moments(self, rows: Sequence[Tensor], weights: Tensor) -> Tensor:
        """Return the moments of the law that puts `weights` (n,) on points with coordinates `rows`, each (n,)."""
        found = weights
        for axis, values in zip(self.axes, rows, strict=True):
            found = found[..., None, :] * axis.polynomials(values)
        return found.sum(-1)


def _dependence(image: Tensor) -> tuple[bool, ...]:
    """Return along which dimensions of the array an image varies, beyond rounding."""
    slack = 64 * torch.finfo(image.dtype).eps * float(image.abs().max())
    return tuple(
        image.shape[d] > 1 and bool((image - image.narrow(d, 0, 1)).abs().amax() > slack) for d in range(image.dim())
    )


class _Factor(NamedTuple):
    """The polynomials of one image: its letter and those that it depends on, one dimension each."""

    letters: str
    values: Tensor


class Operator:
    """One step of a chain: moments before it to moments after it.

    Args:
        grid: of the law.
        images: the coordinates after the step, one array (Q, *grid.shape) per axis; a dimension of size 1 broadcasts.
        weights: of the noises, (Q,), or (Q, points) where they depend on the first coordinate.
        steps: how many it will serve: a matrix is made where that pays.
        before: the operator of another step, whose polynomials are taken over where an image is the same.
    """

    def __init__(
        self,
        grid: Grid,
        images: Sequence[Tensor],
        weights: Tensor,
        steps: int = 1,
        before: Operator | None = None,
    ) -> None:
        self.grid, self.images = grid, tuple(images)
        self._weights = (_NOISE + _LETTERS[0] if weights.dim() == 2 else _NOISE, weights)
        self._factors: list[_Factor] = []
        for n, (axis, image) in enumerate(zip(grid.axes, images, strict=True)):
            if before is not None and torch.equal(image, before.images[n]):
                self._factors.append(before._factors[n])
                continue
            depends = _dependence(image)
            letters = "".join(c for c, needed in zip(_NOISE + _LETTERS, depends, strict=False) if needed)
            for d, needed in enumerate(depends):
                image = image if needed else image.narrow(d, 0, 1)
            image = image.reshape([n for n, needed in zip(image.shape, depends, strict=True) if needed])
            self._factors.append(_Factor(_IMAGES[n] + letters, axis.polynomials(image)))
        size = math.prod(grid.shape)
        self._matrix = self._dense() if steps > 8 and size <= _DENSE else None

    def push(self, moments: Tensor, steps: int = 1) -> Tensor:
        """Return the moments after `steps` steps."""
        if self._matrix is None:
            for _ in range(steps):
                moments = self._contract(self.grid.weights(moments))
            return moments
        matrix, vector, size = self._matrix, moments.reshape(-1), moments.numel()
        while steps > size // 4:  # squaring costs as much as size/8 products with a vector
            if steps % 2:
                vector = matrix @ vector
            matrix, steps = matrix @ matrix, steps // 2
        for _ in range(steps):
            vector = matrix @ vector
        return vector.reshape(moments.shape)

    def _dense(self) -> Tensor:
        """Return the matrix from moments to moments, (N, N)."""
        shape, size = self.grid.shape, math.prod(self.grid.shape)
        matrix = self._contract(torch.ones(shape, dtype=torch.float64), keep=_LETTERS[: len(shape)])
        matrix = matrix.reshape(size, *shape)
        for axis, turn in enumerate(self.grid.interpolation):
            matrix = torch.movedim(torch.tensordot(matrix, turn, ([axis + 1], [0])), -1, axis + 1)
        return matrix.reshape(size, size).contiguous()

    def _contract(self, nodal: Tensor, keep: str = "") -> Tensor:
        """Return the sum over nodes and noises of `nodal` times the polynomials of every image.

        `keep` names the letters of nodes that are not summed.
        """
        name, weights = self._weights
        # large ones first: what is summed early is multiplied seldom
        factors = sorted(self._factors, key=lambda f: -math.prod(f.values.shape[1:]))
        noisy = [i for i, f in enumerate(factors) if _NOISE in f.letters]
        if len(noisy) > 1:
            total: Tensor | float = 0.0
            for z, weight in enumerate(weights):
                sliced = [_Factor(f.letters.replace(_NOISE, ""), f.values[:, z]) if _NOISE in f.letters else f
                          for f in factors]  # fmt: skip
                total = total + self._sum(nodal * self._along_first(weight), sliced, keep)
            assert isinstance(total, Tensor)
            return total
        if noisy:  # the noise moves one coordinate only, and is summed before all else
            f = factors[noisy[0]]
            letters = _union(f.letters, name).replace(_NOISE, "")
            factors[noisy[0]] = _Factor(letters, torch.einsum(f"{f.letters},{name}->{letters}", f.values, weights))
        else:
            nodal = nodal * self._along_first(weights.sum(0))
        return self._sum(nodal, factors, keep)

    def _along_first(self, weight: Tensor) -> Tensor:
        return weight.reshape([-1] + [1] * (len(self.grid.shape) - 1)) if weight.dim() else weight

    def _sum(self, nodal: Tensor, factors: Sequence[_Factor], keep: str) -> Tensor:
        letters = _LETTERS[: nodal.dim()]
        for n, factor in enumerate(factors):
            later = set("".join(f.letters for f in factors[n + 1 :])) | set(keep) | set(_IMAGES)
            after = "".join(c for c in _union(factor.letters, letters) if c in later)
            nodal, letters = torch.einsum(f"{letters},{factor.letters}->{after}", nodal, factor.values), after
        images = "".join(sorted(c for c in letters if c in _IMAGES))
        return torch.einsum(f"{letters}->{images}{keep}", nodal)


def _union(first: str, second: str) -> str:
    return first + "".join(c for c in second if c not in first)


def compressed(atoms: Tensor, weights: Tensor, size: int) -> tuple[Tensor, Tensor]:
    r"""Return Gauss rules with at most `size` nodes that have the moments of discrete laws up to the degree 2 size − 1.

    Args:
        atoms: (rows, n), one law a row.
        weights: (n,), of all of them.
        size: nodes wanted.

    Returns:
        Nodes and weights, (rows, size) each; the laws themselves where n <= size.

    Golub and Welsch 1969, after the Lanczos process with full reorthogonalisation.
    """
    rows, n = atoms.shape
    if n <= size:
        return atoms, weights.expand(rows, n)
    centre = (atoms * weights).sum(1, keepdim=True)
    spread = ((atoms - centre).square() * weights).sum(1, keepdim=True).sqrt()
    x = (atoms - centre) / torch.where(spread > 0, spread, 1.0)
    root = weights.sqrt()
    basis = (root / root.norm()).expand(rows, 1, n)
    diagonal, beside = [], []
    for _ in range(size):
        v = x * basis[:, -1]
        diagonal.append((v * basis[:, -1]).sum(1))
        for _ in range(2):
            v = v - torch.einsum("rj,rjn->rn", torch.einsum("rjn,rn->rj", basis, v), basis)
        length = v.norm(dim=1, keepdim=True)
        beside.append(length[:, 0])
        basis = torch.cat([basis, torch.where(length > 1e-13, v / length.clamp_min(1e-300), 0.0)[:, None]], 1)
    jacobi = torch.diag_embed(torch.stack(diagonal, 1))
    off = torch.stack(beside[:-1], 1)
    jacobi = jacobi + torch.diag_embed(off, 1) + torch.diag_embed(off, -1)
    nodes, vectors = torch.linalg.eigh(jacobi)
    return centre + spread * nodes, vectors[:, 0].square()
