"""Intervals over independent replications, for experiments whose runs differ in seed only; several hold at once."""

import math

import numpy as np
from scipy import stats


def mean_interval(samples, tests, confidence=0.95):
    """Return (low, high) of the mean of n >= 2 samples: Student's, for `tests` such intervals at once (Bonferroni)."""
    samples = np.asarray(samples, dtype=float)
    quantile = stats.t.ppf(1 - (1 - confidence) / (2 * tests), len(samples) - 1)
    half = quantile * samples.std(ddof=1) / math.sqrt(len(samples))
    return float(samples.mean() - half), float(samples.mean() + half)


def median_interval(samples, tests, confidence=0.95):
    """Return (low, high) of the median, from order statistics, whatever the law; infinite where there are too few."""
    samples = np.sort(np.asarray(samples, dtype=float))
    rank = int(stats.binom.ppf((1 - confidence) / (2 * tests), len(samples), 0.5))  # below it lie too few: P < alpha/2
    if rank == 0:
        return -math.inf, math.inf
    return float(samples[rank - 1]), float(samples[-rank])


def kolmogorov_reach(n, tests, confidence=0.95):
    """Return how far a distribution function may be from that of n samples, for `tests` of them at once.

    The inequality of Dvoretzky, Kiefer and Wolfowitz, with Massart's constant.
    """
    return math.sqrt(math.log(2 * tests / (1 - confidence)) / (2 * n))
