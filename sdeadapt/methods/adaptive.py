"""Clock and rescaling of RMSprop and Adam, in the two scalings that their noise may have."""

from __future__ import annotations

import math
from typing import TypeVar

from torch import Tensor

from sdeadapt.checks import check_choice, check_integer, check_positive
from sdeadapt.methods.averages import rescaled_averages, set_averages, to_u
from sdeadapt.methods.base import Method
from sdeadapt.oracles.base import Local

__all__ = ["Adaptive"]

A = TypeVar("A", bound="Adaptive")
_SECOND_ORDER = {"batch-equivalent": "noise", "ballistic": "step"}  # scaling -> the `refine` it goes with


class Adaptive(Method):
    r"""A method that divides by an average of squared gradients; subclasses are dataclasses with these fields.

    `scaling` says what becomes of the noise as the time step h falls:

    * "batch-equivalent": it grows, $\sigma\eta$ is fixed, and $h = \eta^2$. Batch-size rule (square root):
      $\eta \to \sqrt\kappa\,\eta$, $1-\beta \to \kappa(1-\beta)$, $\epsilon \to \epsilon/\sqrt\kappa$.
    * "ballistic": it is fixed, $h = \eta$, and the limit is an ODE. `rescaled` changes the time step alone, by
      $\eta \to \kappa\eta$, $1-\beta \to \kappa(1-\beta)$ with $\epsilon$ fixed: there is no batch-size rule.

    Callisti, Romito, Triggiano 2025 (arXiv 2509.21614) for the two names.
    """

    lr: float
    eps: float
    denominator: str
    scaling: str

    def __post_init__(self) -> None:
        check_positive("lr", self.lr)
        check_positive("eps", self.eps, zero=True)
        check_choice("denominator", self.denominator, ("new", "old"))
        check_choice("scaling", self.scaling, _SECOND_ORDER)
        set_averages(self)

    @property
    def ballistic(self) -> bool:
        """The noise is fixed as h falls."""
        return self.scaling == "ballistic"

    @property
    def second_order(self) -> str:  # type: ignore[override]
        """The `refine` under which the SDE of order 2 is claimed."""
        return _SECOND_ORDER[self.scaling]

    @property
    def time_step(self) -> float:
        """The time step h: lr², or lr in the ballistic scaling."""
        return self.lr if self.ballistic else self.lr**2

    def refinement(self, multiplier: int) -> int:
        """Return r: multiplier², or multiplier in the ballistic scaling."""
        return check_integer("multiplier", multiplier) ** (1 if self.ballistic else 2)

    def rescaled(self: A, kappa: float) -> A:
        """Return the method for a batch `kappa` times as large; in the ballistic scaling for `kappa` times the step.

        Raises:
            ValueError: if `kappa` is not positive, or not below 1 / (1 − beta) for every beta.
        """
        root = math.sqrt(check_positive("kappa", kappa))
        if self.ballistic:
            return rescaled_averages(self, kappa, lr=self.lr * kappa)
        return rescaled_averages(self, kappa, lr=self.lr * root, eps=self.eps / root)

    def fixed(self, scale: float) -> tuple[float, float]:
        r"""Return $\sigma_0 = \sigma\eta$ and $\epsilon_0 = \epsilon\eta$; in the ballistic scaling sigma and eps.

        There it is (1, eps) without noise, because then u is v.
        """
        return (scale or 1.0, self.eps) if self.ballistic else (scale * self.lr, self.eps * self.lr)

    def mean_square(self, local: Local, scale: float) -> Tensor:
        r"""Return what u tends to, (paths, dim): diag Sigma; in the ballistic scaling plus $|\nabla f|^2/\sigma^2$."""
        if self.ballistic:
            return to_u(local.gradient.square() + scale**2 * local.diagonal_estimate, scale)
        return local.diagonal_estimate
