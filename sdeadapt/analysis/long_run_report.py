"""The report of `long_run`: time averages of chain and SDE beside a stationary law."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from sdeadapt.results import Saved, register
from sdeadapt.statistics.estimate import Estimate
from sdeadapt.statistics.intervals import critical_value
from sdeadapt.text import duration, short, table
from sdeadapt.verification.decision import Verdict

__all__ = ["CHAIN", "FINE", "SDE", "LongRun"]

CHAIN, FINE, SDE = range(3)  # rows of a report


@register("long-run", schema=1)
@dataclass(frozen=True, eq=False)
class LongRun(Saved):
    r"""Time averages of chain and SDE beside a closed form; J test functions.

    expected, scale (J,): the closed form, and the size that its errors are measured by. mean, sem, batch_correlation,
    drift (3, J): of the chain at h, of the chain at h / refinement, and of the extrapolated SDE. `batch_correlation`
    is that of successive batches of a path; `drift` the first half of the run less the second, in standard errors.
    solver_bias (J,): fine − coarse of the SDE's solver, what the extrapolation took away. diverged: paths lost.
    """

    config: dict[str, Any]
    seconds: float
    names: tuple[str, ...]
    expected: np.ndarray
    scale: np.ndarray
    mean: np.ndarray
    sem: np.ndarray
    batch_correlation: np.ndarray
    drift: np.ndarray
    solver_bias: np.ndarray
    paths: int
    diverged: int

    @property
    def processes(self) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        r"""Means and standard errors (J,) of what has no error of order h left.

        "chain" is $(q\,\bar\varphi(h/q) - \bar\varphi(h))/(q-1)$ with q the refinement, "sde" the extrapolated SDE.
        Errors of order h² are left in both.
        """
        q = self.config["refinement"]
        mean = (q * self.mean[FINE] - self.mean[CHAIN]) / (q - 1)
        sem = np.hypot(q * self.sem[FINE], self.sem[CHAIN]) / (q - 1)
        return {"chain": (mean, sem), "sde": (self.mean[SDE], self.sem[SDE])}

    def estimate(self, name: str, process: str = "chain") -> Estimate:
        """Return the time average of a test function, by "chain" or "sde", without its error of order h."""
        mean, sem = self.processes[process]
        j = self.names.index(name)
        return Estimate(float(mean[j]), float(sem[j]), self.paths)

    def z(self, process: str = "chain") -> np.ndarray:
        """Return (J,), the distance from the closed form in standard errors."""
        mean, sem = self.processes[process]
        return (mean - self.expected) / sem

    @property
    def discretisation(self) -> np.ndarray:
        """(J,), what the chain's own time step h adds: its average at h less the extrapolated one."""
        return self.mean[CHAIN] - self.processes["chain"][0]

    @property
    def critical(self) -> float:
        """The critical value for all test functions of chain and SDE at once."""
        return critical_value(self.config["confidence"], 2 * len(self.names))

    @property
    def settled(self) -> bool:
        """No path diverged, and no average drifts from the first half of the run to the second."""
        return not self.diverged and float(np.abs(self.drift).max()) <= critical_value(0.999, self.drift.size)

    @property
    def half_width(self) -> float:
        """The widest of the intervals, in units of `scale`."""
        return max(float((self.critical * sem / self.scale).max()) for _, sem in self.processes.values())

    @property
    def verdict(self) -> Verdict:
        """CONFIRMED: every interval holds the closed form, and is narrower than the margin; REFUTED: one does not."""
        if not self.settled:
            return Verdict.INCONCLUSIVE
        if max(float(np.abs(self.z(process)).max()) for process in self.processes) > self.critical:
            return Verdict.REFUTED
        return Verdict.CONFIRMED if self.half_width <= self.config["margin"] else Verdict.INCONCLUSIVE

    @property
    def message(self) -> str:
        """What is behind the verdict, in a sentence."""
        if not self.settled:
            worst = f"{self.diverged} paths diverged" if self.diverged else "the averages still drift"
            return f"The run has not settled: {worst}. Lengthen `burn_in`, or lower lr."
        if self.verdict is Verdict.REFUTED:
            z = np.array([self.z(process) for process in self.processes])
            i, j = np.unravel_index(np.abs(z).argmax(), z.shape)
            return f"The {('chain', 'SDE')[i]}'s {self.names[j]} is {z[i, j]:.1f} standard errors off."
        width = f"the intervals reach {100 * self.half_width:.2g} %, the margin is {100 * self.config['margin']:.2g} %"
        return f"The closed form lies in every interval; {width}."

    def summary(self) -> str:
        """Return the report as text."""
        (chain, chain_sem), (sde, sde_sem) = self.processes.values()
        rows = [
            [name, short(self.expected[j], 5), repr(Estimate(float(chain[j]), float(chain_sem[j]), self.paths)),
             short(self.z("chain")[j], 2), repr(Estimate(float(sde[j]), float(sde_sem[j]), self.paths)),
             short(self.z("sde")[j], 2), short(self.discretisation[j], 2), short(self.batch_correlation[:, j].max(), 2)]
            for j, name in enumerate(self.names)
        ]  # fmt: skip
        header = ["test function", "closed form", "chain, h -> 0", "z", "SDE", "z", "chain's O(h)", "batch corr."]
        text = f"{self.paths} paths, {self.config['steps']} steps after {self.config['burn_in']}, "
        return f"{self.verdict}: {self.message}\n\n{table(header, rows)}\n\n{text}{duration(self.seconds)}."
