"""`compare`: chain, SVAG and SDE side by side on one clock, and the factor C by which chain and SDE differ."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from sdeadapt.checks import check_choice, check_integer, check_open_unit
from sdeadapt.methods.base import ItoSDE, Method
from sdeadapt.oracles.base import NotDeclared, Oracle
from sdeadapt.results import describe
from sdeadapt.simulation.observables import Named, Snapshot, TestFunction, resolve_test_functions
from sdeadapt.simulation.paths import Level
from sdeadapt.simulation.randomness import Purpose, SeedTree
from sdeadapt.simulation.run import Run
from sdeadapt.simulation.solvers import SOLVERS, check_substeps
from sdeadapt.simulation.start import BIAS_CORRECTION_STEPS, check_sde, make_clock, make_initial
from sdeadapt.statistics.distance import energy_distance, whiten
from sdeadapt.verification.closeness import closeness as measure_closeness
from sdeadapt.verification.comparison_report import SYMBOLS, ComparisonReport, Distance
from sdeadapt.verification.estimators import chunk_bytes
from sdeadapt.verification.processes import Processes
from sdeadapt.verification.study import Recipe, Refine, check_family, refined

__all__ = ["compare"]

DISTANCE_PATHS = 1000  # of each process: the energy distance costs their square, 0.3 s for these


def compare(
    method: Method,
    oracle: Oracle,
    *,
    theta0: Any,
    horizon: float | None = None,
    steps: int | None = None,
    multipliers: Sequence[int] | None = None,
    sde: ItoSDE | Recipe | None = None,
    times: int | Iterable[float] | None = 50,
    quantiles: Sequence[float] = (0.05, 0.5, 0.95),
    test_functions: Iterable[str] | Mapping[str, TestFunction] | None = None,
    shown: Mapping[str, TestFunction] | None = None,
    keep_paths: int = 8,
    closeness: float = math.sqrt(2),
    initial: Any = None,
    start: float | None = None,
    solver: str = "extrapolated",
    substeps: int = 4,
    refine: Refine = "svag",
    confidence: float = 0.95,
    paths: int = 1024,
    rng: int | np.random.SeedSequence = 0,
    run: Run = Run(),  # noqa: B008 (frozen)
) -> ComparisonReport:
    r"""Compare a method, its refinements and its SDE in law, at equal SDE time, and say whether they are C-close.

    Two processes are C-close if $E|\theta|^2$, $E|\nabla f|^2$ and $E\,\mathrm{Tr}\,\Sigma$ (those that the oracle
    declares) agree within a factor C at all times (Li, Malladi, Arora 2021). Whether an SDE has its order of weak
    error is another question: see `verify`.

    Without an SDE (none known, an oracle that only samples, reshuffled epochs) the chains are compared with one
    another, the finest being the reference. All processes have paths of their own. With bias correction the chain runs
    alone to `start` and the SDE takes over from paths of the base chain.

    Args:
        method: at the user's own learning rate.
        oracle: at the user's own batch.
        theta0: (dim,), or (rows, dim) for a start drawn among the rows.
        horizon: the end in SDE time, counted from t = 0.
        steps: the end in base steps; exactly one of the two is given.
        multipliers: divisors of the learning rate, increasing from 1; by default (1, 2, 4), or (1,) over epochs.
        sde: None for the method's own, an ItoSDE, or a recipe (method, oracle) -> ItoSDE, called at the base step.
        times: SDE times to look at, or how many.
        quantiles: levels in (0, 1), increasing.
        test_functions: names or a mapping name -> function of a Snapshot; None for a set that is not blind.
        shown: further test functions, smooth or not, that are part of no distance and of no verdict.
        keep_paths: how many paths of every process to keep as they are.
        closeness: C >= 1, what is asked for.
        initial: overrides m and u of the start: a Point or {"u": …}.
        start: SDE time at which the SDE takes over; None is 0, or 8 base steps with bias correction.
        solver: "extrapolated" or "torchsde:euler|milstein|srk", as a pair of q and q/2 sub-steps.
        substeps: q, even, SDE steps per base step.
        refine: what the multipliers stand for, see `verify`.
        confidence: of the bounds on all factors together, in (0, 1).
        paths: per process, 64 or more.
        rng: a whole number or a SeedSequence; nothing global is read.
        run: where and how.

    Returns:
        The report: verdict, message, means, quantiles, paths, energy distances, ratios of the metrics.

    Raises:
        ValueError: if an argument is wrong, or the values of all paths need more than 2 GiB; before any path is run.
        NotDeclared: if the oracle lacks what the given SDE or a test function needs.
        FloatingPointError: if hardly any path of a process stayed finite.

    Example:
        >>> from sdeadapt.methods import RMSprop
        >>> from sdeadapt.oracles.analytic import Quadratic
        >>> oracle = Quadratic([[1.0]], [[1.0]], scale=4.0)
        >>> report = compare(RMSprop(lr=0.1, beta=0.99, eps=0.4), oracle, theta0=[1.5], steps=20, times=5, paths=128)
        >>> report.processes, report.times.round(3).tolist()
        (('chain', 'SVAG(2)', 'SVAG(4)', 'SDE'), [0.04, 0.08, 0.12, 0.16, 0.2])
    """
    begin = time.perf_counter()
    check_open_unit("confidence", confidence)
    check_integer("paths", paths, minimum=64)
    check_integer("keep_paths", keep_paths, minimum=0)
    check_choice("solver", solver, [s for s in SOLVERS if s != "euler"])
    check_substeps(substeps)
    if not (closeness >= 1 and math.isfinite(closeness)):
        raise ValueError(f"`closeness` must be a finite factor C >= 1; got {closeness!r}.")
    if not quantiles or sorted({check_open_unit("quantiles", q) for q in quantiles}) != list(quantiles):
        raise ValueError(f"`quantiles` must be increasing levels in (0, 1); got {tuple(quantiles)!r}.")
    oracle = oracle.to(run.device, run.torch_dtype)
    multipliers = _check_multipliers(method, oracle, multipliers, refine)
    x0, equation, notes = _start(method, oracle, theta0, initial, sde, start)
    clock = make_clock(
        method, horizon=horizon, steps=steps, start=start, times=times, compares_sde=equation is not None
    )
    own = resolve_test_functions(test_functions, x0, oracle)
    metrics = _metrics(x0, oracle)
    functions = own | {name: Named(name) for name in metrics if name not in own}
    if shown:
        if taken := sorted({*shown} & {*functions}):
            raise ValueError(f"`shown` must not repeat a test function or a metric; got {taken[0]!r}.")
        functions |= resolve_test_functions(shown, x0, oracle)
    levels = [_chain(method, oracle, m, refine, x0, clock.times, functions) for m in multipliers]
    processes = [_name(m, refine) for m in multipliers]
    if equation is not None:
        levels.append(
            Level(method, oracle, oracle, equation, x0, clock.start, clock.times, functions, substeps, solver)
        )
        processes.append("SDE")
    reference = len(levels) - 1
    if equation is None and reference:
        notes.append(f"The chains are compared with {processes[reference]}.")
    chunk = min(paths, *(run.chunk_size(chunk_bytes(level)) for level in levels))
    seeds = SeedTree.of(rng)
    runs = Processes(tuple(levels), seeds, paths, chunk)
    everything, bias = runs.collect(run)
    judged = len(own.keys() | set(metrics))  # what is shown alone decides nothing, nor who is left out
    finite = [np.isfinite(v[:, :, :judged]).all((1, 2)) for v in everything]
    values = [v if kept.all() else v[kept] for v, kept in zip(everything, finite, strict=True)]
    for process, v in zip(processes, values, strict=True):
        if len(v) < 3:
            raise FloatingPointError(
                f"At least 3 paths of every process must stay finite; got {len(v)} of {paths} for {process}. "
                "Use a smaller lr or a larger eps."
            )
    limits = np.zeros((2, *values[0].shape[1:]))
    with np.errstate(invalid="ignore"):  # what is shown may be infinite
        if bias is not None:
            bias = bias[finite[reference]]
            limits = np.array([bias.mean(0), bias.std(0, ddof=1) / math.sqrt(len(bias))])
        means = np.array([[v.mean(0), v.std(0, ddof=1) / math.sqrt(len(v))] for v in values])
        spread = [_quantiles(v, quantiles) for v in values]
    columns = [list(functions).index(name) for name in metrics]
    ratios = None
    if reference:
        ratios = measure_closeness(
            values[0][:, :, columns], values[reference][:, :, columns], threshold=closeness, confidence=confidence,
            bias=(np.abs(limits[0]) + 2 * limits[1])[:, columns],
        )  # fmt: skip
    return ComparisonReport(
        config={
            "method": method.describe(), "oracle": oracle.describe(), "theta0": describe(x0.theta),
            "initial": describe(x0._asdict()), "steps": clock.times[-1], "start": clock.start,
            "times": list(clock.times), "multipliers": list(multipliers), "refine": describe(refine),
            "sde": "own" if sde is None else describe(sde), "test_functions": list(own),
            "shown": list(shown or ()), "quantiles": list(quantiles),
            "closeness": closeness, "solver": solver, "substeps": substeps, "confidence": confidence, "paths": paths,
            "seed": describe(getattr(rng, "entropy", rng)), "device": run.device, "dtype": run.dtype, "chunk": chunk,
        },
        seconds=time.perf_counter() - begin,
        lr=method.lr,
        multipliers=np.array(multipliers),
        h=clock.h,
        processes=tuple(processes),
        reference=processes[reference] if reference else "",
        names=tuple(functions),
        metrics=metrics,
        times=clock.seconds,
        mean=means[:, 0],
        sem=means[:, 1],
        quantile_levels=np.array(quantiles),
        quantiles=np.array([level for level, _ in spread]),
        quantile_sem=np.array([sem for _, sem in spread]),
        paths=np.array([v[:keep_paths] for v in everything]),
        bias=limits[0],
        bias_sem=limits[1],
        n=np.array([len(v) for v in values]),
        diverged=np.array([paths - len(v) for v in values]),
        first_divergence=np.array([runs.first_divergence(p, kept) for p, kept in enumerate(finite)]),
        distances=_distances(values, processes, reference, len(own), clock.seconds, seeds),
        closeness=ratios,
        notes=tuple(notes),
    )  # fmt: skip


def _check_multipliers(
    method: Method, oracle: Oracle, multipliers: Sequence[int] | None, refine: Refine
) -> tuple[int, ...]:
    if multipliers is None:
        multipliers = (1, 2, 4) if oracle.independent else (1,)
    chosen = tuple(check_integer("multipliers", m) for m in multipliers)
    if not chosen or chosen[0] != 1 or sorted(set(chosen)) != list(chosen):
        raise ValueError(f"`multipliers` must increase from 1, the user's own chain; got {chosen}.")
    if chosen != (1,) and not oracle.independent:
        raise ValueError(
            f"`multipliers` must be (1,) over reshuffled epochs; got {chosen}. There SVAG changes the noise's long-run "
            "variance, and with it what it converges to. Use sampling='replacement' or 'batch' to refine."
        )
    if chosen != (1,):
        check_family(method, oracle, refine)
    return chosen


def _start(
    method: Method, oracle: Oracle, theta0: Any, initial: Any, sde: ItoSDE | Recipe | None, start: float | None
) -> tuple[Any, ItoSDE | None, list[str]]:
    """Return the starting Point, the SDE if there is one, and otherwise why not and how the chains start.

    Raises:
        NotDeclared: if the oracle lacks what a given SDE needs.
    """
    reason = "The draws of reshuffled epochs are not independent: no Ito SDE is known for them."
    if sde is not None or oracle.independent:
        try:
            x0 = make_initial(method, oracle, theta0, initial)
            equation = method.sde(oracle) if sde is None else sde if isinstance(sde, ItoSDE) else sde(method, oracle)
            first = BIAS_CORRECTION_STEPS * method.time_step if method.bias_correction else 0.0
            look = first if start is None else start
            check_sde(equation, x0, look, columns=oracle.noise_dim if oracle.couples else 0)
            return x0, equation, []
        except NotDeclared as missing:
            if sde is not None:
                raise
            reason = f"There is no SDE here: {missing}"
    try:
        return make_initial(method, oracle, theta0, initial), None, [reason]
    except NotDeclared:
        x0 = make_initial(method, oracle, theta0, initial, need_point=False)
        return x0, None, [reason, "The chains start as torch starts them."]


def _metrics(x0: Any, oracle: Oracle) -> tuple[str, ...]:
    """Return the metrics of C-closeness that the oracle declares."""

    def declared(name: str) -> bool:
        try:
            Named(name)(Snapshot(x0, oracle))
        except NotDeclared:
            return False
        return True

    return tuple(name for name in SYMBOLS if declared(name))


def _name(multiplier: int, refine: Refine) -> str:
    if multiplier == 1:
        return "chain"
    return f"SVAG({multiplier})" if refine == "svag" else f"chain(lr/{multiplier})"


def _chain(
    method: Method, oracle: Oracle, multiplier: int, refine: Refine, x0: Any, times: tuple[int, ...],
    functions: dict[str, TestFunction],
) -> Level:  # fmt: skip
    r = 1 if multiplier == 1 else method.refinement(multiplier)
    m, o = (method, oracle) if r == 1 else refined(refine, method, oracle, r)
    return Level(m, o, oracle, None, x0, 0, tuple(t * r for t in times), functions)


def _quantiles(values: np.ndarray, levels: Sequence[float]) -> tuple[np.ndarray, np.ndarray]:
    """Return quantiles over paths and their standard errors, half the gap between order statistics one se apart."""
    q = np.array(levels)
    reach = np.sqrt(q * (1 - q) / len(values))
    middle, low, high = np.quantile(values, [q, np.maximum(q - reach, 0), np.minimum(q + reach, 1)], axis=0)
    return middle, (high - low) / 2


def _distances(
    values: list[np.ndarray], processes: list[str], reference: int, functions: int, times: np.ndarray, seeds: SeedTree
) -> tuple[Distance, ...]:
    """Return the energy distances to the reference, and of the refined chains to the chain, half-way and at the end."""
    pairs = [(p, reference) for p in range(reference)] + [(p, 0) for p in range(1, reference)]
    found = []
    for i, (p, r) in enumerate(pairs):
        for t in sorted({(len(times) - 1) // 2, len(times) - 1}):
            x, y = whiten(*(values[k][:DISTANCE_PATHS, t, :functions] for k in (p, r)))
            rng = np.random.default_rng(seeds.seed(Purpose.PERMUTATION, 0, i * len(times) + t))
            distance = energy_distance(x, y, rng)
            found.append(Distance(processes[p], processes[r], float(times[t]), *distance, min(len(x), len(y))))
    return tuple(found)
