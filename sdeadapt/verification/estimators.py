r"""The weak error $e(h) = E\varphi(\text{chain}) - E\varphi(\text{SDE})$ of one level by Monte Carlo.

`coupled` runs chain and SDE on one Brownian path and averages differences; `independent` runs them apart. Both subtract
control variates of exactly known mean, with coefficients from a discarded pilot, so that nothing is biased by them.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from sdeadapt.checks import check_choice
from sdeadapt.simulation.paths import Level, Mode, Values, first_divergence, run_paths
from sdeadapt.simulation.perturbation import Expansion
from sdeadapt.simulation.randomness import Purpose, SeedTree
from sdeadapt.simulation.run import Run, run_chunks
from sdeadapt.statistics.estimate import Moments
from sdeadapt.verification.noise_free import NOISE_FREE

__all__ = [
    "ESTIMATORS",
    "LevelJob",
    "LevelResult",
    "Pilot",
    "candidates",
    "make_expansion",
    "modes",
    "run_level",
    "run_pilot",
]

ESTIMATORS = ("auto", *NOISE_FREE, "coupled", "independent", "exact-sde")
_MODES: dict[str, tuple[Mode, ...]] = {
    "coupled": ("coupled",), "independent": ("chain", "sde"), "exact-sde": ("chain",), "chain": ("chain",)
}  # fmt: skip
_PURPOSE = {"chain": Purpose.CHAIN, "sde": Purpose.SDE, "coupled": Purpose.COUPLED}
_PILOT = {"chain": Purpose.PILOT_CHAIN, "sde": Purpose.PILOT_SDE, "coupled": Purpose.PILOT_COUPLED}


def candidates(name: str, levels: tuple[Level, ...], known: bool = False) -> tuple[str, ...]:
    """Return the Monte-Carlo estimators that the pilot is to choose among; a noise-free one is not asked for.

    "auto" tries coupling where every level's noise is exactly Gaussian; for other laws a coupled path difference keeps
    a part that does not shrink with h. Without an SDE there is "chain" alone; with one whose means are `known`, the
    chain may run against them.

    Raises:
        ValueError: if there is no such estimator, or one is asked for that cannot be used.
    """
    if levels[0].sde is None:
        check_choice("estimator", name, ("auto", "chain"))
        return ("chain",)
    check_choice("estimator", name, ESTIMATORS)
    couples = all(level.oracle.couples for level in levels)
    if name == "coupled" and not couples:
        raise ValueError("`estimator` must be 'independent' here: this oracle's draws cannot be coupled to an SDE.")
    if name == "exact-sde" and not known:
        raise ValueError("`estimator` must be 'independent' here: the means of this SDE are not known exactly.")
    if name != "auto":
        return (name,)
    gaussian = couples and all(level.oracle.gaussian for level in levels)
    apart = "exact-sde" if known else "independent"
    return (apart, "coupled") if gaussian else (apart,)


def modes(estimator: str) -> tuple[Mode, ...]:
    """Return what runs at every level."""
    return _MODES[estimator]


def make_expansion(level: Level) -> Expansion | None:
    """Return the level's control variates, or None where method or oracle do not allow them."""
    oracle = level.oracle
    if not level.method.elementwise or oracle.dim * len(level.initial) > 128:
        return None
    local = oracle.at(level.initial.theta[:1])
    try:
        local.gradient, local.covariance_diagonal, local.diffuse(local.theta.new_zeros(1, oracle.noise_dim))
    except ValueError:
        return None
    return Expansion(level)


