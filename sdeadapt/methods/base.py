r"""A method, its batch-size rule and its SDE: one family, indexed by the time step h.

`State` is raw (theta, m, v, as in torch), `Point` is in SDE coordinates (theta, m, u with $u = v/\sigma^2$). They are
different types, so that v where u is meant is a type error. Every method lives in one file: iteration, rescaling, SDE.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from sdeadapt.oracles.base import Local, NotDeclared, Oracle
from sdeadapt.results import describe

__all__ = ["ItoSDE", "Method", "Schedule"]

Schedule = Callable[[float], float]  # SDE time -> factor of lr


@dataclass(frozen=True)
class ItoSDE:
    r"""The Ito equation $dX = b(t, X)\,dt + M(t, X)\,dW$ in the coordinates of a Point, matrix-free.

    Args:
        at: (t, x) -> (drift, diffuse): one look at the oracle serves both. `diffuse(dw)` maps (paths, noise_dim)
            to a Point; a field that is None means zero.
        noise_dim: Brownian columns; the first `oracle.noise_dim` are shared with a chain, further ones its own.
        point: the NamedTuple of the coordinates, `theta` first.
    """

    at: Callable[[float, Any], tuple[Any, Callable[[Tensor], Any]]]
    noise_dim: int
    point: type


class Method(ABC):
    """An optimizer: frozen hyper-parameters, pure functions.

    Attributes:
        State, Point: the NamedTuples of the raw state and of the SDE coordinates.
        scaling: "batch-equivalent" where `rescaled` keeps the SDE together with `oracle.rescaled`; otherwise the
            name of the scaling, refined by `refine="step"` only.
        linear: `step` is linear in state and gradient together, with coefficients that do not depend on theta.
        smooth: `step` is smooth in the gradient; a noise-free law otherwise needs `outcomes`.
        second_order: the `refine` under which an SDE of order 2 is claimed; "" where there is none.
        invertible: a Point holds all that the chain remembers. False where `to_point` drops what has no limit; then
            `from_point` starts it afresh, and a run goes from State to State.
        elementwise: each component of theta is updated from the same component of g, m and v.
        sees_density: its SDE depends on the density of the noise at 0, not on the covariance alone; SVAG keeps that
            density for Gaussian noise only.
        bias_correction: the method starts from m = u = 0 and its SDE is singular at t = 0.
        schedule: multiplies lr, in the iteration and in the SDE; None is 1.
    """

    State: ClassVar[type]
    Point: ClassVar[type]
    scaling: str = "batch-equivalent"
    linear: ClassVar[bool] = False
    smooth: ClassVar[bool] = True
    second_order: str = ""
    invertible: bool = True
    elementwise: ClassVar[bool] = True
    sees_density: ClassVar[bool] = False
    bias_correction: bool = False
    schedule: Schedule | None = None
    lr: float

    @property
    @abstractmethod
    def time_step(self) -> float:
        """The SDE time h that one iteration advances: lr for SGD, lr^2 for the adaptive methods."""

    def time(self, steps: int) -> float:
        """Return the SDE time after `steps` iterations, by multiplication."""
        return steps * self.time_step

    def factor(self, t: float) -> float:
        """Return what the schedule multiplies lr with at SDE time t."""
        return 1.0 if self.schedule is None else self.schedule(t)

    @abstractmethod
    def refinement(self, multiplier: int) -> int:
        """Return r, the steps that replace one base step when the learning rate is divided by `multiplier`."""

    @abstractmethod
    def rescaled(self, kappa: float) -> Method:
        """Return the method for a batch `kappa` times as large: the same SDE, `kappa` times the time step."""

    @abstractmethod
    def init(self, theta: Tensor) -> Any:
        """Return torch's starting state at theta (paths, dim)."""

    @abstractmethod
    def step(self, state: Any, g: Tensor, k: int) -> Any:
        """Return the state after iteration k = 0, 1, … with the noisy gradient g (paths, dim)."""

    @abstractmethod
    def to_point(self, state: Any, scale: float) -> Any:
        """Return the state in SDE coordinates; `scale` is the oracle's sigma."""

    @abstractmethod
    def from_point(self, point: Any, scale: float) -> Any:
        """Return the raw state: the exact inverse of `to_point` where the method is `invertible`."""

    @abstractmethod
    def initial(self, local: Local) -> Any:
        """Return the default start in SDE coordinates, the same at every step size."""

    def outcomes(self, oracle: Oracle, theta: Tensor) -> tuple[Tensor, Tensor]:
        """Return the gradients that a step tells apart and their probabilities at theta (n,), (Q, n) each.

        Asked for in one dimension, of a method that is not `smooth`.

        Raises:
            NotDeclared: if they are not finite in number, or the law of the noise is not known.
        """
        raise NotDeclared(f"a step of {type(self).__name__} is not smooth in the gradient")

    def sde(self, oracle: Oracle, order: int = 1) -> ItoSDE:
        """Return the method's SDE for this oracle.

        Raises:
            NotDeclared: if none of that order is known.
        """
        raise NotDeclared(f"{type(self).__name__} has no SDE of order {order}; pass one as `sde=`.")

    def describe(self) -> dict[str, Any]:
        """Return plain data that names the method and its hyper-parameters."""
        return describe(self)
