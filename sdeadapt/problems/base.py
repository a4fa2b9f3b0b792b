"""What a named problem is made of."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from sdeadapt.oracles.base import Oracle
from sdeadapt.simulation.observables import TestFunction

__all__ = ["Problem", "Suggestion", "adaptive"]


@dataclass(frozen=True)
class Suggestion:
    """What fits a problem for one method.

    Args:
        options: hyper-parameters.
        horizon: SDE time, where the problem's own does not fit.
        multipliers: where the default ones are not meant.
        initial: m or u of the start, where the method's own start is not meant.
    """

    options: Mapping[str, float]
    horizon: float | None = None
    multipliers: tuple[int, ...] | None = None
    initial: Mapping[str, tuple[float, ...]] | None = None


@dataclass(frozen=True, eq=False)
class Problem:
    """What a method is to be verified on.

    Args:
        name: for reports.
        oracle: the noisy gradient.
        theta0: (dim,), or (rows, dim) for a start drawn among the rows.
        horizon: SDE time.
        test_functions: names or a mapping; None for the default set.
        about: one sentence.
        suggested: method (in the registry's spelling) -> what fits; the first one is the default.
        shown: further test functions, which `compare` shows and does not judge.
        paths: of each process, for `sdeadapt compare`.
    """

    name: str
    oracle: Oracle
    theta0: Any
    horizon: float
    test_functions: Any = None
    about: str = ""
    suggested: Mapping[str, Suggestion] = field(default_factory=dict)
    shown: Mapping[str, TestFunction] = field(default_factory=dict)
    paths: int = 1024


def adaptive(
    eps0: float,
    *,
    multipliers: tuple[int, ...] | None = None,
    initial: Mapping[str, tuple[float, ...]] | None = None,
) -> dict[str, Suggestion]:
    """Return RMSprop and Adam at lr = 1/4, with c = (1 − beta)/lr² of 1, of 2 for beta1, and with eps0 = eps lr.

    Adam is compared from t = 1/2 on, and needs a longer run.
    """
    lr, eps = 0.25, 4 * eps0
    rmsprop = {"lr": lr, "beta": 0.9375, "eps": eps}
    adam = {"lr": lr, "beta1": 0.875, "beta2": 0.9375, "eps": eps}
    return {
        "rmsprop": Suggestion(rmsprop, multipliers=multipliers, initial=initial),
        "adam": Suggestion(adam, horizon=1.5, multipliers=multipliers),
    }
