r"""Means with their standard errors, accumulated chunk by chunk in memory that does not grow with the paths.

Merging follows Chan, Golub and LeVeque 1983 (mean and covariance) and Pebay 2008, Sandia report SAND2008-6212
(third and fourth moments). Merging in the same order gives the same bits; the order is the caller's.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from torch import Tensor, float64

__all__ = ["Estimate", "Estimates", "Moments"]


class Estimate(NamedTuple):
    """A Monte-Carlo mean, its standard error, and the number of paths behind both.

    Example:
        >>> Estimate(mean=0.12344, sem=0.00051, n=4096)
        0.12344 ± 0.00051
        >>> Estimate(mean=-3.21e-7, sem=4.4e-9, n=4096)
        (-3.210 ± 0.044)e-07
    """

    mean: float
    sem: float
    n: int

    def __repr__(self) -> str:
        """Return the mean rounded to the second digit of its standard error."""
        if not (math.isfinite(self.mean) and math.isfinite(self.sem) and self.sem > 0):
            return f"{self.mean:.6g} ± {self.sem:.2g}"
        size = max(abs(self.mean), self.sem)
        exponent = math.floor(math.log10(size))
        power = exponent if not -4 <= exponent < 6 else 0
        decimals = max(0, 1 - math.floor(math.log10(self.sem)) + power)
        text = f"{self.mean / 10**power:.{decimals}f} ± {self.sem / 10**power:.{decimals}f}"
        return f"({text})e{power:+03d}" if power else text


@dataclass(frozen=True, eq=False)
class Estimates:
    r"""Many means at once, test functions by times, with the covariance of their errors.

    Args:
        names: the test functions.
        times: (times,), SDE time.
        mean: (times, names).
        covariance: (times * names, times * names), of the means (not of one path), in the order of `mean.ravel()`.
        n: paths.
        chunk_means: (chunks, times * names), for quantiles of the largest deviation and as a sign of heavy tails.
        chunk_sizes: (chunks,), the paths in each.
    """

    names: tuple[str, ...]
    times: np.ndarray
    mean: np.ndarray
    covariance: np.ndarray
    n: int
    chunk_means: np.ndarray
    chunk_sizes: np.ndarray

    @property
    def sem(self) -> np.ndarray:
        """(times, names), the standard errors."""
        return np.sqrt(np.diagonal(self.covariance)).reshape(self.mean.shape)

    def estimate(self, name: str, time: int = -1) -> Estimate:
        """Return one of them: test function `name` at `times[time]`, by default the last."""
        at = (time, self.names.index(name))
        return Estimate(float(self.mean[at]), float(self.sem[at]), self.n)


@dataclass(frozen=True, eq=False)
class Moments:
    r"""Joint moments of a vector $Y \in \mathbb{R}^J$ over paths; `merge` joins two disjoint sets of paths.

    The sums of powers are central, so that a large mean with a small variance loses no digits.

    Args:
        n: paths.
        mean: (J,).
        second: (J, J), the sum over paths of $(Y - \bar Y)(Y - \bar Y)^T$.
        third, fourth: (J,), the sums of the third and fourth central powers.
        chunk_means, chunk_sizes: of every chunk merged so far, in order.

    Example:
        >>> import torch
        >>> y = torch.randn(1000, 2, generator=torch.Generator().manual_seed(0))
        >>> both = Moments.of(y[:300]).merge(Moments.of(y[300:]))
        >>> both.n, bool(np.allclose(both.covariance, y.T.double().cov()))
        (1000, True)
    """

    n: int
    mean: np.ndarray
    second: np.ndarray
    third: np.ndarray
    fourth: np.ndarray
    chunk_means: tuple[np.ndarray, ...]
    chunk_sizes: tuple[int, ...]

    @classmethod
    def of(cls, samples: Tensor) -> Moments:
        """Return the moments of one chunk of `samples`, (paths, J), on any device; sums are taken in float64."""
        n, size = samples.shape
        if n == 0:  # every path of the chunk diverged: nothing to merge, and no chunk mean
            zero = np.zeros(size)
            return cls(0, zero, np.zeros((size, size)), zero, zero, (), ())
        y = samples.detach().to(float64)
        centre = y.mean(0)
        y = y - centre
        rest = y.mean(0)  # the rounding error of `centre`, visible once it is subtracted
        y -= rest
        mean = (centre + rest).cpu().numpy()
        squares = y * y
        second, third, fourth = (s.cpu().numpy() for s in (y.T @ y, (squares * y).sum(0), (squares * squares).sum(0)))
        return cls(n, mean, second, third, fourth, (mean,), (n,))

    def merge(self, other: Moments) -> Moments:
        """Return the moments over the paths of both."""
        if self.n == 0 or other.n == 0:
            return other if self.n == 0 else self
        a, b, n = self.n, other.n, self.n + other.n
        delta = other.mean - self.mean
        var_a, var_b = np.diagonal(self.second), np.diagonal(other.second)
        return Moments(
            n=n,
            mean=self.mean + delta * (b / n),
            second=self.second + other.second + np.outer(delta, delta) * (a * b / n),
            third=self.third
            + other.third
            + delta**3 * (a * b * (a - b) / n**2)
            + 3 * delta * (a * var_b - b * var_a) / n,
            fourth=self.fourth
            + other.fourth
            + delta**4 * (a * b * (a * a - a * b + b * b) / n**3)
            + 6 * delta**2 * (a * a * var_b + b * b * var_a) / n**2
            + 4 * delta * (a * other.third - b * self.third) / n,
            chunk_means=self.chunk_means + other.chunk_means,
            chunk_sizes=self.chunk_sizes + other.chunk_sizes,
        )

    @property
    def covariance(self) -> np.ndarray:
        """(J, J), the unbiased covariance of one path; NaN below two paths."""
        return self.second / (self.n - 1) if self.n > 1 else np.full_like(self.second, np.nan)

    @property
    def skewness(self) -> np.ndarray:
        r"""(J,), $m_3 / m_2^{3/2}$ of the central moments; NaN where the variance is zero."""
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
            return math.sqrt(self.n) * self.third / np.diagonal(self.second) ** 1.5

    @property
    def kurtosis(self) -> np.ndarray:
        r"""(J,), $m_4 / m_2^2$, 3 for a Gaussian; NaN where the variance is zero."""
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
            return self.n * self.fourth / np.diagonal(self.second) ** 2

    @property
    def largest_chunk_share(self) -> np.ndarray:
        """(J,), the largest chunk's share of the variance between chunks; near 1, one chunk decides everything."""
        sizes = np.array(self.chunk_sizes, dtype=float)[:, None]
        parts = sizes * (np.reshape(self.chunk_means, (-1, len(self.mean))) - self.mean) ** 2
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
            return parts.max(0, initial=0.0) / parts.sum(0)

    def estimates(self, names: tuple[str, ...], times: np.ndarray) -> Estimates:
        """Return the means with the covariance of their errors, for Y in the order (times, names)."""
        return Estimates(
            names=names,
            times=times,
            mean=(self.mean if self.n else np.full_like(self.mean, np.nan)).reshape(len(times), len(names)),
            covariance=self.covariance / max(self.n, 1),
            n=self.n,
            chunk_means=np.reshape(self.chunk_means, (-1, len(self.mean))),
            chunk_sizes=np.array(self.chunk_sizes),
        )
