r"""Signum: sign descent with momentum."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor

from sdeadapt.checks import check_integer, check_positive
from sdeadapt.methods.averages import averages, set_averages, with_averages
from sdeadapt.methods.base import ItoSDE, Method, Schedule
from sdeadapt.oracles.base import Local, NotDeclared, Oracle

__all__ = ["Signum", "SignumPoint", "SignumState"]


class SignumState(NamedTuple):
    """Parameters theta and average m of gradients, each (paths, dim)."""

    theta: Tensor
    m: Tensor


class SignumPoint(NamedTuple):
    """Parameters theta and average m of gradients, each (paths, dim)."""

    theta: Tensor
    m: Tensor


@dataclass(frozen=True)
class Signum(Method):
    r"""Sign descent with momentum; one iteration advances the time step h = lr². It has no SDE.

    $m_{k+1} = \beta m_k + (1-\beta) g_k, \quad \theta_{k+1} = \theta_k - \eta\,\mathrm{sign}(m_{k+1})$,
    without bias correction, which would not change a sign.

    Batch-size rule (square root): $\eta \to \sqrt\kappa\,\eta$, $\beta$ unchanged. It keeps the law of theta where
    Gaussian noise dominates: for independent components, theta then moves like
    $$d\theta = -\sqrt{\tfrac2\pi\,\tfrac{1+\beta}{1-\beta}}\,
      \frac{\nabla f}{\sigma\eta\sqrt{\mathrm{diag}\,\Sigma}}\,dt
      - \Big(\sum_{j \in \mathbb Z}\tfrac2\pi\arcsin\beta^{|j|}\Big)^{1/2} dW.$$

    Args:
        lr: learning rate, positive.
        beta: of the average of gradients, in (0, 1).
        schedule: SDE time -> factor of lr; None is 1.

    Attributes:
        one_minus_beta: 1 − beta, which the method computes with.

    Raises:
        ValueError: if a hyper-parameter is out of range.

    Example:
        >>> method = Signum(lr=0.1, beta=0.9)
        >>> state = method.step(method.init(torch.ones(1, 1)), torch.full((1, 1), -2.0), k=0)
        >>> round(float(state.theta), 4), round(float(state.m), 4)
        (1.1, -0.2)
        >>> method.rescaled(4.0).lr, method.rescaled(4.0).beta
        (0.2, 0.9)

    Bernstein et al. 2018 (arXiv 1802.04434), Algorithm 2; Balles and Hennig 2018 (arXiv 1705.07774), M-SSD.
    """

    lr: float
    beta: float = 0.9
    schedule: Schedule | None = None
    one_minus_beta: float = field(init=False)

    State = SignumState
    Point = SignumPoint
    smooth = False
    sees_density = True

    def __post_init__(self) -> None:
        check_positive("lr", self.lr)
        set_averages(self)

    @property
    def time_step(self) -> float:
        """The time step h = lr²."""
        return self.lr**2

    def refinement(self, multiplier: int) -> int:
        """Return r = multiplier²."""
        return check_integer("multiplier", multiplier) ** 2

    def rescaled(self, kappa: float) -> Signum:
        """Return the method for a batch `kappa` times as large.

        Raises:
            ValueError: if `kappa` is not positive.
        """
        return with_averages(self, averages(self), kappa, lr=self.lr * math.sqrt(check_positive("kappa", kappa)))

    def init(self, theta: Tensor) -> SignumState:
        """Return the usual start at theta, (paths, dim): m = 0."""
        return SignumState(theta, torch.zeros_like(theta))

    def step(self, state: SignumState, g: Tensor, k: int) -> SignumState:
        """Return the state after iteration k with the noisy gradient g, (paths, dim)."""
        m = torch.lerp(state.m, g, self.one_minus_beta)
        return SignumState(torch.add(state.theta, torch.sign(m), alpha=-self.lr * self.factor(self.time(k))), m)

    def to_point(self, state: SignumState, scale: float) -> SignumPoint:
        """Return theta and m; the two types differ in name only."""
        return SignumPoint(*state)

    def from_point(self, point: SignumPoint, scale: float) -> SignumState:
        """Return theta and m; the two types differ in name only."""
        return SignumState(*point)

    def initial(self, local: Local) -> SignumPoint:
        """Return the start at the point of `local` with m = 0."""
        return SignumPoint(local.theta, torch.zeros_like(local.theta))

    def sde(self, oracle: Oracle, order: int = 1) -> ItoSDE:
        r"""Say why there is none.

        Raises:
            NotDeclared: always.
        """
        raise NotDeclared(
            "Signum has no SDE in (theta, m): with 1 - beta in proportion to h, m is of order 1 and changes in SDE "
            "time, so that theta moves by sqrt(h) sign(m) in each step of h, at a speed of 1/sqrt(h); with beta fixed, "
            "m has no limit, as its noise grows. Simulate and compare it without one, or pass an SDE as `sde=`."
        )
