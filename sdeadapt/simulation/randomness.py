"""One seed in, one generator per stream out; no two streams of a study share a seed.

torch's CPU generator reads only the low 32 bits of a seed, so hashed 64-bit seeds collide by birthday. Here the low
32 bits are a bijection of (purpose, level, chunk), hence distinct by construction.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

import numpy as np
import torch

__all__ = ["Purpose", "SeedTree"]

_LEVEL_BITS, _CHUNK_BITS = 5, 23
_MASK = 0xFFFFFFFF


class Purpose(IntEnum):
    """What a stream is for; a pilot never shares a stream with the run that it plans."""

    CHAIN = 0
    SDE = 1
    COUPLED = 2
    PILOT_CHAIN = 3
    PILOT_SDE = 4
    PILOT_COUPLED = 5
    ENSEMBLE = 6
    COMPARE_CHAIN = 7
    COMPARE_SDE = 8
    POWER = 9
    DIAGNOSTICS = 10
    PERMUTATION = 11


def _mix(x: int) -> int:
    """Return a bijection of the 32-bit integers that scatters neighbours (the finaliser of MurmurHash3)."""
    x ^= x >> 16
    x = (x * 0x85EBCA6B) & _MASK
    x ^= x >> 13
    x = (x * 0xC2B2AE35) & _MASK
    return x ^ (x >> 16)


@dataclass(frozen=True)
class SeedTree:
    """The seeds of one study.

    Args:
        low, high: 32 random bits each, from the user's `rng`.

    Example:
        >>> tree = SeedTree.of(0)
        >>> tree.seed(Purpose.CHAIN, 0, 0) % 2**32 != tree.seed(Purpose.CHAIN, 0, 1) % 2**32
        True
    """

    low: int
    high: int

    @classmethod
    def of(cls, rng: int | np.random.SeedSequence) -> SeedTree:
        """Return the tree of a whole number or a SeedSequence.

        Raises:
            ValueError: if `rng` is neither.
        """
        if (
            isinstance(rng, bool)
            or not isinstance(rng, int | np.integer | np.random.SeedSequence)
            or (not isinstance(rng, np.random.SeedSequence) and rng < 0)
        ):
            raise ValueError(f"`rng` must be a whole number >= 0 or a numpy SeedSequence; got {rng!r}.")
        sequence = rng if isinstance(rng, np.random.SeedSequence) else np.random.SeedSequence(int(rng))
        low, high = (int(word) for word in sequence.generate_state(2, np.uint32))
        return cls(low, high)

    def seed(self, purpose: Purpose, level: int, chunk: int) -> int:
        """Return the 64-bit seed of one stream; its low 32 bits occur nowhere else in this tree.

        Raises:
            ValueError: if level >= 32 or chunk >= 2^23, which the 32 bits cannot hold.
        """
        if not 0 <= level < 1 << _LEVEL_BITS or not 0 <= chunk < 1 << _CHUNK_BITS:
            raise ValueError(f"A study has at most 32 levels of 2^23 chunks; got level {level}, chunk {chunk}.")
        stream = (int(purpose) << _LEVEL_BITS | level) << _CHUNK_BITS | chunk
        return self.high << 32 | _mix(stream ^ self.low)

    def generator(
        self, purpose: Purpose, level: int, chunk: int, device: torch.device | str = "cpu"
    ) -> torch.Generator:
        """Return the generator of one stream, on `device`."""
        # torch takes seeds below 2^63
        return torch.Generator(device).manual_seed(self.seed(purpose, level, chunk) & (1 << 63) - 1)
