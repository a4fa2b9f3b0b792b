"""Estimators without a random number: what they return, which of them applies, and what bounds their error."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from sdeadapt.simulation.paths import Level
from sdeadapt.verification.resolution import Resolution

__all__ = ["NOISE_FREE", "Exact", "Means", "expectations", "which", "why_not"]

NOISE_FREE = ("moments", "quadrature")
_LOST = 0.01  # mass outside the domain from which on it is to blame


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


class Exact(NamedTuple):
    """The expectations of all levels: chain, sde and square, and the parts of the bound, (J, L) each; edge of a domain.

    `shared` names the parts that are common to all levels; `edge` bounds the mass that left a grid, 0 without one.
    """

    chain: np.ndarray
    sde: np.ndarray
    square: np.ndarray
    parts: dict[str, np.ndarray]
    shared: tuple[str, ...]
    edge: float

    @classmethod
    def of(cls, means: list[Means], edge: float = 0.0) -> Exact:
        """Return the levels side by side."""
        chain, sde, square = (np.stack([getattr(m, name) for m in means], 1) for name in ("chain", "sde", "square"))
        parts = {name: np.stack([m.parts[name] for m in means], 1) for name in means[0].parts}
        return cls(chain, sde, square, parts, means[0].shared, edge)

    @property
    def bound(self) -> np.ndarray:
        """What bounds the error of a level by itself, (J, L)."""
        own = [part for name, part in self.parts.items() if name not in self.shared]
        return np.sum(own, axis=0)

    @property
    def common(self) -> np.ndarray:
        """What bounds the error that all levels have in common, (J,)."""
        shared = [part.max(1) for name, part in self.parts.items() if name in self.shared]
        return np.sum(shared, axis=0) if shared else np.zeros(len(self.chain))

    def blame(self, j: int) -> str:
        """Return the part of the bound that is to blame for a target, at the finest level: the largest.

        It is the domain if mass left it and its part is comparable: what is lost there is felt in all others.
        """
        parts = {name: float(part[j, -1]) for name, part in self.parts.items()}
        largest = max(parts, key=parts.__getitem__)
        lost = self.edge > _LOST and parts.get("domain", 0.0) > parts[largest] / 10
        return "domain" if lost else largest


def why_not(name: str, levels: tuple[Level, ...], own: bool) -> str:
    """Return why an estimator of `NOISE_FREE` does not apply to these levels; "" if it does.

    Args:
        name: of the estimator.
        levels: of the study.
        own: the SDE is the method's own.
    """
    if levels[0].solver != "extrapolated":
        return f"it has a solver of its own, and solver={levels[0].solver!r} was asked for"
    if name == "moments":
        from sdeadapt.verification.exact_moments import moments_apply

        return moments_apply(levels, own)
    from sdeadapt.verification.quadrature import why_no_quadrature

    return why_no_quadrature(levels)


def which(estimator: str, levels: tuple[Level, ...], *, own: bool, noisy: bool) -> str:
    """Return the noise-free estimator to use, or "" for Monte Carlo.

    Args:
        estimator: what was asked for; "auto" takes the first that applies.
        levels: of the study.
        own: the SDE is the method's own.
        noisy: "auto" means Monte Carlo: a number of paths, a precision or a time was asked for, or there is no SDE.

    Raises:
        ValueError: if one was asked for by name and does not apply.
    """
    if estimator in NOISE_FREE:
        reason = why_not(estimator, levels, own)
        if reason:
            raise ValueError(f"`estimator` must not be {estimator!r} here: {reason}. Use 'auto'.")
        return estimator
    if estimator != "auto" or noisy:
        return ""
    return next((name for name in NOISE_FREE if not why_not(name, levels, own)), "")


def expectations(
    name: str,
    levels: tuple[Level, ...],
    resolution: Resolution,
    own: bool,
    tick: Callable[[int, int], None] | None = None,
) -> Exact:
    """Return the expectations of all levels by an estimator that applies.

    Args:
        name: of the estimator.
        levels: of the study.
        resolution: of the grid, where there is one.
        own: the SDE is the method's own.
        tick: called with the number of parts done, and of all.
    """
    tick = tick or (lambda done, total: None)
    if name == "quadrature":
        from sdeadapt.verification.quadrature import quadrature_means

        return Exact.of(*quadrature_means(levels, resolution, tick))
    from sdeadapt.verification.exact_moments import moment_means

    means = []
    for i, level in enumerate(levels):
        means.append(moment_means(level, own))
        tick(i + 1, len(levels))
    return Exact.of(means)
