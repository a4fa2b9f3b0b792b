r"""Gradient noise at given parameters or along a run: do the assumptions behind an SDE hold there?

Noise must dominate the signal, and its skewness and fourth moment must fade in what the method averages. These are
conditions on the noise; whether lr is small enough besides is what `compare` and `verify` measure.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from sdeadapt.analysis.noise_measures import (
    BLOCKS,
    Shape,
    enumerates,
    exact_shape,
    l1_norms,
    noise_and_signal,
    sample_blocks,
    sampled_shape,
)
from sdeadapt.analysis.noise_report import NoiseReport
from sdeadapt.checks import check_integer, check_open_unit, check_positive
from sdeadapt.methods.averages import averages
from sdeadapt.methods.base import Method
from sdeadapt.oracles.base import Local, NotDeclared, Oracle
from sdeadapt.results import describe
from sdeadapt.simulation.observables import Named
from sdeadapt.simulation.paths import Level, run_paths
from sdeadapt.simulation.randomness import Purpose, SeedTree
from sdeadapt.simulation.run import Run, run_chunks
from sdeadapt.simulation.start import make_clock, make_initial

__all__ = ["gradient_noise", "memory"]

_PILOT = 64  # gradients that choose directions, independent of those that are measured
_RUN, _DIRECTIONS, _PILOTS, _DRAWS = range(4)  # streams


def memory(method: Method) -> float:
    r"""Return the steps over which draws add up before the coefficients of the method's SDE have changed.

    $1/(1 - \beta)$ of its longest average, or one unit of SDE time, $1/h$, where that is shorter.

    >>> from sdeadapt.methods import SGD, Adam
    >>> round(memory(Adam(lr=1e-3, beta1=0.9, beta2=0.999))), round(memory(SGD(lr=0.1)))
    (1000, 10)
    """
    weights = averages(method).values()
    return min([1 / method.time_step, *([1 / min(weights)] if weights else [])])


class _Found(NamedTuple):
    """What was measured at one point."""

    loss: float
    sums: np.ndarray  # (2,), N and G
    sums_covariance: np.ndarray  # (2, 2)
    l1: np.ndarray  # (3,), of noise, of signal from below and from above
    l1_sem: np.ndarray  # (3,)
    shape: Shape
    declared: bool


@dataclass(frozen=True, eq=False)
class _Job:
    """One point as a pure function of its index."""

    oracle: Oracle
    theta: Tensor  # (points, dim)
    fixed: Tensor  # (dim, directions), before the gradient's own
    draws: int
    exact: bool
    seeds: SeedTree

    @torch.no_grad()
    def __call__(self, index: int) -> _Found:
        oracle, theta = self.oracle, self.theta[index : index + 1]
        local = oracle.at(theta)
        whole = self.exact and enumerates(oracle)
        declared = _declared(local) if self.exact else None
        slope = local.gradient[0] if declared else self._mean(index, theta)
        norm = slope.norm()
        towards = slope / torch.where(norm > 0, norm, torch.nan)
        directions = torch.cat([self.fixed, towards[:, None].to(self.fixed)], 1)
        blocks, x = None, None
        if not whole or declared is None:
            generator = self.seeds.generator(Purpose.DIAGNOSTICS, _DRAWS, index, oracle.device)
            blocks, x = sample_blocks(oracle, theta, self.draws, generator, directions)
        if declared is not None:
            sums, l1 = declared
            covariance, l1_sem = torch.zeros(2, 2), torch.zeros(3)
        else:
            assert blocks is not None
            (sums, covariance), (l1, l1_sem) = noise_and_signal(blocks), l1_norms(blocks)
        if whole:
            shape = exact_shape(oracle, theta, directions)
        else:
            assert x is not None
            shape = sampled_shape(x)
        return _Found(
            _loss(local), _array(sums), _array(covariance), _array(l1), _array(l1_sem), shape, declared is not None
        )

    def _mean(self, index: int, theta: Tensor) -> Tensor:
        generator = self.seeds.generator(Purpose.DIAGNOSTICS, _PILOTS, 1 + index, self.oracle.device)
        return _pilot(self.oracle, theta, generator).mean(0)


def _pilot(oracle: Oracle, theta: Tensor, generator: torch.Generator) -> Tensor:
    """Return 64 independent gradients at theta (1, dim)."""
    return oracle.sample(oracle.at(theta), oracle.stream(generator, _PILOT).next())


def _declared(local: Local) -> tuple[Tensor, Tensor] | None:
    """Return (N, G) and the L1 norms if the oracle declares gradient and Sigma's diagonal, else None."""
    try:
        gradient, variance = local.gradient[0].double(), local.covariance_diagonal[0].double()
        trace = local.noise_trace[0].double()
    except NotDeclared:
        return None
    scale = local.oracle.scale
    size = gradient.abs().sum()
    sums = torch.stack([scale**2 * trace, gradient.square().sum()])
    return sums, torch.stack([scale * variance.sqrt().sum(), size, size])


