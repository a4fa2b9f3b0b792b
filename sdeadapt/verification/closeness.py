r"""C-closeness: whether two processes agree within a factor C in positive metrics, at all times at once.

Li, Malladi, Arora 2021 (arXiv 2102.12470): $E|x|^2$, $E|\nabla L|^2$ and $E\,\mathrm{Tr}\,\Sigma$, with C typically
$\sqrt 2$.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from sdeadapt.statistics.intervals import MIN_CHUNKS, critical_value, fieller_interval, max_t_quantile
from sdeadapt.verification.decision import Verdict

__all__ = ["Closeness", "closeness"]


@dataclass(frozen=True, eq=False)
class Closeness:
    r"""Ratios of the means of two processes, $R = E\,\text{metric}(x) / E\,\text{metric}(y)$, with simultaneous bounds.

    Attributes:
        ratio: (times, metrics).
        low: (times, metrics), lower bounds of R that hold for all of them at once.
        high: (times, metrics), the upper ones; inf where the denominator is not resolved.
        critical: the bounds' distance in standard errors.
        threshold: C, what is asked for.
    """

    ratio: np.ndarray
    low: np.ndarray
    high: np.ndarray
    critical: float
    threshold: float

    @property
    def factors(self) -> np.ndarray:
        """(times, metrics), max(R, 1/R)."""
        return np.maximum(self.ratio, _inverse(self.ratio))

    @property
    def factor(self) -> float:
        """C as measured, the largest of the factors."""
        return float(self.factors.max())

    @property
    def worst(self) -> tuple[int, int]:
        """(time, metric) of the largest factor."""
        time, metric = np.unravel_index(int(self.factors.argmax()), self.ratio.shape)
        return int(time), int(metric)

    @property
    def bounds(self) -> tuple[float, float]:
        """Lower and upper bound of the largest factor, 1 <= low <= high <= inf."""
        nearest = np.maximum(1.0, np.maximum(self.low, _inverse(self.high)))
        farthest = np.maximum(self.high, _inverse(self.low))
        return float(nearest.max()), float(farthest.max())

    @property
    def verdict(self) -> Verdict:
        """CONFIRMED if the upper bound is at most C, REFUTED if the lower one exceeds it."""
        low, high = self.bounds
        if high <= self.threshold:
            return Verdict.CONFIRMED
        return Verdict.REFUTED if low > self.threshold else Verdict.INCONCLUSIVE


def _inverse(ratio: np.ndarray) -> np.ndarray:
    with np.errstate(divide="ignore"):
        return 1 / ratio


def closeness(
    x: np.ndarray,
    y: np.ndarray,
    *,
    bias: np.ndarray | None = None,
    threshold: float = math.sqrt(2),
    confidence: float = 0.95,
) -> Closeness:
    r"""Return the ratios of the means of two independent ensembles with simultaneous Fieller bounds.

    The critical value is that of the largest of all deviations, metrics by times, which are strongly correlated in
    time; with fewer than 64 paths it is Bonferroni's.

    Args:
        x: (paths, times, metrics), not negative.
        y: the same of the other process, with paths of its own.
        bias: (times, metrics), bounds on the solver's bias in the means of y; None is 0.
        threshold: C >= 1.
        confidence: of all bounds together, in (0, 1).

    Returns:
        The ratios and their bounds. Where both means are exactly 0 the ratio is 1.

    Example:
        >>> rng = np.random.default_rng(0)
        >>> x, y = rng.standard_normal((2, 4000, 5, 1)) ** 2
        >>> same, far = closeness(x, y), closeness(2 * x, y)
        >>> str(same.verdict), str(far.verdict), round(far.factor, 1)
        ('CONFIRMED', 'REFUTED', 2.0)

    Fieller 1954, J. R. Stat. Soc. B 16(2).
    """
    shape = x.shape[1:]
    first, second = x.reshape(len(x), -1), y.reshape(len(y), -1)
    means = first.mean(0), second.mean(0)
    variances = first.var(0, ddof=1) / len(x), second.var(0, ddof=1) / len(y)
    reach = np.zeros(shape).ravel() if bias is None else bias.ravel()
    z = _critical(first, second, *means, confidence)
    rows = []
    for a, b, v, w, limit in zip(*means, *variances, reach, strict=True):
        if a == b == v == w == limit == 0:
            rows.append((1.0, 1.0, 1.0))
        else:
            ratio = abs(a / b) if b else math.inf
            rows.append((ratio, *fieller_interval(a, b, [[v, 0.0], [0.0, w]], z, bias=(0.0, float(limit)))))
    ratio, low, high = np.array(rows).T.reshape(3, *shape)
    return Closeness(ratio, low, high, z, threshold)


def _critical(x: np.ndarray, y: np.ndarray, mean_x: np.ndarray, mean_y: np.ndarray, confidence: float) -> float:
    """Return the critical value of the largest of all log ratios, by means of groups of paths."""
    if min(len(x), len(y)) < MIN_CHUNKS or not (mean_x.all() and mean_y.all()):
        return critical_value(confidence, x.shape[1])
    groups = [part.mean(0) / mean for v, mean in ((x, mean_x), (y, mean_y)) for part in np.array_split(v, MIN_CHUNKS)]
    return max_t_quantile(np.array(groups), confidence)
