r"""The noisy gradient oracle: $g = \nabla f(\theta) + \sigma z$ with $E z = 0$ and $\mathrm{Cov}\, z = \Sigma(\theta)$.

An oracle is frozen, and its leading axis is always the path. Randomness comes in through `Stream`, never from a
global generator. Malladi et al. 2022, Definition 2.1.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from sdeadapt.checks import check_positive
from sdeadapt.results import describe

__all__ = ["Draw", "Local", "NotDeclared", "Oracle", "Stream"]

Draw = Any  # one oracle's randomness for one step: a tensor or a tuple of tensors, leading axis = path


class NotDeclared(ValueError):
    """A quantity was asked for that its oracle does not declare; the message names what to pass."""


class Local:
    """Everything an oracle declares at `theta`; each quantity is computed when first asked for, and once.

    Chain, SDE and test functions share one view. A subclass overrides what its oracle knows.

    Args:
        oracle: the oracle that made it.
        theta: (paths, dim).
    """

    def __init__(self, oracle: Oracle, theta: Tensor) -> None:
        self.oracle, self.theta = oracle, theta

    def _missing(self, what: str) -> NotDeclared:
        return NotDeclared(
            f"{type(self.oracle).__name__} does not declare `{what}`; pass an oracle that does, or drop what needs it."
        )

    @cached_property
    def loss(self) -> Tensor:
        """(paths,), the full loss."""
        raise self._missing("loss")

    @cached_property
    def gradient(self) -> Tensor:
        """(paths, dim), the full gradient."""
        raise self._missing("gradient")

    @cached_property
    def covariance_diagonal(self) -> Tensor:
        """(paths, dim), the diagonal of Sigma."""
        raise self._missing("covariance_diagonal")

    @property
    def diagonal_estimate(self) -> Tensor:
        """(paths, dim), of mean `covariance_diagonal`, for a drift that is linear in it; here that itself."""
        return self.covariance_diagonal

    def diffuse(self, xi: Tensor) -> Tensor:
        """Return S(theta) xi, (paths, dim), for xi (paths, noise_dim), where S S^T = Sigma."""
        raise self._missing("diffuse")

    @cached_property
    def noise_trace(self) -> Tensor:
        """(paths,), the trace of Sigma."""
        return self.covariance_diagonal.sum(-1)

    def hessian_product(self, v: Tensor) -> Tensor:
        """Return H(theta) v, (paths, dim), for v (paths, dim): the derivative of the gradient along v."""
        at = (self.theta.contiguous(),), (v.contiguous(),)  # rows may be expanded
        return torch.func.jvp(lambda x: self.oracle.at(x).gradient, *at)[1]

    def third_contraction(self, weights: Tensor) -> Tensor:
        r"""Return $\sum_i w_i\,\partial_i^2\nabla f$, (paths, dim), for weights (paths, dim): dim products."""
        theta = self.theta.contiguous()  # rows may be expanded
        found = torch.zeros_like(theta)
        for i in range(theta.shape[-1]):
            axis = torch.zeros_like(theta)
            axis[:, i] = 1

            def along(x: Tensor, axis: Tensor = axis) -> Tensor:
                return self.oracle.at(x).hessian_product(axis)

            found = found + weights[:, i : i + 1] * torch.func.jvp(along, (theta,), (axis,))[1]
        return found


class Stream(ABC):
    """The randomness of one run of `paths` paths; a sampler with memory (epochs) keeps it here."""

    @abstractmethod
    def next(self, xi: Tensor | None = None) -> Draw:
        """Return the draw of the next step.

        Args:
            xi: (paths, noise_dim) standard normals to couple with, where the oracle couples. The law of the draw is
                the same with and without it.
        """


class Oracle(ABC):
    """A noisy gradient oracle. Only `stream` and `sample` are required; the rest is declared where it is known.

    Attributes:
        dim: dimension of theta.
        noise_dim: columns of S(theta), hence Brownian motions of the SDE; 0 where no `diffuse` is declared.
        scale: sigma. It belongs to the oracle and to nothing else.
        couples: `Stream.next` takes `xi`.
        gaussian: given xi, the noise is exactly scale * S(theta) xi.
        additive: the noise does not depend on theta.
        linear: the gradient is linear in theta, and Sigma constant or quadratic: moments close.
        heavy: the normals that it is made of must be drawn in float64.
        independent: draws of different steps are independent (not so over reshuffled epochs).
    """

    dim: int
    noise_dim: int
    scale: float
    couples: bool = False
    gaussian: bool = False
    additive: bool = False
    linear: bool = False
    heavy: bool = False
    independent: bool = True

    @abstractmethod
    def stream(self, generator: torch.Generator, paths: int) -> Stream:
        """Return the randomness of one run; `generator` lives on the oracle's device."""

    @abstractmethod
    def sample(self, local: Local, draw: Draw) -> Tensor:
        """Return the noisy gradients g, (paths, dim). A local of one row serves a draw of many paths."""

    def at(self, theta: Tensor) -> Local:
        """Return the lazy view of everything declared at `theta`, (paths, dim)."""
        return Local(self, theta)

    def rule(self, n: int) -> tuple[Draw, Tensor]:
        """Return a quadrature rule over draws: (draws, weights), about `n` nodes per noise dimension.

        Raises:
            NotDeclared: if the oracle has none.
        """
        raise NotDeclared(f"{type(self).__name__} does not declare `rule`, a quadrature rule over its draws.")

    def sample_derivative(self, local: Local, draw: Draw, direction: Tensor) -> Tensor:
        """Return the derivative of `sample` in theta at a fixed draw, along `direction` (paths, dim)."""
        theta = local.theta.expand(direction.shape).contiguous()
        return torch.func.jvp(lambda x: self.sample(self.at(x), draw), (theta,), (direction,))[1]

    def hessian(self, theta: Tensor) -> Tensor:
        """Return the Hessian of f at one point, (dim, dim), for theta (1, dim)."""
        rows = torch.eye(self.dim, dtype=theta.dtype, device=theta.device)
        return torch.func.jvp(lambda x: self.at(x).gradient, (theta.expand(rows.shape).contiguous(),), (rows,))[1]

    def mean_covariance(self, mean: Tensor, covariance: Tensor) -> Tensor:
        """Return E Sigma(theta), (dim, dim), for theta of this mean (dim,) and covariance (dim, dim).

        Raises:
            NotDeclared: if the oracle is not `linear`.
        """
        raise NotDeclared(f"{type(self).__name__} does not declare `mean_covariance`: its moments do not close.")

    def noise_moments(self) -> tuple[float, float]:
        """Return (E z^3, E z^4) of the independent noise components z, of mean 0 and variance 1.

        Raises:
            NotDeclared: if the oracle declares none.
        """
        raise NotDeclared(f"{type(self).__name__} does not declare `noise_moments`, E z^3 and E z^4 of its noise.")

    def rescaled(self, kappa: float) -> Oracle:
        """Return the oracle with the noise variance divided by `kappa`: same f, same Sigma, same law."""
        return replace(self, scale=self.scale / math.sqrt(check_positive("kappa", kappa)))  # type: ignore[type-var]

    def with_batch(self, batch_size: int) -> Oracle:
        """Return the oracle at another batch size, where it draws minibatches.

        Raises:
            NotDeclared: if it does not.
        """
        raise NotDeclared(f"{type(self).__name__} draws no minibatches; use `rescaled`.")

    @abstractmethod
    def to(self, device: str | torch.device, dtype: torch.dtype) -> Oracle:
        """Return the oracle with its tensors on `device`, in `dtype`."""

    @property
    def device(self) -> torch.device:
        """The device that its tensors and its generators live on."""
        return torch.device("cpu")

    @property
    def dtype(self) -> torch.dtype:
        """The floating-point type of theta."""
        return torch.float64

    @property
    def bytes_per_path(self) -> int:
        """Scratch memory that one path needs in one step; it sets the chunk size."""
        return 64 * self.dim

    def describe(self) -> dict[str, Any]:
        """Return plain data that names the oracle: its class, its fields, a digest for every tensor."""
        found = describe(self)
        return found if isinstance(found, dict) else {"class": found}  # a user's plain class
