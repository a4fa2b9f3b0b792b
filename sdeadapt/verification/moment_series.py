r"""Moments where the covariance of the noise is quadratic in the state: a linear operator, its powers, its exponential.

About any origin, the mean m and the second moment S change by $L(1, m, S)$ in a step, or in a unit of time. So n steps
are the binomial series $\sum_k \binom nk L^k$ and a time t is $\sum_k t^k L^k / k!$: the number of terms depends on
how far the moments go, not on how many steps lead there, and a term costs one evaluation of $E\,M M^T$.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from sdeadapt.verification.affine import Law

__all__ = ["MomentOperator"]

_LARGEST = 8.0  # a term beyond so many times what came first would cost digits: then a shorter series is taken
_MOST_PIECES = 65536  # that a time is cut into before the moments are said to overflow
_EPS = 2.0**-54


@dataclass(frozen=True, eq=False)
class MomentOperator:
    """What changes mean and covariance of x.

    Args:
        change: N of a step $x' = (I + N)x + s$ + noise, or A of an SDE, (D, D).
        shift: s, or b, (D,).
        noise: (mean, covariance) -> covariance of the noise, (D, D), linear in mean and second moment.
        discrete: a step, not an SDE.
    """

    change: Tensor
    shift: Tensor
    noise: Callable[[Tensor, Tensor], Tensor]
    discrete: bool

    def advance(self, law: Law, length: float) -> Law:
        """Return the law after `length` steps, or units of time.

        Raises:
            FloatingPointError: if the moments overflow.
        """
        piece, least = length, 1.0 if self.discrete else length / _MOST_PIECES
        while length > 0:
            piece = min(piece, length)
            found = self._series(law, piece)
            if found is None:
                piece = piece // 2 if self.discrete else piece / 2
            else:
                law, length = found, length - piece
            if piece < least or not bool(law.covariance.isfinite().all()):
                raise FloatingPointError("The moments overflow. Use a smaller lr.")
        return law

    def _series(self, law: Law, length: float) -> Law | None:
        """Return the law after `length`, or None if so long a series would lose digits."""
        origin = law.mean  # about which m is 0 at first, and S the covariance
        shift = self.shift + self.change @ origin
        rest = self.noise(origin, torch.zeros_like(law.covariance))

        def increment(m: Tensor, s: Tensor, first: bool) -> tuple[Tensor, Tensor]:
            moved, noise = self.change @ s, self.noise(origin + m, s - torch.outer(m, m))
            dm = self.change @ m
            cross = torch.outer(m + dm if self.discrete else m, shift)
            ds = moved + moved.T + cross + cross.T + (noise if first else noise - rest)
            if self.discrete:
                ds = ds + moved @ self.change.T
            if first:
                dm = dm + shift
                ds = ds + torch.outer(shift, shift) if self.discrete else ds
            return dm, ds

        m, s = torch.zeros_like(origin), law.covariance
        term_m, term_s, settled, k = m, s, False, 1
        while (ratio := (length - k + 1 if self.discrete else length) / k) > 0:
            term_m, term_s = (ratio * part for part in increment(term_m, term_s, k == 1))
            if k == 1:
                most_m = _LARGEST * _size(term_m)
                most_s = _LARGEST * max(_size(s), _size(term_s), _size(term_m) ** 2)
            elif _size(term_m) > most_m or _size(term_s) > most_s:
                return None
            m, s = m + term_m, s + term_s
            before, settled = settled, _size(term_m) <= _EPS * _size(m) and _size(term_s) <= _EPS * _size(s)
            if (settled and before) or not math.isfinite(_size(s)):
                break
            k += 1
        return Law(origin + m, s - torch.outer(m, m))


def _size(x: Tensor) -> float:
    return float(x.abs().max())
