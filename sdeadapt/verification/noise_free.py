"""What a noise-free estimator returns for one level: expectations with a deterministic bound, and no random number."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

__all__ = ["Means"]


class Means(NamedTuple):
    """Expectations of one level, (J,) each; the columns run over times, then functions.

    Attributes:
        chain: E phi(chain).
        sde: E phi(SDE).
        square: E phi(SDE)^2, for the scale of a target.
        parts: what bounds the error of chain − sde, by cause ("rounding", "grid", "nodes", …), each (J,).
        shared: of the parts, those of an SDE solution that serves every level: common to all of them.
    """

    chain: np.ndarray
    sde: np.ndarray
    square: np.ndarray
    parts: dict[str, np.ndarray]
    shared: tuple[str, ...] = ()
