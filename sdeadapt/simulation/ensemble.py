"""`simulate` a chain, `solve` an SDE, in an ensemble of paths: means with their errors, and a few paths to look at."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from sdeadapt.checks import check_choice, check_integer, check_positive
from sdeadapt.methods.base import ItoSDE, Method
from sdeadapt.oracles.amplified import Amplified
from sdeadapt.oracles.base import Oracle
from sdeadapt.simulation.observables import TestFunction, resolve_test_functions
from sdeadapt.simulation.paths import Level, first_divergence, run_paths
from sdeadapt.simulation.randomness import Purpose, SeedTree
from sdeadapt.simulation.run import Run, run_chunks
from sdeadapt.simulation.solution import Shown, Solution
from sdeadapt.simulation.solvers import SOLVERS
from sdeadapt.simulation.start import base_steps, check_sde, make_clock, make_initial, make_point, make_times
from sdeadapt.statistics.estimate import Estimate, Moments

__all__ = ["Diverged", "Ensemble", "simulate", "solve"]

Functions = Iterable[str] | Mapping[str, TestFunction] | None


@dataclass(frozen=True)
class Diverged:
    """Paths whose test functions are not finite: how many, their fraction, and the first step at which one was lost."""

    count: int
    fraction: float
    first_step: int | None


@dataclass(frozen=True, eq=False)
class Ensemble:
    """What an ensemble showed; the numbers are of the paths that stayed finite.

    Args:
        times: (times,), SDE time.
        mean: test function -> (times,).
        sem: test function -> (times,), the standard errors.
        final: test function -> the estimate at the last time.
        bias_bound: test function -> (times,), a bound on the bias that the solver left: |fine − coarse| and two
            standard errors of it. None where no pair was run (chains have no such bias; "euler" does).
        paths: (keep, times, dim), theta of the first paths.
        diverged: the paths that did not stay finite.
        chunk: paths per chunk; with the seed it decides every bit.
    """

    times: np.ndarray
    mean: dict[str, np.ndarray]
    sem: dict[str, np.ndarray]
    final: dict[str, Estimate]
    bias_bound: dict[str, np.ndarray] | None
    paths: np.ndarray
    diverged: Diverged
    chunk: int

    def __repr__(self) -> str:
        """Return the final estimates, a line each."""
        lines = [f"{name}: {estimate!r}" for name, estimate in self.final.items()]
        lost = f", {self.diverged.count} paths diverged" if self.diverged.count else ""
        return "\n".join([f"Ensemble at t = {self.times[-1]:.6g}{lost}", *lines])


@dataclass(frozen=True, eq=False)
class _Chain:
    level: Level

    def run(self, generator: torch.Generator, paths: int, keep: int) -> Shown:
        values = run_paths(self.level, "chain", generator, paths, keep=keep)
        assert values.chain is not None
        return Shown(values.chain.unflatten(1, (len(self.level.records), -1)), None, values.kept)

    def first_divergence(self, generator: torch.Generator, paths: int) -> int:
        return first_divergence(self.level, "chain", generator, paths)


class _Part(NamedTuple):
    """A chunk's share: the moments at every time, of values and of bias; how many paths diverged; kept paths."""

    values: list[Moments]
    bias: list[Moments]
    diverged: int
    kept: np.ndarray | None


def _moments(samples: Tensor | None, finite: Tensor) -> list[Moments]:
    return [] if samples is None else [Moments.of(samples[finite, i]) for i in range(samples.shape[1])]


@dataclass(frozen=True, eq=False)
class _Job:
    """One chunk as a pure function of its index: `size` paths, the last one what is left of `paths`."""

    source: _Chain | Solution
    seeds: SeedTree
    stream: int
    device: str
    paths: int
    size: int
    keep: int

    def start(self, chunk: int) -> tuple[torch.Generator, int]:
        generator = self.seeds.generator(Purpose.ENSEMBLE, self.stream, chunk, self.device)
        return generator, min(self.size, self.paths - chunk * self.size)

    def __call__(self, chunk: int) -> _Part:
        generator, n = self.start(chunk)
        values, bias, kept = self.source.run(generator, n, max(0, min(n, self.keep - chunk * self.size)))
        finite = values.isfinite().flatten(1).all(1)
        theta = None if kept is None else kept.double().cpu().numpy()
        return _Part(_moments(values, finite), _moments(bias, finite), n - int(finite.sum()), theta)


