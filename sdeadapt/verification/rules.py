r"""Batch-size rules: what becomes of a method's hyper-parameters when the batch grows by kappa.

A rule is any function (method, kappa) -> method; `own` and `none` are two, `learning_rate` makes others.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from sdeadapt.checks import check_choice, check_positive
from sdeadapt.methods.averages import averages, with_averages
from sdeadapt.methods.base import Method, Schedule

__all__ = ["LearningRate", "Rule", "learning_rate", "none", "own"]

Rule = Callable[[Method, float], Method]


def own(method: Method, kappa: float) -> Method:
    r"""Return the method under its own rule, `method.rescaled(kappa)`, which keeps its SDE.

    Example:
        >>> from sdeadapt.methods import RMSprop
        >>> own(RMSprop(lr=0.1), 4.0).lr
        0.2
    """
    return method.rescaled(kappa)


@dataclass(frozen=True)
class Stretched:
    """A schedule on another clock: t -> schedule(factor * t)."""

    schedule: Schedule
    factor: float

    def __call__(self, t: float) -> float:
        """Return the factor of lr at time t."""
        return self.schedule(self.factor * t)


@dataclass(frozen=True)
class LearningRate:
    """A rule for the learning rate; made by `learning_rate`, where the fields are described."""

    power: float
    betas: bool = True
    eps: bool = True
    beta: str = "linear"

    def __post_init__(self) -> None:
        if not math.isfinite(self.power):
            raise ValueError(f"`power` must be finite; got {self.power!r}.")
        check_choice("beta", self.beta, ("linear", "power"))

    def __call__(self, method: Method, kappa: float) -> Method:
        """Return the method at `kappa` times the batch.

        Raises:
            ValueError: if `kappa` is not positive, a beta would not stay positive, or the method has no field `lr`.
        """
        check_positive("kappa", kappa)
        known: set[str] = set()
        if dataclasses.is_dataclass(method):
            known = {f.name for f in dataclasses.fields(method) if f.init}
        if "lr" not in known:
            raise ValueError(
                f"`learning_rate` must have a method with a field `lr`; got {type(method).__name__}. Pass your rule as "
                "a function (method, kappa) -> method."
            )
        changes: dict[str, Any] = {"lr": method.lr * kappa**self.power}
        if self.eps and "eps" in known:
            changes["eps"] = method.eps / math.sqrt(kappa)  # type: ignore[attr-defined]
        weights = averages(method)
        if self.betas:
            linear = self.beta == "linear"
            weights = {
                name: kappa * w if linear else -math.expm1(kappa * math.log1p(-w)) for name, w in weights.items()
            }
        new = with_averages(method, weights, kappa, **changes)
        if method.schedule is None:
            return new
        # a schedule is in examples seen, and an iteration sees kappa times as many
        clock = kappa * method.time_step / new.time_step
        return dataclasses.replace(new, schedule=Stretched(method.schedule, clock))  # type: ignore[type-var]


def learning_rate(power: float, betas: bool = True, eps: bool = True, beta: str = "linear") -> LearningRate:
    r"""Return the rule $\eta \to \kappa^p\,\eta$: p = 1 the linear rule, p = 1/2 the square-root rule.

    Other fields of the method stay as they are; a schedule stays where it is in examples seen.

    Args:
        power: p.
        betas: whether $\beta$ follows; False leaves it as it is.
        eps: whether $\epsilon \to \epsilon/\sqrt\kappa$, as the adaptive methods' own rule has it.
        beta: how $\beta$ follows: "linear", $1-\beta \to \kappa(1-\beta)$, for which $\kappa(1-\beta) < 1$; or "power",
            $\beta \to \beta^\kappa$, which agrees with it to first order and always stays positive.

    Returns:
        The rule, a function (method, kappa) -> method.

    Raises:
        ValueError: if `power` is not finite or `beta` is unknown; when called, if the method has no field `lr`.

    Example:
        >>> from sdeadapt.methods import Adam
        >>> linear = learning_rate(1.0)(Adam(lr=0.1), 8.0)
        >>> linear.lr, round(linear.beta1, 6)
        (0.8, 0.2)
        >>> round(learning_rate(0.5, beta="power")(Adam(lr=0.1), 8.0).beta1, 6)
        0.430467

    Goyal et al. 2017 (arXiv 1706.02677), linear; Malladi et al. 2022 (arXiv 2205.10287), Definition 5.3, square root.
    """
    return LearningRate(power, betas, eps, beta)


def none(method: Method, kappa: float) -> Method:
    """Return the method as it is; only a schedule keeps its place in examples seen.

    Example:
        >>> from sdeadapt.methods import SGD
        >>> none(SGD(lr=0.1), 4.0).lr
        0.1
    """
    return LearningRate(0.0, betas=False, eps=False)(method, kappa)
