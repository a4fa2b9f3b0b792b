"""How many paths: fixed before the look that counts, from a pilot that is thrown away."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from sdeadapt.checks import check_integer, check_positive
from sdeadapt.simulation.paths import Level, Mode
from sdeadapt.verification.estimators import Pilot, modes
from sdeadapt.verification.resolution import Resolution

__all__ = ["Budget", "Plan", "make_plan"]

DEFAULT_PRECISION = 0.065
LEAST_SHARE = 0.2  # a target whose error is smaller than this share of the largest need not be resolved by itself
MOST_PATHS = 1 << 20  # per level and mode, where nothing else limits them
MOST_PATH_STEPS = 4e8  # in all, where nothing is asked for: a minute or so of one worker on a small problem
# of an iteration and of a fine sub-step, in gradients, their share of controls included
_CHAIN_COST, _SDE_COST = 3.0, 2.0


@dataclass(frozen=True)
class Budget:
    """How much to spend. At most one of paths, precision and seconds, which ask for Monte Carlo.

    None of them means `precision=0.065`, as far as 4e8 path-steps go; any plan has at most 2^20 paths a level.

    Args:
        paths: per level, for the chain and for the SDE; or, to repeat a plan, one row a level with a number for each.
        precision: standard error at the finest level as a share of the error expected there.
        seconds: of one worker. The pilot's speed fixes the numbers of paths, which the report records.
        resolution: of the grid of the quadrature estimator, which draws nothing.

    Example:
        >>> Budget(paths=1000).paths
        1000
    """

    paths: int | tuple[tuple[int, ...], ...] | None = None
    precision: float | None = None
    seconds: float | None = None
    resolution: Resolution = Resolution()

    def __post_init__(self) -> None:
        if sum(x is not None for x in (self.paths, self.precision, self.seconds)) > 1:
            raise ValueError("`Budget` takes at most one of paths, precision and seconds.")
        for name in ("precision", "seconds"):
            if getattr(self, name) is not None:
                check_positive(name, getattr(self, name))
        if self.paths is not None:
            rows = [[self.paths]] if isinstance(self.paths, int) else self.paths
            for n in (n for row in rows for n in row):
                check_integer("paths", n, minimum=2)

    @property
    def noisy(self) -> bool:
        """Whether it asks for Monte Carlo."""
        return any(x is not None for x in (self.paths, self.precision, self.seconds))

    def check(self, levels: int, modes: set[int]) -> None:
        """Refuse rows of paths that do not fit a study.

        Raises:
            ValueError: if there are not as many rows as levels, or a row fits none of the possible numbers of modes.
        """
        if isinstance(self.paths, tuple) and (len(self.paths) != levels or not {len(r) for r in self.paths} <= modes):
            wanted = " or ".join(map(str, sorted(modes)))
            raise ValueError(f"`paths` must have {levels} rows of {wanted} numbers; got {self.paths!r}.")


@dataclass(frozen=True)
class Plan:
    """The planned numbers of paths and what they are expected to show.

    paths: a row a level, a number a mode; path_steps: evaluations of a gradient in all, roughly; seconds: of one
    worker, by the pilot's speed; sem (J, L): predicted standard errors; expected (J, L): errors expected.
    """

    modes: tuple[str, ...]
    paths: tuple[tuple[int, ...], ...]
    path_steps: int
    seconds: float
    sem: np.ndarray
    expected: np.ndarray

    def by_mode(self, level: int) -> dict[str, int]:
        """Return the paths of one level by mode."""
        return dict(zip(self.modes, self.paths[level], strict=True))


def _cost(level: Level, mode: str) -> float:
    """Return evaluations of a gradient per path."""
    alone, compared = _CHAIN_COST * (level.start - level.begin), level.records[-1] - level.start
    chain, sde = _CHAIN_COST * compared, _SDE_COST * level.substeps * compared
    return alone + {"chain": chain, "sde": sde, "coupled": chain + sde}[mode]


def _seconds(paths: Sequence[Sequence[float]], pilots: Sequence[dict[Mode, Pilot]], kinds: Sequence[Mode]) -> float:
    rows = zip(paths, pilots, strict=True)
    return sum(n * pilot[mode].seconds for row, pilot in rows for n, mode in zip(row, kinds, strict=True))


def make_plan(
    pilots: Sequence[dict[Mode, Pilot]], levels: Sequence[Level], h: np.ndarray, estimator: str, budget: Budget
) -> Plan:
    """Return the plan.

    The tolerated standard error of a target is `precision` of the error expected at the finest level: that of the
    coarsest level times h_L/h_1, should the claim hold, or a fifth of the largest |e|/s if that is more. Coarser levels
    may err more, as (h/h_L)^{3/4}. Within a level, chain and SDE share it at least cost. Of chains alone the error is
    the difference to the next finer level, and either level makes half of its variance.
    """
    kinds = modes(estimator)
    alone = estimator == "chain"
    h = np.append(h[:-1], h[-2]) if alone else h  # of the finest difference that a level serves
    square = pilots[0][kinds[-1]].square
    scale = np.sqrt(np.where(square > 0, square, np.inf))
    coarse, other = pilots[0], pilots[1]["chain"] if alone else pilots[0][kinds[-1]]
    error = coarse[kinds[0]].mean if estimator in ("coupled", "exact-sde") else coarse["chain"].mean - other.mean
    own = np.nan_to_num(np.abs(error) / scale) * float(h[-1] / h[0])
    with np.errstate(invalid="ignore", over="ignore"):  # 0 times infinity where phi = 0; overflow where paths diverged
        expected = np.maximum(own, LEAST_SHARE * own.max(initial=0.0)) * scale
        expected = np.where(np.isfinite(expected) & (expected > 0), expected, np.inf)
        worst = [{m: float(np.nanmax(p[m].variance / expected**2, initial=0.0)) for m in kinds} for p in pilots]
    cost = [{m: _cost(level, m) for m in kinds} for level in levels]
    if isinstance(budget.paths, int):
        paths = [[float(budget.paths)] * len(kinds) for _ in levels]
    elif budget.paths is not None:
        paths = [[float(n) for n in row] for row in budget.paths]
    else:
        precision = budget.precision or DEFAULT_PRECISION
        paths = []
        for i, (v, c) in enumerate(zip(worst, cost, strict=True)):
            tolerated = precision * float(h[i] / h[-1]) ** 0.75 * math.sqrt(0.5 if alone else 1.0)
            total = sum(math.sqrt(v[m] * c[m]) for m in kinds)
            paths.append([math.sqrt(v[m] / c[m]) * total / tolerated**2 for m in kinds])
    if budget.seconds is not None:
        paths = [[n * budget.seconds / _seconds(paths, pilots, kinds) for n in row] for row in paths]
    elif budget.paths is None and budget.precision is None:
        spent = sum(n * c[m] for row, c in zip(paths, cost, strict=True) for n, m in zip(row, kinds, strict=True))
        paths = [[n * min(1.0, MOST_PATH_STEPS / max(spent, 1.0)) for n in row] for row in paths]
    if budget.paths is None:
        most = math.inf if budget.seconds is not None else MOST_PATHS
        paths = [[min(max(n, 512.0), most) for n in row] for row in paths]
    whole = tuple(tuple(math.ceil(n) for n in row) for row in paths)
    sem = np.stack(
        [
            np.sqrt(sum(p[m].variance / n for n, m in zip(row, kinds, strict=True)))
            for row, p in zip(whole, pilots, strict=True)
        ],
        1,
    )
    pairs = [(n, level, m) for row, level in zip(whole, levels, strict=True) for n, m in zip(row, kinds, strict=True)]
    return Plan(
        modes=kinds,
        paths=whole,
        path_steps=round(sum(n * _cost(level, m) for n, level, m in pairs)),
        seconds=_seconds(whole, pilots, kinds),
        sem=sem,
        expected=expected[:, None] * h / h[-1],
    )
