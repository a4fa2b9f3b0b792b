"""Intervals: simultaneous critical values, a ratio of two estimates, the customary log-log slope."""

from __future__ import annotations

import math
from statistics import NormalDist

import numpy as np
from numpy.typing import ArrayLike

from sdeadapt.checks import check_integer, check_open_unit, check_positive

__all__ = ["critical_value", "fieller_interval", "log_log_slope", "max_t_quantile"]

MIN_CHUNKS = 64


def critical_value(confidence: float = 0.95, tests: int = 1) -> float:
    r"""Return the two-sided normal critical value that holds for `tests` intervals at once.

    $z = \Phi^{-1}(1 - \alpha / (2J))$ with $\alpha = 1 - $ `confidence`, the Bonferroni bound.

    Args:
        confidence: in (0, 1).
        tests: J >= 1, the number of intervals.

    Returns:
        The critical value, in standard errors.

    Raises:
        ValueError: if `confidence` or `tests` is out of range.

    >>> round(critical_value(0.95), 2), round(critical_value(0.95, tests=10), 2)
    (1.96, 2.81)
    """
    alpha = 1 - check_open_unit("confidence", confidence)
    return NormalDist().inv_cdf(1 - alpha / (2 * check_integer("tests", tests)))


def max_t_quantile(chunk_means: ArrayLike, confidence: float = 0.95, draws: int = 20_000, seed: int = 0) -> float:
    r"""Return the critical value for J correlated statistics at once: the quantile of $\max_j |t_j|$.

    $t \sim N(0, R)$ with R the correlation of the chunk means, drawn as $\sum_c g_c r_c$ with independent normals
    $g_c$ and standardised residuals $r_c$ (no J x J matrix). The result stays between the value for one statistic
    and Bonferroni's for J; its own simulation error is about 0.5 %.

    Args:
        chunk_means: (chunks, J), at least 64 equally large independent chunks; J = 1 is allowed. A statistic without
            variance takes no part.
        confidence: in (0, 1).
        draws: Monte-Carlo draws of t.
        seed: of a generator of its own; nothing global is read or set.

    Returns:
        The critical value, in standard errors.

    Raises:
        ValueError: if there are fewer than 64 chunks, or a value is not finite.

    >>> same = np.random.default_rng(1).standard_normal((100, 1)) @ np.ones((1, 50))
    >>> round(max_t_quantile(same), 1), round(critical_value(0.95, tests=50), 1)  # fully correlated: as for one
    (2.0, 3.3)

    Chernozhukov, Chetverikov and Kato 2013, Ann. Statist. 41(6) (the Gaussian multiplier method).
    """
    means = np.asarray(chunk_means, dtype=float)
    if means.ndim != 2 or len(means) < MIN_CHUNKS or not np.isfinite(means).all():
        raise ValueError(
            f"`chunk_means` must be a finite (chunks, J) array of at least {MIN_CHUNKS} chunks; got shape "
            f"{means.shape}. Use `critical_value` (Bonferroni) with fewer."
        )
    residuals = means - means.mean(0)
    norms = np.sqrt((residuals**2).sum(0))
    moving = norms > 1e-12 * np.abs(means).max(0, initial=0.0)
    count = int(moving.sum())
    if count == 0:
        return critical_value(confidence)
    units = residuals[:, moving] / norms[moving]
    normals = np.random.default_rng(seed).standard_normal((check_integer("draws", draws), len(units)))
    largest = np.abs(normals @ units).max(1)
    low, high = critical_value(confidence), critical_value(confidence, count)
    return float(np.clip(np.quantile(largest, check_open_unit("confidence", confidence)), low, high))