@dataclass(frozen=True, eq=False)
class LevelJob:
    """One chunk of one level, as a pure function of its index.

    Args:
        level, mode, expansion: what runs.
        seeds, purpose, index: which streams.
        paths: per chunk.
        coefficients: (J, C) of the controls; None leaves them out.
    """

    level: Level
    mode: Mode
    expansion: Expansion | None
    seeds: SeedTree
    purpose: Purpose
    index: int
    paths: int
    coefficients: Tensor | None = None

    def values(self, chunk: int) -> Values:
        """Return the test functions and controls of a chunk."""
        generator = self.seeds.generator(self.purpose, self.index, chunk, self.level.oracle.device)
        return run_paths(self.level, self.mode, generator, self.paths, self.expansion)

    def __call__(self, chunk: int) -> ChunkResult:
        """Return the moments of a chunk over its finite paths."""
        values = self.values(chunk)
        raw = response(values)
        finite = raw.isfinite().all(1)
        if values.controls is not None and self.coefficients is not None:
            # summed at once: a path that overflowed would otherwise be NaN in one place and not in another
            controls = values.controls.nan_to_num(0.0, 0.0, 0.0)
            residual = raw - (controls * self.coefficients.to(controls)).sum(2)
            spread = _moments(controls.flatten(1), finite)
        else:
            residual, spread = raw, None
        parts = {"chain": values.chain, "sde": values.sde, "bias": values.bias}
        moments = {name: _moments(part, finite) for name, part in parts.items() if part is not None}
        moments["residual"] = _moments(residual, finite)
        if spread is not None:
            moments["controls"] = spread
        diverged = self.paths - int(finite.sum())
        return ChunkResult(moments, diverged, chunk if diverged else -1, values.least_u)

    def first_divergence(self, chunk: int) -> int:
        """Return the iteration at which this chunk first lost a path."""
        generator = self.seeds.generator(self.purpose, self.index, chunk, self.level.oracle.device)
        return first_divergence(self.level, self.mode, generator, self.paths)


def response(values: Values) -> Tensor:
    """Return what is averaged, (paths, J): chain, SDE, or their difference."""
    if values.chain is not None and values.sde is not None:
        return values.chain - values.sde
    part = values.chain if values.chain is not None else values.sde
    assert part is not None
    return part


def _moments(samples: Tensor, finite: Tensor) -> Moments:
    return Moments.of(samples if bool(finite.all()) else samples[finite])


class ChunkResult(NamedTuple):
    """Moments of one chunk, by name; how many paths diverged, in which chunk first; the smallest u."""

    moments: dict[str, Moments]
    diverged: int
    chunk: int
    least_u: float

    def merge(self, other: ChunkResult) -> ChunkResult:
        """Return the result over the paths of both."""
        moments = {name: value.merge(other.moments[name]) for name, value in self.moments.items()}
        first = self.chunk if self.chunk >= 0 else other.chunk
        return ChunkResult(moments, self.diverged + other.diverged, first, min(self.least_u, other.least_u))


class Pilot(NamedTuple):
    """What a discarded pilot says of one level and mode.

    coefficients (J, C) or None; mean (J,), variance (J,) of a path's response with controls, plain (J,) without,
    square (J,) the mean of phi^2, seconds per path.
    """

    coefficients: Tensor | None
    mean: np.ndarray
    variance: np.ndarray
    plain: np.ndarray
    square: np.ndarray
    seconds: float


def run_pilot(level: Level, mode: Mode, expansion: Expansion | None, seeds: SeedTree, index: int, paths: int) -> Pilot:
    """Run a small pilot: regression coefficients of the controls, variances, speed."""
    job = LevelJob(level, mode, expansion, seeds, _PILOT[mode], index, paths)
    if expansion:
        replace(job, paths=2).values(0)  # makes the coefficients of the expansion, which are not to be timed
    begin = time.perf_counter()
    values = job.values(0)
    seconds = (time.perf_counter() - begin) / paths
    raw = response(values)
    finite = raw.isfinite().all(1)
    raw = raw[finite]
    size = raw.shape[1]
    if raw.shape[0] < 2:
        nan = np.full(size, np.nan)
        return Pilot(None, nan, nan, nan, nan, seconds)
    plain = raw.var(0)
    phi = values.sde if values.sde is not None else values.chain
    assert phi is not None
    coefficients, variance, mean = None, plain, raw.mean(0)
    if values.controls is not None:
        controls = values.controls[finite].nan_to_num(0.0, 0.0, 0.0)
        coefficients = _regress(raw, controls)
        residual = raw - (controls * coefficients).sum(2)
        variance, mean = residual.var(0) * raw.shape[0] / max(raw.shape[0] - controls.shape[2], 1), residual.mean(0)
        useless = variance >= plain
        coefficients = coefficients.masked_fill(useless[:, None], 0.0)
        variance, mean = torch.minimum(variance, plain), torch.where(useless, raw.mean(0), mean)
    arrays = [t.double().cpu().numpy() for t in (mean, variance, plain, phi[finite].square().mean(0))]
    return Pilot(coefficients, arrays[0], arrays[1], arrays[2], arrays[3], seconds)