def _run_ensemble(
    source: _Chain | Solution, *, stream: int, scratch: int, names: list[str], times: np.ndarray, paths: int, keep: int,
    dim: int, rng: int | np.random.SeedSequence, run: Run,
) -> Ensemble:  # fmt: skip
    check_integer("paths", paths, minimum=2)
    if check_integer("keep_paths", keep, minimum=0) > paths:
        raise ValueError(f"`keep_paths` must not exceed `paths` = {paths}; got {keep}.")
    size = min(run.chunk_size(scratch + 32 * len(times) * len(names)), paths)  # a chunk holds what it shows
    job = _Job(source, SeedTree.of(rng), stream, run.device, paths, size, keep)
    parts: _Part | None = None
    lost: list[int] = []  # per chunk
    kept = [np.empty((0, len(times), dim))]
    for part in run_chunks(job, math.ceil(paths / size), run):
        lost.append(part.diverged)
        kept += [] if part.kept is None else [part.kept]
        if parts is None:
            parts = part
        else:
            values = [a.merge(b) for a, b in zip(parts.values, part.values, strict=True)]
            bias = [a.merge(b) for a, b in zip(parts.bias, part.bias, strict=True)]
            parts = _Part(values, bias, 0, None)
    assert parts is not None
    first = source.first_divergence(*job.start(next(i for i, n in enumerate(lost) if n))) if any(lost) else None
    mean, sem = _estimates(parts.values)
    gap, gap_sem = _estimates(parts.bias)
    return Ensemble(
        times=times,
        mean=dict(zip(names, mean, strict=True)),
        sem=dict(zip(names, sem, strict=True)),
        final={
            name: Estimate(float(m[-1]), float(s[-1]), parts.values[-1].n)
            for name, m, s in zip(names, mean, sem, strict=True)
        },
        bias_bound=dict(zip(names, np.abs(gap) + 2 * gap_sem, strict=True)) if parts.bias else None,
        paths=np.concatenate(kept),
        diverged=Diverged(sum(lost), sum(lost) / paths, first),
        chunk=size,
    )


def _estimates(moments: list[Moments]) -> tuple[np.ndarray, np.ndarray]:
    """Return means and standard errors, (functions, times)."""
    means = [m.mean if m.n else np.full_like(m.mean, np.nan) for m in moments]
    errors = [np.sqrt(np.diagonal(m.covariance) / max(m.n, 1)) for m in moments]
    return np.array(means).T, np.array(errors).T


def simulate(
    method: Method,
    oracle: Oracle,
    *,
    theta0: Any,
    horizon: float | None = None,
    steps: int | None = None,
    test_functions: Functions = None,
    times: int | Iterable[float] | None = None,
    paths: int = 4096,
    multiplier: int = 1,
    initial: Any = None,
    keep_paths: int = 0,
    rng: int | np.random.SeedSequence = 0,
    run: Run = Run(),  # noqa: B008 (frozen)
) -> Ensemble:
    r"""Run a method in an ensemble of paths, from torch's start: $x_{k+1} = F(x_k, g_k)$.

    Memory is flat in paths, steps and times. The oracle needs to sample, no more.

    Args:
        method: at the user's own learning rate.
        oracle: at the user's own batch.
        theta0: (dim,), or (rows, dim) for a start drawn among the rows.
        horizon: the end in SDE time.
        steps: the end in base steps; exactly one of the two is given.
        test_functions: names or a mapping name -> function of a Snapshot; None for a set that is not blind.
        times: SDE times to look at (the end alone by default), or how many.
        paths: how many, >= 2.
        multiplier: divides the learning rate, with the noise amplified by SVAG; 1 is the method itself.
        initial: overrides m and u of torch's start: a Point or {"u": …}.
        keep_paths: of how many paths theta is kept at `times`.
        rng: a whole number or a SeedSequence; nothing global is read. Ensembles that are to be independent need
            different ones.
        run: where and how.

    Returns:
        Means with standard errors, by test function and time; the kept paths; what diverged.

    Raises:
        ValueError: if an argument is wrong, before any path is run.
        NotDeclared: if the oracle lacks what a test function needs.

    Example:
        >>> from sdeadapt.methods import SGD
        >>> from sdeadapt.oracles.analytic import Quadratic
        >>> result = simulate(SGD(lr=0.1), Quadratic(1.0, 1.0, scale=0.1), theta0=[1.0], steps=10, paths=1000)
        >>> abs(result.final["theta_0"].mean - 0.9**10) < 4 * result.final["theta_0"].sem
        True

    SVAG: Li, Malladi, Arora 2021 (arXiv 2102.12470); Malladi et al. 2022 (arXiv 2205.10287), Section 6.
    """
    oracle = oracle.to(run.device, run.torch_dtype)
    r = method.refinement(multiplier)
    if r > 1 and method.scaling != "batch-equivalent":
        raise ValueError(f"`multiplier` must be 1 under scaling={method.scaling!r}, which SVAG does not refine.")
    clock = make_clock(method, horizon=horizon, steps=steps, times=times, compares_sde=False)
    x0 = make_initial(method, oracle, theta0, initial, need_point=False)
    functions = resolve_test_functions(test_functions, x0, oracle)
    fine, noisy = (method, oracle) if r == 1 else (method.rescaled(1 / r), Amplified(oracle, r))
    records = tuple(t * r for t in clock.times)
    return _run_ensemble(
        _Chain(Level(fine, noisy, oracle, None, x0, 0, records, functions)),
        stream=0, scratch=noisy.bytes_per_path + _state_bytes(x0), names=list(functions), times=clock.seconds,
        paths=paths, keep=keep_paths, dim=oracle.dim, rng=rng, run=run,
    )  # fmt: skip


