r"""Adam and its SDEs."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor

from sdeadapt.methods.adaptive import Adaptive
from sdeadapt.methods.averages import bias_correction, denominator, from_u, to_u
from sdeadapt.methods.base import ItoSDE, Schedule
from sdeadapt.oracles.base import Local, Oracle

__all__ = ["Adam", "AdamPoint", "AdamState"]


class AdamState(NamedTuple):
    """Parameters theta, average m of gradients and v of squared gradients, each (paths, dim)."""

    theta: Tensor
    m: Tensor
    v: Tensor


class AdamPoint(NamedTuple):
    r"""Parameters theta, m and $u = v/\sigma^2$, each (paths, dim)."""

    theta: Tensor
    m: Tensor
    u: Tensor


@dataclass(frozen=True)
class Adam(Adaptive):
    r"""Adam; one iteration advances the time step h = lr², or lr in the ballistic scaling.

    $m_{k+1} = \beta_1 m_k + (1-\beta_1) g_k, \quad v_{k+1} = \beta_2 v_k + (1-\beta_2) g_k^2, \quad
    \theta_{k+1} = \theta_k - \eta\, \hat m_{k+1} / (\sqrt{\hat v_{k+1}} + \epsilon)$ with
    $\hat m_k = m_k/(1-\beta_1^k)$ and $\hat v_k = v_k/(1-\beta_2^k)$. The theorem has $\hat v_k$ in the denominator,
    and then leaves theta where it is at k = 0. Both have the same SDE.

    Batch-size rule (square root): $\eta \to \sqrt\kappa\,\eta$, $1-\beta_i \to \kappa(1-\beta_i)$,
    $\epsilon \to \epsilon/\sqrt\kappa$. The ballistic scaling has none.

    Args:
        lr: learning rate, positive.
        beta1: of the average of gradients, in (0, 1).
        beta2: of the average of squared gradients, in (0, 1).
        eps: added to the root, not under it; not negative.
        denominator: "new" divides by the root of v_{k+1}, as torch does; "old" by that of v_k, as the theorem does.
        bias_correction: False uses m and v as they are.
        schedule: SDE time -> factor of lr in the theta equation, in the iteration and in the SDE; None is 1.
        scaling: as h falls, "batch-equivalent" has the noise grow, "ballistic" keeps it; see `Adaptive`.

    Attributes:
        one_minus_beta1: 1 − beta1, which the method computes with and `rescaled` carries exactly.
        one_minus_beta2: 1 − beta2, likewise.

    Raises:
        ValueError: if a hyper-parameter is out of range.

    Example:
        >>> method = Adam(lr=0.1)
        >>> state = method.step(method.init(torch.ones(1, 1)), torch.full((1, 1), 2.0), k=0)
        >>> round(float(state.theta), 4), round(float(state.m), 4), round(float(state.v), 4)
        (0.9, 0.2, 0.004)
        >>> round(method.rescaled(4.0).beta2, 4)
        0.996

    Malladi et al. 2022 (arXiv 2205.10287), Definitions 2.3, 4.4 and 5.3, Theorem 4.5.
    """

    lr: float
    beta1: float = 0.9
    beta2: float = 0.999
    eps: float = 1e-8
    denominator: str = "new"
    bias_correction: bool = True
    schedule: Schedule | None = None
    scaling: str = "batch-equivalent"
    one_minus_beta1: float = field(init=False)
    one_minus_beta2: float = field(init=False)

    State = AdamState
    Point = AdamPoint

    def init(self, theta: Tensor) -> AdamState:
        """Return torch's start at theta, (paths, dim): m = v = 0."""
        return AdamState(theta, torch.zeros_like(theta), torch.zeros_like(theta))

    def step(self, state: AdamState, g: Tensor, k: int) -> AdamState:
        """Return the state after iteration k with the noisy gradient g, (paths, dim)."""
        m = torch.lerp(state.m, g, self.one_minus_beta1)
        v = torch.lerp(state.v, g * g, self.one_minus_beta2)
        new = self.denominator == "new"
        first, second = 1.0, 1.0
        if self.bias_correction:
            first = bias_correction(self.one_minus_beta1, k + 1)
            second = math.sqrt(bias_correction(self.one_minus_beta2, k + 1 if new else k))
        if second == 0:  # v_0 / (1 − beta2^0) is 0/0: the paper's code leaves theta where it is
            return AdamState(state.theta, m, v)
        # multiplied through by the root of 1 − beta2^k, so that the corrections are numbers, not tensors
        root = denominator(v if new else state.v, self.eps * second)
        value = -self.lr * self.factor(self.time(k)) * second / first
        return AdamState(torch.addcdiv(state.theta, m, root, value=value), m, v)

    def to_point(self, state: AdamState, scale: float) -> AdamPoint:
        r"""Return (theta, m, u) with $u = v/\sigma^2$."""
        return AdamPoint(state.theta, state.m, to_u(state.v, scale))

    def from_point(self, point: AdamPoint, scale: float) -> AdamState:
        r"""Return (theta, m, v) with $v = u\sigma^2$: inverts `to_point` within one unit in v's last place."""
        return AdamState(point.theta, point.m, from_u(point.u, scale))

    def initial(self, local: Local) -> AdamPoint:
        r"""Return the start: m = 0, and $u_0 = \mathrm{diag}\,\Sigma(\theta_0)$ or, with bias correction, 0."""
        zero = torch.zeros_like(local.theta)
        return AdamPoint(local.theta, zero, zero if self.bias_correction else local.covariance_diagonal)

    def sde(self, oracle: Oracle, order: int = 1) -> ItoSDE:
        r"""Return the SDE of Definition 4.4, of weak order 1, or one of order 2. With bias correction t > 0.

        $d\theta = -(\sqrt{\gamma_2}/\gamma_1)\, P^{-1} m\,dt, \quad
        dm = c_1(\nabla f - m)\,dt + \sigma_0 c_1 S\,dW, \quad du = c_2(\mathrm{diag}\,\Sigma - u)\,dt$, where
        $P = \sigma_0\sqrt u + \epsilon_0\sqrt{\gamma_2}$, $\sigma_0 = \sigma\eta$, $\epsilon_0 = \epsilon\eta$,
        $c_i = (1-\beta_i)/h$, and $\gamma_i = 1 - e^{-c_i t}$, or 1 without bias correction.
        In the ballistic scaling it is the ODE without $S\,dW$, where $\sigma_0 = \sigma$, $\epsilon_0 = \epsilon$, and
        u tends to $\mathrm{diag}\,\Sigma + |\nabla f|^2/\sigma^2$ (Barakat, Bianchi 2021, arXiv 1810.02263).

        Order 2, for constant diagonal Sigma, is that of `second_order.adam_sde`; it depends on h, and u has a
        Brownian motion of its own.

        Raises:
            NotDeclared: if `order` is neither 1 nor 2; at order 2, if Sigma or the law of the noise does not allow it.
        """
        if order == 2:
            from sdeadapt.methods.second_order import adam_sde  # it imports this class

            return adam_sde(self, oracle)
        if order != 1:
            return super().sde(oracle, order)
        sigma0, eps0 = self.fixed(oracle.scale)
        c1, c2 = self.one_minus_beta1 / self.time_step, self.one_minus_beta2 / self.time_step

        def at(t: float, x: AdamPoint) -> tuple[AdamPoint, Callable[[Tensor], AdamPoint]]:
            gamma1, root2 = 1.0, 1.0
            if self.bias_correction:
                if t <= 0:
                    raise ValueError(
                        f"`t` must be positive: Adam's SDE is singular at 0 where the bias is corrected; got {t}. "
                        "Start after 8 steps, or set bias_correction=False."
                    )
                gamma1, root2 = -math.expm1(-c1 * t), math.sqrt(-math.expm1(-c2 * t))
            local = oracle.at(x.theta)
            p = x.u.clamp_min(0).sqrt_().mul_(sigma0).add_(eps0 * root2)  # u < 0 only by the solver's error
            drift = AdamPoint(
                (x.m / p).mul_(-self.factor(t) * root2 / gamma1),
                (local.gradient - x.m).mul_(c1),
                (self.mean_square(local, oracle.scale) - x.u).mul_(c2),
            )
            if self.ballistic:
                return drift, lambda dw: AdamPoint(None, None, None)  # type: ignore[arg-type]
            return drift, lambda dw: AdamPoint(None, local.diffuse(dw) * (sigma0 * c1), None)  # type: ignore[arg-type]

        return ItoSDE(at, oracle.noise_dim, AdamPoint)
