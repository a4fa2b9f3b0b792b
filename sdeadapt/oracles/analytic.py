r"""Problems in closed form: loss, gradient, covariance and every moment of the noise are known exactly.

The noise is $z = S(\theta)\,\zeta$ with independent components $\zeta$ of one law of mean 0 and variance 1.
"""

from __future__ import annotations

import copy
import math
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from functools import cached_property
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from sdeadapt.checks import check_integer, check_positive
from sdeadapt.oracles.base import Draw, Local, NotDeclared, Oracle
from sdeadapt.oracles.noise import MOST_NODES, Gaussian, Noise, NoiseStream
from sdeadapt.oracles.noise import noise as noise_law

__all__ = ["MultiplicativeNoise", "Quadratic", "Rippled", "constant_noise"]

A = TypeVar("A", bound="_Analytic")
Values = Tensor | np.ndarray | Sequence[Any] | float


@dataclass(frozen=True, eq=False, init=False)
class _Analytic(Oracle):
    """What the problems share: the noise law, and one tensor `root` (dim, noise_dim) that S(theta) is built from."""

    scale: float
    noise: Noise
    root: Tensor = field(repr=False)

    couples = True

    def __init__(self, root: Tensor, scale: float, noise: str | Noise) -> None:
        law = noise_law(noise)
        self._set(root=root, scale=check_positive("scale", scale, zero=True), noise=law)
        self._set(dim=root.shape[0], noise_dim=root.shape[1], gaussian=isinstance(law, Gaussian), heavy=law.heavy)

    def _set(self: A, **values: Any) -> A:
        for name, value in values.items():
            object.__setattr__(self, name, value)
        return self

    @abstractmethod
    def at(self, theta: Tensor) -> Local:
        """Return the closed forms at `theta`, (paths, dim)."""

    def stream(self, generator: torch.Generator, paths: int) -> NoiseStream:
        """Return independent draws of the noise law, (paths, noise_dim)."""
        return NoiseStream(self.noise, generator, paths, self.noise_dim, self.dtype)

    def sample(self, local: Local, draw: Draw) -> Tensor:
        """Return the noisy gradients, (paths, dim)."""
        return local.gradient + self.scale * local.diffuse(draw)

    def rule(self, n: int) -> tuple[Tensor, Tensor]:
        """Return the product of the law's rule over the noise components: (nodes, noise_dim), (nodes,).

        Raises:
            NotDeclared: if it had more than 100,000 nodes.
        """
        z, weights = self.noise.nodes(n)
        if len(z) ** self.noise_dim > MOST_NODES:
            raise NotDeclared(
                f"`rule` must have at most {MOST_NODES:,} nodes; got {len(z)} to the power noise_dim = "
                f"{self.noise_dim}. Lower `n`, or use a problem of smaller dimension."
            )
        grid = torch.cartesian_prod(*[torch.arange(len(z))] * self.noise_dim).reshape(-1, self.noise_dim)
        return z[grid].to(self.root), weights[grid].prod(-1).to(self.root)

    def noise_moments(self) -> tuple[float, float]:
        """Return the law's third and fourth moment."""
        return self.noise.third, self.noise.fourth

    def rescaled(self: A, kappa: float) -> A:
        """Return the problem with the noise variance divided by `kappa`."""
        return copy.copy(self)._set(scale=self.scale / math.sqrt(check_positive("kappa", kappa)))

    def to(self: A, device: str | torch.device, dtype: torch.dtype) -> A:
        """Return the problem with its tensors on `device`, in `dtype`."""
        values = ((f.name, getattr(self, f.name)) for f in fields(self))
        return copy.copy(self)._set(**{k: v.to(device, dtype) for k, v in values if isinstance(v, Tensor)})

    @property
    def device(self) -> torch.device:
        """Where its tensors live."""
        return self.root.device

    @property
    def dtype(self) -> torch.dtype:
        """The floating-point type of its tensors."""
        return self.root.dtype


def _tensor(name: str, value: Values, like: Tensor | None = None) -> Tensor:
    """Return a finite tensor of our own; lists and numbers become float64, or what `like` is.

    Raises:
        ValueError: if it is not finite.
    """
    if not isinstance(value, Tensor):
        value = torch.as_tensor(np.asarray(value, dtype=np.float64))
    value = value.detach().clone() if value.is_floating_point() else value.double()
    if not value.isfinite().all():
        raise ValueError(f"`{name}` must be finite; got {value.tolist()}.")
    return value if like is None else value.to(like)


