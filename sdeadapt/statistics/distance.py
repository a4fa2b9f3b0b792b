r"""Whether two samples have the same law: the energy distance, with a jackknife error and a permutation p-value.

$\mathcal E(X, Y) = 2 E|X - Y| - E|X - X'| - E|Y - Y'| \ge 0$, and 0 only for equal laws (Székely and Rizzo 2013,
J. Stat. Plan. Inference 143(8)).
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from scipy.spatial.distance import cdist

from sdeadapt.checks import check_integer, check_positive

__all__ = ["EnergyDistance", "energy_distance", "whiten"]

_BLOCK_BYTES = 1 << 25  # of the matrix of distances, of which only some rows exist at a time


class EnergyDistance(NamedTuple):
    """An energy distance between two samples.

    estimate: unbiased, so that it may be negative; sem: the jackknife's, which is no guide to whether the distance is 0
    (there the estimate is not normal); p_value: of equal laws, by permutation, at least 1 / (permutations + 1).
    """

    estimate: float
    sem: float
    p_value: float


def _samples(x: ArrayLike, y: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    first, second = (np.asarray(a, dtype=float) for a in (x, y))
    if first.ndim != 2 or second.ndim != 2 or first.shape[1] != second.shape[1]:
        raise ValueError(f"`x` and `y` must have shapes (n, d) and (m, d); got {first.shape} and {second.shape}.")
    if min(len(first), len(second)) < 3:
        raise ValueError(f"`x` and `y` must have at least 3 rows each; got {len(first)} and {len(second)}.")
    if not (np.isfinite(first).all() and np.isfinite(second).all()):
        raise ValueError("`x` and `y` must be finite; drop the paths that diverged, and say how many they were.")
    return first, second


def whiten(x: ArrayLike, y: ArrayLike, *, ridge: float = 0.01) -> tuple[np.ndarray, np.ndarray]:
    r"""Return both samples in coordinates in which the two of them together are uncorrelated and of comparable spread.

    $z = (y - \bar y) D^{-1} V (\Lambda + \rho)^{-1/2}$ with D the root mean squares of the pooled rows and
    $V \Lambda V^T$ the covariance of $y D^{-1}$. The pool does not know which row is whose: a permutation test of what
    comes out stays exact.

    The ridge keeps the distance a distance: a quantity that the SDE makes deterministic (u of RMSprop) varies by
    O(√h) in the chain, and dividing by that spread would make two laws that converge look equally far at every h.
    It also makes collinear test functions harmless (loss and |gradient|² of an isotropic quadratic).

    Args:
        x: (n, d).
        y: (m, d).
        ridge: $\rho$, positive: variances below this share of the mean square count less and less.

    Returns:
        (n, d') and (m, d'), where columns that are 0 throughout are left out.

    Raises:
        ValueError: on shapes, values that are not finite, or no ridge.

    Example:
        >>> a = np.random.default_rng(0).standard_normal((500, 1))
        >>> x, y = whiten(np.hstack([a, 3 * a]), np.hstack([a, 3 * a]))
        >>> np.vstack([x, y]).std(0).round(2).tolist()
        [0.0, 1.0]
    """
    first, second = _samples(x, y)
    check_positive("ridge", ridge)
    pool = np.vstack([first, second])
    size = np.sqrt((pool**2).mean(0))
    z = pool[:, size > 0] / size[size > 0]
    z = z - z.mean(0)
    values, vectors = np.linalg.eigh(z.T @ z / len(z))
    z = z @ (vectors / np.sqrt(np.maximum(values, 0.0) + ridge))
    return z[: len(first)], z[len(first) :]


def energy_distance(x: ArrayLike, y: ArrayLike, rng: np.random.Generator, *, permutations: int = 499) -> EnergyDistance:
    r"""Return the energy distance of two independent samples as an unbiased U-statistic, with its errors.

    $\hat{\mathcal E} = \frac{2}{nm}\sum_{ij}|x_i - y_j| - \frac{1}{n(n-1)}\sum_{i \ne i'}|x_i - x_{i'}|
    - \frac{1}{m(m-1)}\sum_{j \ne j'}|y_j - y_{j'}|$.

    The whole costs O((n + m)² (d + permutations)) operations; the matrix of distances is never held as a whole.

    Args:
        x: (n, d), n >= 3; see `whiten` for columns of different units.
        y: (m, d), m >= 3, independent of x.
        rng: draws the permutations.
        permutations: of the labels, at least 1.

    Returns:
        The estimate, its jackknife standard error, and the p-value
        $(1 + \#\{\hat{\mathcal E}_\pi \ge \hat{\mathcal E}\}) / (1 + \text{permutations})$, which is valid exactly.

    Raises:
        ValueError: on shapes, values that are not finite, or no permutation.

    Example:
        >>> rng = np.random.default_rng(0)
        >>> x, y = rng.standard_normal((2, 300, 1))
        >>> same, moved = energy_distance(x, y, rng), energy_distance(x, y + 0.5, rng)
        >>> same.p_value > 0.05, moved.p_value, round(moved.estimate, 2)
        (True, 0.002, 0.16)

    Székely and Rizzo 2013; Phipson and Smyth 2010, Stat. Appl. Genet. Mol. Biol. 9(1), for the p-value.
    """
    first, second = _samples(x, y)
    check_integer("permutations", permutations)
    n, m = len(first), len(second)
    pool = np.vstack([first, second])
    labels = np.zeros((permutations + 1, n + m))
    labels[:, :n] = 1.0  # row 0 as observed, the others permuted
    rng.permuted(labels[1:], axis=1, out=labels[1:])
    labels = np.ascontiguousarray(labels.T)
    to_first, to_all, within = np.empty(n + m), np.empty(n + m), np.zeros(permutations + 1)
    rows = max(1, _BLOCK_BYTES // (8 * (n + m)))
    for low in range(0, n + m, rows):
        block = slice(low, low + rows)
        distances = cdist(pool[block], pool)
        sums = distances @ labels  # per row, the distance to all that bear the label
        within += (sums * labels[block]).sum(0)
        to_first[block], to_all[block] = sums[:, 0], distances.sum(1)
    cross = to_all @ labels - within
    statistics = 2 * cross / (n * m) - within / (n * (n - 1)) - (to_all.sum() - within - 2 * cross) / (m * (m - 1))
    estimate = float(statistics[0])
    slack = 1e-12 * float(to_all.mean()) / (n + m)  # ties are ties whatever the order of summation
    p_value = (1 + int((statistics[1:] >= estimate - slack).sum())) / (permutations + 1)
    return EnergyDistance(estimate, _jackknife(to_first, to_all - to_first, n, m), p_value)


def _jackknife(to_first: np.ndarray, to_second: np.ndarray, n: int, m: int) -> float:
    """Return the two-sample jackknife's standard error, from each row's summed distances to both samples."""
    cross, xx, yy = to_second[:n].sum(), to_first[:n].sum(), to_second[n:].sum()
    without_x = (
        2 * (cross - to_second[:n]) / ((n - 1) * m) - (xx - 2 * to_first[:n]) / ((n - 1) * (n - 2)) - yy / (m * (m - 1))
    )
    without_y = (
        2 * (cross - to_first[n:]) / (n * (m - 1)) - xx / (n * (n - 1)) - (yy - 2 * to_second[n:]) / ((m - 1) * (m - 2))
    )
    return math.sqrt((n - 1) * without_x.var() + (m - 1) * without_y.var())
