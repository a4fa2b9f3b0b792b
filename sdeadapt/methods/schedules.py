r"""The schedules of Adam's convergence proof: a step size $\alpha/\sqrt t$, and a $\beta_1$ that fades."""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass

import torch
from torch import Tensor

from sdeadapt.checks import check_open_unit, check_positive
from sdeadapt.methods.adam import Adam, AdamState
from sdeadapt.methods.averages import bias_correction
from sdeadapt.methods.base import ItoSDE, Schedule
from sdeadapt.oracles.base import NotDeclared, Oracle

__all__ = ["FadingAdam", "inverse_root"]


@dataclass(frozen=True)
class _InverseRoot:
    unit: float

    def __call__(self, t: float) -> float:
        return 1 / math.sqrt(1 + t / self.unit)


def inverse_root(unit: float) -> Schedule:
    r"""Return the schedule $t \mapsto 1/\sqrt{1 + t/\text{unit}}$ in SDE time.

    With `unit` the time step h of the base method, iteration $k = 0, 1, \dots$ has the learning rate
    $\alpha/\sqrt{k + 1}$. Finer or larger steps see the same function of SDE time.

    Args:
        unit: SDE time in which lr falls by $\sqrt 2$ at first, positive.

    Raises:
        ValueError: if `unit` is not positive.

    Example:
        >>> method = Adam(lr=0.5, schedule=inverse_root(0.25))
        >>> [method.lr * method.factor(method.time(k)) for k in (0, 3, 24)]
        [0.5, 0.25, 0.1]

    Kingma, Ba 2015 (arXiv 1412.6980), Theorem 4.1.
    """
    return _InverseRoot(check_positive("unit", unit))


@dataclass(frozen=True)
class FadingAdam(Adam):
    r"""Adam whose beta1 fades: iteration k = 0, 1, … averages gradients with $\beta_1\lambda^k$.

    With bias correction m is divided by the sum of its weights, $1 - \prod_{i\le k}\beta_1\lambda^i$. It has no SDE:
    after $1/(1-\lambda)$ iterations, whatever the step size, m has lost its memory and the method is RMSprop.

    Batch-size rule: none, as $1-\beta_1$ tends to 1 and cannot grow.

    Args:
        lr: learning rate, positive.
        beta1: of the average of gradients at first, in (0, 1).
        beta2: of the average of squared gradients, in (0, 1).
        eps: added to the root, not under it; not negative.
        denominator: "new" or "old", see `Adam`.
        bias_correction: False uses m and v as they are.
        schedule: SDE time -> factor of lr; None is 1.
        scaling: as for `Adam`, whose time step it has.
        fading: lambda, in (0, 1).

    Raises:
        ValueError: if a hyper-parameter is out of range.

    Example:
        >>> method = FadingAdam(lr=0.1, fading=0.5)
        >>> state = AdamState(torch.ones(1, 1), torch.zeros(1, 1), torch.ones(1, 1))
        >>> [round(float(method.step(state, torch.full((1, 1), 2.0), k).m), 4) for k in range(3)]
        [0.2, 1.1, 1.55]

    Kingma, Ba 2015 (arXiv 1412.6980), Theorem 4.1.
    """

    fading: float = 0.999

    def __post_init__(self) -> None:
        super().__post_init__()
        check_open_unit("fading", self.fading)

    def rescaled(self, kappa: float) -> FadingAdam:
        """Return the method itself for kappa = 1.

        Raises:
            NotDeclared: at any other `kappa`.
        """
        if kappa != 1:
            raise NotDeclared("FadingAdam has no batch-size rule: 1 - beta1 tends to 1 and cannot grow.")
        return self

    def step(self, state: AdamState, g: Tensor, k: int) -> AdamState:
        """Return the state after iteration k with the noisy gradient g, (paths, dim)."""
        now, weight = copy.copy(self), 1 - self.beta1 * self.fading**k
        object.__setattr__(now, "one_minus_beta1", weight)
        after = Adam.step(now, state, g, k)
        if not self.bias_correction:
            return after
        log_product = (k + 1) * math.log(self.beta1) + k * (k + 1) / 2 * math.log(self.fading)
        ratio = bias_correction(weight, k + 1) / -math.expm1(log_product)  # Adam's sum of m's weights over this one's
        return after._replace(theta=torch.lerp(state.theta, after.theta, ratio))

    def sde(self, oracle: Oracle, order: int = 1) -> ItoSDE:
        """Refuse.

        Raises:
            NotDeclared: always.
        """
        raise NotDeclared(
            "FadingAdam has no SDE: beta1 fades in a fixed number of iterations, which takes no SDE time in the limit. "
            "Compare with the SDE of RMSprop, as `sde=`."
        )
