r"""The contrasts behind a verdict: what is left of a weak error at h = 0, judged for many targets and studies at once.

The plateau a is the value at h = 0 of the curve in $\{1, h^p, h^{p+1}\}$ through the three finest levels. It vanishes
for $b h^p + c h^{p+1}$, equals the limit of a wrong SDE, and is .62 e_L for order p - 1/2 (p = 1, h falling by 4).
Every statement is a linear contrast of the errors with an interval; no logarithm, and no level chosen by its size.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

__all__ = ["ROUND_OFF", "SHARE", "TOLERANCE", "Judgement", "judge", "plateau_weights", "shrink"]

TOLERANCE = 0.25  # of the order: an error of order p - TOLERANCE still counts as order p
SHARE = 1 / 3  # of the allowed error that may be a plateau; for p = 1, ratio 4 the same strictness as TOLERANCE
AGREEMENT = 1 / 2  # relative change of the plateau, one level coarser, up to which it is one and the same
ROUND_OFF = 1e-12  # in units of the scale: errors below it are arithmetic


class Judgement(NamedTuple):
    """What holds of each target, every field (..., J).

    Attributes:
        ok: the claimed order is seen: the finest error and the plateau are below what is allowed.
        minor: no plateau is seen, and what could be there is small beside what other targets show.
        tiny: finest error and plateau are within the margin.
        violated: finest error and plateau are provably above what is allowed, and the levels tell one story.
        confirmed: (...), every target is ok, minor or tiny, and one is ok or all are within the user's margin.
        refuted: (...), some target is violated.
        plateau: a.
        plateau_sem: its standard error.
        plateau_bias: the bound on its deterministic error.
        allowed: A, what an error of order p - TOLERANCE may still be at the finest level.
    """

    ok: np.ndarray
    minor: np.ndarray
    tiny: np.ndarray
    violated: np.ndarray
    confirmed: np.ndarray
    refuted: np.ndarray
    plateau: np.ndarray
    plateau_sem: np.ndarray
    plateau_bias: np.ndarray
    allowed: np.ndarray


def plateau_weights(h: ArrayLike, order: float = 1.0) -> np.ndarray:
    r"""Return the weights w with $a = \sum_i w_i e(h_i)$ = 0 for $h^p$ and $h^{p+1}$, and 1 for a constant.

    Args:
        h: (3,), three different positive steps.
        order: p > 0.

    Returns:
        (3,), the weights.

    >>> plateau_weights([1.0, 1 / 4, 1 / 16]).round(3).tolist()
    [0.022, -0.444, 1.422]
    """
    return _coefficients(np.asarray(h, dtype=float), order)[0]


def _coefficients(h: np.ndarray, order: float) -> np.ndarray:
    """(3, 3), the map from errors to the coefficients of 1, x^p and x^(p+1), with x = h / h_1."""
    x = h / h.max()
    return np.linalg.inv(np.stack([np.ones(3), x**order, x ** (order + 1)], 1))


def shrink(h: np.ndarray, error: np.ndarray, covariance: np.ndarray, z: float, order: float = 1.0) -> np.ndarray:
    """Return the errors nearest to the estimates, in their covariance, without what is not resolved. For planning.

    A plateau that lies within z standard errors of 0 is taken out, and with it a term in h^(p+1) that does as well:
    left in, this noise would be taken for features of the problem that more paths resolve.

    Args:
        h: (L,).
        error: (J, L).
        covariance: (J, L, L).
        z: critical value.
        order: p.

    Returns:
        (J, L), changed in the three finest levels only.
    """
    rows = _coefficients(h[-3:], order)[[0, 2]]
    planned = error.copy()
    for e, c in zip(planned[:, -3:], covariance[:, -3:, -3:], strict=True):  # views
        for contrasts in (rows[:1], rows):
            spread = contrasts @ c @ contrasts.T
            if (rest := abs(contrasts[-1] @ e)) > z * np.sqrt(max(spread[-1, -1], 0.0)) or rest == 0:
                break
            e -= c @ contrasts.T @ np.linalg.pinv(spread, hermitian=True) @ contrasts @ e
    return planned


class _Contrasts:
    """Linear contrasts v of the levels: their values and their intervals."""

    def __init__(
        self, error: np.ndarray, covariance: np.ndarray, bias: np.ndarray | None, common_bias: np.ndarray | None
    ) -> None:
        self.error, self.covariance, self.bias, self.common_bias = error, covariance, bias, common_bias

    def value(self, v: np.ndarray) -> np.ndarray:
        return (v * self.error).sum(-1)

    def sem(self, v: np.ndarray) -> np.ndarray:
        return np.sqrt(np.maximum(np.einsum("...i,...ij,...j->...", v, self.covariance, v), 0))

    def shift(self, v: np.ndarray) -> np.ndarray | float:
        """The most that deterministic errors can move the contrast."""
        free = 0.0 if self.bias is None else (np.abs(v) * self.bias).sum(-1)
        return free + (0.0 if self.common_bias is None else np.abs(v.sum(-1)) * self.common_bias)

    def lower(self, v: np.ndarray, z: float) -> np.ndarray:
        return self.value(v) - z * self.sem(v) - self.shift(v)

    def upper_size(self, v: np.ndarray, z: float) -> np.ndarray:
        return np.abs(self.value(v)) + z * self.sem(v) + self.shift(v)


def judge(
    h: np.ndarray,
    error: np.ndarray,
    covariance: np.ndarray,
    scale: np.ndarray,
    *,
    z: float,
    z_joint: float,
    order: float = 1.0,
    atol: float = 0.0,
    bias: np.ndarray | None = None,
    common_bias: np.ndarray | None = None,
) -> Judgement:
    """Return what holds of each target; leading axes are studies, and everything broadcasts over them.

    Args:
        h: (L,), decreasing, L >= 3.
        error: (..., J, L), chain minus SDE.
        covariance: (..., J, L, L), of one target's errors across the levels.
        scale: (J,), the natural size of each test function, positive.
        z: critical value for statements that must hold of every target (intersection: no correction).
        z_joint: critical value for statements about some target (union: simultaneous).
        order: p, the claim.
        atol: margin in units of the scale within which an error does not matter.
        bias: (J, L), bounds on deterministic errors of each level.
        common_bias: (J,), bounds on a deterministic error that all levels share.

    Returns:
        The judgement.
    """
    fine = _Contrasts(error[..., -3:], covariance[..., -3:, -3:], None if bias is None else bias[..., -3:], common_bias)
    w = plateau_weights(h[-3:], order)
    middle, last = np.eye(3)[1:]
    sign = np.where(fine.error < 0, -1.0, 1.0)
    allowed = (h[-1] / h[-2]) ** (order - TOLERANCE) * sign[..., 1, None] * middle
    finest, plateau = sign[..., 2, None] * last, fine.value(w)
    level = np.where(plateau < 0, -1.0, 1.0)[..., None] * w

    def below(v: np.ndarray, limit: np.ndarray) -> np.ndarray:
        """|v e| is provably below the limit."""
        return np.minimum(fine.lower(limit - v, z), fine.lower(limit + v, z)) > 0

    ok = below(last, allowed) & below(w, SHARE * allowed)

    reach, rest = fine.upper_size(last, z) / scale, fine.upper_size(w, z) / scale
    shown = (fine.lower(allowed, z_joint) / scale).max(-1, keepdims=True, initial=0)
    flat = np.abs(plateau) <= z_joint * fine.sem(w) + fine.shift(w)
    minor = flat & (reach <= shown) & (rest <= SHARE * shown)
    margin = max(atol, ROUND_OFF)
    tiny = (reach <= margin) & (rest <= margin)

    one_story = (sign == sign[..., :1]).all(-1)
    if h.size > 3:
        coarser = error[..., -4:-1] @ plateau_weights(h[-4:-1], order)
        steady = np.abs(coarser - plateau) <= AGREEMENT * np.abs(plateau)
        one_story |= (sign[..., 1] == sign[..., 2]) & steady
    violated = (
        one_story
        & (fine.lower(finest - allowed, z_joint) > 0)
        & (fine.lower(level - SHARE * allowed, z_joint) > 0)
        & (fine.lower(finest, z_joint) / scale > margin)
    )
    refuted = violated.any(-1)
    # errors at round-off alone confirm nothing: the test functions may be blind
    seen = ok.any(-1) | (tiny.all(-1) & (atol > 0))
    confirmed = (ok | minor | tiny).all(-1) & seen & ~refuted
    shift = np.broadcast_to(fine.shift(w), plateau.shape)
    return Judgement(ok, minor, tiny, violated, confirmed, refuted, plateau, fine.sem(w), shift, fine.value(allowed))