def _symmetric(name: str, value: Values, like: Tensor | None = None) -> Tensor:
    """Return a symmetric matrix, given as one, by its diagonal, or as a number (1 x 1).

    Raises:
        ValueError: if it is neither, or not symmetric.
    """
    matrix = _tensor(name, value, like)
    if matrix.dim() < 2:
        matrix = torch.diag(matrix.reshape(-1))
    if matrix.dim() != 2 or matrix.shape[0] != matrix.shape[1] or not matrix.numel():
        raise ValueError(f"`{name}` must be a square matrix, its diagonal or a number; got {tuple(matrix.shape)}.")
    gap = (matrix - matrix.T).abs().max()
    if gap > 1e3 * torch.finfo(matrix.dtype).eps * matrix.abs().max():
        raise ValueError(f"`{name}` must be symmetric; got entries that differ by {gap:.3g}. Pass (A + A.T) / 2.")
    return (matrix + matrix.T) / 2


def _root(covariance: Tensor) -> Tensor:
    """Return S with S S^T = covariance: Cholesky, or the symmetric root of a singular matrix.

    Raises:
        ValueError: if an eigenvalue is negative.
    """
    matrix = covariance.double()
    values, vectors = torch.linalg.eigh(matrix)
    tolerance = 10 * len(matrix) * torch.finfo(covariance.dtype).eps * values[-1].abs()
    if values[0] < -tolerance:
        raise ValueError(f"`covariance` must be positive semi-definite; got an eigenvalue of {values[0]:.3g}.")
    if values[0] > tolerance:
        root = torch.linalg.cholesky(matrix)
    else:
        root = vectors * values.clamp(min=0).sqrt() @ vectors.T
    return root.to(covariance.dtype)


@dataclass(frozen=True, eq=False, init=False)
class Quadratic(_Analytic):
    r"""A quadratic loss with constant covariance, $f = \tfrac12(\theta - \theta^*)^T H(\theta - \theta^*)$.

    H and Sigma need not commute.

    Args:
        hessian: H, (dim, dim) and symmetric; or its diagonal (dim,), or a number where dim = 1. It sets dtype and
            device: float64 on the CPU unless it is a tensor of another kind.
        covariance: Sigma of the noise at scale 1, positive semi-definite; given as H is.
        scale: sigma >= 0.
        noise: the law of the independent components, or its name.
        minimum: the minimiser (dim,); by default 0.

    Raises:
        ValueError: if a shape, symmetry, sign or `scale` is wrong.

    >>> oracle = Quadratic([[2.0, 1.0], [1.0, 2.0]], [1.0, 4.0], scale=0.1)
    >>> here = oracle.at(torch.tensor([[1.0, 0.0]], dtype=torch.float64))
    >>> here.loss.tolist(), here.gradient.tolist(), here.covariance_diagonal.tolist()
    ([1.0], [[2.0, 1.0]], [[1.0, 4.0]])
    """

    curvature: Tensor
    covariance: Tensor
    minimum: Tensor

    additive = True
    linear = True

    def __init__(
        self,
        hessian: Values,
        covariance: Values,
        scale: float,
        noise: str | Noise = "gaussian",
        minimum: Values | None = None,
    ) -> None:
        curvature = _symmetric("hessian", hessian)
        sigma = _symmetric("covariance", covariance, like=curvature)
        dim = len(curvature)
        if len(sigma) != dim:
            raise ValueError(f"`covariance` must be {dim} x {dim}, as `hessian` is; got {tuple(sigma.shape)}.")
        low = curvature.new_zeros(dim) if minimum is None else _tensor("minimum", minimum, like=curvature)
        if low.numel() != dim:
            raise ValueError(f"`minimum` must have {dim} entries, as `hessian` has rows; got {low.numel()}.")
        super().__init__(_root(sigma), scale, noise)
        self._set(curvature=curvature, covariance=sigma, minimum=low.reshape(dim))

    def at(self, theta: Tensor) -> Local:
        """Return the closed forms at `theta`, (paths, dim)."""
        return _LocalQuadratic(self, theta)

    def hessian(self, theta: Tensor) -> Tensor:
        """Return H, whatever `theta`."""
        return self.curvature

    def mean_covariance(self, mean: Tensor, covariance: Tensor) -> Tensor:
        """Return Sigma, whatever the law of theta."""
        return self.covariance