def _regress(y: Tensor, controls: Tensor) -> Tensor:
    """Return least-squares coefficients (J, C) of y (n, J) on controls (n, J, C), an intercept allowed for.

    A control that varies by rounding alone has none: its mean need not be zero (mu of two-point noise).
    """
    z = (controls - controls.mean(0)).double()
    scale = z.square().mean(0).sqrt()
    rounding = math.sqrt(torch.finfo(controls.dtype).eps) * scale.amax(1, keepdim=True)
    scale = torch.where(scale > rounding, scale, math.inf)
    z = (z / scale).permute(1, 0, 2)  # (J, n, C)
    gram = z.transpose(1, 2) @ z / z.shape[1]
    cross = torch.einsum("jnc,nj->jc", z, (y - y.mean(0)).double()) / z.shape[1]
    solved = torch.linalg.pinv(gram, rtol=1e-9, hermitian=True) @ cross[:, :, None]
    return (solved[:, :, 0] / scale).to(y.dtype)


@dataclass(frozen=True, eq=False)
class LevelResult:
    """The weak error of one level with its three numbers, and what a report needs beside them.

    error (J,), covariance (J, J) of it, bias and bias_sem (J,): the solver's |fine − coarse|, which bounds what
    extrapolation left; chain and sde (J,): the plain means; square (J,): E phi(SDE)^2; factor (J,): variance reduction;
    a chain alone: error is its mean, sde and square are of the chain;
    paths: (mode, number) run; kurtosis, skewness, share (J,): of the residuals; control_z: the largest |z| of
    the mean of a control in use; diverged, first_step; least_u; chunk_means of the residuals, for simultaneous
    intervals.
    """

    error: np.ndarray
    covariance: np.ndarray
    bias: np.ndarray
    bias_sem: np.ndarray
    chain: np.ndarray
    sde: np.ndarray
    square: np.ndarray
    factor: np.ndarray
    paths: tuple[tuple[str, int], ...]
    kurtosis: np.ndarray
    skewness: np.ndarray
    share: np.ndarray
    control_z: float
    diverged: int
    first_step: int
    least_u: float
    constant: np.ndarray
    chunk_means: np.ndarray


def run_level(
    level: Level,
    index: int,
    estimator: str,
    expansion: Expansion | None,
    pilots: dict[Mode, Pilot],
    paths: dict[str, int],
    seeds: SeedTree,
    run: Run,
    tick: Callable[[int], None] = lambda _: None,
    exact: np.ndarray | None = None,
) -> LevelResult:
    """Run one level and return its weak error.

    Args:
        level: which one.
        index: its place in the study.
        estimator: "coupled", "independent", or "chain" without an SDE.
        expansion: makes the control variates.
        pilots: their coefficients, by mode.
        paths: number of paths by mode, rounded up to whole chunks.
        seeds: the randomness.
        run: where the chunks run.
        tick: called with the number of chunks done.
        exact: E phi(SDE), (J,), for "exact-sde".
    """
    results: dict[str, tuple[LevelJob, ChunkResult, int]] = {}
    for mode in modes(estimator):
        size = min(run.chunk_size(chunk_bytes(level)), paths[mode])
        count = math.ceil(paths[mode] / size)
        job = LevelJob(level, mode, expansion, seeds, _PURPOSE[mode], index, size, pilots[mode].coefficients)
        merged: ChunkResult | None = None
        for part in run_chunks(job, count, replace(run, progress=None)):
            merged = part if merged is None else merged.merge(part)
            tick(1)
        assert merged is not None
        results[mode] = (job, merged, size * count)
    result = _combine(results)
    return result if exact is None else replace(result, error=result.error - exact, sde=exact)


