r"""RMSprop and its SDEs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor

from sdeadapt.methods.adaptive import Adaptive
from sdeadapt.methods.averages import denominator, from_u, to_u
from sdeadapt.methods.base import ItoSDE, Schedule
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
class RMSprop(Adaptive):
    r"""RMSprop; one iteration advances the time step h = lr², or lr in the ballistic scaling.

    $v_{k+1} = \beta v_k + (1-\beta) g_k^2, \quad \theta_{k+1} = \theta_k - \eta\, g_k / (\sqrt{v_{k+1}} + \epsilon)$,
    without bias correction; the theorem has $v_k$ in the denominator. Both have the same SDE.

    Batch-size rule (square root): $\eta \to \sqrt\kappa\,\eta$, $1-\beta \to \kappa(1-\beta)$,
    $\epsilon \to \epsilon/\sqrt\kappa$. The ballistic scaling has none.

    Args:
        lr: learning rate, positive.
        beta: in (0, 1), torch's `alpha`.
        eps: added to the root, not under it; not negative.
        denominator: "new" divides by the root of v_{k+1}, as torch does; "old" by that of v_k, as the theorem does.
        schedule: SDE time -> factor of lr in the theta equation, in the iteration and in the SDE; None is 1.
        scaling: as h falls, "batch-equivalent" has the noise grow, "ballistic" keeps it; see `Adaptive`.

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
    scaling: str = "batch-equivalent"
    one_minus_beta: float = field(init=False)

    State = RMSpropState
    Point = RMSpropPoint

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
        r"""Return the SDE of Definition 4.1, of weak order 1, or one of order 2.

        $d\theta = -P^{-1}(\nabla f\,dt + \sigma_0 S\,dW), \quad du = c\,(\mathrm{diag}\,\Sigma - u)\,dt$, where
        $P = \sigma_0\sqrt u + \epsilon_0$, $\sigma_0 = \sigma\eta$, $\epsilon_0 = \epsilon\eta$, $c = (1-\beta)/h$.
        In the ballistic scaling it is the ODE without $S\,dW$, where $\sigma_0 = \sigma$, $\epsilon_0 = \epsilon$, and
        u tends to $\mathrm{diag}\,\Sigma + |\nabla f|^2/\sigma^2$.

        Order 2, for constant diagonal Sigma, is that of `second_order.rmsprop_sde`; it depends on h, and u has a
        Brownian motion of its own.

        Raises:
            NotDeclared: if `order` is neither 1 nor 2; at order 2, if Sigma or the law of the noise does not allow it.
        """
        if order == 2:
            from sdeadapt.methods.second_order import rmsprop_sde  # it imports this class

            return rmsprop_sde(self, oracle)
        if order != 1:
            return super().sde(oracle, order)
        (sigma0, eps0), c = self.fixed(oracle.scale), self.one_minus_beta / self.time_step

        def at(t: float, x: RMSpropPoint) -> tuple[RMSpropPoint, Callable[[Tensor], RMSpropPoint]]:
            local = oracle.at(x.theta)
            p = x.u.clamp_min(0).sqrt_().mul_(sigma0).add_(eps0)  # u < 0 only by the solver's error
            rate = p.reciprocal_().mul_(-self.factor(t))
            drift = RMSpropPoint(local.gradient * rate, (self.mean_square(local, oracle.scale) - x.u).mul_(c))
            if self.ballistic:
                return drift, lambda dw: RMSpropPoint(None, None)  # type: ignore[arg-type]
            return drift, lambda dw: RMSpropPoint((local.diffuse(dw) * rate).mul_(sigma0), None)  # type: ignore[arg-type]

        return ItoSDE(at, oracle.noise_dim, RMSpropPoint)
