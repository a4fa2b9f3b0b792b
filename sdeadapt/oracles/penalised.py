r"""Coupled weight decay: an L2 penalty that is part of the loss."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from sdeadapt.checks import check_positive
from sdeadapt.oracles.base import Draw, Local, Oracle, Stream
from sdeadapt.oracles.wrapped import Wrapped

__all__ = ["Penalised"]


@dataclass(frozen=True, eq=False)
class Penalised(Wrapped):
    r"""The oracle of $f(\theta) + \tfrac\lambda2|\theta|^2$, with the noise of `oracle`.

    Gradients get $\lambda\theta$ added, before any average or root: `weight_decay` of torch.optim's SGD, RMSprop, Adam
    and Adagrad. No batch-size rule changes it.

    Args:
        oracle: the oracle of f.
        weight_decay: lambda, not negative.

    Raises:
        ValueError: if `weight_decay` is negative.

    >>> from sdeadapt.oracles.analytic import Quadratic
    >>> here = Penalised(Quadratic(1.0, 1.0, scale=0.5), 0.5).at(torch.full((1, 1), 2.0, dtype=torch.float64))
    >>> float(here.loss), float(here.gradient)
    (3.0, 3.0)
    """

    oracle: Oracle
    weight_decay: float

    def __post_init__(self) -> None:
        check_positive("weight_decay", self.weight_decay, zero=True)
        self._inherit()
        object.__setattr__(self, "scale", self.oracle.scale)

    def at(self, theta: Tensor) -> Local:
        """Return the view of the penalised loss at `theta`, (paths, dim)."""
        return _LocalPenalised(self, theta)

    def stream(self, generator: torch.Generator, paths: int) -> Stream:
        """Return the base oracle's randomness."""
        return self.oracle.stream(generator, paths)

    def sample(self, local: Local, draw: Draw) -> Tensor:
        """Return the base oracle's noisy gradients plus lambda theta, (paths, dim)."""
        assert isinstance(local, _LocalPenalised)
        return torch.add(self.oracle.sample(local.base, draw), local.theta, alpha=self.weight_decay)

    def sample_derivative(self, local: Local, draw: Draw, direction: Tensor) -> Tensor:
        """Return the base oracle's derivative plus lambda times the direction."""
        assert isinstance(local, _LocalPenalised)
        return self.oracle.sample_derivative(local.base, draw, direction) + self.weight_decay * direction

    def rule(self, n: int) -> tuple[Draw, Tensor]:
        """Return the base oracle's rule."""
        return self.oracle.rule(n)

    def hessian(self, theta: Tensor) -> Tensor:
        """Return the base oracle's Hessian plus lambda times the identity."""
        found = self.oracle.hessian(theta)
        return found + self.weight_decay * torch.eye(self.dim, dtype=found.dtype, device=found.device)

    def noise_moments(self) -> tuple[float, float]:
        """Return the base oracle's: the noise is the same."""
        return self.oracle.noise_moments()

    @property
    def bytes_per_path(self) -> int:
        """The base oracle's, and one more vector."""
        return self.oracle.bytes_per_path + 8 * self.dim

    def describe(self) -> dict[str, Any]:
        """Return plain data that names it and its base oracle."""
        return {"class": "Penalised", "oracle": self.oracle.describe(), "weight_decay": self.weight_decay}


class _LocalPenalised(Local):
    oracle: Penalised

    @cached_property
    def base(self) -> Local:
        """The view of f."""
        return self.oracle.oracle.at(self.theta)

    @cached_property
    def loss(self) -> Tensor:
        return self.base.loss + self.oracle.weight_decay / 2 * self.theta.square().sum(-1)

    @cached_property
    def gradient(self) -> Tensor:
        return torch.add(self.base.gradient, self.theta, alpha=self.oracle.weight_decay)

    @cached_property
    def covariance_diagonal(self) -> Tensor:
        return self.base.covariance_diagonal

    @property
    def diagonal_estimate(self) -> Tensor:
        return self.base.diagonal_estimate

    @cached_property
    def noise_trace(self) -> Tensor:
        return self.base.noise_trace

    def diffuse(self, xi: Tensor) -> Tensor:
        return self.base.diffuse(xi)

    def hessian_product(self, v: Tensor) -> Tensor:
        return torch.add(self.base.hessian_product(v), v, alpha=self.oracle.weight_decay)

    def third_contraction(self, weights: Tensor) -> Tensor:
        return self.base.third_contraction(weights)