def _state_bytes(x0: Any) -> int:
    return 64 * sum(field.shape[1] for field in x0)


def solve(
    sde: ItoSDE,
    *,
    initial: Any,
    horizon: float,
    step: float,
    oracle: Oracle | None = None,
    start: float = 0.0,
    solver: str = "extrapolated",
    test_functions: Functions = None,
    paths: int = 4096,
    times: int | Iterable[float] | None = None,
    keep_paths: int = 0,
    rng: int | np.random.SeedSequence = 0,
    run: Run = Run(),  # noqa: B008 (frozen)
) -> Ensemble:
    r"""Solve an SDE in an ensemble of paths.

    "extrapolated" runs Euler with `step` (fine) and with 2 `step` (coarse) on the same Brownian path and returns
    $2\,E\varphi(\text{fine}) - E\varphi(\text{coarse})$, of weak order 2 (Talay and Tubaro 1990), with a bound on the
    bias that is left. The others run once, at `step`, and return no bound.

    Args:
        sde: the SDE, built from an oracle on the device and in the dtype of `run`.
        initial: a Point or a mapping with all its fields, each (dim,), or (rows, dim) for a start drawn among the rows.
        horizon: the end, in SDE time counted from t = 0.
        step: in SDE time. `horizon` and `times` less `start` are whole numbers of it, of 2 `step` for "extrapolated".
        oracle: for test functions that need more than the Point's fields.
        start: SDE time of `initial`.
        solver: "extrapolated", "euler", "torchsde:euler", "torchsde:milstein" or "torchsde:srk".
        test_functions: names or a mapping name -> function of a Snapshot; None for a set that is not blind.
        paths: how many, >= 2.
        times: SDE times to look at (the end alone by default), or how many.
        keep_paths: of how many paths theta is kept at `times`; with "extrapolated", the fine solution's.
        rng: a whole number or a SeedSequence; nothing global is read.
        run: where and how.

    Returns:
        Means with standard errors and, for "extrapolated", `bias_bound`; the kept paths; what diverged.

    Raises:
        ValueError: if an argument is wrong, before any path is run.
        NotDeclared: if an oracle lacks what the SDE or a test function needs.

    Example:
        >>> from sdeadapt.methods import SGD
        >>> from sdeadapt.oracles.analytic import Quadratic
        >>> sde = SGD(lr=0.1).sde(Quadratic(1.0, 1.0, scale=0.1))
        >>> result = solve(sde, initial={"theta": [1.0]}, horizon=1.0, step=0.05, paths=1000)
        >>> abs(result.final["theta_0"].mean - math.exp(-1)) < 4 * result.final["theta_0"].sem + 0.001
        True
    """
    check_choice("solver", solver, SOLVERS)
    check_positive("step", step)
    check_positive("start", start, zero=True)
    unit = 2 if solver == "extrapolated" else 1
    x0 = make_point(sde.point, initial, run.torch_dtype, run.device)
    name = "horizon - start" if start else "horizon"
    end = base_steps(name, horizon - start, unit * step)
    if end < 1:
        raise ValueError(f"`horizon` must exceed `start`; got {horizon!r} and {start!r}.")
    grid = make_times(times, 0, end, unit * step, origin=start)
    oracle = None if oracle is None else oracle.to(run.device, run.torch_dtype)
    functions = resolve_test_functions(test_functions, x0, oracle)
    check_sde(sde, x0, start)
    records = tuple(unit * k for k in grid)
    scratch = (0 if oracle is None else oracle.bytes_per_path) + 2 * _state_bytes(x0) + 64 * sde.noise_dim
    return _run_ensemble(
        Solution(sde, x0, start, step, records, functions, oracle, solver),
        stream=1, scratch=scratch, names=list(functions), times=start + np.array(records) * step,
        paths=paths, keep=keep_paths, dim=x0.theta.shape[1], rng=rng, run=run,
    )  # fmt: skip
