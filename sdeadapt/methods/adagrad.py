r"""Adagrad and its SDE."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor

from sdeadapt.checks import check_choice, check_integer, check_positive
from sdeadapt.methods.averages import denominator, from_u, to_u
from sdeadapt.methods.base import ItoSDE, Method, Schedule
from sdeadapt.oracles.base import Local, Oracle

__all__ = ["Adagrad", "AdagradPoint", "AdagradState"]


class AdagradState(NamedTuple):
    """Parameters theta and the sum of squared gradients, each (paths, dim)."""

    theta: Tensor
    sum: Tensor


class AdagradPoint(NamedTuple):
    r"""Parameters theta and $u = h\,\mathrm{sum}/\sigma^2$, each (paths, dim): diag Sigma, added up over SDE time."""

    theta: Tensor
    u: Tensor


@dataclass(frozen=True)
class Adagrad(Method):
    r"""Adagrad; the time step h that one iteration advances is a field of its own.

    $s_{k+1} = s_k + g_k^2, \quad \theta_{k+1} = \theta_k - \eta\, g_k / (\sqrt{s_{k+1}} + \epsilon)$, torch's Adagrad
    with `lr_decay=0`. With $s_k$ in the denominator the SDE is the same.

    Batch-size rule: $\eta$ unchanged, $\epsilon \to \epsilon/\kappa$, $s_0 \to s_0/\kappa^2$. The decay of the step by
    $1/\sqrt k$ supplies the $\sqrt\kappa$ of the other adaptive methods. It needs a start $s_0 \gg \sigma^2$: from
    $s_0 = 0$ the first steps have the size of lr, whatever the batch.

    Args:
        lr: learning rate, positive.
        eps: added to the root, not under it; not negative.
        initial_accumulator_value: s_0 of torch's start, not negative.
        time_step: h, positive: the unit of SDE time, which no step depends on, is 1 / h iterations.
        denominator: "new" divides by the root of s_{k+1}, as torch does; "old" by that of s_k.
        schedule: SDE time -> factor of lr, in the iteration and in the SDE; None is 1.

    Raises:
        ValueError: if a hyper-parameter is out of range.

    Example:
        >>> method = Adagrad(lr=0.5)
        >>> method.step(AdagradState(torch.ones(1, 1), torch.full((1, 1), 5.0)), torch.full((1, 1), 2.0), k=0)
        AdagradState(theta=tensor([[0.6667]]), sum=tensor([[9.]]))
        >>> method.rescaled(4.0).lr, method.rescaled(4.0).time_step
        (0.5, 0.04)

    Duchi, Hazan, Singer 2011 (JMLR 12). SDE and batch-size rule are derived here, in the setting of Malladi et al.
    2022 (arXiv 2205.10287): their SDE of RMSprop without forgetting.
    """

    lr: float
    eps: float = 1e-10
    initial_accumulator_value: float = 0.0
    time_step: float = 0.01
    denominator: str = "new"
    schedule: Schedule | None = None

    State = AdagradState
    Point = AdagradPoint

    def __post_init__(self) -> None:
        check_positive("lr", self.lr)
        check_positive("eps", self.eps, zero=True)
        check_positive("initial_accumulator_value", self.initial_accumulator_value, zero=True)
        check_positive("time_step", self.time_step)
        check_choice("denominator", self.denominator, ("new", "old"))

    def refinement(self, multiplier: int) -> int:
        """Return r = multiplier²: the noise is multiplied by `multiplier`, as for the other adaptive methods."""
        return check_integer("multiplier", multiplier) ** 2

    def rescaled(self, kappa: float) -> Adagrad:
        """Return the method for a batch `kappa` times as large: lr unchanged.

        Raises:
            ValueError: if `kappa` is not positive.
        """
        check_positive("kappa", kappa)
        start = self.initial_accumulator_value / kappa**2
        return replace(self, eps=self.eps / kappa, initial_accumulator_value=start, time_step=self.time_step * kappa)

    def init(self, theta: Tensor) -> AdagradState:
        """Return torch's start at theta, (paths, dim)."""
        return AdagradState(theta, torch.full_like(theta, self.initial_accumulator_value))

    def step(self, state: AdagradState, g: Tensor, k: int) -> AdagradState:
        """Return the state after iteration k with the noisy gradient g, (paths, dim)."""
        total = torch.addcmul(state.sum, g, g)
        root = denominator(total if self.denominator == "new" else state.sum, self.eps)
        return AdagradState(torch.addcdiv(state.theta, g, root, value=-self.lr * self.factor(self.time(k))), total)

    def to_point(self, state: AdagradState, scale: float) -> AdagradPoint:
        r"""Return (theta, u) with $u = h\,s/\sigma^2$."""
        return AdagradPoint(state.theta, to_u(state.sum, scale) * self.time_step)

    def from_point(self, point: AdagradPoint, scale: float) -> AdagradState:
        r"""Return (theta, s) with $s = u\sigma^2/h$: inverts `to_point` within a few units in s's last place."""
        return AdagradState(point.theta, from_u(point.u / self.time_step, scale))

    def initial(self, local: Local) -> AdagradPoint:
        r"""Return the start at the point of `local` with $u_0 = \mathrm{diag}\,\Sigma(\theta_0)$.

        That is the noise of one unit of SDE time, $s_0 = \sigma^2\,\mathrm{diag}\,\Sigma / h$. The SDE needs
        $u_0 \gg h\,\mathrm{diag}\,\Sigma$: from torch's start, u = 0, its noise has no finite variance.
        """
        return AdagradPoint(local.theta, local.covariance_diagonal)

    def sde(self, oracle: Oracle, order: int = 1) -> ItoSDE:
        r"""Return the SDE of weak order 1.

        $d\theta = -\eta P^{-1}(\nabla f\,dt + \sigma_0 S\,dW), \quad du = \mathrm{diag}\,\Sigma\,dt$, where
        $P = \sigma_0\sqrt u + \epsilon_0$, $\sigma_0 = \sigma\sqrt h$, $\epsilon_0 = \epsilon h$.

        Raises:
            NotDeclared: if `order` is not 1.
        """
        if order != 1:
            return super().sde(oracle, order)
        sigma0, eps0 = oracle.scale * self.time_step**0.5, self.eps * self.time_step

        def at(t: float, x: AdagradPoint) -> tuple[AdagradPoint, Callable[[Tensor], AdagradPoint]]:
            local = oracle.at(x.theta)
            p = x.u.clamp_min(0).sqrt_().mul_(sigma0).add_(eps0)
            rate = p.reciprocal_().mul_(-self.lr * self.factor(t))
            drift = AdagradPoint(local.gradient * rate, local.diagonal_estimate)
            return drift, lambda dw: AdagradPoint((local.diffuse(dw) * rate).mul_(sigma0), None)  # type: ignore[arg-type]

        return ItoSDE(at, oracle.noise_dim, AdagradPoint)
