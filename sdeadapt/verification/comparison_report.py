"""The report of `compare`: what chain, SVAG and SDE look like on one clock, and how close they are."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from sdeadapt.results import Saved, register
from sdeadapt.statistics.estimate import Estimate
from sdeadapt.text import table
from sdeadapt.verification.closeness import Closeness
from sdeadapt.verification.decision import Verdict

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["ComparisonReport", "Distance"]

SYMBOLS = {"theta_norm_squared": "E|θ|²", "gradient_norm_squared": "E|∇f|²", "noise_trace": "E Tr Σ"}


class Distance(NamedTuple):
    """The energy distance between the laws of two processes at one time, on whitened vectors of test functions.

    estimate is unbiased and may be negative; sem is the jackknife's; p_value, of equal laws, by permutation. Where
    `reference` is the SDE, a small p-value says that `paths` paths tell the two apart, not that the SDE is a bad model.
    """

    process: str
    reference: str
    time: float
    estimate: float
    sem: float
    p_value: float
    paths: int


@register("comparison", schema=1)
@dataclass(frozen=True, eq=False)
class ComparisonReport(Saved):
    """Means, quantiles and first paths of every process, P, at every time, T, for every test function, F.

    processes: "chain" is the user's own, then SVAG(multiplier), then the SDE if there is one. reference: the process
    that the others are compared with, or "" if there is one process only. names: the test functions, `metrics` among
    them. times: (T,), SDE time. mean, sem: (P, T, F); quantile_levels: (Q,); quantiles, quantile_sem: (P, Q, T, F);
    paths: (P, K, T, F), the first K. bias, bias_sem: (T, F), the SDE solver's fine − coarse solution. n, diverged,
    first_divergence (iteration, −1 if none): (P,). closeness: of the chain to the reference, in `metrics`.
    """

    config: dict[str, Any]
    seconds: float
    lr: float
    multipliers: np.ndarray
    h: float
    processes: tuple[str, ...]
    reference: str
    names: tuple[str, ...]
    metrics: tuple[str, ...]
    times: np.ndarray
    mean: np.ndarray
    sem: np.ndarray
    quantile_levels: np.ndarray
    quantiles: np.ndarray
    quantile_sem: np.ndarray
    paths: np.ndarray
    bias: np.ndarray
    bias_sem: np.ndarray
    n: np.ndarray
    diverged: np.ndarray
    first_divergence: np.ndarray
    distances: tuple[Distance, ...]
    closeness: Closeness | None
    notes: tuple[str, ...]

    @property
    def verdict(self) -> Verdict:
        """CONFIRMED, REFUTED or INCONCLUSIVE: is the chain C-close to the reference?"""
        if self.closeness is None:
            return Verdict.INCONCLUSIVE
        verdict = self.closeness.verdict
        if verdict is Verdict.CONFIRMED and self.diverged.any():
            return Verdict.INCONCLUSIVE
        return verdict

    @property
    def message(self) -> str:
        """The verdict in a sentence, with what was left out and why."""
        return " ".join([self._reason(), *self.notes])

    def _reason(self) -> str:
        found = self.closeness
        if found is None:
            return "The chain ran alone: there is nothing to compare it with."
        if self.diverged.any() and self.verdict is not Verdict.REFUTED:
            lost = [f"{n} of {n + m} ({p})" for p, n, m in zip(self.processes, self.diverged, self.n, strict=True) if n]
            first = int(self.first_divergence[self.diverged > 0].min())
            return (
                f"Paths diverged, {', '.join(lost)}, the first at iteration {first}: the finite ones confirm nothing. "
                "Use a smaller lr or a larger eps."
            )
        low, high = found.bounds
        other = "the SDE" if self.reference == "SDE" else self.reference
        asked = f"asked for: {found.threshold:.4g}"
        sure = f"{self.config['confidence']:.0%} confidence, all metrics and times at once"
        listed = ", ".join(SYMBOLS[name] for name in self.metrics)
        if self.verdict is Verdict.CONFIRMED:
            return (
                f"The chain is C-close to {other}: {listed} agree within a factor of {found.factor:.4g}, at "
                f"most {high:.4g} ({sure}); {asked}."
            )
        time, metric = found.worst
        where = f"{SYMBOLS[self.metrics[metric]]} at time {self.times[time]:.4g}"
        if self.verdict is Verdict.REFUTED:
            return (
                f"The chain is not C-close to {other}: the factor is {found.factor:.4g}, in {where}, and at "
                f"least {low:.4g} ({sure}); {asked}."
            )
        return (
            f"The factor between chain and {other} is {found.factor:.4g}, in {where}, somewhere in "
            f"[{low:.4g}, {high:.4g}] ({sure}); {asked}. Use more paths, or more substeps where "
            "the solver's bias is what is not known."
        )

    def difference(self, process: str) -> tuple[np.ndarray, np.ndarray]:
        """Return the mean of `process` less that of the reference, with its standard error, (T, F) each.

        Raises:
            ValueError: if there is no such process, or no reference.
        """
        if process not in self.processes or not self.reference:
            raise ValueError(
                f"`process` must be one of {', '.join(self.processes)}, with a reference; got {process!r}."
            )
        p, r = self.processes.index(process), self.processes.index(self.reference)
        return self.mean[p] - self.mean[r], np.hypot(self.sem[p], self.sem[r])

    @property
    def rows(self) -> Iterator[dict[str, Any]]:
        """One per process, test function and time."""
        for p, process in enumerate(self.processes):
            for f, name in enumerate(self.names):
                for t, time in enumerate(self.times):
                    yield {
                        "process": process,
                        "test_function": name,
                        "time": float(time),
                        "mean": float(self.mean[p, t, f]),
                        "sem": float(self.sem[p, t, f]),
                        "paths": int(self.n[p]),
                    } | {
                        f"q{level:g}": float(value)
                        for level, value in zip(self.quantile_levels, self.quantiles[p, :, t, f], strict=True)
                    }

    def to_dataframe(self) -> pd.DataFrame:
        """Return `rows` as a pandas data frame (pandas is not installed with sdeadapt)."""
        import pandas as pd

        return pd.DataFrame(self.rows)

    def summary(self) -> str:
        """Return the report as text: the verdict, the means at the end, closeness by metric, distances of laws."""
        parts = [textwrap.fill(f"{self.verdict}: {self.message}", 118)]
        means = [
            [name, *(repr(Estimate(float(m[-1, f]), float(s[-1, f]), int(n))) for m, s, n in self._moments())]
            for f, name in enumerate(self.names)
        ]
        parts.append(table([f"mean at time {self.times[-1]:.6g}", *self.processes], means, indent=""))
        found = self.closeness
        if found is not None:
            rows = []
            for m, name in enumerate(self.metrics):
                t = int(found.factors[:, m].argmax())
                bounds = f"[{found.low[t, m]:.4g}, {found.high[t, m]:.4g}]"
                rows.append(
                    [name, f"{found.factors[t, m]:.4g}", f"{self.times[t]:.4g}", f"{found.ratio[t, m]:.4g}", bounds]
                )
            header = ["closeness", "largest factor", "at time", f"chain / {self.reference}", "simultaneous bounds"]
            parts.append(table(header, rows, indent=""))
        if self.distances:
            rows = [
                [
                    f"{d.process} – {d.reference}",
                    f"{d.time:.4g}",
                    repr(Estimate(d.estimate, d.sem, d.paths)),
                    f"{d.p_value:.3g}",
                ]
                for d in self.distances
            ]
            parts.append(table(["energy distance of laws", "time", "estimate", "p of equal laws"], rows, indent=""))
        return "\n\n".join(parts)

    def _moments(self) -> Iterator[tuple[np.ndarray, np.ndarray, int]]:
        return zip(self.mean, self.sem, self.n, strict=True)
