"""The report of `gradient_noise`: do an SDE's assumptions hold at the points looked at, or which one fails where?"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from scipy.stats import t as student

from sdeadapt.analysis.noise_measures import BLOCKS, Shape
from sdeadapt.results import Saved, register
from sdeadapt.statistics.intervals import critical_value, fieller_interval
from sdeadapt.text import short, table
from sdeadapt.verification.decision import Verdict

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["Assumption", "NoiseReport", "NoiseRow"]

DOMINANCE, SKEWNESS, MOMENTS = "noise dominates", "low skewness", "bounded moments"


class Assumption(NamedTuple):
    """An assumption at every time: the quantity, (times, cases), its bounds, and the region (a, b) that it must lie in.

    The cases are the paths' mean for N/G, and every direction of every path for the others. judged: (times,).
    """

    name: str
    value: np.ndarray
    low: np.ndarray
    high: np.ndarray
    region: tuple[float, float]
    judged: np.ndarray

    @property
    def inside(self) -> np.ndarray:
        """(times, cases): provably in the region, or without noise to speak of."""
        a, b = self.region
        return ((a <= self.low) & (self.high <= b)) | np.isnan(self.value)

    @property
    def outside(self) -> np.ndarray:
        """(times, cases): provably not in it."""
        a, b = self.region
        return (self.high < a) | (self.low > b)

    @property
    def verdicts(self) -> tuple[Verdict | None, ...]:
        """The verdict at every time; None where it is not asked for."""
        return tuple(
            None if not judged else Verdict.REFUTED if out.any() else Verdict.CONFIRMED if in_.all()
            else Verdict.INCONCLUSIVE for judged, in_, out in zip(self.judged, self.inside, self.outside, strict=True)
        )  # fmt: skip

    def verdict(self, time: int, case: int) -> Verdict:
        """Return the verdict on one case at one time."""
        if self.outside[time, case]:
            return Verdict.REFUTED
        return Verdict.CONFIRMED if self.inside[time, case] else Verdict.INCONCLUSIVE

    def worst(self, time: int) -> int:
        """Return the case that decides at a time: the farthest outside, or whose bound reaches farthest."""
        a, b = self.region
        reach = (self.low, self.high) if self.outside[time].any() else (self.high, self.low)
        beyond = np.fmax(reach[0][time] - b, a - reach[1][time])
        return 0 if np.isnan(beyond).all() else int(np.nanargmax(beyond))


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
        if self.verdict is Verdict.CONFIRMED:
            parts = ["The SDE's assumptions hold here because", self._held()]
        else:
            which = Verdict.REFUTED if self.verdict is Verdict.REFUTED else Verdict.INCONCLUSIVE
            reasons = [self._about(a, which) for a in self.assumptions if which in a.verdicts]
            fails = (
                "The SDE's assumptions fail here because"
                if which is Verdict.REFUTED
                else "Whether the SDE's assumptions hold here is open:"
            )
            parts = [fails, "; ".join(reasons) + "."]
            if self.holds_from:
                parts.append(f"From step {self.holds_from} on they hold.")
            if which is Verdict.INCONCLUSIVE:
                parts.append("Use more draws.")
        if self.equilibrium and len(self.steps) > 1:
            parts.append(
                "Without an average of squares the signal does no harm on the way: N/G is asked at the last time alone."
            )
        return " ".join(parts)

    def _held(self) -> str:
        dominance, *shapes = self.assumptions
        ratio = np.where(dominance.judged, dominance.low[:, 0], np.inf).min()
        most = [max(float(np.nanmax(np.fmax(a.high, -a.low), initial=0)), 0) for a in shapes]
        return (
            f"noise dominates the signal (N/G is at least {short(float(ratio))}, and "
            f"C = {short(self.config['closeness'])} needs {short(dominance.region[0])}), and of skewness and excess "
            f"kurtosis at most {short(most[0], 2)} and {short(most[1], 2)} are left in {short(self.config['window'])} "
            f"draws ({short(self.config['tolerance'])} is allowed)."
        )

    def _about(self, assumption: Assumption, which: Verdict) -> str:
        at = [t for t, v in enumerate(assumption.verdicts) if v is which]
        t = max(at, key=lambda t: _severity(assumption, t, assumption.worst(t)))
        case = assumption.worst(t)
        value, low, high = (float(a[t, case]) for a in (assumption.value, assumption.low, assumption.high))
        often = f" (and at {len(at) - 1} more of {len(self.steps)} times)" if len(at) > 1 else ""
        sure = "" if low == high else f" [{short(low)}, {short(high)}]"
        where = f"at step {self.steps[t]}{often}"
        if assumption.name == DOMINANCE:
            what = "the signal dominates" if which is Verdict.REFUTED else "it is not resolved whether noise dominates"
            needs = f"C = {short(self.config['closeness'])} needs {short(assumption.region[0])}"
            return f"{what}: N/G = {short(value)}{sure} {where}, and {needs}"
        what = "skewness" if assumption.name == SKEWNESS else "excess kurtosis"
        direction = self.directions[case % len(self.directions)]
        cases = assumption.outside[t] if which is Verdict.REFUTED else ~assumption.inside[t]
        return (
            f"{what} {short(value)}{sure} is left in {short(self.config['window'])} draws, in direction {direction} "
            f"({cases.sum()} of {cases.size}) {where}, and {short(self.config['tolerance'])} is allowed"
        )

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
        parts = [textwrap.fill(f"{self.verdict}: {self.message}", 118), self._noise_table(), self._shape_table()]
        source = "as the oracle declares them" if self.declared else "from independent gradients"
        shape = "from every example" if self.enumerated else "from independent gradients"
        drawn = "" if self.declared and self.enumerated else f", {self.config['draws']:,} at a point"
        parts.append(
            textwrap.fill(
                f"{self.sums.shape[1]} path(s). N = sigma² Tr Sigma and G = |grad f|² {source}, skewness and kurtosis "
                f"{shape}{drawn}; {self.config['confidence']:.0%} bounds for everything at once. Noise scale: the "
                "batch at which N = G; the sign's: |s|_1² / |grad f|_1². Batch at most: C² (1 + N/G) / sigma², Li, "
                "Malladi and Arora's necessary condition for SGD's linear rule at equilibrium. What a failure costs, "
                "`sdeadapt compare` measures.",
                118,
            )
        )
        return "\n\n".join(parts)

    def _noise_table(self) -> str:
        rows = [
            [str(self.steps[t]), short(float(self.times[t])), short(float(self.loss[t].mean())),
             short(float(self.noise[t])), short(float(self.signal[t])),
             _interval(self.ratio_bounds[t], float(self.ratio[t])),
             _interval(self.noise_scale_bounds[t], float(self.noise_scale[t])),
             _interval(self.sign_noise_scale_bounds[t]), _interval(self.largest_batch_bounds[t]),
             _word(self.assumptions[0].verdicts[t])]
            for t in range(len(self.steps))
        ]  # fmt: skip
        header = ["step", "time", "loss", "N", "G", "N/G", "noise scale", "sign's", "batch at most", DOMINANCE]
        return table(header, rows, indent="")

    def _shape_table(self) -> str:
        rows = []
        for t in range(len(self.steps)):
            cells = [str(self.steps[t])]
            for assumption in self.assumptions[1:]:
                case = assumption.worst(t)
                low, high = (float(a[t, case]) for a in (assumption.low, assumption.high))
                cells += [
                    self.directions[case % len(self.directions)],
                    _interval((low, high), float(assumption.value[t, case])),
                    f"{assumption.inside[t].sum()}/{assumption.value.shape[1]}",
                    _word(assumption.verdicts[t]),
                ]
            rows.append(cells)
        n = short(self.config["window"])
        header = ["step", "worst in", f"skewness / sqrt({n})", "inside", SKEWNESS,
                  "worst in", f"excess / {n}", "inside", MOMENTS]  # fmt: skip
        return table(header, rows, indent="")


def _severity(assumption: Assumption, time: int, case: int) -> float:
    """Return how far a case lies outside the region, in units of its edge."""
    a, b = assumption.region
    value = float(assumption.value[time, case])
    return a / max(value, 1e-300) if math.isinf(b) else abs(value) / b


def _interval(bounds: Any, value: float = math.nan) -> str:
    """Return a value with its bounds; the value alone where they agree."""
    low, high = (float(b) for b in bounds)
    if low == high or math.isnan(low):
        return short(high if math.isnan(value) else value)
    span = f"[{short(low)}, {short(high)}]"
    return span if math.isnan(value) else f"{short(value)} {span}"


def _word(verdict: Verdict | None) -> str:
    return "-" if verdict is None else str(verdict)
