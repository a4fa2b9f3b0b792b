r"""The law of an adaptive method's update $X = g_m/\sqrt{(g_1^2 + \dots + g_m^2)/m}$ for independent normals.

Numerator and denominator share $g_m$, so the update is bounded and its variance is 1 at every step. Zhang and Ziyin,
"On the Distributional Properties of Adaptive Gradients", Theorem 1, with its misprints corrected: see
docs/update_distribution.md. Other weights than 1/m, and variances that change: `sdeadapt.analysis.updates_weighted`.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from scipy import special, stats

__all__ = ["effective_samples", "mean_abs", "update_bound", "update_law", "var_abs"]

_Continuous: Any = stats.rv_continuous  # whose stubs ask for *args in the hooks
_EULER = (1.0, -5.0, 61.0, -1385.0, 50521.0)  # numbers of the series of log Gamma(z + 3/4) / Gamma(z + 1/4)
_SERIES_FROM = 16.0  # there the first term left out, .0067 z^-12, is below 3e-17


def update_law(m: float) -> Any:
    r"""Return the law of the update after m steps, when the squares are averaged with equal weights.

    $$p(x) = \frac{\Gamma(m/2)}{\sqrt{m\pi}\,\Gamma((m-1)/2)}\Bigl(1 - \frac{x^2}m\Bigr)^{(m-3)/2},
      \qquad |x| \le \sqrt m,$$
    so that $X^2/m \sim \mathrm{Beta}(1/2, (m-1)/2)$. m = 1: the sign, ±1. m = 2: the arcsine law. m = 3: uniform on
    $[-\sqrt3, \sqrt3]$. $m \to \infty$: N(0, 1). Mean 0 and variance 1 for every m, $E X^4 = 3m/(m + 2)$.

    Args:
        m: steps, >= 1; it need not be whole (see `effective_samples`).

    Returns:
        A frozen continuous distribution of `scipy.stats`: pdf, logpdf, cdf, sf, ppf, stats, moment, rvs(random_state=…)
        and so on. For m = 1 a discrete one, of -1 and 1, with pmf and logpmf in the place of pdf and logpdf.

    Raises:
        ValueError: if m is below 1 or not finite.

    Example:
        >>> law = update_law(2)
        >>> round(float(law.pdf(0.0)), 6), round(float(law.cdf(1.0)), 6), [float(s) for s in law.stats("mv")]
        (0.225079, 0.75, [0.0, 1.0])
        >>> update_law(1).rvs(5, random_state=0)
        array([ 1,  1,  1,  1, -1])

    Zhang and Ziyin, Theorem 1 and Equation 30.
    """
    m = float(_check_steps(m))
    return stats.rv_discrete(name="sign", values=([-1, 1], [0.5, 0.5]))() if m == 1 else _LAW(m)


def var_abs(m: ArrayLike) -> Any:
    r"""Return the variance of the size $|X|$ of the update after m steps; it grows with m, from 0 to $1 - 2/\pi$.

    $$\mathrm{Var}|X| = 1 - \frac{m\,\Gamma(m/2)^2}{\pi\,\Gamma((m+1)/2)^2}$$

    Args:
        m: steps, >= 1, a number or an array.

    Returns:
        The variance, to 1e-15 or so.

    Raises:
        ValueError: if m is below 1 or not finite.

    Example:
        >>> [round(float(v), 6) for v in var_abs([1, 2, 3, 10, 1e6])]
        [0.0, 0.189431, 0.25, 0.330795, 0.36338]

    Zhang and Ziyin, Corollary 2, in a form that holds at m = 1 too.
    """
    return 1 - mean_abs(m) ** 2


def mean_abs(m: ArrayLike) -> Any:
    r"""Return the mean size $E|X| = \sqrt{m/\pi}\,\Gamma(m/2)/\Gamma((m+1)/2)$ of the update after m steps.

    Args:
        m: steps, >= 1, a number or an array.

    Raises:
        ValueError: if m is below 1 or not finite.

    Example:
        >>> [round(float(v), 6) for v in mean_abs([1, 3])]  # the second is sqrt(3) / 2
        [1.0, 0.866025]
    """
    m = _check_steps(m)
    return np.where(m == 1, 1.0, np.sqrt(m / math.pi) / _gamma_ratio(m / 2))[()]


def update_bound(beta: float, t: int) -> float:
    r"""Return what no update exceeds: $|X| \le \sqrt{(1 - \beta^t)/(1 - \beta)}$, for any gradients.

    It is attained when every gradient before the last is 0, and holds for the exponential average of the squares with
    bias correction, without momentum and eps. $\beta \to 1$: $\sqrt t$.

    Args:
        beta: of the squares, in [0, 1).
        t: steps, >= 1.

    Raises:
        ValueError: if an argument is out of its range.

    Example:
        >>> round(update_bound(0.9, 2), 4), round(update_bound(0.999, 10_000), 2)
        (1.3784, 31.62)

    Zhang and Ziyin, Proposition 1, with the constant of Ziyin, Wang and Ueda 2020 (arXiv 2002.04839), Proposition 1.
    """
    faded = _faded(beta, t)
    return math.sqrt(faded / (1 - beta))


def effective_samples(beta: float, t: float = math.inf) -> float:
    r"""Return $1/\sum_i w_i^2$, the number of equal weights that average as well as exponential ones after t steps.

    $$m = \frac{1 + \beta}{1 - \beta}\,\frac{1 - \beta^t}{1 + \beta^t},$$
    which is t for $\beta \to 1$ and $(1+\beta)/(1-\beta)$ for $t \to \infty$. (The paper's $2/(1-\beta)$ is one more.)

    Args:
        beta: of the squares, in [0, 1).
        t: steps, >= 1, or infinite.

    Raises:
        ValueError: if an argument is out of its range.

    Example:
        >>> round(effective_samples(0.9), 9), round(effective_samples(0.99), 9), round(effective_samples(0.999, 10), 4)
        (19.0, 199.0, 9.9999)
    """
    faded = _faded(beta, t)
    return (1 + beta) / (1 - beta) * faded / (2 - faded)


class _UpdateLaw(_Continuous):
    """The family of laws, with the shape parameter m > 1."""

    def _argcheck(self, m: Any) -> Any:
        return (m > 1) & np.isfinite(m)

    def _shape_info(self) -> list[Any]:
        return []

    def _get_support(self, m: Any) -> tuple[Any, Any]:
        return -np.sqrt(m), np.sqrt(m)

    def _logpdf(self, x: Any, m: Any) -> Any:
        with np.errstate(divide="ignore"):  # infinite at the ends for m < 3
            return np.log(_gamma_ratio((m - 1) / 2) / np.sqrt(m * np.pi)) + special.xlog1py((m - 3) / 2, -_share(x, m))

    def _pdf(self, x: Any, m: Any) -> Any:
        return np.exp(self._logpdf(x, m))

    def _sf(self, x: Any, m: Any) -> Any:
        b, share = (m - 1) / 2, _share(x, m)
        inner = special.betainc(0.5, b, share)
        far = inner > 0.5  # both halves keep their digits; `betaincc` near share = 0 loses them at m = 2
        tail = np.where(far, special.betaincc(0.5, b, np.where(far, share, 1.0)), 1 - inner) / 2
        return np.where(x > 0, tail, 1 - tail)

    def _cdf(self, x: Any, m: Any) -> Any:
        return self._sf(-x, m)

    def _isf(self, q: Any, m: Any) -> Any:
        size = np.sqrt(m * special.betainccinv(0.5, (m - 1) / 2, 2 * np.minimum(q, 1 - q)))
        return np.where(q < 0.5, size, -size)

    def _ppf(self, q: Any, m: Any) -> Any:
        return -self._isf(q, m)

    def _munp(self, n: int, m: Any) -> Any:
        if n % 2:
            return np.zeros_like(m)
        return math.prod(((2 * j + 1) * m / (m + 2 * j) for j in range(n // 2)), start=np.ones_like(m))

    def _stats(self, m: Any) -> tuple[Any, Any, Any, Any]:
        zero = np.zeros_like(m)
        return zero, zero + 1, zero, -6 / (m + 2)

    def _entropy(self, m: Any) -> Any:
        return -self._logpdf(0.0, m) - (m - 3) / 2 * (special.digamma((m - 1) / 2) - special.digamma(m / 2))

    def _rvs(self, m: Any, size: Any = None, random_state: Any = None) -> Any:
        g = random_state.standard_normal(size)
        return g / np.sqrt((g**2 + random_state.chisquare(m - 1, size)) / m)


_LAW = _UpdateLaw(name="update", shapes="m")


def _share(x: Any, m: Any) -> Any:
    """Return x²/m, of which the square root of m, rounded, must not make more than 1."""
    return np.minimum(x * x / m, 1.0)


def _gamma_ratio(x: Any) -> Any:
    r"""Return $\Gamma(x + 1/2)/\Gamma(x)$ to a few units in the last place; a difference of `gammaln` loses digits.

    With z = x − 1/4 the logarithm is $\tfrac12\log z - \sum_k E_{2k}/(k\,4^{2k+1} z^{2k})$, of even powers only.
    """
    near = np.minimum(x, _SERIES_FROM)
    z = np.maximum(x, _SERIES_FROM) - 0.25
    series = sum(e / (k * 4 ** (2 * k + 1) * z ** (2 * k)) for k, e in enumerate(_EULER, 1))
    return np.where(x < _SERIES_FROM, special.gamma(near + 0.5) / special.gamma(near), np.sqrt(z) * np.exp(series))


def _faded(beta: float, t: float) -> float:
    """Return 1 − beta^t.

    Raises:
        ValueError: if an argument is out of its range.
    """
    if not 0 <= beta < 1:
        raise ValueError(f"`beta` must lie in [0, 1); got {beta!r}. With equal weights, use m = t.")
    if not t >= 1:
        raise ValueError(f"`t` must be at least 1 step; got {t!r}.")
    return -math.expm1(t * math.log(beta)) if beta > 0 else 1.0


def _check_steps(m: ArrayLike) -> np.ndarray:
    """Return m as floats.

    Raises:
        ValueError: if one is below 1 or not finite.
    """
    steps = np.asarray(m, dtype=float)
    if not ((steps >= 1) & np.isfinite(steps)).all():
        raise ValueError(f"`m` must be a finite number of steps, at least 1; got {m!r}.")
    return steps
