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
from sdeadapt.oracles.base import Oracle
from sdeadapt.plain import describe
from sdeadapt.simulation.observables import TestFunction
from sdeadapt.simulation.paths import Mode
from sdeadapt.simulation.perturbation import Expansion
from sdeadapt.simulation.randomness import SeedTree
from sdeadapt.simulation.run import Run, run_chunks
from sdeadapt.statistics.intervals import MIN_CHUNKS, max_t_quantile
from sdeadapt.verification.decision import Decision, decide
from sdeadapt.verification.diagnostics import assumptions, diagnostics, initial_values
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
from sdeadapt.verification.exact_moments import exact_sde_means
from sdeadapt.verification.family import family
from sdeadapt.verification.local_error import explain
from sdeadapt.verification.noise_free import Exact, expectations, which
from sdeadapt.verification.planning import DEFAULT_PRECISION, Budget, Plan, make_plan
from sdeadapt.verification.power import blind_spots
from sdeadapt.verification.report import WeakErrorReport
from sdeadapt.verification.self_reference import SelfReferenceReport, against_next, check_reference, worded
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
    exact: tuple[np.ndarray | None, ...]

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
                self.run, tick, self.exact[i] if self.estimator == "exact-sde" else None,
            )
            for i, level in enumerate(self.study.levels)
        ]  # fmt: skip


def prepare(study: Study, *, estimator: str, rng: int | np.random.SeedSequence, budget: Budget, run: Run) -> Prepared:
    """Run the pilot of a study and plan it."""
    seeds, levels = SeedTree.of(rng), study.levels
    asked = estimator in ("auto", "exact-sde") and levels[0].sde is not None and levels[0].solver == "extrapolated"
    exact = tuple(exact_sde_means(level, study.own) for level in levels) if asked else (None,) * len(levels)
    options = candidates(estimator, levels, all(mean is not None for mean in exact))
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
        if option == "exact-sde":
            pilots = tuple({m: p._replace(mean=p.mean - e) for m, p in pilot.items()}
                           for pilot, e in zip(pilots, exact, strict=True))  # fmt: skip
        plan = make_plan(pilots, levels, study.h, option, Budget(precision=DEFAULT_PRECISION))
        found.append((plan.path_steps, option, pilots))
    _, best, pilots = min(found, key=lambda one: one[0])  # by variance and operations: the same on every machine
    return Prepared(
        study, best, expansions, pilots, make_plan(pilots, levels, study.h, best, budget), seeds, run, exact
    )


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
    reference: str = "sde",
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
        estimator: "moments" or "quadrature", which draw nothing; "exact-sde" (the chain against known means of the
            SDE), "coupled", "independent"; or "auto": the first that applies, and of the last two the cheaper. A
            budget that asks for paths, precision or seconds rules out the first two.
        solver: "extrapolated" or "torchsde:euler|milstein|srk", as a pair of q and q/2 sub-steps.
        substeps: q, even, SDE steps per iteration.
        confidence: of the verdict, in (0, 1).
        atol: errors below atol * sqrt(E phi^2) count as zero; 0 switches it off.
        reference: "sde", or "self": each level against the next finer one. That needs no SDE and asks only whether the
            means converge at order p as h falls; the limit is reported. At least four multipliers, each the same factor
            times the one before.
        power: also report what standard perturbations of the SDE would have looked like.
        rng: a whole number or a SeedSequence; nothing global is read.
        budget: how much to spend.
        run: device, dtype, chunk, workers, progress.

    Returns:
        The report: verdict, message, tests, orders, plateau bounds, the error at the user's own lr. It is a
        SelfReferenceReport with reference="self".

    Raises:
        ValueError: if an argument is wrong; before any path is run.
        NotDeclared: if the oracle lacks what the SDE, the start or a test function needs.

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
    check_reference(reference, sde=sde, start=start, power=power, multipliers=multipliers)
    alone = reference == "self"
    study = Study.build(
        method, oracle, theta0=theta0, horizon=horizon, steps=steps, sde=sde, multipliers=multipliers, refine=refine,
        order=order, initial=initial, start=start, times=times, test_functions=test_functions, solver=solver,
        substeps=substeps, run=run, reference=reference,
    )  # fmt: skip
    config = {
        "method": method.describe(), "oracle": oracle.describe(), "theta0": describe(study.levels[0].initial.theta),
        "initial": describe(study.levels[0].initial._asdict()), "steps": study.clock.times[-1],
        "start": study.clock.start, "times": list(study.clock.times), "multipliers": list(study.multipliers),
        "refine": describe(refine), "order": order, "reference": reference,
        "sde": None if alone else "own" if sde is None else describe(sde),
        "test_functions": list(study.functions), "estimator": estimator, "solver": solver, "substeps": substeps,
        "confidence": confidence, "atol": atol, "seed": describe(getattr(rng, "entropy", rng)),
        "budget": describe(budget), "device": run.device, "dtype": run.dtype,
    }  # fmt: skip
    free = which(estimator, study.levels, own=sde is None, noisy=alone or budget.noisy)
    common: dict[str, Any] = {
        "lr": method.lr, "names": study.names, "times": study.times, "family": family(method, refine),
        "initial_values": initial_values(study),
    }  # fmt: skip
    if free:
        exact = expectations(free, study.levels, budget.resolution, sde is None, run.progress)
        decision = _decide_exact(study, exact, order, confidence, atol)
        return WeakErrorReport(
            config={**config, "chunk": 0, "paths": []},
            estimator=free,
            decision=decision,
            local=explain(study, decision, order=order),
            diagnostics={**assumptions(study, make_expansion(study.levels[0])), "edge": exact.edge},
            power=blind_spots(study, decision, SeedTree.of(rng)) if power else (),
            seconds=time.perf_counter() - begin,
            **common,
            **_exact(study, exact),
        )
    ready = prepare(study, estimator=estimator, rng=rng, budget=budget, run=run)
    results = ready.results()
    plan = ready.plan
    found = _measured(study, results, plan)
    covariance = found["sem"][:, :, None] ** 2 * np.eye(len(study.levels))
    if alone:
        found, covariance = against_next(found, order)
    decision = _decide(study, results, found, covariance, order, confidence, atol)
    rows = blind_spots(study, decision, ready.seeds) if power else ()
    report = SelfReferenceReport if alone else WeakErrorReport
    fields: dict[str, Any] = {**common, **found}
    return report(
        config={**config, "chunk": ready.chunk, "paths": [list(row) for row in plan.paths]},
        seconds=time.perf_counter() - begin,
        estimator=ready.estimator,
        bounds={},
        local=None if alone else explain(study, decision, order=order),
        diagnostics=diagnostics(study, results, ready.expansions, plan.path_steps),
        decision=worded(decision) if alone else decision,
        power=rows,
        **fields,
    )


