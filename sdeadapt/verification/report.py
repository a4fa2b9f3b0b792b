"""The report of `verify`: what was measured, and what it means."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from sdeadapt.results import Saved, register
from sdeadapt.statistics.estimate import Estimate
from sdeadapt.statistics.intervals import log_log_slope
from sdeadapt.verification.decision import Decision, TargetTest, Verdict
from sdeadapt.verification.local_error_report import LocalErrorReport
from sdeadapt.verification.power import BlindSpot

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["OwnError", "Row", "WeakErrorReport"]


class Row(NamedTuple):
    """One measured weak error."""

    test_function: str
    time: float
    multiplier: int
    h: float
    error: float
    sem: float
    bias_bound: float
    chain: float
    sde: float
    variance_reduction: float
    paths: int


class OwnError(NamedTuple):
    """What the SDE misstates at the coarsest level, the user's own learning rate if its multiplier is 1.

    relative: as a share of E phi; of_change: as a share of its change over the horizon.
    """

    test_function: str
    time: float
    error: Estimate
    relative: float
    of_change: float


@register("weak-error", schema=2)
@dataclass(frozen=True, eq=False)
class WeakErrorReport(Saved):
    """Weak errors with their three numbers (estimate, standard error, solver-bias bound) and the verdict.

    J targets (times, then test functions), L levels (from the user's own lr to the finest). error, sem, bias, bias_sem,
    chain, sde, factor (variance reduction), planned_sem: (J, L); paths: (L, modes); scale, initial_values: (J,).
    A noise-free estimator has no paths: its `bounds` (J, L), by cause, bound the error, and `sem` is half of their sum.
    family: which step sizes were gone through, and what is true there; local: the one-step moments, where a small
    problem was refuted and they say why.
    """

    config: dict[str, Any]
    seconds: float
    estimator: str
    lr: float
    multipliers: np.ndarray
    h: np.ndarray
    names: tuple[str, ...]
    times: np.ndarray
    error: np.ndarray
    sem: np.ndarray
    bias: np.ndarray
    bias_sem: np.ndarray
    chain: np.ndarray
    sde: np.ndarray
    factor: np.ndarray
    planned_sem: np.ndarray
    paths: np.ndarray
    scale: np.ndarray
    initial_values: np.ndarray
    bounds: dict[str, np.ndarray]
    family: str
    local: LocalErrorReport | None
    diagnostics: dict[str, float]
    decision: Decision
    power: tuple[BlindSpot, ...]

    @property
    def verdict(self) -> Verdict:
        """CONFIRMED, REFUTED or INCONCLUSIVE."""
        return self.decision.verdict

    @property
    def message(self) -> str:
        """The verdict in a sentence, with what would decide it if it is inconclusive."""
        return self.decision.message

    @property
    def tests(self) -> tuple[TargetTest, ...]:
        """One per test function and time."""
        return self.decision.tests

    @property
    def order(self) -> float:
        """The local order at the finest pair of levels, of the best resolved target."""
        return self.decision.order

    @property
    def order_interval(self) -> tuple[float, float]:
        """Its Fieller interval."""
        return self.decision.order_interval

    @property
    def plateau_bound(self) -> float:
        """Errors of the SDE above this are excluded, in units of the target that `order` belongs to."""
        return self.decision.plateau_bound

    @property
    def noise_free(self) -> bool:
        """Whether no random number was drawn."""
        return bool(self.bounds)

    @property
    def slope(self) -> tuple[np.ndarray, np.ndarray]:
        """The customary log-log slopes with their standard errors, (J,) each: for the eye, they decide nothing."""
        return log_log_slope(self.h, self.error, self.sem)

    @property
    def error_at_own_lr(self) -> tuple[OwnError, ...]:
        """The error of the SDE at the coarsest level, per target."""
        n = int(self.paths[0].min())
        errors, sems = self._own_errors()
        own = []
        for j, (name, time) in enumerate(zip(self.names, self.times, strict=True)):
            error, value = float(errors[j]), float(self.chain[j, 0])
            change = value - float(self.initial_values[j])
            with np.errstate(divide="ignore", invalid="ignore"):
                shares = np.abs(np.float64(error) / np.array([value, change]))
            own.append(OwnError(name, float(time), Estimate(error, float(sems[j]), n), *map(float, shares)))
        return tuple(own)

    def _own_errors(self) -> tuple[np.ndarray, np.ndarray]:
        """Return the errors at the coarsest level and their standard errors, (J,) each."""
        return self.error[:, 0], self.sem[:, 0]

    @property
    def total_paths(self) -> int:
        """Paths of all levels together."""
        return int(self.paths.sum())

    @property
    def rows(self) -> Iterator[Row]:
        """Every measured error."""
        for j, (name, time) in enumerate(zip(self.names, self.times, strict=True)):
            for i, multiplier in enumerate(self.multipliers):
                yield Row(
                    name, float(time), int(multiplier), float(self.h[i]), float(self.error[j, i]),
                    float(self.sem[j, i]), float(self.bias[j, i] + 2 * self.bias_sem[j, i]), float(self.chain[j, i]),
                    float(self.sde[j, i]), float(self.factor[j, i]), int(self.paths[i].min()),
                )  # fmt: skip

    def to_dataframe(self) -> pd.DataFrame:
        """Return `rows` as a pandas data frame (pandas is not installed with sdeadapt)."""
        import pandas as pd

        return pd.DataFrame(self.rows)

    def summary(self) -> str:
        """Return the report as text: the error at the user's own lr first, then the verdict and what is behind it."""
        from sdeadapt.verification.summary import summarise

        return summarise(self)
