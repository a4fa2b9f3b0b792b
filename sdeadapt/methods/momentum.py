r"""SGD with momentum, heavy ball and Nesterov, and its SDEs: SGD's at a fixed momentum, otherwise Langevin's."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor

from sdeadapt.checks import check_choice, check_integer, check_positive
from sdeadapt.methods.averages import rescaled_averages, set_averages
from sdeadapt.methods.base import ItoSDE, Method, Schedule
from sdeadapt.methods.sgd import SGD, SGDPoint
from sdeadapt.oracles.base import Local, NotDeclared, Oracle

__all__ = ["Momentum", "MomentumPoint", "MomentumState"]


class MomentumState(NamedTuple):
    """Parameters theta and m, torch's momentum buffer, each (paths, dim)."""

    theta: Tensor
    m: Tensor


class MomentumPoint(NamedTuple):
    r"""Parameters theta and velocity $V = -hm$, each (paths, dim)."""

    theta: Tensor
    velocity: Tensor


@dataclass(frozen=True)
class Momentum(Method):
    r"""SGD with momentum, as torch.optim.SGD without dampening.

    $m_{k+1} = \beta m_k + g_k, \quad \theta_{k+1} = \theta_k - \eta m_{k+1}$, or for Nesterov
    $\theta_{k+1} = \theta_k - \eta(g_k + \beta m_{k+1})$, with the momentum $\beta$.

    `friction` says what $\beta$ does as the time step h falls, hence which SDE and which batch-size rule it has:

    * "fixed-momentum": $\beta$ stays. The buffer forgets in a fixed number of steps, and the SDE is that of SGD with
      the learning rate $h = \eta/(1-\beta)$, in theta alone.
    * "langevin": $\beta = 1 - \mu h$ with $h = \sqrt\eta$, so that the friction $\mu = (1-\beta)/h$ stays. The SDE is
      that of a particle with velocity $V = -hm$.

    Batch-size rule (linear): $\eta \to \kappa\eta$ at a fixed momentum; $\eta \to \kappa^2\eta$ and
    $1-\beta \to \kappa(1-\beta)$ in the Langevin scaling.

    Args:
        lr: learning rate, positive.
        momentum: in (0, 1); for 0 use SGD.
        nesterov: whether the gradient is taken ahead.
        friction: "fixed-momentum" or "langevin".
        schedule: SDE time -> factor of lr in the theta equation, in the iteration and in the SDE; None is 1.

    Attributes:
        one_minus_momentum: 1 − momentum, which the method computes with and `rescaled` carries exactly.

    Raises:
        ValueError: if a hyper-parameter is out of range.

    Example:
        >>> method = Momentum(lr=0.01, momentum=0.9)
        >>> state = method.step(method.init(torch.ones(1, 1)), torch.full((1, 1), 2.0), k=0)
        >>> round(float(method.step(state, torch.full((1, 1), 2.0), k=1).theta), 4)
        0.942
        >>> round(method.time_step, 4), round(Momentum(lr=0.01, friction="langevin").rescaled(4.0).momentum, 4)
        (0.1, 0.6)

    Li, Tai, E 2019 (arXiv 1811.01558) for the Langevin scaling; its order 2 and Nesterov's are derived here.
    """

    lr: float
    momentum: float = 0.9
    nesterov: bool = False
    friction: str = "fixed-momentum"
    schedule: Schedule | None = None
    one_minus_momentum: float = field(init=False)

    State = MomentumState
    linear = True

    def __post_init__(self) -> None:
        check_positive("lr", self.lr)
        check_choice("friction", self.friction, ("fixed-momentum", "langevin"))
        set_averages(self)

    @property
    def _langevin(self) -> bool:
        return self.friction == "langevin"

    @property
    def Point(self) -> type:  # type: ignore[override]
        """The NamedTuple of the SDE coordinates: theta alone at a fixed momentum, where the buffer has no limit."""
        return MomentumPoint if self._langevin else SGDPoint

    @property
    def second_order(self) -> str:  # type: ignore[override]
        """The `refine` under which an SDE of order 2 is claimed; at a fixed momentum there is none."""
        return "step" if self._langevin else ""

    @property
    def invertible(self) -> bool:  # type: ignore[override]
        """False at a fixed momentum: `to_point` drops the buffer."""
        return self._langevin

    @property
    def steady(self) -> tuple[str, ...]:
        """Averages that forget in a fixed number of steps, which no batch-size rule changes."""
        return () if self._langevin else ("momentum",)

    @property
    def time_step(self) -> float:
        """The time step h: lr / (1 − momentum) at a fixed momentum, the root of lr in the Langevin scaling."""
        return math.sqrt(self.lr) if self._langevin else self.lr / self.one_minus_momentum

    def refinement(self, multiplier: int) -> int:
        """Return r = multiplier: it divides h, and in the Langevin scaling lr by its square."""
        return check_integer("multiplier", multiplier)

    def rescaled(self, kappa: float) -> Momentum:
        """Return the method for a batch `kappa` times as large.

        Raises:
            ValueError: if `kappa` is not positive, or, in the Langevin scaling, not below 1 / (1 − momentum).
        """
        power = 2 if self._langevin else 1
        return rescaled_averages(self, kappa, lr=self.lr * check_positive("kappa", kappa) ** power)

    def init(self, theta: Tensor) -> MomentumState:
        """Return torch's start at theta, (paths, dim): m = 0."""
        return MomentumState(theta, torch.zeros_like(theta))

    def step(self, state: MomentumState, g: Tensor, k: int) -> MomentumState:
        """Return the state after iteration k with the noisy gradient g, (paths, dim)."""
        m = torch.add(state.m, g).sub_(state.m, alpha=self.one_minus_momentum)
        ahead = torch.add(g, m, alpha=self.momentum) if self.nesterov else m
        return MomentumState(torch.add(state.theta, ahead, alpha=-self.lr * self.factor(self.time(k))), m)

    def to_point(self, state: MomentumState, scale: float) -> MomentumPoint | SGDPoint:
        """Return (theta, velocity), or at a fixed momentum theta alone."""
        if self._langevin:
            return MomentumPoint(state.theta, state.m * -self.time_step)
        return SGDPoint(state.theta)

    def from_point(self, point: MomentumPoint | SGDPoint, scale: float) -> MomentumState:
        """Return (theta, m): inverts `to_point` within one unit in m's last place; from theta alone, m = 0."""
        if isinstance(point, MomentumPoint):
            return MomentumState(point.theta, point.velocity / -self.time_step)
        return self.init(point.theta)

    def initial(self, local: Local) -> MomentumPoint | SGDPoint:
        """Return the start at the point of `local`, at rest."""
        return self.to_point(self.init(local.theta), 0.0)

    def sde(self, oracle: Oracle, order: int = 1) -> ItoSDE:
        r"""Return the SDE of weak order 1 or 2: SGD's at a fixed momentum, otherwise Langevin's.

        Order 1: $d\theta = V\,dt, \quad dV = -(\mu V + \nabla f)\,dt - \sqrt h\,\sigma S\,dW$ with $S S^T = \Sigma$,
        for Nesterov too. Order 2, of the family with fixed noise (`refine="step"`), adds to the drift
        $$-ah\,(\mu V + \nabla f) \;\text{ to } d\theta, \quad
        -\tfrac h2\,(\mu^2 V + \mu\nabla f - \nabla^2 f\,V) \;\text{ to } dV,$$
        with a = 1/2 for heavy ball and 3/2 for Nesterov.

        Raises:
            NotDeclared: at order 2 with a fixed momentum or a schedule, and at other orders.
        """
        if order == 2 and not self._langevin:
            raise NotDeclared(
                "Momentum(friction='fixed-momentum') has no SDE of order 2: while the buffer fills, theta falls behind "
                "by O(h), so no SDE of theta alone that starts at theta_0 follows it. Use friction='langevin', or "
                "order=1."
            )
        if order == 2 and self.schedule is not None:
            raise NotDeclared(
                "Momentum has an SDE of order 2 at a constant lr only: the schedule would have to be differentiated. "
                "Pass schedule=None, or order=1."
            )
        if order not in (1, 2):
            return super().sde(oracle, order)
        if not self._langevin:
            return SGD(self.time_step, self.schedule).sde(oracle)
        h, mu = self.time_step, self.one_minus_momentum / self.time_step
        size = math.sqrt(h) * oracle.scale
        lag = (1.5 if self.nesterov else 0.5) * h

        def at(t: float, x: MomentumPoint) -> tuple[MomentumPoint, Callable[[Tensor], MomentumPoint]]:
            local, v = oracle.at(x.theta), x.velocity
            force = torch.add(local.gradient, v, alpha=mu)
            if order == 1:
                drift = MomentumPoint(v * self.factor(t), -force)
            else:
                turn = local.hessian_product(v)
                drift = MomentumPoint(v - lag * force, h / 2 * turn - (1 + h * mu / 2) * force)
            return drift, lambda dw: MomentumPoint(None, local.diffuse(dw) * -size)  # type: ignore[arg-type]

        return ItoSDE(at, oracle.noise_dim, MomentumPoint)