def chunk_bytes(level: Level) -> int:
    """Return the scratch memory of one path of a level, in bytes."""
    columns = level.sde.noise_dim * level.substeps if level.sde else 0
    return level.oracle.bytes_per_path + 8 * (columns + 12 * level.oracle.dim * len(level.initial))


def _combine(results: dict[str, tuple[LevelJob, ChunkResult, int]]) -> LevelResult:
    moments = {mode: merged.moments for mode, (_, merged, _) in results.items()}
    residuals = [m["residual"] for m in moments.values()]
    signs = [1.0] if len(residuals) == 1 else [1.0, -1.0]
    plain = [m[name] for m in moments.values() for name in ("chain", "sde") if name in m]
    chain, sde, bias = plain[0], plain[-1], list(moments.values())[-1].get("bias")
    raw_variance = np.sum([_variance(m) / m.n for m in plain], axis=0)
    covariance = sum(m.covariance / m.n for m in residuals)
    assert isinstance(covariance, np.ndarray)
    variance = np.diagonal(covariance)
    with np.errstate(divide="ignore", invalid="ignore"):
        factor = np.where(variance > 0, raw_variance / variance, 1.0)
    control_z = 0.0
    for job, merged, _ in results.values():
        if "controls" in merged.moments and job.coefficients is not None:
            controls, used = merged.moments["controls"], job.coefficients.flatten().cpu().numpy() != 0
            sem = np.where(used, np.sqrt(_variance(controls) / controls.n), np.inf)
            control_z = max(control_z, float(np.max(np.abs(controls.mean) / np.where(sem > 0, sem, np.inf))))
    diverged, step = 0, -1
    for job, merged, _ in results.values():
        diverged += merged.diverged
        if merged.diverged:
            found = job.first_divergence(merged.chunk)
            step = found if step < 0 else min(step, found)
    mean = sum(s * m.mean for s, m in zip(signs, residuals, strict=True))
    assert isinstance(mean, np.ndarray)
    # of chain and SDE, the shape of the one that makes the error
    worst = np.argmax([_variance(m) / m.n for m in residuals], axis=0)
    columns = np.arange(len(worst))
    constant = np.all([_variance(m) <= 1e-28 * (m.mean**2 + 1e-300) for m in plain], axis=0)
    return LevelResult(
        error=mean,
        covariance=covariance,
        bias=np.abs(bias.mean) if bias else 0 * mean,
        bias_sem=np.sqrt(_variance(bias) / bias.n) if bias else 0 * mean,
        chain=chain.mean,
        sde=sde.mean,
        square=_variance(sde) + sde.mean**2,
        factor=factor,
        paths=tuple((mode, n) for mode, (_, _, n) in results.items()),
        kurtosis=np.stack([m.kurtosis for m in residuals])[worst, columns],
        skewness=np.stack([m.skewness for m in residuals])[worst, columns],
        share=np.stack([m.largest_chunk_share for m in residuals])[worst, columns],
        control_z=control_z,
        diverged=diverged,
        first_step=step,
        least_u=min(merged.least_u for _, merged, _ in results.values()),
        constant=constant,
        chunk_means=np.array(max(residuals, key=lambda m: len(m.chunk_means)).chunk_means),
    )


def _variance(moments: Moments) -> np.ndarray:
    return np.diagonal(moments.covariance)
