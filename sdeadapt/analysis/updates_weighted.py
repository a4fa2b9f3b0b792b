r"""The law of $X = g_t/\sqrt{\sum_i w_i g_i^2}$ for any weights and variances: exponential averages, growing gradients.

With independent $g_i \sim N(0, \sigma_i^2)$, $c_i = w_i\sigma_i^2/\sigma_t^2$, $H = \sum_{i<t} c_i z_i^2$ and
$S = X/\sqrt{1 - c_t X^2} = z_t/\sqrt H$, everything follows from $M(\lambda) = E e^{-\lambda H} = \prod_{i<t}
(1 + 2 c_i\lambda)^{-1/2}$ by one integral (Craig's formula for the normal tail), to rounding error and without
simulation: the integrands are analytic in a strip, where the trapezoidal rule converges geometrically.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar

import numpy as np
from numpy.typing import ArrayLike
from scipy import special, stats

from sdeadapt.analysis.updates import update_law
from sdeadapt.checks import check_integer

__all__ = ["abs_moment", "ema_law", "kolmogorov", "updates", "weighted_law"]

Array = TypeVar("Array")
_Continuous: Any = stats.rv_continuous  # whose stubs ask for *args in the hooks
_STEP = 0.125  # of the trapezoidal rule, in a logarithmic variable
_NODES = np.arange(-38, 38, _STEP)[:, None]  # the integrands fall at least as e^-|y|


def updates(gradients: Iterable[Array], beta: float | None = None) -> Iterator[Array]:
    r"""Yield the updates $g_t/\sqrt{\hat v_t}$ of a sequence of gradients, one by one.

    Args:
        gradients: arrays or tensors of one shape; the next is asked for after the last update has been yielded, so it
            may depend on it.
        beta: of the exponential average of the squares, with bias correction; None for the simple average, which is
            the limit beta -> 1.

    Yields:
        Arrays of that shape; not-a-number where every gradient so far is 0.

    Example:
        >>> [[round(float(x), 4) for x in step] for step in updates(np.array([[1.0, 3.0], [-1.0, 4.0]]))]
        [[1.0, 1.0], [-1.0, 1.1314]]
    """
    decay = 1.0 if beta is None else beta
    v: Any = 0.0
    weight = 0.0
    for g in gradients:
        v = decay * v + g * g  # type: ignore[operator]
        weight = decay * weight + 1
        yield g / (v / weight) ** 0.5


def ema_law(beta: float, t: int) -> Any:
    r"""Return the exact law of the update after t steps with an exponential average of the squares, bias-corrected.

    Its variance is below 1, because the newest gradient has the largest weight; for $\beta \to 1$ it is that of
    `update_law(t)`.

    Args:
        beta: of the squares, in (0, 1).
        t: steps, >= 1.

    Returns:
        A frozen distribution of `scipy.stats`, as of `update_law`.

    Raises:
        ValueError: if an argument is out of its range.

    Example:
        >>> [round(float(ema_law(0.9, t).var()), 4) for t in (2, 5, 10, 100)]
        [0.975, 0.9455, 0.9312, 0.921]
    """
    if not 0 < beta < 1:
        raise ValueError(f"`beta` must lie in (0, 1); got {beta!r}. With equal weights, use `update_law(t)`.")
    return weighted_law(beta ** np.arange(check_integer("t", t))[::-1])


def weighted_law(weights: ArrayLike, scales: ArrayLike | None = None) -> Any:
    r"""Return the law of $g_t/\sqrt{\sum_i w_i g_i^2}$ for independent $g_i \sim N(0, \sigma_i^2)$.

    Args:
        weights: (t,), positive, oldest first; they are divided by their sum.
        scales: (t,), the standard deviations $\sigma_i$, positive; by default 1.

    Returns:
        A frozen distribution of `scipy.stats`, as of `update_law`.

    Raises:
        ValueError: if one is not positive and finite, or the shapes differ.

    Example:
        >>> growing = weighted_law(np.ones(10), np.arange(1, 11))
        >>> round(float(growing.var()), 4), round(float(growing.pdf(0.0)), 4)
        (2.2681, 0.2037)
    """
    w = np.asarray(weights, dtype=float)
    sigma = np.ones_like(w) if scales is None else np.asarray(scales, dtype=float)
    for name, values in (("weights", w), ("scales", sigma)):
        if values.ndim != 1 or values.shape != w.shape or not len(w) or not ((values > 0) & np.isfinite(values)).all():
            raise ValueError(f"`{name}` must be positive and finite, (t,) = {w.shape}; got {values!r}.")
    return update_law(1) if len(w) == 1 else _WeightedLaw(squares=w / w.sum() * (sigma / sigma[-1]) ** 2)()


def abs_moment(law: Any, order: int) -> float:
    r"""Return $E|X|^k$ of a law that `weighted_law` or `ema_law` made.

    $$E|X|^k = \frac{2^{k/2}\,\Gamma((k+1)/2)}{\sqrt\pi\,\Gamma(k/2)}
      \int_0^\infty u^{k/2-1} (1 + 2 c_t u)^{-(k+1)/2} M(u)\,du$$

    Args:
        law: the law.
        order: k, >= 1.

    Raises:
        ValueError: if `order` is not a whole number of at least 1.

    Example:
        >>> law = weighted_law(np.ones(3))
        >>> round(abs_moment(law, 2) - abs_moment(law, 1) ** 2, 9)  # var_abs(3)
        0.25
    """
    k = check_integer("order", order)
    return law.dist._size_moment(k) if isinstance(law.dist, _WeightedLaw) else 1.0


class _WeightedLaw(_Continuous):
    """The law, from the weights c_i of the normalised squares, (t,) with t >= 2, the newest last."""

    def __init__(self, squares: np.ndarray, **options: Any):
        self._squares, self._newest = squares, float(squares[-1])
        self._c, self._count = np.unique(squares[:-1], return_counts=True)
        end = 1 / math.sqrt(self._newest)
        super().__init__(**{"name": "weighted", **options, "a": -end, "b": end})

    def _updated_ctor_param(self) -> dict[str, Any]:
        return {**super()._updated_ctor_param(), "squares": self._squares}  # so that it can be frozen

    def _size_moment(self, k: int) -> float:
        low = -math.log(2 * self._squares.sum()) - 80 / k  # below it the integrand falls as u^(k/2), ...
        high = -math.log(2 * self._newest) + 80  # ... above it as u^(-t/2)
        y, step = np.linspace(low, high, 4 + int((high - low) / _STEP), retstep=True)
        u = np.exp(y)
        values = np.exp(k / 2 * y - (k + 1) / 2 * np.log1p(2 * self._newest * u) + self._log_laplace(u))
        factor = 2 ** (k / 2) * special.gamma((k + 1) / 2) / (math.sqrt(math.pi) * special.gamma(k / 2))
        return float(factor * step * values.sum())

    def _log_laplace(self, u: np.ndarray) -> np.ndarray:
        terms = zip(self._c, self._count, strict=True)
        return -sum((0.5 * n * np.log1p(2 * c * u) for c, n in terms), start=np.zeros_like(u))

    def _pdf(self, x: Any) -> Any:
        return _by_chunks(self._density, np.asarray(x, dtype=float))

    def _density(self, x: np.ndarray) -> np.ndarray:
        inside = 1 - self._newest * x * x
        with np.errstate(divide="ignore"):
            lam = x * x / (2 * np.maximum(inside, 1e-300))
        v = np.sqrt(lam + 1 / (2 * self._squares[:-1].sum())) * np.exp(_NODES)
        at = lam + v * v
        slope = sum(n * c / (1 + 2 * c * at) for c, n in zip(self._c, self._count, strict=True))  # -M'/M
        root = 2 / math.sqrt(math.pi) * _STEP * (np.exp(self._log_laplace(at)) * slope * v).sum(0)
        return root / (math.sqrt(2 * math.pi) * np.maximum(inside, 1e-300) ** 1.5)

    def _sf(self, x: Any) -> Any:
        size = np.abs(np.asarray(x, dtype=float))
        tail = _by_chunks(self._tail, size)
        return np.where(np.asarray(x) > 0, tail, 1 - tail)

    def _tail(self, x: np.ndarray) -> np.ndarray:
        lam = x * x / (2 * np.maximum(1 - self._newest * x * x, 1e-300))
        at = lam * (1 + np.exp(2 * _NODES))
        return _STEP / (2 * math.pi) * (np.exp(self._log_laplace(at)) / np.cosh(_NODES)).sum(0)

    def _cdf(self, x: Any) -> Any:
        return self._sf(-np.asarray(x))

    def _munp(self, n: int) -> float:
        return 0.0 if n % 2 else self._size_moment(n) if n else 1.0

    def _stats(self) -> tuple[float, float, float, float]:
        variance = self._size_moment(2)
        return 0.0, variance, 0.0, self._size_moment(4) / variance**2 - 3

    def _rvs(self, size: Any = None, random_state: Any = None) -> Any:
        g = random_state.standard_normal(size)
        h = sum(c * random_state.chisquare(n, size) for c, n in zip(self._c, self._count, strict=True))
        return g / np.sqrt(self._newest * g * g + h)


def kolmogorov(law: Any, other: Any, points: int = 256) -> float:
    """Return the largest distance of two distribution functions at `points` quantiles of `other`, without its ends.

    Args:
        law: anything with `cdf`, as `update_law` and `ema_law` return.
        other: the same, with `ppf`.
        points: how many.

    Example:
        >>> round(kolmogorov(ema_law(0.99, 10), update_law(10)), 5)
        0.00097
    """
    x = other.ppf(np.arange(1, points) / points)
    return float(np.abs(law.cdf(x) - other.cdf(x)).max())


def _by_chunks(f: Callable[[np.ndarray], np.ndarray], x: np.ndarray, size: int = 512) -> np.ndarray:
    """Return f at every x, of any shape, some at a time: a table of nodes by points stays small."""
    flat = x.ravel()
    parts = [f(flat[i : i + size]) for i in range(0, len(flat), size)]
    return np.concatenate(parts).reshape(x.shape) if parts else x
