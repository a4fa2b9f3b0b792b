r"""Averages of the weights over time, exponential or uniform, beside any method."""

from __future__ import annotations

from collections import namedtuple
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from sdeadapt.checks import check_choice
from sdeadapt.methods.averages import rescaled_averages, set_averages
from sdeadapt.methods.base import ItoSDE, Method, Schedule
from sdeadapt.oracles.base import Local, NotDeclared, Oracle

__all__ = ["Averaged"]


@lru_cache(maxsize=64)
def _with_average(kind: type) -> type:
    """Return the NamedTuple with the fields of `kind` and `average`."""
    return namedtuple(f"Averaged{kind.__name__}", (*kind._fields, "average"))  # type: ignore[attr-defined]


@dataclass(frozen=True)
class Averaged(Method):
    r"""A method that also averages its weights, which its gradients do not see; it has the time step of `method`.

    "exponential": $\zeta_{k+1} = \rho\,\zeta_k + (1-\rho)\,\theta_{k+1}$ from $\zeta_0 = \theta_0$; in the SDE
    $d\zeta = \frac{1-\rho}{h}(\theta - \zeta)\,dt$. "uniform": $\zeta_k$ is the mean of $\theta_1, \dots, \theta_k$; in
    the SDE $d\zeta = \frac1t(\theta - \zeta)\,dt$. States and Points have one more field, `average`.

    Batch-size rule: that of `method`, and $1-\rho \to \kappa(1-\rho)$. The uniform average needs none.

    Args:
        method: whose weights are averaged.
        kind: "exponential" or "uniform".
        rho: of the exponential average, in (0, 1).

    Attributes:
        one_minus_rho: 1 − rho, which the method computes with and `rescaled` carries exactly.

    Raises:
        ValueError: if an argument is out of range.

    Example:
        >>> from sdeadapt.methods import SGD
        >>> method = Averaged(SGD(lr=0.1), rho=0.75)
        >>> state = method.step(method.init(torch.ones(1, 1)), torch.full((1, 1), 2.0), k=0)
        >>> round(float(state.theta), 4), round(float(state.average), 4), method.rescaled(2.0).rho
        (0.8, 0.95, 0.5)

    Busbridge et al. 2023 (arXiv 2307.13813), whose rule $\rho \to \rho^\kappa$ agrees to order $(1-\rho)^2$; Polyak,
    Juditsky 1992 (SIAM J. Control Optim. 30) for the uniform average.
    """

    method: Method
    kind: str = "exponential"
    rho: float = 0.99
    one_minus_rho: float = field(init=False)

    def __post_init__(self) -> None:
        check_choice("kind", self.kind, ("exponential", "uniform"))
        set_averages(self)

    @property
    def State(self) -> type:  # type: ignore[override]
        """The NamedTuple of the method's state and the average."""
        return _with_average(self.method.State)

    @property
    def Point(self) -> type:  # type: ignore[override]
        """The NamedTuple of the method's SDE coordinates and the average."""
        return _with_average(self.method.Point)

    @property
    def lr(self) -> float:  # type: ignore[override]
        """The method's."""
        return self.method.lr

    @property
    def scaling(self) -> str:  # type: ignore[override]
        """The method's."""
        return self.method.scaling

    @property
    def linear(self) -> bool:  # type: ignore[override]
        """The method's: averages are linear."""
        return self.method.linear

    @property
    def smooth(self) -> bool:  # type: ignore[override]
        """The method's."""
        return self.method.smooth

    @property
    def invertible(self) -> bool:  # type: ignore[override]
        """The method's."""
        return self.method.invertible

    @property
    def elementwise(self) -> bool:  # type: ignore[override]
        """The method's."""
        return self.method.elementwise

    @property
    def sees_density(self) -> bool:  # type: ignore[override]
        """The method's."""
        return self.method.sees_density

    @property
    def bias_correction(self) -> bool:  # type: ignore[override]
        """The method's."""
        return self.method.bias_correction

    @property
    def schedule(self) -> Schedule | None:  # type: ignore[override]
        """The method's."""
        return self.method.schedule

    @property
    def time_step(self) -> float:
        """The method's."""
        return self.method.time_step

    def refinement(self, multiplier: int) -> int:
        """Return the method's r."""
        return self.method.refinement(multiplier)

    def rescaled(self, kappa: float) -> Averaged:
        """Return it for a batch `kappa` times as large.

        Raises:
            ValueError: if `kappa` is not positive, or too large for an average.
        """
        method = self.method.rescaled(kappa)
        if self.kind == "uniform":
            return replace(self, method=method)
        return rescaled_averages(self, kappa, method=method)

    def init(self, theta: Tensor) -> Any:
        """Return the method's start at theta, (paths, dim), with the average there."""
        return self.State(*self.method.init(theta), theta)

    def step(self, state: Any, g: Tensor, k: int) -> Any:
        """Return the state after iteration k with the noisy gradient g, (paths, dim)."""
        after = self.method.step(self.method.State(*state[:-1]), g, k)
        weight = 1 / (k + 1) if self.kind == "uniform" else self.one_minus_rho
        return self.State(*after, torch.lerp(state.average, after.theta, weight))

    def to_point(self, state: Any, scale: float) -> Any:
        """Return the method's Point and the average."""
        return self.Point(*self.method.to_point(self.method.State(*state[:-1]), scale), state.average)

    def from_point(self, point: Any, scale: float) -> Any:
        """Return the method's State and the average."""
        return self.State(*self.method.from_point(self.method.Point(*point[:-1]), scale), point.average)

    def initial(self, local: Local) -> Any:
        """Return the method's start with the average there."""
        return self.Point(*self.method.initial(local), local.theta)

    def sde(self, oracle: Oracle, order: int = 1) -> ItoSDE:
        r"""Return the method's SDE of weak order 1 with the equation of the average, of its order too.

        The uniform average starts at theta; at t = 0 its drift is 0.

        Raises:
            NotDeclared: if `order` is not 1, or the method has no SDE.
        """
        if order != 1:
            raise NotDeclared(f"Averaged has no SDE of order {order}; pass one as `sde=`.")
        plain = self.method.sde(oracle)

        def at(t: float, x: Any) -> tuple[Any, Callable[[Tensor], Any]]:
            drift, diffuse = plain.at(t, plain.point(*x[:-1]))
            rate = self.one_minus_rho / self.time_step if self.kind == "exponential" else 1 / t if t > 0 else 0.0
            moved = (x.theta - x.average) * rate
            return self.Point(*drift, moved), lambda dw: self.Point(*diffuse(dw), None)

        return ItoSDE(at, plain.noise_dim, self.Point)
