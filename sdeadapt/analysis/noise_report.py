"""The report of `gradient_noise`: do an SDE's assumptions hold at the points looked at, or which one fails where?"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from scipy.stats import t as student

from sdeadapt.analysis.noise_assumption import DOMINANCE, MOMENTS, SKEWNESS, Assumption
from sdeadapt.analysis.noise_measures import BLOCKS, Shape
from sdeadapt.analysis.noise_summary import message, summarise
from sdeadapt.results import Saved, register
from sdeadapt.statistics.intervals import critical_value, fieller_interval
from sdeadapt.verification.decision import Verdict

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["NoiseReport", "NoiseRow"]


class NoiseRow(NamedTuple):
    """One quantity at one time: its value, simultaneous bounds, and the verdict where an assumption is about it."""

    quantity: str
    step: int
    time: float
    path: int
    direction: str
    value: float
    low: float
    high: float
    verdict: str


@register("noise", schema=1)
@dataclass(frozen=True, eq=False)
class NoiseReport(Saved):
    r"""Gradient noise at T times of P paths, in D directions.

    h: SDE time of a step. scale: sigma. batch_size: None without batches. equilibrium: N/G is asked at the last time
    only. declared: N, G and the L1 norms are the oracle's own, without error. enumerated: so are skewness and kurtosis.
    steps: (T,). loss: (T, P), NaN where it is not declared. sums: (T, P, 2), $N = \sigma^2\,\mathrm{Tr}\,\Sigma$ and
    $G = |\nabla f|^2$, with sums_covariance (T, P, 2, 2). l1, l1_sem: (T, P, 3), $\|\sigma s\|_1$, and $\|\nabla f\|_1$
    from below and from above. directions: D names. shape: skewness and kurtosis, (T, P, D).
    """

    config: dict[str, Any]
    seconds: float
    h: float
    scale: float
    batch_size: int | None
    equilibrium: bool
    declared: bool
    enumerated: bool
    steps: np.ndarray
    loss: np.ndarray
    sums: np.ndarray
    sums_covariance: np.ndarray
    l1: np.ndarray
    l1_sem: np.ndarray
    directions: tuple[str, ...]
    shape: Shape

    @property
    def times(self) -> np.ndarray:
        """(T,), SDE time."""
        return self.steps * self.h

    @property
    def tests(self) -> int:
        """How many intervals hold at once: two ratios at every time, skewness and kurtosis in every direction."""
        return 2 * len(self.steps) + 2 * self.shape.skewness.size

    def _student(self, tests: int) -> float:
        """Return the critical value of what a jackknife over blocks gave the error of."""
        return float(student.ppf(1 - (1 - self.config["confidence"]) / (2 * tests), BLOCKS - 1))

    # --- noise against signal

    @property
    def noise(self) -> np.ndarray:
        """(T,), N: the variance of a gradient, mean over the paths."""
        return self.sums[:, :, 0].mean(1)

    @property
    def signal(self) -> np.ndarray:
        """(T,), G: the squared norm of the full gradient, mean over the paths; an unbiased estimate may be negative."""
        return self.sums[:, :, 1].mean(1)

    @property
    def ratio(self) -> np.ndarray:
        """(T,), N/G."""
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.where(self.signal > 0, self.noise / self.signal, np.inf)

    @cached_property
    def ratio_bounds(self) -> np.ndarray:
        """(T, 2), simultaneous bounds of N/G by Fieller's method; the value itself where N and G are declared."""
        if self.declared:
            return np.stack([self.ratio, self.ratio], 1)
        z, paths = self._student(self.tests), self.sums.shape[1]
        covariance = self.sums_covariance.sum(1) / paths**2
        return np.array(
            [fieller_interval(n, g, v, z) for n, g, v in zip(self.noise, self.signal, covariance, strict=True)]
        )

    @property
    def noise_scale(self) -> np.ndarray:
        r"""(T,), $B_n = \mathrm{Tr}\,\Sigma/|\nabla f|^2$, the batch at which N = G."""
        return self.ratio / self.scale**2

    @property
    def noise_scale_bounds(self) -> np.ndarray:
        """(T, 2)."""
        return self.ratio_bounds / self.scale**2

    @cached_property
    def sign_noise_scale_bounds(self) -> np.ndarray:
        r"""(T, 2), simultaneous bounds of $B_1 = \|s\|_1^2/\|\nabla f\|_1^2$, $s = \sqrt{\mathrm{diag}\,\Sigma}$.

        Each side is from the outer bounds of the three norms. arXiv 2602.03001.
        """
        mean, sem = self.l1.mean(1), np.sqrt((self.l1_sem**2).sum(1)) / self.l1.shape[1]
        z = 0.0 if self.declared else self._student(2 * self.tests)
        with np.errstate(divide="ignore", invalid="ignore"):
            low = np.maximum(mean[:, 0] - z * sem[:, 0], 0) / (mean[:, 2] + z * sem[:, 2])
            below = mean[:, 1] - z * sem[:, 1]
            high = np.where(below > 0, (mean[:, 0] + z * sem[:, 0]) / below, np.inf)
        return np.stack([low, high], 1) ** 2 / self.scale**2

    @property
    def largest_batch_bounds(self) -> np.ndarray:
        r"""(T, 2), bounds of $B\,C^2(1 + N/G)$, beyond which SGD's linear rule fails at equilibrium.

        It is necessary, not sufficient. B is $1/\sigma^2$, the batch itself where batches are independent. Li, Malladi,
        Arora 2021, Section 5.
        """
        return self.config["closeness"] ** 2 * (1 + self.ratio_bounds) / self.scale**2

    # --- assumptions

    @cached_property
    def assumptions(self) -> tuple[Assumption, Assumption, Assumption]:
        """Noise dominates, low skewness, bounded moments."""
        everywhere = np.ones(len(self.steps), dtype=bool)
        last = np.arange(len(self.steps)) == len(self.steps) - 1
        least = 1 / (self.config["closeness"] ** 2 - 1)
        z, n = 0.0 if self.enumerated else critical_value(self.config["confidence"], self.tests), self.config["window"]

        def assumption(name: str, value: np.ndarray, bounds: tuple[np.ndarray, np.ndarray], power: float) -> Assumption:
            tolerance = self.config["tolerance"]
            value, low, high = ((a / n**power).reshape(len(self.steps), -1) for a in (value, *bounds))
            return Assumption(name, value, low, high, (-tolerance, tolerance), everywhere)

        return (
            Assumption(
                DOMINANCE, self.ratio[:, None], self.ratio_bounds[:, :1], self.ratio_bounds[:, 1:], (least, math.inf),
                last if self.equilibrium else everywhere,
            ),
            assumption(SKEWNESS, self.shape.skewness, self.shape.skewness_bounds(z), 0.5),
            assumption(MOMENTS, self.shape.excess, self.shape.excess_bounds(z), 1.0),
        )  # fmt: skip

    @property
    def verdict(self) -> Verdict:
        """CONFIRMED if every assumption holds at every time, REFUTED if one fails at one, otherwise INCONCLUSIVE."""
        found = {v for assumption in self.assumptions for v in assumption.verdicts if v is not None}
        if Verdict.REFUTED in found:
            return Verdict.REFUTED
        return Verdict.INCONCLUSIVE if Verdict.INCONCLUSIVE in found else Verdict.CONFIRMED

    @property
    def holds_from(self) -> int | None:
        """The step from which on every assumption is CONFIRMED; None if one is not at the last."""
        held = None
        for t in reversed(range(len(self.steps))):
            if any(a.verdicts[t] not in (None, Verdict.CONFIRMED) for a in self.assumptions):
                break
            held = int(self.steps[t])
        return held

    @property
    def message(self) -> str:
        """The verdict in plain sentences."""
        return message(self)

    # --- text

    @property
    def rows(self) -> Iterator[NoiseRow]:
        """Everything measured; path −1 is the mean over the paths."""
        dominance, *shapes = self.assumptions
        for t, (step, time) in enumerate(zip(self.steps.tolist(), self.times.tolist(), strict=True)):
            unknown = (math.nan, math.nan)
            for name, value, bounds in (
                ("N", self.noise[t], unknown),
                ("G", self.signal[t], unknown),
                ("N/G", self.ratio[t], self.ratio_bounds[t]),
                ("noise scale", self.noise_scale[t], self.noise_scale_bounds[t]),
                ("sign noise scale", math.nan, self.sign_noise_scale_bounds[t]),
                ("largest batch", math.nan, self.largest_batch_bounds[t]),
            ):
                verdict = dominance.verdicts[t] if name == "N/G" else None
                low, high = map(float, bounds)
                yield NoiseRow(name, step, time, -1, "", float(value), low, high, str(verdict or ""))
            for what, assumption in zip(("skewness left", "excess kurtosis left"), shapes, strict=True):
                for case in range(assumption.value.shape[1]):
                    path, direction = divmod(case, len(self.directions))
                    value, low, high = (float(a[t, case]) for a in (assumption.value, assumption.low, assumption.high))
                    word = str(assumption.verdict(t, case))
                    yield NoiseRow(what, step, time, path, self.directions[direction], value, low, high, word)

    def to_dataframe(self) -> pd.DataFrame:
        """Return `rows` as a pandas data frame (pandas is not installed with sdeadapt)."""
        import pandas as pd

        return pd.DataFrame(self.rows)

    def summary(self) -> str:
        """Return the report as text: the verdict, noise against signal, the shape of the noise, what was assumed."""
        return summarise(self)
