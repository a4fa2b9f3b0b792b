r"""RMSprop and its SDE."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor

from sdeadapt.checks import check_choice, check_integer, check_positive
from sdeadapt.methods.averages import denominator, from_u, rescaled_averages, set_averages, to_u
from sdeadapt.methods.base import ItoSDE, Method, Schedule
from sdeadapt.oracles.base import Local, Oracle

__all__ = ["RMSprop", "RMSpropPoint", "RMSpropState"]


class RMSpropState(NamedTuple):
    """Parameters theta and average v of squared gradients, each (paths, dim)."""

    theta: Tensor
    v: Tensor


class RMSpropPoint(NamedTuple):
    r"""Parameters theta and $u = v/\sigma^2$, each (paths, dim)."""

    theta: Tensor
    u: Tensor


@dataclass(frozen=True)
class RMSprop(Method):
    r"""RMSprop; one iteration advances the time step h = lr².

    $v_{k+1} = \beta v_k + (1-\beta) g_k^2, \quad \theta_{k+1} = \theta_k - \eta\, g_k / (\sqrt{v_{k+1}} + \epsilon)$,
    without bias correction; the theorem has $v_k$ in the denominator. Both have the same SDE.

    Batch-size rule (square root): $\eta \to \sqrt\kappa\,\eta$, $1-\beta \to \kappa(1-\beta)$,
    $\epsilon \to \epsilon/\sqrt\kappa$.

    Args:
        lr: learning rate, positive.
        beta: in (0, 1), torch's `alpha`.
        eps: added to the root, not under it; not negative.
        denominator: "new" divides by the root of v_{k+1}, as torch does; "old" by that of v_k, as the theorem does.
        schedule: SDE time -> factor of lr in the theta equation, in the iteration and in the SDE; None is 1.

    Attributes:
        one_minus_beta: 1 − beta, which the method computes with and `rescaled` carries exactly.

    Raises:
        ValueError: if a hyper-parameter is out of range.

    Example:
        >>> method = RMSprop(lr=0.1, beta=0.9)
        >>> state = method.step(method.init(torch.ones(1, 1)), torch.full((1, 1), 2.0), k=0)
        >>> round(float(state.theta), 4), round(float(state.v), 4)
        (0.6838, 0.4)
        >>> round(method.rescaled(4.0).beta, 4)
        0.6

    Malladi et al. 2022 (arXiv 2205.10287), Definitions 2.2, 4.1 and 5.2, Theorem 4.2.
    """

    lr: float
    beta: float = 0.99
    eps: float = 1e-8
    denominator: str = "new"
    schedule: Schedule | None = None
    one_minus_beta: float = field(init=False)

    State = RMSpropState
    Point = RMSpropPoint

    def __post_init__(self) -> None:
        check_positive("lr", self.lr)
        check_positive("eps", self.eps, zero=True)
        check_choice("denominator", self.denominator, ("new", "old"))
        set_averages(self)

    @property
    def time_step(self) -> float:
        """The time step h = lr²."""
        return self.lr**2

    def refinement(self, multiplier: int) -> int:
        """Return r = multiplier²."""
        return check_integer("multiplier", multiplier) ** 2

    def rescaled(self, kappa: float) -> RMSprop:
        """Return the method for a batch `kappa` times as large.

        Raises:
            ValueError: if `kappa` is not positive, or not below 1 / (1 − beta).
        """
        root = math.sqrt(check_positive("kappa", kappa))
        return rescaled_averages(self, kappa, lr=self.lr * root, eps=self.eps / root)

    def init(self, theta: Tensor) -> RMSpropState:
        """Return torch's start at theta, (paths, dim): v = 0."""
        return RMSpropState(theta, torch.zeros_like(theta))

    def step(self, state: RMSpropState, g: Tensor, k: int) -> RMSpropState:
        """Return the state after iteration k with the noisy gradient g, (paths, dim)."""
        v = torch.lerp(state.v, g * g, self.one_minus_beta)
        root = denominator(v if self.denominator == "new" else state.v, self.eps)
        return RMSpropState(torch.addcdiv(state.theta, g, root, value=-self.lr * self.factor(self.time(k))), v)

    def to_point(self, state: RMSpropState, scale: float) -> RMSpropPoint:
        r"""Return (theta, u) with $u = v/\sigma^2$."""
        return RMSpropPoint(state.theta, to_u(state.v, scale))

    def from_point(self, point: RMSpropPoint, scale: float) -> RMSpropState:
        r"""Return (theta, v) with $v = u\sigma^2$: inverts `to_point` within one unit in v's last place."""
        return RMSpropState(point.theta, from_u(point.u, scale))

    def initial(self, local: Local) -> RMSpropPoint:
        r"""Return the start at the point of `local` with $u_0 = \mathrm{diag}\,\Sigma(\theta_0)$."""
        return RMSpropPoint(local.theta, local.covariance_diagonal)

    def sde(self, oracle: Oracle, order: int = 1) -> ItoSDE:
        r"""Return the SDE of Definition 4.1, of weak order 1.

        $d\theta = -P^{-1}(\nabla f\,dt + \sigma_0 S\,dW), \quad du = c\,(\mathrm{diag}\,\Sigma - u)\,dt$, where
        $P = \sigma_0\sqrt u + \epsilon_0$, $\sigma_0 = \sigma\eta$, $\epsilon_0 = \epsilon\eta$, $c = (1-\beta)/h$.

        Raises:
            NotDeclared: if `order` is not 1.
        """
        if order != 1:
            return super().sde(oracle, order)
        sigma0, eps0, c = oracle.scale * self.lr, self.eps * self.lr, self.one_minus_beta / self.time_step

        def at(t: float, x: RMSpropPoint) -> tuple[RMSpropPoint, Callable[[Tensor], RMSpropPoint]]:
            local = oracle.at(x.theta)
            p = x.u.clamp_min(0).sqrt_().mul_(sigma0).add_(eps0)  # u < 0 only by the solver's error
            rate = p.reciprocal_().mul_(-self.factor(t))
            drift = RMSpropPoint(local.gradient * rate, (local.covariance_diagonal - x.u).mul_(c))
            return drift, lambda dw: RMSpropPoint((local.diffuse(dw) * rate).mul_(sigma0), None)  # type: ignore[arg-type]

        return ItoSDE(at, oracle.noise_dim, RMSpropPoint)
