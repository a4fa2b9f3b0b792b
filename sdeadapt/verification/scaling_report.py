"""The report of `verify_scaling`: up to which batch size a rule keeps the trajectory, and how far off it is beyond."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from sdeadapt.results import Saved, register
from sdeadapt.statistics.estimate import Estimate
from sdeadapt.text import short, table
from sdeadapt.verification.decision import Verdict

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["ScalingReport", "ScalingRow"]

CLOSENESS = math.sqrt(2)  # C of Li, Malladi and Arora's test of the linear rule


class ScalingRow(NamedTuple):
    """One difference between a batch size and the base.

    low, high: bounds of |difference| / margin; inside is proven where high < 1, outside where low > 1.
    """

    kappa: int
    metric: str
    time: float
    difference: float
    sem: float
    margin: float
    low: float
    high: float


def _shown(mean: float, sem: float) -> str:
    """Return a mean with its standard error; "-" where there is none."""
    return "-" if math.isnan(mean) else repr(Estimate(float(mean), float(sem), 0))


@register("scaling", schema=1)
@dataclass(frozen=True, eq=False)
class ScalingReport(Saved):
    r"""Differences to the base run at every batch size, K, time, T, and metric, M, with the verdicts.

    lr, runs, diverged, first_divergence (iteration, −1 if none): (K + 1,), the base first, as in batch_sizes, which is
    None for an oracle without batches. noise_ratios: (K,), by what the batch divides the noise variance: kappa, but
    for sampling without replacement. mean, sd: (K + 1, T, M), sd between runs. margin: (T, M). difference, sem, low,
    high: (K, T, M), low and high bounds of |difference| / margin. needed: (K,), runs of each batch size that would
    decide, NaN where it is decided or no number helps. wanted: runs planned before the cap; NaN if they were given.
    noise_to_signal, noise_to_signal_sem: (K + 1, T), $\sigma^2\,\mathrm{Tr}\,\Sigma / |\nabla f|^2$. linear: the
    method's own rule is the linear one.
    """

    config: dict[str, Any]
    seconds: float
    lr: np.ndarray
    h: float
    linear: bool
    kappas: np.ndarray
    batch_sizes: np.ndarray | None
    noise_ratios: np.ndarray
    metrics: tuple[str, ...]
    times: np.ndarray
    mean: np.ndarray
    sd: np.ndarray
    runs: np.ndarray
    diverged: np.ndarray
    first_divergence: np.ndarray
    margin: np.ndarray
    difference: np.ndarray
    sem: np.ndarray
    high: np.ndarray
    low: np.ndarray
    verdicts: tuple[Verdict, ...]
    needed: np.ndarray
    wanted: float
    noise_to_signal: np.ndarray
    noise_to_signal_sem: np.ndarray

    @property
    def verdict(self) -> Verdict:
        """REFUTED if some kappa is, CONFIRMED if all are, otherwise INCONCLUSIVE."""
        if Verdict.REFUTED in self.verdicts:
            return Verdict.REFUTED
        return Verdict.CONFIRMED if set(self.verdicts) == {Verdict.CONFIRMED} else Verdict.INCONCLUSIVE

    @property
    def largest_kappa(self) -> int | None:
        """The largest kappa up to which the rule is CONFIRMED, with all smaller ones; None if not even the first is."""
        held = None
        for kappa, verdict in zip(self.kappas, self.verdicts, strict=True):
            if verdict is not Verdict.CONFIRMED:
                break
            held = int(kappa)
        return held

    @property
    def linear_rule_limit(self) -> Estimate:
        r"""The kappa beyond which SGD's linear rule fails, $C^2 (1 + N/G)$ with $C = \sqrt 2$, at the last time.

        A necessary condition near stationarity, with the noise-to-signal ratio N/G of the base batch. Li, Malladi,
        Arora 2021 (arXiv 2102.12470), Section 5.
        """
        c = CLOSENESS**2
        ratio, sem = self.noise_to_signal[0, -1], self.noise_to_signal_sem[0, -1]
        return Estimate(float(c * (1 + ratio)), float(c * sem), int(self.runs[0]))

    @property
    def rule(self) -> str:
        """The rule in a word or two."""
        rule = self.config["rule"]
        if not isinstance(rule, dict) or rule.get("class") != "LearningRate":
            return str(rule["class"] if isinstance(rule, dict) else rule)
        name = {1.0: "linear", 0.5: "square root"}.get(rule["power"], f"lr × kappa^{rule['power']:g}")
        extra = ["beta^kappa"] if rule["beta"] == "power" else []
        extra += [f"{what} fixed" for what in ("betas", "eps") if not rule[what]]
        return ", ".join([name, *extra])

    def worst(self, k: int) -> tuple[int, int]:
        """Return (time, metric) of the difference that decides kappas[k]: the clearest outside, or nearest to it."""
        bounds = self.low[k] if (self.low[k] > 1).any() else self.high[k]
        time, metric = np.unravel_index(int(np.nanargmax(bounds)), bounds.shape)
        return int(time), int(metric)

    @property
    def message(self) -> str:
        """The verdict in a few sentences, with what would decide it if it is inconclusive."""
        sentences = [self._about(k) for k, v in enumerate(self.verdicts) if v is not Verdict.CONFIRMED]
        held = self.largest_kappa
        first = f"Under the rule {self.rule!r} the trajectory "
        first += f"stays the same up to kappa = {held}." if held else "is not confirmed at any kappa."
        notes = [first, *sentences[:2]]
        if self.wanted > self.runs.max(initial=0) + self.diverged.max(initial=0):
            notes.append(
                f"The plan wanted {self.wanted:,.0f} runs for a power of 90 % and was capped at "
                f"{self.config['most_runs']:,}."
            )
        return " ".join(notes)

    def _about(self, k: int) -> str:
        kappa = f"kappa = {self.kappas[k]}"
        if self.verdicts[k] is Verdict.REFUTED and not (self.low[k] > 1).any():
            return f"At {kappa} {self.diverged[k + 1]} of {self._asked} runs diverged, of the base {self.diverged[0]}."
        if self.verdicts[k] is Verdict.INCONCLUSIVE and (self.diverged[k + 1] or self.diverged[0]):
            return (
                f"At {kappa} {self.diverged[k + 1]} of {self._asked} runs diverged (of the base {self.diverged[0]}): "
                "the others confirm nothing."
            )
        t, m = self.worst(k)
        size = abs(self.difference[k, t, m]) / self.sd[0, t, m]
        where = f"{self.metrics[m]} at time {self.times[t]:.4g}"
        if self.verdicts[k] is Verdict.REFUTED:
            return (
                f"At {kappa} {where} differs by {size:.2g} standard deviations, at least {self.low[k, t, m]:.2g} times "
                "the margin."
            )
        count = (
            f"about {self.needed[k]:,.0f} runs would" if self.needed[k] < 1e6 else "no feasible number of runs would"
        )
        return f"At {kappa} {where} is open (up to {self.high[k, t, m]:.2g} times the margin); {count} decide."

    @property
    def _asked(self) -> int:
        return int(self.runs[0] + self.diverged[0])

    @property
    def rows(self) -> Iterator[ScalingRow]:
        """Every difference."""
        for k, kappa in enumerate(self.kappas):
            for t, time in enumerate(self.times):
                for m, metric in enumerate(self.metrics):
                    yield ScalingRow(
                        int(kappa), metric, float(time), float(self.difference[k, t, m]), float(self.sem[k, t, m]),
                        float(self.margin[t, m]), float(self.low[k, t, m]), float(self.high[k, t, m]),
                    )  # fmt: skip

    def to_dataframe(self) -> pd.DataFrame:
        """Return `rows` as a pandas data frame (pandas is not installed with sdeadapt)."""
        import pandas as pd

        return pd.DataFrame(self.rows)

    def summary(self) -> str:
        """Return the report as text: the verdict, a line per kappa, a line per metric at the end."""
        parts = [textwrap.fill(f"{self.verdict}: {self.message}", 118), self._by_kappa(), self._by_metric()]
        if self.linear:
            limit = self.linear_rule_limit
            parts.append(
                f"Li, Malladi and Arora's necessary condition for the linear rule: kappa <= 2 (1 + N/G) = {limit!r} "
                f"at time {self.times[-1]:.4g}."
            )
        margin = "the larger of 10 % of the base mean and .5 SD" if self.config["margin"] is None else "as asked"
        parts.append(
            f"{self._asked} runs of each batch size. Margin: {margin}; SD: between runs of the base chain. "
            f"{self.config['confidence']:.0%} confidence. N/S: noise-to-signal ratio sigma² Tr Sigma / |grad f|²."
        )
        return "\n\n".join(parts)

    def _by_kappa(self) -> str:
        rows = []
        for k in range(-1, len(self.kappas)):
            base = k < 0
            ratio = [_shown(self.noise_to_signal[k + 1, t], self.noise_to_signal_sem[k + 1, t]) for t in (0, -1)]
            cells = [
                "1" if base else str(self.kappas[k]),
                "-" if self.batch_sizes is None else str(self.batch_sizes[k + 1]),
                short(float(self.lr[k + 1])),
                "1" if base else short(float(self.noise_ratios[k]), 4),
                *ratio,
            ]
            if base or np.isnan(self.high[k]).all():
                cells += ["", "", ""]
            else:
                t, m = self.worst(k)
                bounds = f"[{self.low[k, t, m]:.2g}, {self.high[k, t, m]:.2g}]"
                share = abs(self.difference[k, t, m]) / self.margin[t, m]
                cells += [f"{self.metrics[m]}, {self.times[t]:.3g}", f"{share:.2g}", bounds]
            rows.append([*cells, "base" if base else str(self.verdicts[k])])
        header = [
            "kappa",
            "batch",
            "lr",
            "σ² ÷",
            "N/S first",
            "N/S last",
            "worst at",
            "|D|/margin",
            "bounds",
            "verdict",
        ]
        return table(header, rows, indent="")

    def _by_metric(self) -> str:
        def cell(p: int, m: int) -> str:
            return _shown(self.mean[p, -1, m], self.sd[p, -1, m] / math.sqrt(self.runs[p] or 1))

        rows = [
            [name, short(float(self.sd[0, -1, m])), short(float(self.margin[-1, m])),
             *(cell(p, m) for p in range(len(self.kappas) + 1))]
            for m, name in enumerate(self.metrics)
        ]  # fmt: skip
        header = [f"mean at time {self.times[-1]:.4g}", "SD", "margin", "base", *(f"kappa = {k}" for k in self.kappas)]
        return table(header, rows, indent="")