def fieller_interval(
    x: float, y: float, covariance: ArrayLike, z: float, bias: tuple[float, float] = (0.0, 0.0)
) -> tuple[float, float]:
    r"""Return the interval of |X| / |Y| from estimates x and y of X and Y.

    The set of ratios R with $(x - R y)^2 \le z^2\, \mathrm{Var}(x - R y)$, folded to |R| and filled to an interval. It
    starts at 0 where the sign of X is unresolved and ends at infinity where that of Y is.

    Args:
        x: estimate of the numerator.
        y: estimate of the denominator.
        covariance: (2, 2), of (x, y).
        z: critical value in standard errors, not negative.
        bias: bounds on deterministic errors of x and y. The interval covers every error within them.

    Returns:
        (low, high) with 0 <= low <= high <= inf.

    Raises:
        ValueError: if `z` or a bound is negative.

    >>> low, high = fieller_interval(4.0, 1.0, [[0.01, 0.0], [0.0, 0.0001]], z=1.96)
    >>> round(low, 2), round(high, 2)
    (3.79, 4.21)
    >>> fieller_interval(4.0, 0.1, [[0.01, 0.0], [0.0, 0.01]], z=1.96)[1]
    inf

    Fieller 1954, J. R. Stat. Soc. B 16(2).
    """
    v = (np.asarray(covariance, dtype=float) * check_positive("z", z, zero=True) ** 2).tolist()
    reach = [check_positive("bias", b, zero=True) for b in bias]
    # ends of the box of possible estimates, with 0 where the box straddles it
    xs, ys = ({c - b, c + b} | ({0.0} if abs(c) < b else set()) for c, b in zip((x, y), reach, strict=True))
    pieces = [_folded(a, b, v) for a in xs for b in ys]
    return min(low for low, _ in pieces), max(high for _, high in pieces)


def _folded(x: float, y: float, v: list[list[float]]) -> tuple[float, float]:
    """Return the range of |R| over a R^2 - 2 b R + c <= 0."""
    a, b, c = y * y - v[1][1], x * y - v[0][1], x * x - v[0][0]
    if a == 0 or (a < 0 and b * b < a * c):  # y on the edge of being resolved, or no ratio excluded
        return 0.0, math.inf
    root = math.sqrt(max(b * b - a * c, 0.0))  # not negative for a > 0, up to round-off: x / y solves it
    ends = sorted(((b - root) / a, (b + root) / a))
    inside = ends[0] <= 0 <= ends[1]
    near, far = sorted(map(abs, ends))
    if a > 0:
        return (0.0 if inside else near), far
    return (near if inside else 0.0), math.inf


def log_log_slope(h: ArrayLike, error: ArrayLike, sem: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    r"""Return the least-squares slope of log|e| over log h, with its standard error: for the eye, it decides nothing.

    All levels count alike; the standard error is that of the delta method, $\mathrm{se}(\log|e|) = \mathrm{se}/|e|$,
    and tells nothing about curvature, plateaus or changes of sign.

    Args:
        h: (L,) time steps, positive and different, L >= 2.
        error: (..., L).
        sem: (..., L), standard errors, independent across levels.

    Returns:
        (slope, standard error), each (...); not-a-number where an error is exactly 0.

    Raises:
        ValueError: if there are fewer than two levels or a step is not positive.

    >>> slope, se = log_log_slope([1.0, 0.25, 0.0625], [0.3, 0.075, 0.01875], [0.003, 0.0, 0.0])
    >>> round(float(slope), 6), round(float(se), 4)
    (1.0, 0.0036)
    """
    steps, e, s = (np.asarray(a, dtype=float) for a in (h, error, sem))
    if steps.ndim != 1 or steps.size < 2 or not (steps > 0).all() or len(set(steps)) < steps.size:
        raise ValueError(f"`h` must be at least two different positive steps; got {steps.tolist()}.")
    x = np.log(steps)
    weights = (x - x.mean()) / ((x - x.mean()) ** 2).sum()
    size = np.where(e == 0, np.nan, np.abs(e))
    return np.asarray(np.log(size) @ weights), np.asarray(np.sqrt((s / size) ** 2 @ weights**2))
