r"""Stochastic gradient descent, and its SDEs of order 1 and 2."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor

from sdeadapt.checks import check_integer, check_positive
from sdeadapt.methods.base import ItoSDE, Method, Schedule
from sdeadapt.oracles.base import Local, NotDeclared, Oracle

__all__ = ["SGD", "SGDPoint", "SGDState"]


class SGDState(NamedTuple):
    """Parameters theta (paths, dim)."""

    theta: Tensor


class SGDPoint(NamedTuple):
    """Parameters theta (paths, dim)."""

    theta: Tensor


@dataclass(frozen=True)
class SGD(Method):
    r"""Stochastic gradient descent, $\theta_{k+1} = \theta_k - \eta g_k$; one iteration advances the time step h = lr.

    Batch-size rule (linear): $\eta \to \kappa\eta$.

    Args:
        lr: learning rate, positive.
        schedule: SDE time -> factor of lr, in the iteration and in the SDE; None is 1.

    Raises:
        ValueError: if lr is not positive.

    Example:
        >>> method = SGD(lr=0.1)
        >>> method.step(SGDState(torch.ones(1, 2)), torch.full((1, 2), 2.0), k=0).theta
        tensor([[0.8000, 0.8000]])
        >>> method.rescaled(4.0).time_step
        0.4

    Li, Tai, E 2019 (arXiv 1811.01558), Corollaries of order 1 and 2; Li, Malladi, Arora 2021 (arXiv 2102.12470).
    """

    lr: float
    schedule: Schedule | None = None

    State = SGDState
    Point = SGDPoint
    linear = True
    second_order = "step"

    def __post_init__(self) -> None:
        check_positive("lr", self.lr)

    @property
    def time_step(self) -> float:
        """The time step h = lr."""
        return self.lr

    def refinement(self, multiplier: int) -> int:
        """Return r = multiplier."""
        return check_integer("multiplier", multiplier)

    def rescaled(self, kappa: float) -> SGD:
        """Return the method with lr multiplied by `kappa`.

        Raises:
            ValueError: if `kappa` is not positive.
        """
        return replace(self, lr=self.lr * check_positive("kappa", kappa))

    def init(self, theta: Tensor) -> SGDState:
        """Return the start at theta, (paths, dim)."""
        return SGDState(theta)

    def step(self, state: SGDState, g: Tensor, k: int) -> SGDState:
        """Return the state after iteration k with the noisy gradient g, (paths, dim)."""
        return SGDState(torch.add(state.theta, g, alpha=-self.lr * self.factor(self.time(k))))

    def to_point(self, state: SGDState, scale: float) -> SGDPoint:
        """Return theta; the two types differ in name only."""
        return SGDPoint(state.theta)

    def from_point(self, point: SGDPoint, scale: float) -> SGDState:
        """Return theta; the two types differ in name only."""
        return SGDState(point.theta)

    def initial(self, local: Local) -> SGDPoint:
        """Return the start at the point of `local`."""
        return SGDPoint(local.theta)

    def sde(self, oracle: Oracle, order: int = 1) -> ItoSDE:
        r"""Return $d\theta = -\nabla f\,dt - \sqrt{\eta}\,\sigma S\,dW$ with $S S^T = \Sigma$, of weak order 1.

        Order 2 has the drift $-\nabla(f + \tfrac\eta4|\nabla f|^2)$. It is claimed in the family with fixed noise
        (`refine="step"`); where $\sigma\sqrt\eta$ is fixed instead, this SDE has order 1 as well.

        The noise has the iteration's sign: $dW = \sqrt h\,\xi$ for a gradient $\nabla f + \sigma S\xi$.

        Raises:
            NotDeclared: at order 2 with a schedule, and at other orders.
        """
        if order == 2 and self.schedule is not None:
            raise NotDeclared(
                "SGD has an SDE of order 2 at a constant lr only: the schedule would have to be differentiated. "
                "Pass schedule=None, or order=1."
            )
        if order not in (1, 2):
            return super().sde(oracle, order)
        size = math.sqrt(self.lr) * oracle.scale

        def at(t: float, x: SGDPoint) -> tuple[SGDPoint, Callable[[Tensor], SGDPoint]]:
            local, factor = oracle.at(x.theta), self.factor(t)
            slope = local.gradient
            if order == 2:
                slope = torch.add(slope, local.hessian_product(slope), alpha=self.lr / 2)
            return SGDPoint(-factor * slope), lambda dw: SGDPoint(local.diffuse(dw) * (-factor * size))

        return ItoSDE(at, oracle.noise_dim, SGDPoint)
