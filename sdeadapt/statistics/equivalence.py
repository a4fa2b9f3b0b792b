r"""Equivalence: are the means of some samples within a margin of those of a base sample, provably, or provably not?

The margin is in units of the base sample's standard deviation, or a share of its mean, and so an estimate itself. Its
error enters every bound to first order, through the influence of each run on it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from statistics import NormalDist

import numpy as np
from scipy.stats import t as student

from sdeadapt.checks import check_open_unit
from sdeadapt.statistics.intervals import MIN_CHUNKS, critical_value, max_t_quantile

__all__ = ["MEAN_SHARE", "SD_SHARE", "Equivalence", "equivalence", "planned_runs"]

MEAN_SHARE, SD_SHARE = 0.1, 0.5  # the default margin is the larger of these shares
_DRAWS = 4000


@dataclass(frozen=True, eq=False)
class Equivalence:
    r"""Differences of means in J metrics of K samples to a base sample, with margins.

    Attributes:
        difference: (K, J), mean of the sample less that of the base.
        sem: (K, J), its standard error.
        margin: (J,), delta.
        side_sem: (2, K, J), standard errors of $D - \delta$ and of $-D - \delta$.
        noise: (groups, 2, K, J), sums of what independent groups of runs add to these two: their correlations.
        runs: (K + 1,), of the base, then of the samples.
        confidence: of every single statement that a mean is inside; of all that some are outside together.
    """

    difference: np.ndarray
    sem: np.ndarray
    margin: np.ndarray
    side_sem: np.ndarray
    noise: np.ndarray
    runs: tuple[int, ...]
    confidence: float

    @cached_property
    def critical(self) -> float:
        """Distance in standard errors at which one of all differences is provably outside, for all of them at once."""
        k, j = self.difference.shape
        if min(self.runs) < MIN_CHUNKS:
            normal = critical_value(self.confidence, k * j)
        else:
            own = np.take_along_axis(self.noise, (self.difference < 0).astype(int)[None, None], 1)
            normal = max_t_quantile(own.reshape(len(own), -1), self.confidence)
        return self._student(NormalDist().cdf(normal))

    def _student(self, level: float) -> float:
        return float(student.ppf(level, min(self.runs) - 1))

    @property
    def excess(self) -> np.ndarray:
        r"""(2, K, J), $D - \delta$ and $-D - \delta$."""
        return np.stack([self.difference, -self.difference]) - self.margin

    @property
    def high(self) -> np.ndarray:
        r"""(K, J), upper bound of $|D|/\delta$: at most 1 where D is provably inside (two one-sided tests)."""
        return self._relative(self.excess + self._student(self.confidence) * self.side_sem)

    @property
    def low(self) -> np.ndarray:
        r"""(K, J), lower bound of $|D|/\delta$, for all at once: above 1 where D is provably outside."""
        return np.maximum(self._relative(self.excess - self.critical * self.side_sem), 0.0)

    def _relative(self, excess: np.ndarray) -> np.ndarray:
        worst = excess.max(0)
        with np.errstate(divide="ignore", invalid="ignore"):
            share = 1 + worst / self.margin
        # without a margin: equal means of constant metrics are inside, everything else is outside
        return np.where(self.margin > 0, share, np.where(worst > 0, np.inf, 0.0))

    @property
    def inside(self) -> np.ndarray:
        """(K, J), provably within the margin, each on its own."""
        return self.high < 1

    @property
    def outside(self) -> np.ndarray:
        """(K, J), provably beyond it, simultaneously."""
        return self.low > 1

    def needed(self, samples: Sequence[int] | None = None, power: float = 0.9) -> float:
        """Return the runs of each sample with which these differences would be decided with probability `power`.

        The estimates are taken for the truth: if all are inside, the runs that prove it of all metrics together;
        otherwise those that prove the clearest one to be outside.

        Args:
            samples: which; None is all of them together.
            power: in (0, 1).

        Returns:
            The runs, inf where a difference equals its margin.

        Raises:
            ValueError: if `power` is out of range.
        """
        check_open_unit("power", power)
        chosen = slice(None) if samples is None else list(samples)
        excess, sem = self.excess[:, chosen], self.side_sem[:, chosen]
        open_ = sem > 0
        if not open_.any():
            return float(min(self.runs))
        gap = np.where(open_, excess, -np.inf)
        if (gap > 0).any():
            far = gap > 0
            root = (self.critical + NormalDist().inv_cdf(power)) * (sem[far] / gap[far]).min()
        else:
            noise = self.noise[:, :, chosen].reshape(len(self.noise), -1)
            noise = noise[:, open_.ravel()] / np.sqrt((noise[:, open_.ravel()] ** 2).sum(0))
            error = np.random.default_rng(0).standard_normal((_DRAWS, len(noise))) @ noise
            with np.errstate(divide="ignore"):
                reach = sem[open_] / -gap[open_]
                worst = (np.maximum(error + self._student(self.confidence), 0.0) * reach).max(1)
            root = np.quantile(worst, power)
        return float(np.ceil(root**2 * min(self.runs)))


def equivalence(
    base: np.ndarray, samples: Sequence[np.ndarray], units: np.ndarray | None = None, *, confidence: float = 0.95
) -> Equivalence:
    r"""Compare the means of samples with those of a base sample.

    D is inside if both $D < \delta$ and $D > -\delta$ are significant at level 1 − `confidence`, each on its own: that
    all of several metrics are inside needs no correction (intersection-union). D is outside if $|D| > \delta$ is
    significant for all samples and metrics at once.

    Args:
        base: (runs, J), at least 3 independent runs.
        samples: K of (runs, J), independent of it and of each other.
        units: (J,), the margins in standard deviations of the base runs; None, or NaN of a metric, is the larger of
            10 % of the base mean and .5 standard deviations.
        confidence: in (0, 1).

    Returns:
        The differences and what is known of them.

    Raises:
        ValueError: if `confidence` is out of range.

    Example:
        >>> rng = np.random.default_rng(0)
        >>> base, same, far = rng.standard_normal((3, 400, 1)) + np.array([0.0, 0.0, 1.0])[:, None, None]
        >>> found = equivalence(base, [same, far])
        >>> found.inside.ravel().tolist(), found.outside.ravel().tolist()
        ([True, False], [False, True])

    Schuirmann 1987, J. Pharmacokinet. Biopharm. 15(6); Berger and Hsu 1996, Stat. Sci. 11(4).
    """
    check_open_unit("confidence", confidence)
    mean, centred, n = base.mean(0), base - base.mean(0), len(base)
    margin, influence = _margin(base, units)
    difference = np.stack([x.mean(0) - mean for x in samples])
    spread = np.stack([x.var(0, ddof=1) / len(x) for x in samples])
    sides = [-s * centred - influence for s in (1, -1)]  # what a base run does to the errors of sD − delta
    side_sem = np.sqrt(np.stack([side.var(0, ddof=1) / n + spread for side in sides]))
    noise = np.zeros(((len(samples) + 1) * MIN_CHUNKS, 2, *difference.shape))
    for i, side in enumerate(sides):
        noise[:MIN_CHUNKS, i] = _groups(side)[:, None] / n
        for k, x in enumerate(samples):
            noise[(k + 1) * MIN_CHUNKS : (k + 2) * MIN_CHUNKS, i, k] = (1, -1)[i] * _groups(x - x.mean(0)) / len(x)
    return Equivalence(
        difference=difference,
        sem=np.sqrt(base.var(0, ddof=1) / n + spread),
        margin=margin,
        side_sem=side_sem,
        noise=noise,
        runs=(n, *map(len, samples)),
        confidence=confidence,
    )


def planned_runs(
    base: np.ndarray,
    samples: int,
    units: np.ndarray | None = None,
    *,
    confidence: float = 0.95,
    power: float = 0.9,
) -> float:
    """Return the runs with which samples of the base's own law are proven inside, all of them in all metrics together.

    Args:
        base: (runs, J), a pilot.
        samples: K, how many will be compared with the base.
        units: as for `equivalence`.
        confidence: likewise.
        power: the probability aimed at, in (0, 1).

    Raises:
        ValueError: if `confidence` or `power` is out of range.

    Example:
        >>> pilot = np.random.default_rng(0).standard_normal((4000, 1))
        >>> [round(planned_runs(pilot, 1, np.array([units]), power=0.8), -1) for units in (0.52, 0.2)]
        [70.0, 430.0]
    """
    return equivalence(base, [base] * samples, units, confidence=confidence).needed(power=power)


def _margin(base: np.ndarray, units: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
    """Return the margins (J,) and the influence of every base run on them, (runs, J)."""
    mean, sd = base.mean(0), base.std(0, ddof=1)
    centred = base - mean
    with np.errstate(divide="ignore", invalid="ignore"):
        on_sd = np.where(sd > 0, (centred**2 - sd**2) / (2 * sd), 0.0)
    by_mean = MEAN_SHARE * np.abs(mean) > SD_SHARE * sd
    share = np.full(len(sd), SD_SHARE)
    if units is not None:
        by_mean &= np.isnan(units)
        share = np.where(np.isnan(units), SD_SHARE, units)
    margin = np.where(by_mean, MEAN_SHARE * np.abs(mean), share * sd)
    return margin, np.where(by_mean, MEAN_SHARE * np.sign(mean) * centred, share * on_sd)


def _groups(influence: np.ndarray) -> np.ndarray:
    """Return sums over groups of runs, (groups, J)."""
    groups = min(MIN_CHUNKS, len(influence))
    starts = np.arange(groups) * len(influence) // groups
    return np.concatenate([np.add.reduceat(influence, starts), np.zeros((MIN_CHUNKS - groups, influence.shape[1]))])
