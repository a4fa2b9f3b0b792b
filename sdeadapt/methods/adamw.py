r"""Decoupled weight decay: AdamW and RMSpropW, which are Adam and RMSprop but for one term."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor

from sdeadapt.checks import check_choice, check_positive
from sdeadapt.methods.adam import Adam
from sdeadapt.methods.averages import averages, with_averages
from sdeadapt.methods.base import ItoSDE, Method
from sdeadapt.methods.rmsprop import RMSprop
from sdeadapt.oracles.base import NotDeclared, Oracle

__all__ = ["AdamW", "RMSpropW"]


@dataclass(frozen=True, kw_only=True)
class _DecoupledDecay(Method):
    """Weight decay beside the gradient, for the method that comes next in a class's bases."""

    weight_decay: float = 0.01
    decay: str = "torch"

    def __post_init__(self) -> None:
        super().__post_init__()  # type: ignore[misc]
        check_positive("weight_decay", self.weight_decay, zero=True)
        check_choice("decay", self.decay, ("torch", "independent"))

    @property
    def second_order(self) -> str:  # type: ignore[override]
        """None is claimed, in any scaling: the decay would need terms of its own."""
        return ""

    @property
    def decay_rate(self) -> float:
        r"""The rate $\lambda_0$ per unit of SDE time: what one iteration takes from theta, over h."""
        return self.weight_decay * (self.lr if self.decay == "torch" else 1.0) / self.time_step

    def _shrinkage(self, t: float) -> float:
        """Return the rate at SDE time t: torch multiplies lr into the decay, and with it the schedule."""
        return self.decay_rate * (self.factor(t) if self.decay == "torch" else 1.0)

    def rescaled(self, kappa: float) -> Any:
        r"""Return the method for a batch `kappa` times as large, with the same $\lambda_0$.

        Raises:
            ValueError: if the method without decay has no rule for this `kappa`.
        """
        new = super().rescaled(kappa)  # type: ignore[safe-super]
        weight = self.weight_decay * kappa * (self.lr / new.lr if self.decay == "torch" else 1.0)
        return with_averages(new, averages(new), 1.0, weight_decay=weight)

    def step(self, state: Any, g: Tensor, k: int) -> Any:
        """Return the state after iteration k: theta shrinks, and then moves as without decay."""
        kept = 1 - self._shrinkage(self.time(k)) * self.time_step
        return super().step(state._replace(theta=state.theta * kept), g, k)  # type: ignore[safe-super]

    def sde(self, oracle: Oracle, order: int = 1) -> ItoSDE:
        r"""Return the SDE of weak order 1 of the method without decay, with $-\lambda_0\theta\,dt$ added for theta.

        Raises:
            NotDeclared: if `order` is not 1, or the method without decay has no SDE.
        """
        if order != 1:
            raise NotDeclared(f"{type(self).__name__} has no SDE of order {order}; pass one as `sde=`.")
        plain = super().sde(oracle)

        def at(t: float, x: Any) -> tuple[Any, Callable[[Tensor], Any]]:
            drift, diffuse = plain.at(t, x)
            return drift._replace(theta=drift.theta.sub(x.theta, alpha=self._shrinkage(t))), diffuse

        return replace(plain, at=at)


@dataclass(frozen=True)
class AdamW(_DecoupledDecay, Adam):
    r"""Adam with decoupled weight decay; one iteration advances the time step h of `Adam`.

    $\theta$ is first multiplied by $1-\eta\lambda$ (`decay="torch"`) or $1-\lambda$ ("independent"), and then moves as
    in `Adam`. In the SDE that is the drift $-\lambda_0\theta\,dt$ with $\lambda_0 = \eta\lambda/h$ or $\lambda/h$.

    Batch-size rule (square root): as for `Adam`, and $\lambda \to \sqrt\kappa\,\lambda$ ("torch") or $\kappa\lambda$
    ("independent"). A decay that is part of the loss (`Penalised`) stays as it is.

    Args:
        lr: learning rate, positive.
        beta1: of the average of gradients, in (0, 1).
        beta2: of the average of squared gradients, in (0, 1).
        eps: added to the root, not under it; not negative.
        denominator: "new" or "old", see `Adam`.
        bias_correction: False uses m and v as they are.
        schedule: SDE time -> factor of lr in the theta equation, and with `decay="torch"` of the decay; None is 1.
        weight_decay: lambda, not negative.
        decay: "torch" multiplies lambda by lr, as torch does; "independent" does not, as in the AdamW paper.

    Raises:
        ValueError: if a hyper-parameter is out of range.

    Example:
        >>> import torch
        >>> method = AdamW(lr=0.1, weight_decay=0.5)
        >>> state = method.step(method.init(torch.ones(1, 1)), torch.full((1, 1), 2.0), k=0)
        >>> round(float(state.theta), 4), method.rescaled(4.0).weight_decay, round(method.decay_rate, 4)
        (0.85, 1.0, 5.0)

    Loshchilov, Hutter 2019 (arXiv 1711.05101), Algorithm 2; the rule follows from the SDE, cf. Busbridge et al. 2023
    (arXiv 2307.13813), Appendix C.
    """


@dataclass(frozen=True)
class RMSpropW(_DecoupledDecay, RMSprop):
    r"""RMSprop with decoupled weight decay; one iteration advances the time step h of `RMSprop`.

    $\theta$ is first multiplied by $1-\eta\lambda$ (`decay="torch"`) or $1-\lambda$ ("independent"), and then moves as
    in `RMSprop`. The SDE has the same further term as that of `AdamW`.

    Batch-size rule (square root): as for `RMSprop`, and for $\lambda$ as for `AdamW`.

    Args:
        lr: learning rate, positive.
        beta: in (0, 1), torch's `alpha`.
        eps: added to the root, not under it; not negative.
        denominator: "new" or "old", see `RMSprop`.
        schedule: SDE time -> factor of lr in the theta equation, and with `decay="torch"` of the decay; None is 1.
        weight_decay: lambda, not negative.
        decay: "torch" multiplies lambda by lr; "independent" does not.

    Raises:
        ValueError: if a hyper-parameter is out of range.

    Example:
        >>> import torch
        >>> method = RMSpropW(lr=0.1, beta=0.9, weight_decay=0.5, decay="independent")
        >>> state = method.step(method.init(torch.ones(1, 1)), torch.full((1, 1), 2.0), k=0)
        >>> round(float(state.theta), 4), method.rescaled(4.0).weight_decay
        (0.1838, 2.0)

    Compagnoni et al. 2024 (arXiv 2411.15958), Section 3.
    """
