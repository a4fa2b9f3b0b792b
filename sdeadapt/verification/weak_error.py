"""`verify`: is this SDE a weak approximation of this method, of the claimed order? With errors, and a verdict."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from sdeadapt.checks import check_integer, check_open_unit, check_positive
from sdeadapt.methods.base import ItoSDE, Method
from sdeadapt.oracles.base import NotDeclared, Oracle
from sdeadapt.plain import describe
from sdeadapt.simulation.observables import TestFunction
from sdeadapt.simulation.paths import Mode
from sdeadapt.simulation.perturbation import Expansion
from sdeadapt.simulation.randomness import SeedTree
from sdeadapt.simulation.run import Run, run_chunks
from sdeadapt.statistics.intervals import MIN_CHUNKS, max_t_quantile
from sdeadapt.verification.decision import Decision, decide
from sdeadapt.verification.estimators import (
    LevelResult,
    Pilot,
    candidates,
    chunk_bytes,
    make_expansion,
    modes,
    run_level,
    run_pilot,
)
from sdeadapt.verification.planning import Budget, Plan, make_plan
from sdeadapt.verification.power import blind_spots
from sdeadapt.verification.report import WeakErrorReport
from sdeadapt.verification.study import Recipe, Refine, Study

__all__ = ["Prepared", "prepare", "verify"]

PILOT_PATHS = 2048


@dataclass(frozen=True, eq=False)
class Prepared:
    """A study after its discarded pilot: planned, and not yet run. `plan` is what `--dry-run` shows."""

    study: Study
    estimator: str
    expansions: tuple[Expansion | None, ...]
    pilots: tuple[dict[Mode, Pilot], ...]
    plan: Plan
    seeds: SeedTree
    run: Run

    @property
    def chunk(self) -> int:
        """Paths per chunk at the finest level."""
        return self.run.chunk_size(chunk_bytes(self.study.levels[-1]))

    @property
    def memory(self) -> int:
        """Scratch memory of one worker, in bytes."""
        return self.chunk * chunk_bytes(self.study.levels[-1])

    def results(self) -> list[LevelResult]:
        """Run every level."""
        counts = [math.ceil(n / min(self.chunk, n)) for row in self.plan.paths for n in row]
        total, done = sum(counts), 0

        def tick(n: int) -> None:
            nonlocal done
            done += n
            if self.run.progress is not None:
                self.run.progress(done, total)

        return [
            run_level(
                level, i, self.estimator, self.expansions[i], self.pilots[i], self.plan.by_mode(i), self.seeds,
                self.run, tick,
            )
            for i, level in enumerate(self.study.levels)
        ]  # fmt: skip


def prepare(study: Study, *, estimator: str, rng: int | np.random.SeedSequence, budget: Budget, run: Run) -> Prepared:
    """Run the pilot of a study and plan it."""
    seeds, levels = SeedTree.of(rng), study.levels
    options = candidates(estimator, levels)
    expansions = tuple(make_expansion(level) for level in levels)
    tasks = [(i, mode) for option in options for i in range(len(levels)) for mode in modes(option)]
    budget.check(len(levels), {len(modes(option)) for option in options})
    sizes = [min(PILOT_PATHS, run.chunk_size(chunk_bytes(level))) for level in levels]

    def pilot(task: int) -> Pilot:
        i, mode = tasks[task]
        return run_pilot(levels[i], mode, expansions[i], seeds, i, sizes[i])

    quiet = Run(run.device, run.dtype, run.chunk, run.executor)
    done = dict(zip(tasks, run_chunks(pilot, len(tasks), quiet), strict=True))
    found = []
    for option in options:
        pilots = tuple({mode: done[i, mode] for mode in modes(option)} for i in range(len(levels)))
        plan = make_plan(pilots, levels, study.h, option, budget if len(options) == 1 else Budget())
        found.append((plan.path_steps, option, pilots))
    _, best, pilots = min(found, key=lambda one: one[0])  # by variance and operations: the same on every machine
    return Prepared(study, best, expansions, pilots, make_plan(pilots, levels, study.h, best, budget), seeds, run)


def verify(
    method: Method,
    oracle: Oracle,
    *,
    theta0: Any,
    horizon: float | None = None,
    steps: int | None = None,
    sde: ItoSDE | Recipe | None = None,
    multipliers: Sequence[int] | None = None,
    refine: Refine = "svag",
    order: int = 1,
    initial: Any = None,
    start: float | None = None,
    times: int | Iterable[float] | None = None,
    test_functions: Iterable[str] | Mapping[str, TestFunction] | None = None,
    estimator: str = "auto",
    solver: str = "extrapolated",
    substeps: int = 4,
    confidence: float = 0.95,
    atol: float = 0.0,
    power: bool = False,
    rng: int | np.random.SeedSequence = 0,
    budget: Budget = Budget(),  # noqa: B008 (frozen)
    run: Run = Run(),  # noqa: B008 (frozen)
) -> WeakErrorReport:
    r"""Measure the weak error of an SDE at several time steps and decide whether it has the claimed order.

    $e(h) = E\varphi(x_{T/h}) - E\varphi(X_T)$ for the method's iteration x refined to step h and the SDE X; the claim
    is $e(h) = O(h^p)$ (Malladi et al. 2022, Definition 2.4).

    Args:
        method: at the user's own learning rate.
        oracle: at the user's own batch.
        theta0: (dim,), or (rows, dim) for a start drawn among the rows.
        horizon: the end T in SDE time, counted from t = 0, or
        steps: the same in base steps; exactly one of them.
        sde: None for the method's own, an ItoSDE, or a recipe (method, oracle) -> ItoSDE called at every level.
        multipliers: divisors of the learning rate, three or more, increasing; by default h falls by 4 each time.
        refine: "svag" (amplified noise), "noise" (same law, rescaled), "step" (oracle unchanged) or a function
            (method, oracle, r) -> (method, oracle).
        order: p, the claim.
        initial: overrides m and u of the start: a Point or {"u": …}.
        start: SDE time at which the chain hands its paths to the SDE; None is 0, or 8 base steps with bias correction.
        times: SDE times to compare at (the end alone by default), or how many.
        test_functions: names or a mapping name -> function of a Snapshot; None for a set that is not blind.
        estimator: "auto", "coupled" or "independent".
        solver: "extrapolated" or "torchsde:euler|milstein|srk", as a pair of q and q/2 sub-steps.
        substeps: q, even, SDE steps per iteration.
        confidence: of the verdict, in (0, 1).
        atol: errors below atol * sqrt(E phi^2) count as zero; 0 switches it off.
        power: also report what standard perturbations of the SDE would have looked like.
        rng: a whole number or a SeedSequence; nothing global is read.
        budget: how much to spend.
        run: device, dtype, chunk, workers, progress.

    Returns:
        The report: verdict, message, tests, orders, plateau bounds, the error at the user's own lr.

    Raises:
        ValueError: if an argument is wrong; before any path is run.
        NotDeclared: if the oracle lacks what the SDE or a test function needs.

    Example:
        >>> import sdeadapt as sa
        >>> oracle = sa.oracles.Quadratic([[1.0]], [[1.0]], scale=4.0)
        >>> report = verify(sa.RMSprop(lr=0.25, beta=0.9375, eps=0.4), oracle, theta0=[1.5], steps=2,
        ...                 multipliers=(1, 2, 4), initial={"u": [2.0]}, budget=Budget(paths=256))
        >>> report.h.round(6).tolist()
        [0.0625, 0.015625, 0.003906]
    """
    begin = time.perf_counter()
    check_open_unit("confidence", confidence)
    check_positive("atol", atol, zero=True)
    check_integer("order", order)
    study = Study.build(
        method, oracle, theta0=theta0, horizon=horizon, steps=steps, sde=sde, multipliers=multipliers, refine=refine,
        order=order, initial=initial, start=start, times=times, test_functions=test_functions, solver=solver,
        substeps=substeps, run=run,
    )  # fmt: skip
    config = {
        "method": method.describe(), "oracle": oracle.describe(), "theta0": describe(study.levels[0].initial.theta),
        "initial": describe(study.levels[0].initial._asdict()), "steps": study.clock.times[-1],
        "start": study.clock.start, "times": list(study.clock.times), "multipliers": list(study.multipliers),
        "refine": describe(refine), "order": order, "sde": "own" if sde is None else describe(sde),
        "test_functions": list(study.functions), "estimator": estimator, "solver": solver, "substeps": substeps,
        "confidence": confidence, "atol": atol, "seed": describe(getattr(rng, "entropy", rng)),
        "budget": describe(budget), "device": run.device, "dtype": run.dtype,
    }  # fmt: skip
    ready = prepare(study, estimator=estimator, rng=rng, budget=budget, run=run)
    results = ready.results()
    decision, extra = _decide(study, results, order, confidence, atol)
    rows = blind_spots(study, decision, ready.seeds) if power else ()
    plan = ready.plan
    return WeakErrorReport(
        config={**config, "chunk": ready.chunk, "paths": [list(row) for row in plan.paths]},
        seconds=time.perf_counter() - begin,
        estimator=ready.estimator,
        lr=method.lr,
        multipliers=np.array(study.multipliers),
        h=study.h,
        names=study.names,
        times=study.times,
        diagnostics=_diagnostics(study, results, ready.expansions, plan),
        initial_values=_initial_values(study),
        decision=decision,
        power=rows,
        planned_sem=plan.sem,
        paths=np.array([[n for _, n in result.paths] for result in results]),
        **extra,
    )


def _decide(
    study: Study, results: Sequence[LevelResult], order: int, confidence: float, atol: float
) -> tuple[Decision, dict[str, np.ndarray]]:
    stacked = {
        name: np.stack([getattr(result, name) for result in results], 1)
        for name in ("error", "bias", "bias_sem", "chain", "sde", "factor")
    }
    sem = np.sqrt(np.stack([np.diagonal(result.covariance) for result in results], 1))
    scale = np.sqrt(results[-1].square)
    constant = np.all([result.constant for result in results], axis=0)
    finite = all(np.isfinite(a).all() for a in (stacked["error"], sem, scale))
    diverged = sum(result.diverged for result in results) > 0
    if not finite:
        raise FloatingPointError(
            f"No path of a level stayed finite; the first diverged at iteration "
            f"{min(r.first_step for r in results if r.diverged)}. Use a smaller lr or a larger eps."
        )
    chunks = results[-1].chunk_means
    critical = None
    if len(chunks) >= MIN_CHUNKS and (~constant).sum() > 1:
        critical = max_t_quantile(chunks[:, ~constant], confidence)
    decision = decide(
        study.h,
        stacked["error"],
        np.stack([np.diag(row) for row in sem**2]),
        scale=np.where(constant, 1.0, scale),
        order=order,
        confidence=confidence,
        atol=atol,
        names=study.names,
        times=study.times,
        constant=constant,
        critical=critical,
        diverged=diverged,
        paths=max(n for _, n in results[-1].paths),
    )
    return decision, {**stacked, "sem": sem, "scale": scale}


def _diagnostics(
    study: Study, results: Sequence[LevelResult], expansions: Sequence[Expansion | None], plan: Plan
) -> dict[str, float]:
    """Return the numbers that say whether the assumptions hold: see `summary`."""
    found: dict[str, float] = {}
    base, expansion = study.levels[0], expansions[0]
    if expansion is not None:
        for name, rate in expansion.rates().items():
            found[f"rate_{name}"] = rate
        points = {"start": base.initial, "end": expansion.reference(base.records[-1])}
        for where, point in points.items():
            local = study.oracle.at(point.theta[:1])
            signal = float(local.gradient.square().sum())
            noise = float(local.noise_trace.sum()) * study.oracle.scale**2
            found[f"noise_to_signal_{where}"] = noise / signal if signal > 0 else math.inf
    found["kurtosis"] = max(float(np.nanmax(r.kurtosis, initial=0.0)) for r in results)
    found["skewness"] = max(float(np.nanmax(np.abs(r.skewness), initial=0.0)) for r in results)
    found["largest_chunk_share"] = max(float(np.nanmax(r.share, initial=0.0)) for r in results)
    found["control_z"] = max(r.control_z for r in results)
    found["least_u"] = min(r.least_u for r in results)
    found["diverged"] = sum(r.diverged for r in results)
    found["diverged_fraction"] = found["diverged"] / sum(n for r in results for _, n in r.paths)
    found["first_divergence"] = min((r.first_step for r in results if r.diverged), default=-1)
    found["path_steps"] = plan.path_steps
    return found


def _initial_values(study: Study) -> np.ndarray:
    """Return E phi at time 0 for every target, (J,); NaN where it does not exist yet."""
    base = study.levels[0]
    try:
        values = base.evaluate(base.initial).double().mean(0).cpu().numpy()
    except (NotDeclared, ValueError):
        values = np.full(len(base.functions), np.nan)
    return np.tile(values, len(study.clock.times))