def _array(x: Tensor) -> np.ndarray:
    return np.asarray(x.double().cpu())


def _loss(local: Local) -> float:
    try:
        return float(local.loss[0])
    except NotDeclared:
        return math.nan


def gradient_noise(
    method: Method,
    oracle: Oracle,
    *,
    theta0: Any,
    horizon: float | None = None,
    steps: int | None = None,
    times: int | Iterable[float] | None = 8,
    initial: Any = None,
    paths: int = 1,
    draws: int = 4096,
    exact: bool = True,
    directions: int = 8,
    window: float | None = None,
    closeness: float = math.sqrt(2),
    tolerance: float = 0.3,
    confidence: float = 0.95,
    rng: int | np.random.SeedSequence = 0,
    run: Run = Run(),  # noqa: B008 (frozen)
) -> NoiseReport:
    r"""Measure the gradient noise at given parameters or along a run, and say whether an SDE's assumptions hold there.

    With $N = \sigma^2\,\mathrm{Tr}\,\Sigma$ and $G = |\nabla f|^2$ three things are asked, of all times together:

    * Noise dominates, $G/N \le C^2 - 1$. An adaptive method's v is $N + G$ (by coordinate), its SDE keeps N: beyond,
      the preconditioners differ by more than C. For SGD it is Li, Malladi and Arora's necessary condition, which is
      one of equilibrium: it is asked at the last time alone.
    * Low skewness: the skewness left in the sum of n draws, $|\gamma|/\sqrt n$, is at most `tolerance`. Malladi et
      al.'s condition is one on a family, as $\sigma$ grows; at one $\sigma$ it can only be asked what it amounts to.
    * Bounded moments: the excess kurtosis left in it, $|\kappa|/n$, is at most `tolerance`. That is what $E\,x^4$ of
      the sum is off by; no sample proves that higher moments exist.

    Here n is `window`. Skewness and kurtosis are asked of random directions, of coordinates, drawn among those with
    noise at the start, and of the gradient's own direction. N and G are those that the oracle declares; the noise of
    independent batches of a data set is looked at example by example. What is neither is estimated from `draws`
    gradients at each point, with intervals that hold for all times and directions at once. They cover what is not known
    of the points looked at; another run's points may be others: see `paths`.

    Args:
        method: what is run, and whose memory sets `window`.
        oracle: at the user's own batch.
        theta0: (dim,), or (rows, dim) for a start drawn among the rows.
        horizon: the end of the run in SDE time.
        steps: the end in steps; exactly one of the two is given. 0 asks at theta0 alone, every row of it.
        times: SDE times to look at beside the start, or how many.
        initial: overrides m and u of the start.
        paths: runs; N and G are averaged over them, all else must hold for each.
        draws: gradients at a point, a multiple of 64, where they are needed.
        exact: False estimates everything from draws.
        directions: how many random ones, and how many coordinates.
        window: n; None is `memory(method)`.
        closeness: C > 1.
        tolerance: of what is left of skewness and kurtosis. .3 puts the distribution function of the sum off by 2 % and
            .7 %, the first terms of Edgeworth's series, and its fourth moment by 10 %.
        confidence: of all intervals together.
        rng: a whole number or a SeedSequence; nothing global is read.
        run: where and how.

    Returns:
        The report: verdict, message, the numbers at every time.

    Raises:
        ValueError: if an argument is wrong, before any path is run.
        FloatingPointError: if a path ceased to be finite.

    Example:
        >>> from sdeadapt import RMSprop, problems
        >>> problem = problems.digits(batch_size=1)
        >>> method = RMSprop(lr=0.0625, beta=0.99, eps=0.3)
        >>> report = gradient_noise(method, problem.oracle, theta0=problem.theta0, steps=0)
        >>> report.verdict.value, round(float(report.ratio[0]), 1)
        ('CONFIRMED', 1.2)

    Malladi et al. 2022 (arXiv 2205.10287), Definitions 2.6 and 2.7; Li, Malladi, Arora 2021 (arXiv 2102.12470), Section
    5; McCandlish et al. 2018 (arXiv 1812.06162) for the noise scale.
    """
    began = time.perf_counter()
    check_open_unit("confidence", confidence)
    check_positive("tolerance", tolerance)
    check_integer("paths", paths)
    check_integer("directions", directions)
    if check_integer("draws", draws, minimum=2 * BLOCKS) % BLOCKS:
        raise ValueError(f"`draws` must be a multiple of {BLOCKS}; got {draws}.")
    if not (closeness > 1 and math.isfinite(closeness)):
        raise ValueError(f"`closeness` must be a finite factor C > 1; got {closeness!r}.")
    window = check_positive("window", memory(method) if window is None else window)
    oracle = oracle.to(run.device, run.torch_dtype)
    seeds = SeedTree.of(rng)
    theta, at = _points(method, oracle, theta0, initial, horizon, steps, times, paths, seeds)
    names, fixed = _directions(oracle, theta[0, :1], directions, seeds)
    job = _Job(oracle, theta.flatten(0, 1), fixed, draws, exact, seeds)
    found = list(run_chunks(job, len(job.theta), run))
    times_by_paths = theta.shape[:2]

    def gather(values: list[Any]) -> np.ndarray:
        array = np.array(values)
        return array.reshape(*times_by_paths, *array.shape[1:])

    return NoiseReport(
        config={
            "method": method.describe(), "oracle": oracle.describe(), "theta0": describe(theta[0]),
            "initial": describe(initial), "steps": int(at[-1]), "times": at.tolist(), "paths": int(theta.shape[1]),
            "draws": draws, "exact": exact, "directions": directions, "window": window, "closeness": closeness,
            "tolerance": tolerance, "confidence": confidence, "seed": describe(getattr(rng, "entropy", rng)),
            "device": run.device, "dtype": run.dtype, "chunk": None,
        },
        seconds=time.perf_counter() - began,
        h=method.time_step,
        scale=oracle.scale,
        batch_size=getattr(oracle, "batch_size", None),
        equilibrium=method.linear,
        declared=all(f.declared for f in found),
        enumerated=exact and enumerates(oracle),
        steps=at,
        loss=gather([f.loss for f in found]),
        sums=gather([f.sums for f in found]),
        sums_covariance=gather([f.sums_covariance for f in found]),
        l1=gather([f.l1 for f in found]),
        l1_sem=gather([f.l1_sem for f in found]),
        directions=(*names, "gradient"),
        shape=Shape(*(gather(list(part)) for part in zip(*(f.shape for f in found), strict=True))),
    )  # fmt: skip