class _LocalQuadratic(Local):
    oracle: Quadratic

    @cached_property
    def gradient(self) -> Tensor:
        return (self.theta - self.oracle.minimum) @ self.oracle.curvature

    @cached_property
    def loss(self) -> Tensor:
        return ((self.theta - self.oracle.minimum) * self.gradient).sum(-1) / 2

    @cached_property
    def covariance_diagonal(self) -> Tensor:
        return self.oracle.covariance.diagonal().expand_as(self.theta)

    def diffuse(self, xi: Tensor) -> Tensor:
        return xi @ self.oracle.root.T

    def hessian_product(self, v: Tensor) -> Tensor:
        return v @ self.oracle.curvature


def constant_noise(hessian: Values, scale: float = 1.0, noise: str | Noise = "gaussian") -> Quadratic:
    r"""Return Li, Tai and E's first test problem: $f_g = \tfrac12(x - g)^T H(x - g) - \tfrac12\mathrm{tr}H$.

    Its noise -H g has the covariance H^2, whatever x.

    Args:
        hessian: H, as for `Quadratic`.
        scale: sigma >= 0; 1 in the paper.
        noise: the law of the components of g.

    Returns:
        The problem, minimal at 0. Li, Tai, E 2019 (arXiv 1811.01558), Section 5.
    """
    matrix = _symmetric("hessian", hessian)
    return Quadratic(matrix, matrix @ matrix, scale, noise)


@dataclass(frozen=True, eq=False, init=False)
class MultiplicativeNoise(_Analytic):
    r"""Li, Tai and E's second test problem: $f_g = \tfrac12 y^T(D + \mathrm{diag}\,g)\,y$ with $y = Q^T x$.

    Its noise vanishes at the minimum: $\Sigma(x) = Q\,\mathrm{diag}(y^2)\,Q^T$, of the root $Q\,\mathrm{diag}(y)$.

    Args:
        eigenvalues: the diagonal of D, (dim,), or a number where dim = 1.
        rotation: Q, orthogonal (dim, dim); by default the identity.
        scale: sigma >= 0; 1 in the paper.
        noise: the law of the components of g.

    Raises:
        ValueError: if Q is not orthogonal or has the wrong shape, or `scale` is negative.

    Li, Tai, E 2019 (arXiv 1811.01558), Section 5.
    """

    eigenvalues: Tensor
    root: Tensor  # Q

    linear = True

    def __init__(
        self,
        eigenvalues: Values,
        rotation: Values | None = None,
        scale: float = 1.0,
        noise: str | Noise = "gaussian",
    ) -> None:
        values = _tensor("eigenvalues", eigenvalues).reshape(-1)
        eye = torch.eye(len(values), dtype=values.dtype, device=values.device)
        q = eye if rotation is None else _tensor("rotation", rotation, like=values)
        if q.shape != eye.shape:
            raise ValueError(f"`rotation` must have the shape {tuple(eye.shape)}; got {tuple(q.shape)}.")
        gap = (q.T @ q - eye).abs().max()
        if gap > 1e3 * torch.finfo(q.dtype).eps:
            raise ValueError(f"`rotation` must be orthogonal; got |Q^T Q - I| = {gap:.3g}. Take Q of torch.linalg.qr.")
        super().__init__(q, scale, noise)
        self._set(eigenvalues=values)

    def at(self, theta: Tensor) -> Local:
        """Return the closed forms at `theta`, (paths, dim)."""
        return _LocalMultiplicative(self, theta)

    def sample_derivative(self, local: Local, draw: Draw, direction: Tensor) -> Tensor:
        """Return the noisy gradient at `direction`: it is linear in theta."""
        return self.sample(self.at(direction), draw)

    def hessian(self, theta: Tensor) -> Tensor:
        """Return Q D Q^T, whatever `theta`."""
        return self.root * self.eigenvalues @ self.root.T

    def mean_covariance(self, mean: Tensor, covariance: Tensor) -> Tensor:
        """Return Q diag(E y^2) Q^T, (dim, dim)."""
        second = (mean @ self.root).square() + ((covariance @ self.root) * self.root).sum(0)
        return self.root * second @ self.root.T


