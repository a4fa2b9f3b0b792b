r"""Random signs that are a function of theta: the randomness of an estimate that is not the SDE's.

They need no generator: a run repeated, or split among workers, meets the same ones. A step's Brownian increment is
independent of the theta that it starts from, hence of the signs there; those of different theta are unrelated. Paths
at one theta share them: at a common start, for one sub-step.
"""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["signs"]

_BITS = 64


def _signed(constant: int) -> int:
    """Return a 64-bit constant as torch's int64 has it."""
    return constant - (1 << 64) if constant >> 63 else constant


_STEP, _FIRST, _SECOND = (_signed(c) for c in (0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB))


def _mixed(z: Tensor) -> Tensor:
    """Return SplitMix64's output for the states z, int64."""
    for shift, factor in ((30, _FIRST), (27, _SECOND)):
        z = (z ^ _shifted(z, shift)) * factor
    return z ^ _shifted(z, 31)


def _shifted(z: Tensor, shift: int) -> Tensor:
    return (z >> shift) & ((1 << (64 - shift)) - 1)  # torch's shift of int64 fills with the sign


def signs(theta: Tensor, n: int) -> Tensor:
    r"""Return n signs, -1 or 1, for every row of theta (paths, dim): (paths, n), in its type.

    The bits of a row are hashed to a seed, a sum of their products with odd numbers modulo 2^64; the signs are the bits
    of SplitMix64's sequence from there.

    >>> theta = torch.tensor([[0.1, 0.2], [0.1, 0.3]], dtype=torch.float64)
    >>> signs(theta, 5).tolist()
    [[1.0, -1.0, 1.0, -1.0, 1.0], [-1.0, -1.0, -1.0, -1.0, -1.0]]

    Steele, Lea, Flood 2014, Fast splittable pseudorandom number generators, OOPSLA.
    """
    wide = torch.int64 if theta.element_size() == 8 else torch.int32
    bits = theta.contiguous().view(wide).long()
    places = torch.arange(1, max(theta.shape[1], n) + 1, device=theta.device) * _STEP
    seeds = _mixed((bits * (_mixed(places[: theta.shape[1]]) | 1)).sum(1))
    words = _mixed(seeds[:, None] + places[: -(-n // _BITS)])
    found = (words[:, :, None] >> torch.arange(_BITS, device=theta.device)) & 1
    return (2 * found - 1).flatten(1)[:, :n].to(theta.dtype)
