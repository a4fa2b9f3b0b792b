"""What a study says of one target, a test function at a time: the numbers behind its part of the verdict."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from sdeadapt.statistics.intervals import fieller_interval
from sdeadapt.verification.evidence import Evidence
from sdeadapt.verification.plateau import SHARE, Judgement

__all__ = ["TargetTest", "per_target"]

REASONS = {  # of a status, the first that holds
    "violated": "a plateau, or too low an order",
    "ok": "shows the order",
    "tiny": "within the margin",
    "minor": "small beside other targets",
}


@dataclass(frozen=True, eq=False)
class TargetTest:
    """What the study says of one target: a test function at a time.

    Attributes:
        name: of the test function.
        time: SDE time, or None.
        status: "ok" (shows the order), "minor" (small beside what others show), "tiny" (within `atol`), "violated"
            (a plateau or too low an order), "unresolved", "dropped" (constant).
        error: (L,), chain minus SDE.
        sem: (L,), standard errors.
        plateau: a, the error extrapolated to h = 0; a = 0 if the claim holds.
        plateau_sem: its standard error.
        plateau_bound: upper confidence bound of |a|, in units of the test function.
        allowed: the |a| above which the target speaks against the claim, at the estimated errors.
        share: a / e_L: 0 if the claim holds, 1 for a wrong limit, .62 for order p - 1/2 (p = 1, h falling by 4).
        order: local order at the finest pair of levels.
        order_interval: its Fieller interval; infinite on the sides where a sign is unresolved.
        coarse_orders: (L - 2,), local orders at the coarser pairs.
        scale: sqrt(E phi^2).
        reason: why the target has this status.
    """

    name: str
    time: float | None
    status: str
    error: np.ndarray
    sem: np.ndarray
    plateau: float
    plateau_sem: float
    plateau_bound: float
    allowed: float
    share: float
    order: float
    order_interval: tuple[float, float]
    coarse_orders: np.ndarray
    scale: float
    reason: str

    @property
    def label(self) -> str:
        """The name, with the time where there is one."""
        return self.name if self.time is None else f"{self.name} at t = {self.time:g}"


def per_target(
    evidence: Evidence, judgement: Judgement, names: Sequence[str], times: Sequence[float | None]
) -> tuple[TargetTest, ...]:
    """Return one test per target, in order; the judgement holds only those that `evidence` keeps."""
    kept = iter(range(int(evidence.kept.sum())))
    return tuple(
        _tested(evidence, judgement, j, next(kept), names[j], times[j])
        if evidence.kept[j]
        else _dropped(evidence, j, names[j], times[j])
        for j in range(len(names))
    )


def _tested(evidence: Evidence, judgement: Judgement, j: int, k: int, name: str, time: float | None) -> TargetTest:
    """Return the test of target j, the k-th of those judged."""
    e, cov = evidence.error[j], evidence.covariance[j]
    plateau, sem = float(judgement.plateau[k]), float(judgement.plateau_sem[k])
    shift = (evidence.bias[j] + evidence.common_bias[j])[-2:].tolist()
    ratios = np.log(evidence.h[:-1] / evidence.h[1:])
    with np.errstate(divide="ignore", invalid="ignore"):
        orders = np.log(np.abs(e[:-1] / e[1:])) / ratios
        ends = np.log(fieller_interval(e[-2], e[-1], cov[-2:, -2:], evidence.z, tuple(shift))) / ratios[-1]
        share = float(plateau / e[-1])
    status = next((s for s in REASONS if getattr(judgement, s)[k]), "unresolved")
    return TargetTest(
        name=name,
        time=time,
        status=status,
        error=e,
        sem=np.sqrt(np.diagonal(cov)),
        plateau=plateau,
        plateau_sem=sem,
        plateau_bound=abs(plateau) + evidence.z * sem + float(judgement.plateau_bias[k]),
        allowed=float(SHARE * judgement.allowed[k]),
        share=share,
        order=float(orders[-1]),
        order_interval=(float(ends[0]), float(ends[1])),
        coarse_orders=orders[:-1],
        scale=float(evidence.scale[j]),
        reason=REASONS.get(status) or _why_unresolved(e),
    )


def _dropped(evidence: Evidence, j: int, name: str, time: float | None) -> TargetTest:
    """Return the entry of a target without variance."""
    e, none = evidence.error[j], math.nan
    return TargetTest(
        name, time, "dropped", e, np.zeros_like(e), none, none, none, none, none, none, (-math.inf, math.inf),
        np.full(e.size - 2, none), float(evidence.scale[j]), "constant on both sides",
    )  # fmt: skip


def _why_unresolved(e: np.ndarray) -> str:
    if len(set(np.sign(e[-3:]))) > 1:
        return "changes sign among the three finest levels, or is lost in noise"
    return "does not fall at the finest level" if abs(e[-1]) >= abs(e[-2]) else "interval too wide for either side"