class _LocalMultiplicative(Local):
    oracle: MultiplicativeNoise

    @cached_property
    def rotated(self) -> Tensor:
        """Return y = Q^T x."""
        return self.theta @ self.oracle.root

    @cached_property
    def gradient(self) -> Tensor:
        return self.rotated * self.oracle.eigenvalues @ self.oracle.root.T

    @cached_property
    def loss(self) -> Tensor:
        return (self.oracle.eigenvalues * self.rotated.square()).sum(-1) / 2

    @cached_property
    def covariance_diagonal(self) -> Tensor:
        return self.rotated.square() @ self.oracle.root.square().T

    @cached_property
    def noise_trace(self) -> Tensor:
        return self.rotated.square().sum(-1)

    def diffuse(self, xi: Tensor) -> Tensor:
        return self.rotated * xi @ self.oracle.root.T

    def hessian_product(self, v: Tensor) -> Tensor:
        return (v @ self.oracle.root) * self.oracle.eigenvalues @ self.oracle.root.T


@dataclass(frozen=True, eq=False, init=False)
class Rippled(_Analytic):
    r"""A smooth, asymmetric, non-quadratic loss with correlated noise whose size depends on theta.

    With $w_i = \theta_i + \tfrac12\theta_{i+1}$, indices modulo dim (so $w = \tfrac32\theta$ where dim = 1):

    $$f = \tfrac12|\theta|^2 + a\sum_i\sin w_i,\qquad S(\theta) = \mathrm{diag}(1 + b\sin w_i)\,R,\qquad
    (R R^T)_{ij} = c^{|i - j|}.$$

    Gradient and S are smooth and Lipschitz and S is bounded and invertible: well-behaved in the sense of Malladi et
    al. 2022, Definition 2.5. The default noise is skewed, so its third moment does not vanish with sigma.

    Args:
        scale: sigma >= 0.
        dim: dimension of theta.
        ripple: a; f is convex where |a| < 4/9.
        modulation: b in (-1, 1).
        correlation: c in (-1, 1), of neighbouring noise components; without effect where dim = 1.
        noise: the law of the independent components.

    Raises:
        ValueError: if an argument is out of its range.

    >>> oracle = Rippled(scale=0.1, dim=2)
    >>> oracle.at(torch.zeros(1, 2, dtype=torch.float64)).gradient.tolist()
    [[0.375, 0.375]]
    """

    dim: int
    ripple: float
    modulation: float
    correlation: float

    def __init__(
        self,
        scale: float,
        dim: int = 1,
        ripple: float = 0.25,
        modulation: float = 0.5,
        correlation: float = 0.5,
        noise: str | Noise = "exponential",
    ) -> None:
        if not math.isfinite(ripple):
            raise ValueError(f"`ripple` must be finite; got {ripple!r}.")
        for name, value in (("modulation", modulation), ("correlation", correlation)):
            if not -1 < value < 1:
                raise ValueError(f"`{name}` must lie in (-1, 1); got {value!r}.")
        index = torch.arange(check_integer("dim", dim), dtype=torch.float64)
        # 0.0**0 is 1: no correlation is the identity.
        correlations = torch.full((dim, dim), correlation, dtype=torch.float64) ** (index - index[:, None]).abs()
        super().__init__(torch.linalg.cholesky(correlations), scale, noise)
        self._set(ripple=ripple, modulation=modulation, correlation=correlation)

    def at(self, theta: Tensor) -> Local:
        """Return the closed forms at `theta`, (paths, dim)."""
        return _LocalRippled(self, theta)


class _LocalRippled(Local):
    oracle: Rippled

    @cached_property
    def phase(self) -> Tensor:
        """Return w."""
        return self.theta + self.theta.roll(-1, -1) / 2

    @cached_property
    def size(self) -> Tensor:
        """Return 1 + b sin w, the standard deviations."""
        return 1 + self.oracle.modulation * torch.sin(self.phase)

    @cached_property
    def gradient(self) -> Tensor:
        slope = self.oracle.ripple * torch.cos(self.phase)
        return self.theta + slope + slope.roll(1, -1) / 2

    @cached_property
    def loss(self) -> Tensor:
        return (self.theta.square() / 2 + self.oracle.ripple * torch.sin(self.phase)).sum(-1)

    @cached_property
    def covariance_diagonal(self) -> Tensor:
        return self.size.square()

    def diffuse(self, xi: Tensor) -> Tensor:
        return self.size * (xi @ self.oracle.root.T)
