r"""Adadelta and its SDE."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor

from sdeadapt.checks import check_integer, check_positive
from sdeadapt.methods.averages import from_u, rescaled_averages, set_averages, to_u
from sdeadapt.methods.base import ItoSDE, Method, Schedule
from sdeadapt.oracles.base import Local, Oracle

__all__ = ["Adadelta", "AdadeltaPoint", "AdadeltaState"]


class AdadeltaState(NamedTuple):
    """Parameters theta, average v of squared gradients and q of squared updates, each (paths, dim)."""

    theta: Tensor
    v: Tensor
    q: Tensor


class AdadeltaPoint(NamedTuple):
    r"""Parameters theta, $u = v/\sigma^2$ and q, each (paths, dim)."""

    theta: Tensor
    u: Tensor
    q: Tensor


@dataclass(frozen=True)
class Adadelta(Method):
    r"""Adadelta; one iteration advances the time step h = lr².

    $v_{k+1} = \rho v_k + (1-\rho) g_k^2, \quad \delta_k = g_k\sqrt{q_k + \epsilon} / \sqrt{v_{k+1} + \epsilon}, \quad
    q_{k+1} = \rho q_k + (1-\rho)\delta_k^2, \quad \theta_{k+1} = \theta_k - \eta\,\delta_k$.

    Batch-size rule (square root): $\eta \to \sqrt\kappa\,\eta$, $1-\rho \to \kappa(1-\rho)$, $\epsilon$ unchanged. The
    two eps scale differently: beside q, which noise keeps at its size, it stays; beside v, which falls with
    $\sigma^2$, it is of the order of h and not in the SDE.

    Args:
        lr: learning rate, positive.
        rho: of both averages, in (0, 1).
        eps: under both roots, positive: with 0 nothing ever moves from q = 0.
        schedule: SDE time -> factor of lr in the theta equation, in the iteration and in the SDE; None is 1.

    Attributes:
        one_minus_rho: 1 − rho, which the method computes with and `rescaled` carries exactly.

    Raises:
        ValueError: if a hyper-parameter is out of range.

    Example:
        >>> method = Adadelta(lr=1.0, eps=0.01)
        >>> state = method.step(method.init(torch.ones(1, 1)), torch.full((1, 1), 2.0), k=0)
        >>> round(float(state.theta), 4), round(float(state.v), 4), round(float(state.q), 4)
        (0.6877, 0.4, 0.0098)

    Zeiler 2012 (arXiv 1212.5701). SDE and batch-size rule are derived here, in the setting of Malladi et al. 2022
    (arXiv 2205.10287).
    """

    lr: float = 1.0
    rho: float = 0.9
    eps: float = 1e-6
    schedule: Schedule | None = None
    one_minus_rho: float = field(init=False)

    State = AdadeltaState
    Point = AdadeltaPoint

    def __post_init__(self) -> None:
        check_positive("lr", self.lr)
        check_positive("eps", self.eps)
        set_averages(self)

    @property
    def time_step(self) -> float:
        """The time step h = lr²."""
        return self.lr**2

    def refinement(self, multiplier: int) -> int:
        """Return r = multiplier²."""
        return check_integer("multiplier", multiplier) ** 2

    def rescaled(self, kappa: float) -> Adadelta:
        """Return the method for a batch `kappa` times as large.

        Raises:
            ValueError: if `kappa` is not positive, or not below 1 / (1 − rho).
        """
        return rescaled_averages(self, kappa, lr=self.lr * math.sqrt(check_positive("kappa", kappa)))

    def init(self, theta: Tensor) -> AdadeltaState:
        """Return torch's start at theta, (paths, dim): v = q = 0."""
        return AdadeltaState(theta, torch.zeros_like(theta), torch.zeros_like(theta))

    def step(self, state: AdadeltaState, g: Tensor, k: int) -> AdadeltaState:
        """Return the state after iteration k with the noisy gradient g, (paths, dim)."""
        v = torch.lerp(state.v, g * g, self.one_minus_rho)
        update = ((state.q + self.eps) / (v + self.eps)).sqrt_().mul_(g)
        q = torch.lerp(state.q, update * update, self.one_minus_rho)
        return AdadeltaState(torch.add(state.theta, update, alpha=-self.lr * self.factor(self.time(k))), v, q)

    def to_point(self, state: AdadeltaState, scale: float) -> AdadeltaPoint:
        r"""Return (theta, u, q) with $u = v/\sigma^2$."""
        return AdadeltaPoint(state.theta, to_u(state.v, scale), state.q)

    def from_point(self, point: AdadeltaPoint, scale: float) -> AdadeltaState:
        r"""Return (theta, v, q) with $v = u\sigma^2$: inverts `to_point` within one unit in v's last place."""
        return AdadeltaState(point.theta, from_u(point.u, scale), point.q)

    def initial(self, local: Local) -> AdadeltaPoint:
        r"""Return the start at the point of `local` with $u_0 = \mathrm{diag}\,\Sigma(\theta_0)$ and q = 0, torch's."""
        return AdadeltaPoint(local.theta, local.covariance_diagonal, torch.zeros_like(local.theta))

    def sde(self, oracle: Oracle, order: int = 1) -> ItoSDE:
        r"""Return the SDE of weak order 1.

        $d\theta = -\sqrt{(q + \epsilon)/u}\,(\nabla f\,dt/\sigma_0 + S\,dW), \quad
        du = c\,(\mathrm{diag}\,\Sigma - u)\,dt, \quad
        dq = c\,\big((q + \epsilon)\,\mathrm{diag}\,\Sigma/u - q\big)\,dt$, where
        $\sigma_0 = \sigma\eta$ and $c = (1-\rho)/h$.

        Raises:
            ValueError: if the oracle's scale is 0.
            NotDeclared: if `order` is not 1.
        """
        if order != 1:
            return super().sde(oracle, order)
        sigma0, c = check_positive("scale", oracle.scale) * self.lr, self.one_minus_rho / self.time_step

        def at(t: float, x: AdadeltaPoint) -> tuple[AdadeltaPoint, Callable[[Tensor], AdadeltaPoint]]:
            local = oracle.at(x.theta)
            ratio = (x.q + self.eps) / x.u
            rate = ratio.sqrt().mul_(-self.factor(t))
            covariance = local.diagonal_estimate
            drift = AdadeltaPoint(
                local.gradient * rate / sigma0, (covariance - x.u).mul_(c), (ratio * covariance - x.q).mul_(c)
            )
            return drift, lambda dw: AdadeltaPoint(local.diffuse(dw) * rate, None, None)  # type: ignore[arg-type]

        return ItoSDE(at, oracle.noise_dim, AdadeltaPoint)