def _points(
    method: Method, oracle: Oracle, theta0: Any, initial: Any, horizon: float | None, steps: int | None,
    times: int | Iterable[float] | None, paths: int, seeds: SeedTree,
) -> tuple[Tensor, np.ndarray]:  # fmt: skip
    """Return the parameters looked at, (times, paths, dim), and after how many steps.

    Raises:
        ValueError: if a time or the start is wrong.
        FloatingPointError: if a path ceased to be finite.
    """
    try:
        x0 = make_initial(method, oracle, theta0, initial)
    except NotDeclared:  # no diag Sigma: the chain starts as torch starts it
        x0 = make_initial(method, oracle, theta0, initial, need_point=False)
    if steps == 0 and horizon is None:
        return x0.theta[None], np.zeros(1, dtype=int)
    clock = make_clock(method, horizon=horizon, steps=steps, times=times, compares_sde=False)
    level = Level(method, oracle, oracle, None, x0, 0, clock.times, {"size": Named("theta_norm_squared")})
    start, again = (seeds.generator(Purpose.DIAGNOSTICS, _RUN, 0, oracle.device) for _ in range(2))
    kept = run_paths(level, "chain", again, paths, keep=paths).kept
    assert kept is not None
    theta = torch.cat([level.draw_initial(start, paths).theta[None], kept.transpose(0, 1)])
    if not theta.isfinite().all():
        first = int((~theta.isfinite().all(2).all(1)).nonzero()[0])
        raise FloatingPointError(
            f"All paths must stay finite; by step {[0, *clock.times][first]} one of {paths} had not. Use a smaller lr "
            "or a larger eps."
        )
    return theta, np.array([0, *clock.times])


def _directions(oracle: Oracle, theta: Tensor, count: int, seeds: SeedTree) -> tuple[list[str], Tensor]:
    """Return names and unit vectors, (dim, directions): random ones, then coordinates that have noise at theta."""
    generator = seeds.generator(Purpose.DIAGNOSTICS, _DIRECTIONS, 0)
    dim = oracle.dim
    random = torch.randn(dim, count if dim > 1 else 0, generator=generator, dtype=torch.float64)
    with torch.no_grad():
        pilot = _pilot(oracle, theta, seeds.generator(Purpose.DIAGNOSTICS, _PILOTS, 0, oracle.device))
    noisy = pilot.var(0).cpu() > 1e-12 * pilot.var(0).max().cpu()
    shuffled = torch.randperm(dim, generator=generator)
    chosen = shuffled[noisy[shuffled]][:count].sort().values
    units = torch.zeros(dim, len(chosen), dtype=torch.float64)
    units[chosen, torch.arange(len(chosen))] = 1
    names = [f"random {i}" for i in range(random.shape[1])] + [f"theta_{i}" for i in chosen.tolist()]
    return names, torch.cat([random / random.norm(dim=0), units], 1).to(oracle.device)