def _exact(study: Study, exact: Exact) -> dict[str, Any]:
    """Return the fields of a report that say what noise-free levels show."""
    zero = np.zeros_like(exact.chain)
    return {
        "h": study.h,
        "multipliers": np.array(study.multipliers),
        "error": exact.chain - exact.sde,
        "sem": exact.bound / 2,
        "bias": zero,
        "bias_sem": zero,
        "chain": exact.chain,
        "sde": exact.sde,
        "factor": np.ones_like(zero),
        "planned_sem": exact.bound / 2,
        "paths": np.zeros((len(study.levels), 1), dtype=np.int64),
        "scale": np.sqrt(exact.square[:, -1]),
        "bounds": exact.parts,
    }


def _decide_exact(study: Study, exact: Exact, order: int, confidence: float, atol: float) -> Decision:
    """Return the decision on noise-free levels: standard errors are halves of bounds.

    Raises:
        FloatingPointError: if a level overflowed.
    """
    if not all(np.isfinite(a).all() for a in (exact.chain, exact.sde, exact.bound)):
        raise FloatingPointError("A level has no finite expectations: use a smaller lr, a larger eps or more points.")
    scale = np.sqrt(exact.square[:, -1])
    still = scale <= 0
    return decide(
        study.h,
        exact.chain - exact.sde,
        (exact.bound / 2)[:, :, None] ** 2 * np.eye(len(study.levels)),
        scale=np.where(still, 1.0, scale),
        order=order,
        confidence=confidence,
        atol=atol,
        common_bias=exact.common,
        names=study.names,
        times=study.times,
        constant=still,
        blame=[exact.blame(j) for j in range(len(still))],
    )


def _measured(study: Study, results: Sequence[LevelResult], plan: Plan) -> dict[str, np.ndarray]:
    """Return the fields of a report that say what the levels show.

    Raises:
        FloatingPointError: if hardly any path of a level stayed finite.
    """
    stacked = {
        name: np.stack([getattr(result, name) for result in results], 1)
        for name in ("error", "bias", "bias_sem", "chain", "sde", "factor")
    }
    sem = np.sqrt(np.stack([np.diagonal(result.covariance) for result in results], 1))
    scale = np.sqrt(results[-1].square)
    finite = all(np.isfinite(a).all() for a in (stacked["error"], sem, scale))
    if not finite:
        first = min((r.first_step for r in results if r.diverged), default=None)
        where = "they overflow" if first is None else f"the first path diverged at iteration {first}"
        raise FloatingPointError(f"A level has no finite estimates: {where}. Use a smaller lr or a larger eps.")
    return {
        **stacked,
        "sem": sem,
        "scale": scale,
        "h": study.h,
        "multipliers": np.array(study.multipliers),
        "planned_sem": plan.sem,
        "paths": np.array([[n for _, n in result.paths] for result in results]),
    }


def _decide(
    study: Study,
    results: Sequence[LevelResult],
    found: dict[str, np.ndarray],
    covariance: np.ndarray,
    order: int,
    confidence: float,
    atol: float,
) -> Decision:
    constant = np.all([result.constant for result in results], axis=0)
    chunks = results[-1].chunk_means
    critical = None
    if len(chunks) >= MIN_CHUNKS and (~constant).sum() > 1:
        critical = max_t_quantile(chunks[:, ~constant], confidence)
    return decide(
        found["h"],
        found["error"],
        covariance,
        scale=np.where(constant, 1.0, found["scale"]),
        order=order,
        confidence=confidence,
        atol=atol,
        names=study.names,
        times=study.times,
        constant=constant,
        critical=critical,
        diverged=any(result.diverged for result in results),
        paths=max(n for _, n in results[-1].paths),
    )
