"""What a decision rests on: errors at several steps with their covariances and bias bounds, checked at the edge."""

from __future__ import annotations

from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import ArrayLike

from sdeadapt.checks import check_positive
from sdeadapt.statistics.intervals import critical_value
from sdeadapt.verification.plateau import ROUND_OFF, TOLERANCE, Judgement, judge, shrink

__all__ = ["Evidence", "gather"]

FACTORS = np.geomspace(1, 1e4, 81)  # of the number of paths, tried when planning
NO_NOISE = 1e16


@dataclass(frozen=True, eq=False)
class Evidence:
    """The checked arguments of a decision.

    Attributes:
        h: (L,).
        error: (J, L).
        covariance: (J, L, L).
        scale: (J,).
        kept: (J,), all targets but those that are constant and without error.
        bias: (J, L).
        common_bias: (J,).
        order: p.
        atol: margin, in units of the scale.
        z: critical value of one interval.
        z_joint: simultaneous critical value.
    """

    h: np.ndarray
    error: np.ndarray
    covariance: np.ndarray
    scale: np.ndarray
    kept: np.ndarray
    bias: np.ndarray
    common_bias: np.ndarray
    order: float
    atol: float
    z: float
    z_joint: float

    def judge(self) -> Judgement:
        """Judge the kept targets."""
        return self._judge(self.error[self.kept], self.covariance[self.kept])

    def factor(self, power: float) -> float | None:
        """Return the smallest factor of the number of paths that is expected to decide.

        Infinity where it is beyond the grid, None where not even exact values of the planned errors would decide.
        """
        covariance = self.covariance[self.kept]
        planned = shrink(self.h, self.error[self.kept], covariance, self.z_joint, self.order)
        later = covariance / np.append(FACTORS, NO_NOISE)[:, None, None, None]
        then = self._judge(planned, later, NormalDist().inv_cdf(power))
        decided = then.confirmed | then.refuted
        if not decided[-1]:
            return None
        return float(np.append(FACTORS, np.inf)[decided.argmax()])

    def _judge(self, error: np.ndarray, covariance: np.ndarray, margin: float = 0.0) -> Judgement:
        return judge(
            self.h,
            error,
            covariance,
            self.scale[self.kept],
            z=self.z + margin,
            z_joint=self.z_joint + margin,
            order=self.order,
            atol=self.atol,
            bias=self.bias[self.kept],
            common_bias=self.common_bias[self.kept],
        )


def gather(
    h: ArrayLike,
    error: ArrayLike,
    covariance: ArrayLike,
    *,
    scale: ArrayLike,
    order: float = 1.0,
    confidence: float = 0.95,
    atol: float = 0.0,
    bias: ArrayLike | None = None,
    common_bias: ArrayLike | None = None,
    constant: ArrayLike | None = None,
    critical: float | None = None,
) -> Evidence:
    """Check the arguments of `decide`; see there.

    Raises:
        ValueError: if a shape or a value is out of range.
    """
    steps, e, cov, size = (np.asarray(a, dtype=float) for a in (h, error, covariance, scale))
    levels = steps.size
    if steps.ndim != 1 or levels < 3 or not np.isfinite(steps).all() or (np.diff(steps, append=0.0) >= 0).any():
        raise ValueError(f"`h` must be at least 3 positive, decreasing steps; got {steps.tolist()}. Add multipliers.")
    if e.ndim != 2 or e.shape[1] != levels or not len(e):
        raise ValueError(f"`error` must have shape (targets, {levels}); got {e.shape}.")
    targets = len(e)

    def filled(name: str, value: ArrayLike | None, shape: tuple[int, ...]) -> np.ndarray:
        array = np.zeros(shape) if value is None else np.asarray(value, dtype=float)
        if array.shape != shape:
            raise ValueError(f"`{name}` must have shape {shape}; got {array.shape}.")
        return array

    cov = filled("covariance", cov, (targets, levels, levels))
    size = filled("scale", size, (targets,))
    free, common = filled("bias", bias, (targets, levels)), filled("common_bias", common_bias, (targets,))
    still = filled("constant", constant, (targets,)) != 0
    kept = ~(still & (np.abs(e).max(1) <= ROUND_OFF * np.abs(size)))  # a constant target may still be in error
    if not all(np.isfinite(a[kept]).all() for a in (e, cov, size, free, common)):
        raise ValueError("`error`, `covariance`, `scale` and the bias bounds must be finite; got a nan or an infinity.")
    if (np.diagonal(cov, axis1=1, axis2=2)[kept] < 0).any() or (free[kept] < 0).any() or (common[kept] < 0).any():
        raise ValueError("Variances and bias bounds must not be negative; got a negative one.")
    if (size[kept] <= 0).any():
        raise ValueError(
            f"`scale` must be positive; got {size[kept].min()}. Mark targets without variance in `constant`."
        )
    if check_positive("order", order) <= TOLERANCE:
        raise ValueError(f"`order` must exceed the tolerance {TOLERANCE}; got {order}.")
    z = critical_value(confidence)
    joint = critical_value(confidence, max(int(kept.sum()), 1)) if critical is None else critical
    margin, joint = check_positive("atol", atol, zero=True), check_positive("critical", joint)
    return Evidence(steps, e, cov, size, kept, free, common, float(order), margin, z, joint)
