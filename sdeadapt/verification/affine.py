r"""Mean and covariance of a process whose step, or whose SDE, is affine: maps, their powers, and expectations.

$x' = (I + N)\,x + s + \text{noise of covariance } Q$. It is N that is stored, not I + N: so small a step keeps its
digits through any number of squarings.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

__all__ = [
    "TOLERANCE",
    "AffineMap",
    "Law",
    "affine_flow",
    "expectation",
    "gaussian_points",
    "is_polynomial",
    "probe_lines",
]

TOLERANCE = 1e-9  # of a finite difference that should vanish, relative to the values
_SCALES = (0.1, 1.0, 10.0, 1000.0)
_LINES = 4


class Law(NamedTuple):
    """The two moments of x: mean (D,) and covariance (D, D)."""

    mean: Tensor
    covariance: Tensor


class AffineMap(NamedTuple):
    """One step: change N (D, D), shift s (D,), covariance Q of the noise (D, D)."""

    change: Tensor
    shift: Tensor
    noise: Tensor

    def _push(self, covariance: Tensor) -> Tensor:
        moved = self.change @ covariance
        return covariance + moved + moved.T + moved @ self.change.T + self.noise

    def of(self, law: Law) -> Law:
        """Return the law after the step."""
        return Law(law.mean + self.change @ law.mean + self.shift, self._push(law.covariance))

    def then(self, other: AffineMap) -> AffineMap:
        """Return this step followed by `other`."""
        change = self.change + other.change + other.change @ self.change
        return AffineMap(change, self.shift + other.shift + other.change @ self.shift, other._push(self.noise))

    def power(self, steps: int) -> AffineMap:
        """Return `steps` >= 1 of it, by repeated squaring."""
        result, square = None, self
        while True:
            if steps & 1:
                result = square if result is None else result.then(square)
            steps >>= 1
            if not steps:
                assert result is not None
                return result
            square = square.then(square)


def affine_flow(drift: Tensor, shift: Tensor, noise: Tensor, time: float) -> AffineMap:
    r"""Return what $dx = (A x + b)\,dt + M\,dW$ with constant coefficients does in `time`.

    Args:
        drift: A, (D, D).
        shift: b, (D,).
        noise: M M^T, (D, D).
        time: t > 0.

    Returns:
        $e^{At} - I$, $\int_0^t e^{As}b\,ds$ and $\int_0^t e^{As}MM^Te^{A^Ts}\,ds$, to rounding: Taylor's series of a
        step so short that its 20th term is below it, squared.

    >>> t = torch.ones(1, 1, dtype=torch.float64)
    >>> flow = affine_flow(-t, 0 * t[0], 2 * t, 1.0)
    >>> round(float(flow.change), 6), round(float(flow.noise), 6)
    (-0.632121, 0.864665)
    """
    squarings = max(0, math.ceil(math.log2(2 * time * float(drift.abs().sum(0).max()) + 1e-300)))
    h = time / 2**squarings
    terms = AffineMap(h * drift, h * shift, h * noise)
    total = terms
    for k in range(2, 21):
        lyapunov = drift @ terms.noise
        terms = AffineMap(
            drift @ terms.change * (h / k), drift @ terms.shift * (h / k), (lyapunov + lyapunov.T) * (h / k)
        )
        total = AffineMap(*(a + b for a, b in zip(total, terms, strict=True)))
    return total.power(2**squarings)


def kron(factors: Tensor, tensor: Tensor) -> Tensor:
    """Return what `factors` between fields (F, ...) and `tensor` between their components (d, ...) make of rows x."""
    return torch.kron(factors.contiguous(), tensor.contiguous())  # torch's own refuses some transposed ones


def expectation(function: Callable[[Tensor], Tensor], law: Law) -> Tensor:
    r"""Return E phi(x) of a quadratic phi: from phi at the mean and at the mean $\pm\sqrt{\lambda_i}\,v_i$.

    Args:
        function: rows (n, D) -> values (n, ...), quadratic in a row.
        law: its covariance has the eigenvalues $\lambda_i$; one that rounding made negative counts as such.

    Returns:
        (...), exact for every law of these two moments.
    """
    values, vectors = torch.linalg.eigh(law.covariance)
    root = vectors.T * values.abs().sqrt()[:, None]
    rows = function(torch.cat([law.mean[None], law.mean + root, law.mean - root]))
    plus, minus = rows[1:].chunk(2)
    return rows[0] + torch.tensordot(values.sign(), plus + minus - 2 * rows[0], 1) / 2


def gaussian_points(law: Law, count: int = 256) -> Tensor:
    """Return 2 `count` fixed points, in pairs about the mean, that look like a Gaussian of these moments."""
    values, vectors = torch.linalg.eigh(law.covariance)
    z = torch.as_tensor(np.random.default_rng(20220520).standard_normal((count, len(values)))).to(law.mean)
    offset = (z * values.clamp_min(0).sqrt()) @ vectors.T
    return torch.cat([law.mean + offset, law.mean - offset])


def probe_lines(center: Tensor, size: float) -> Tensor:
    """Return four equidistant points on fixed random lines of several lengths, (4, lengths, lines, D).

    Half of the lines pass through `center` (D,); `size` is the typical length.
    """
    normal = np.random.default_rng(20181101).standard_normal((2, len(_SCALES), _LINES, len(center)))
    base, direction = torch.as_tensor(normal).to(center)
    base[:, ::2] = -direction[:, ::2]
    steps = torch.arange(4, dtype=center.dtype, device=center.device).reshape(4, 1, 1, 1)
    scales = torch.tensor(_SCALES, dtype=center.dtype, device=center.device)[:, None, None]
    return center + size * scales * (base + steps * direction)


def is_polynomial(values: Tensor, degree: int) -> bool:
    """Return whether functions are polynomials of this degree along every line, to rounding.

    Args:
        values: (4, lengths, lines, functions), at the points of `probe_lines`.
        degree: 0, 1 or 2.
    """
    ends = torch.diff(values, n=degree + 1, dim=0).abs().amax((0, 2))
    return bool(values.isfinite().all()) and bool((ends <= TOLERANCE * values.abs().amax((0, 2))).all())
