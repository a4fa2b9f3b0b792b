r"""Long runs of an iteration and of its SDE beside a stationary law: time averages after a burn-in.

Many paths, each averaged over time batches. Paths are independent, so the standard error is that of the path averages:
whatever the autocorrelation within a path, it is in it. The batches tell whether the run was long enough.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sdeadapt.analysis.long_run_report import CHAIN, FINE, SDE, LongRun
from sdeadapt.analysis.stationary import Stationary, stationary
from sdeadapt.checks import check_integer, check_open_unit, check_positive
from sdeadapt.methods.averages import averages, with_averages
from sdeadapt.methods.base import ItoSDE, Method
from sdeadapt.oracles.base import Oracle
from sdeadapt.simulation.observables import TestFunction, evaluate, resolve_test_functions
from sdeadapt.simulation.paths import draw_initial
from sdeadapt.simulation.randomness import Purpose, SeedTree
from sdeadapt.simulation.run import Run, run_chunks
from sdeadapt.simulation.solution import Solution
from sdeadapt.simulation.solvers import check_substeps
from sdeadapt.simulation.start import make_initial
from sdeadapt.statistics.estimate import Moments

__all__ = ["long_run"]


@dataclass(frozen=True, eq=False)
class _Job:
    """One chunk of one process as a pure function of its index: batch means of the paths, then of the solver's bias."""

    process: int
    method: Method
    oracle: Oracle
    base: Oracle
    sde: ItoSDE
    initial: Any
    functions: dict[str, TestFunction]
    refine: int  # iterations, or fine steps of the solver, per base step
    every: int  # base steps per look
    burn_in: int  # in looks, as `steps`
    steps: int
    batches: int
    seeds: SeedTree
    device: str
    paths: int
    size: int

    @torch.no_grad()
    def __call__(self, chunk: int) -> tuple[Moments, int]:
        generator = self.seeds.generator(Purpose.ENSEMBLE, 2 + self.process, chunk, self.device)
        n = min(self.size, self.paths - chunk * self.size)
        columns = len(self.functions) * (2 if self.process == SDE else 1)
        total = torch.zeros(self.batches, n, columns, dtype=torch.float64, device=self.device)
        looks = self._sde_looks(generator, n) if self.process == SDE else self._chain_looks(generator, n)
        for k, look in enumerate(looks):
            if k >= self.burn_in:
                total[(k - self.burn_in) * self.batches // self.steps] += look
        values = total.mul_(self.batches / self.steps).transpose(0, 1).flatten(1)
        finite = values.isfinite().all(1)
        return Moments.of(values[finite]), n - int(finite.sum())

    def _chain_looks(self, generator: torch.Generator, n: int) -> Iterator[Tensor]:
        state = self.method.from_point(draw_initial(self.initial, generator, n), self.oracle.scale)
        stream = self.oracle.stream(generator, n)
        for k in range((self.burn_in + self.steps) * self.every * self.refine):
            state = self.method.step(state, self.oracle.sample(self.oracle.at(state.theta), stream.next()), k)
            if (k + 1) % (self.every * self.refine) == 0:
                yield evaluate(self.functions, self.method.to_point(state, self.oracle.scale), self.base)

    def _sde_looks(self, generator: torch.Generator, n: int) -> Iterator[Tensor]:
        step = self.method.time_step / self.refine
        end = (self.burn_in + self.steps) * self.every * self.refine
        solution = Solution(self.sde, self.initial, 0.0, step, (end,), self.functions, self.base, "extrapolated")
        for k, pair in solution.walk(generator, n):
            if k % (self.every * self.refine) == 0:
                values, bias = solution.look(pair)
                assert bias is not None
                yield torch.cat([values, bias], 1)


def long_run(
    method: Method,
    oracle: Oracle,
    *,
    theta0: Any,
    burn_in: int,
    steps: int,
    law: Stationary | None = None,
    test_functions: Iterable[str] | None = None,
    paths: int = 1024,
    batches: int = 8,
    every: int = 1,
    refinement: int = 2,
    substeps: int = 4,
    confidence: float = 0.95,
    margin: float = 0.05,
    rng: int | np.random.SeedSequence = 0,
    run: Run = Run(),  # noqa: B008 (frozen)
) -> LongRun:
    r"""Compare long runs of a method and of its SDE with a stationary law.

    The chain runs at h and at h / refinement, along `rescaled` of method and oracle, which keeps the SDE and hence the
    closed form; extrapolated, its average has no error of order h left. The SDE is solved by Euler with `substeps` and
    half as many sub-steps per h, extrapolated likewise: expansions in the step hold in the stationary law too.

    The runs start from theta0, m = 0 and u = diag Sigma, without bias correction, which fades.

    Args:
        method: one that has an SDE whose noise grows as h falls (not "fixed-noise" or "ballistic").
        oracle: one that `stationary` knows, unless `law` is given.
        theta0: (dim,), or (rows, dim) for a start drawn among the rows.
        burn_in: base steps that are left out; several times the longest relaxation time.
        steps: base steps that are averaged over.
        law: the law to compare with; None is the method's own, `stationary(method, oracle)`.
        test_functions: names that `Stationary.expectation` knows; None for a set that is not blind.
        paths: independent paths, >= 2.
        batches: time batches, an even number.
        every: base steps from look to look; a fraction of the relaxation time loses little. It divides `burn_in`, and
            `steps` is a multiple of `batches` times it.
        refinement: of the chain's second step, >= 2.
        substeps: of the solver, even.
        confidence: of all intervals of the report at once.
        margin: CONFIRMED needs every interval to reach at most so far, relative to the closed form.
        rng: a whole number or a SeedSequence; nothing global is read.
        run: where and how.

    Returns:
        Averages with standard errors, and their distance from the closed form.

    Raises:
        ValueError: if an argument is wrong, before any path is run.
        NotDeclared: if there is no SDE or no closed form.

    Example:
        >>> from sdeadapt.methods import SGD
        >>> from sdeadapt.oracles.analytic import Quadratic
        >>> oracle = Quadratic(1.0, 1.0, scale=1.0)
        >>> report = long_run(SGD(0.2), oracle, theta0=[0.0], burn_in=40, steps=240, paths=256)
        >>> abs(report.estimate("loss").mean - 0.05) < 4 * report.estimate("loss").sem
        True

    Batch means: Asmussen and Glynn 2007, Stochastic Simulation, IV.5; expansions in the step: Talay and Tubaro 1990.
    """
    check_integer("burn_in", burn_in, minimum=0)
    check_integer("paths", paths, minimum=2)
    check_integer("refinement", refinement, minimum=2)
    check_substeps(substeps)
    check_open_unit("confidence", confidence)
    check_positive("margin", margin)
    if check_integer("batches", batches) % 2:
        raise ValueError(f"`batches` must be even: the halves of the run are compared; got {batches}.")
    if check_integer("steps", steps) % (batches * check_integer("every", every)) or burn_in % every:
        raise ValueError(
            f"`steps` must be a multiple of batches * every = {batches * every}, and `burn_in` of every; "
            f"got {steps} and {burn_in}."
        )
    if method.scaling != "batch-equivalent":
        raise ValueError(f"`method` must keep its SDE as h falls; got scaling={method.scaling!r}.")
    if method.bias_correction:
        method = with_averages(method, averages(method), 1.0, bias_correction=False)
    oracle = oracle.to(run.device, run.torch_dtype)
    law = stationary(method, oracle) if law is None else law
    initial, sde = make_initial(method, oracle, theta0, None), method.sde(oracle)
    functions = resolve_test_functions(_names(test_functions, oracle.dim), initial, oracle)
    expected, scale = ([f(name) for name in functions] for f in (law.expectation, law.scale))
    began, seeds = time.perf_counter(), SeedTree.of(rng)
    size = min(run.chunk_size(2 * oracle.bytes_per_path + 16 * batches * len(functions)), paths)
    found, bias, lost = [], np.zeros(len(functions)), 0
    for process, refine in (CHAIN, 1), (FINE, refinement), (SDE, substeps):
        fine = (method.rescaled(1 / refine), oracle.rescaled(1 / refine)) if process == FINE else (method, oracle)
        job = _Job(
            process, *fine, oracle, sde, initial, functions, refine, every, burn_in // every, steps // every,
            batches, seeds, run.device, paths, size,
        )  # fmt: skip
        parts = list(run_chunks(job, math.ceil(paths / size), run))
        moments = parts[0][0]
        for part, _ in parts[1:]:
            moments = moments.merge(part)
        lost += sum(count for _, count in parts)
        row = _averages(moments, batches)
        if process == SDE:
            bias = row[0][len(functions) :]
        found.append([values[: len(functions)] for values in row])
    mean, sem, correlation, drift = (np.array(values) for values in zip(*found, strict=True))
    config = {
        "method": method.describe(), "oracle": oracle.describe(), "burn_in": burn_in, "steps": steps,
        "batches": batches, "every": every, "refinement": refinement, "substeps": substeps, "confidence": confidence,
        "margin": margin, "seed": rng if isinstance(rng, int) else str(rng), "device": run.device, "dtype": run.dtype,
        "chunk": size,
    }  # fmt: skip
    return LongRun(
        config, time.perf_counter() - began, tuple(functions), np.array(expected), np.array(scale), mean, sem,
        correlation, drift, bias, paths, lost,
    )  # fmt: skip


def _names(names: Iterable[str] | None, dim: int) -> list[str]:
    """Return the names, or a set that sees the mean, off-diagonal covariance and the loss.

    Raises:
        ValueError: if functions are given, of which no law is known.
    """
    if isinstance(names, Mapping):
        raise ValueError(f"`test_functions` must be names, whose stationary means are known; got {dict(names)!r}.")
    if names is None:
        return ["theta_0", "theta_0_squared", *(["projection_0_squared"] if dim > 1 else []), "loss"]
    return [names] if isinstance(names, str) else list(names)


def _averages(moments: Moments, batches: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Return mean, standard error, correlation of successive batches and drift, each (columns,), of batch means."""
    mean = moments.mean.reshape(batches, -1)
    columns = mean.shape[1]
    whole = moments.covariance.reshape(batches, columns, batches, columns)
    covariance = np.einsum("ajbj->jab", whole)  # of the batch means of one path
    level = np.full(batches, 1 / batches)
    halves = np.repeat([1.0, -1.0], batches // 2) * 2 / batches
    sem, drift_sem = (np.sqrt(np.einsum("a,jab,b->j", w, covariance, w) / max(moments.n, 1)) for w in (level, halves))
    variance = np.diagonal(covariance, axis1=1, axis2=2).mean(1)
    with np.errstate(divide="ignore", invalid="ignore"):
        successive = np.diagonal(covariance, 1, axis1=1, axis2=2).mean(1) / variance
        return mean.mean(0), sem, successive, halves @ mean / drift_sem
