"""The report of `network_updates`: how far the updates of networks are from their law, and from which step on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import stats

from sdeadapt.results import Saved, register
from sdeadapt.text import duration, percent, short, table
from sdeadapt.verification.decision import Verdict

__all__ = ["UpdateReport"]


@register("updates", schema=1)
@dataclass(frozen=True, eq=False)
class UpdateReport(Saved):
    """Updates of N networks at M steps in K bins of equal probability, over all coordinates and copies.

    parameters (N,): coordinates looked at. looks (M,): steps. edges (M, K - 1): of the bins. law_cdf (M, K - 1) and
    law_var_abs (M,): of the law for normal gradients. share, share_sem (N, M, K): of coordinates per bin, means over
    copies and their standard errors. cdf_sem (N, M, K - 1): of their sums. variance, var_abs (N, M), each with sem:
    Var X about 0, and Var|X|. zeros, silent (N, M): shares of coordinates with a gradient of 0 now, and at every step
    so far; the silent have no update and are left out of the rest.
    """

    config: dict[str, Any]
    seconds: float
    networks: tuple[str, ...]
    parameters: np.ndarray
    looks: np.ndarray
    edges: np.ndarray
    law_cdf: np.ndarray
    law_var_abs: np.ndarray
    share: np.ndarray
    share_sem: np.ndarray
    cdf_sem: np.ndarray
    var_abs: np.ndarray
    var_abs_sem: np.ndarray
    variance: np.ndarray
    variance_sem: np.ndarray
    zeros: np.ndarray
    silent: np.ndarray

    @property
    def difference(self) -> np.ndarray:
        """(N, M, K - 1), the distribution function of the updates, a mean over copies, less the law's."""
        return self.share.cumsum(-1)[..., :-1] - self.law_cdf

    @property
    def distance(self) -> np.ndarray:
        """(N, M), Kolmogorov's distance at the inner bin edges: the largest difference."""
        return np.abs(self.difference).max(-1)

    def critical(self, count: int) -> float:
        """Return the two-sided value of Student's t over copies that holds for `count` intervals at once."""
        alpha = 1 - self.config["confidence"]
        return float(stats.t.isf(alpha / (2 * count), self.config["copies"] - 1))

    @property
    def bounds(self) -> tuple[np.ndarray, np.ndarray]:
        """(N, M) each: bounds of the largest difference at the edges, for all steps and networks at once.

        Between two edges it can be 1/64 more.
        """
        size, reach = np.abs(self.difference), self.critical(self.difference.size) * self.cdf_sem
        return np.maximum(size - reach, 0).max(-1), (size + reach).max(-1)

    @property
    def var_abs_interval(self) -> tuple[np.ndarray, np.ndarray]:
        """(N, M) each: the interval of Var|X|, for all steps and networks at once."""
        reach = self.critical(self.var_abs.size) * self.var_abs_sem
        return self.var_abs - reach, self.var_abs + reach

    @property
    def states(self) -> np.ndarray:
        """(N, M): +1 within the tolerance for certain, -1 outside, 0 undecided."""
        low, high = self.bounds
        tolerance = self.config["tolerance"]
        return (high <= tolerance).astype(int) - (low > tolerance)

    def leaves(self, network: str) -> int | None:
        """Return the first step looked at where a network is outside the tolerance for certain, if there is one."""
        outside = self.looks[self.states[self.networks.index(network)] == -1]
        return int(outside[0]) if len(outside) else None

    def follows(self, network: str) -> int | None:
        """Return the last step looked at up to which a network is within the tolerance for certain, all the way."""
        inside = np.cumprod(self.states[self.networks.index(network)] == 1).sum()
        return int(self.looks[inside - 1]) if inside else None

    @property
    def verdict(self) -> Verdict:
        """CONFIRMED: every network follows the law at every step looked at; REFUTED: one leaves it."""
        if (self.states == -1).any():
            return Verdict.REFUTED
        return Verdict.CONFIRMED if (self.states == 1).all() else Verdict.INCONCLUSIVE

    @property
    def message(self) -> str:
        """What is behind the verdict, in a sentence per network."""
        parts = []
        for network in self.networks:
            follows, leaves = self.follows(network), self.leaves(network)
            until = f"follows the law up to m = {follows}" if follows else "is not shown to follow the law"
            parts.append(f"{network} {until}" + (f", has left it at m = {leaves}" if leaves else ""))
        return "; ".join(parts) + f" (distance {self.config['tolerance']:g})."

    def summary(self) -> str:
        """Return the report as text."""
        (low, high), (var_low, var_high) = self.bounds, self.var_abs_interval
        words = {1: "within", 0: "undecided", -1: "outside"}
        rows = [
            [name if j == 0 else "", str(m), f"{self.distance[i, j]:.3f}", f"{low[i, j]:.3f} to {high[i, j]:.3f}",
             words[self.states[i, j]], short(self.law_var_abs[j], 4), f"{var_low[i, j]:.3f} to {var_high[i, j]:.3f}",
             short(self.variance[i, j], 3), percent(self.zeros[i, j]), percent(self.silent[i, j])]
            for i, name in enumerate(self.networks) for j, m in enumerate(self.looks)
        ]  # fmt: skip
        header = ["network", "m", "distance", "bounds", "", "law's Var|X|", "Var|X|", "Var X", "g = 0", "silent"]
        c = self.config
        average = "simple average of squares" if c["beta"] is None else f"exponential average, beta = {c['beta']:g}"
        text = (
            f"{c['copies']} networks each ({', '.join(map(str, self.parameters))} coordinates), batches of "
            f"{c['batch_size']}, lr = {c['lr']:g}, {average}; {percent(c['confidence'])} together, "
            f"{duration(self.seconds)}."
        )
        return f"{self.verdict}: {self.message}\n\n{table(header, rows)}\n\n{text}"
