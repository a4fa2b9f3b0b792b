"""`verify_scaling`: does a batch-size rule keep the trajectory? Decided as equivalence within a margin."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.stats import fisher_exact

from sdeadapt.checks import check_integer, check_open_unit, check_positive
from sdeadapt.methods.base import Method
from sdeadapt.oracles.base import NotDeclared, Oracle
from sdeadapt.plain import describe
from sdeadapt.simulation.observables import Named, Snapshot, TestFunction, resolve_test_functions
from sdeadapt.simulation.paths import Level
from sdeadapt.simulation.randomness import Purpose, SeedTree
from sdeadapt.simulation.run import Run, run_chunks
from sdeadapt.simulation.start import Clock, make_clock, make_initial
from sdeadapt.statistics.equivalence import Equivalence, equivalence, planned_runs
from sdeadapt.verification import rules
from sdeadapt.verification.decision import Verdict
from sdeadapt.verification.estimators import chunk_bytes
from sdeadapt.verification.noise_to_signal import NoiseProbe, noise_to_signal
from sdeadapt.verification.processes import Processes
from sdeadapt.verification.scaling_report import ScalingReport

__all__ = ["METRICS", "ScalingPlan", "ScalingStudy", "check_runs", "verify_scaling"]

METRICS = ("log_loss", "theta_norm_squared", "gradient_norm_squared", "noise_trace")
PILOT_RUNS = 128
LEAST_RUNS, MOST_RUNS = 64, 4096  # of every batch size, where they are planned
POWER = 0.9


@dataclass(frozen=True)
class ScalingPlan:
    """How many runs of every batch size, how many were wanted (NaN if they were given), and the steps of them all."""

    runs: int
    wanted: float
    steps: int

    def __str__(self) -> str:
        """Return the plan in a sentence."""
        why = "as asked" if math.isnan(self.wanted) else f"{self.wanted:,.0f} are wanted for a power of {POWER:.0%}"
        return f"{self.runs:,} runs of each batch size ({why}), {self.steps:,} steps in all."


def check_runs(runs: int | None, most_runs: int) -> None:
    """Check the numbers of runs.

    Raises:
        ValueError: if one is too small.
    """
    if runs is not None:
        check_integer("runs", runs, minimum=4)
    check_integer("most_runs", most_runs, minimum=LEAST_RUNS)


@dataclass(frozen=True, eq=False)
class ScalingStudy:
    """The chains that are to be compared, checked before any of them runs.

    `levels`: the base chain, then one per kappa; `functions`: the metrics, then what the noise-to-signal ratio needs.
    """

    clock: Clock
    kappas: tuple[int, ...]
    levels: tuple[Level, ...]
    functions: dict[str, TestFunction]
    metrics: tuple[str, ...]
    units: np.ndarray | None
    confidence: float

    @classmethod
    def build(
        cls,
        method: Method,
        oracle: Oracle,
        *,
        theta0: Any,
        horizon: float | None,
        steps: int | None,
        kappas: Sequence[int],
        rule: rules.Rule,
        margin: float | Mapping[str, float] | None,
        initial: Any,
        times: int | Iterable[float] | None,
        test_functions: Iterable[str] | Mapping[str, TestFunction] | None,
        confidence: float,
        run: Run,
    ) -> ScalingStudy:
        """Return the study that `verify_scaling`'s arguments describe; see there.

        Raises:
            ValueError: if an argument is wrong.
        """
        check_open_unit("confidence", confidence)
        kappas = tuple(check_integer("kappas", kappa, minimum=2) for kappa in kappas)
        if not kappas or sorted(set(kappas)) != list(kappas):
            raise ValueError(f"`kappas` must be increasing whole numbers above 1; got {kappas}.")
        oracle = oracle.to(run.device, run.torch_dtype)
        clock = _clock(method, kappas, horizon, steps, times)
        x0 = make_initial(method, oracle, theta0, initial, need_point=False)
        functions = _functions(test_functions, x0, oracle)
        metrics = tuple(functions)
        for name in ("noise_trace", "gradient_norm_squared"):
            if name not in functions and _declared(name, x0, oracle):
                functions[name] = Named(name)
        levels = [Level(method, oracle, oracle, None, x0, 0, clock.times, functions)]
        for kappa in kappas:
            records = tuple(t // kappa for t in clock.times)
            scaled = _checked(rule(method, kappa), method, kappa, rule)
            levels.append(Level(scaled, at_batch(oracle, kappa), oracle, None, x0, 0, records, functions))
        units = _units(margin, metrics, len(clock.times))
        return cls(clock, kappas, tuple(levels), functions, metrics, units, confidence)

    def chunk(self, run: Run) -> int:
        """Return the runs per chunk."""
        return min(run.chunk_size(chunk_bytes(level)) for level in self.levels)

    def decided(self, values: np.ndarray) -> np.ndarray:
        """Return the metrics at all times, (runs, J), of values (runs, times, functions)."""
        return values[:, :, : len(self.metrics)].reshape(len(values), -1)

    def plan(self, runs: int | None, most_runs: int, seeds: SeedTree, run: Run) -> ScalingPlan:
        """Return the plan: the runs asked for or, from a pilot of the base chain that is thrown away, those needed.

        Raises:
            ValueError: if `runs` or `most_runs` is out of range.
            FloatingPointError: if fewer than half of the pilot stay finite.
        """
        check_runs(runs, most_runs)
        steps = sum(level.records[-1] for level in self.levels)
        if runs is not None:
            return ScalingPlan(runs, math.nan, runs * steps)
        quiet = Run(run.device, run.dtype, run.chunk, run.executor)
        chunk = min(self.chunk(run), PILOT_RUNS)
        (pilot,), _ = Processes(self.levels[:1], seeds, PILOT_RUNS, chunk, Purpose.PILOT_CHAIN).collect(quiet)
        pilot = pilot[np.isfinite(pilot).all((1, 2))]
        if len(pilot) < PILOT_RUNS / 2:
            raise FloatingPointError(_lost(PILOT_RUNS - len(pilot), PILOT_RUNS))
        wanted = planned_runs(
            self.decided(pilot), len(self.kappas), self.units, confidence=self.confidence, power=POWER
        )
        planned = int(min(max(wanted, LEAST_RUNS), most_runs))
        return ScalingPlan(planned, wanted, planned * steps)


def verify_scaling(
    method: Method,
    oracle: Oracle,
    *,
    theta0: Any,
    horizon: float | None = None,
    steps: int | None = None,
    kappas: Sequence[int] = (2, 4, 8),
    rule: rules.Rule = rules.own,
    margin: float | Mapping[str, float] | None = None,
    initial: Any = None,
    times: int | Iterable[float] | None = None,
    test_functions: Iterable[str] | Mapping[str, TestFunction] | None = None,
    runs: int | None = None,
    most_runs: int = MOST_RUNS,
    confidence: float = 0.95,
    rng: int | np.random.SeedSequence = 0,
    run: Run = Run(),  # noqa: B008 (frozen)
) -> ScalingReport:
    r"""Run a method at several batch sizes under a batch-size rule and say whether the trajectory stays the same.

    At $\kappa B$ the chain makes 1/kappa as many steps, so that it sees as many examples; under the method's own rule
    that is the same SDE time. With the difference D of the means of a metric at a time and its margin $\delta$, a kappa
    is CONFIRMED if every $|D| < \delta$ (two one-sided tests each: intersection-union), REFUTED if one
    $|D| > \delta$ (simultaneously over everything), and otherwise INCONCLUSIVE.

    Only sampling is needed of the oracle; over reshuffled epochs too.

    Args:
        method: at the base batch.
        oracle: at the base batch B. One that draws minibatches goes to `with_batch(kappa B)`, any other to
            `rescaled(kappa)`.
        theta0: (dim,), or (rows, dim) for a start drawn among the rows.
        horizon: the end in SDE time of the base chain, or
        steps: the same in its steps, a multiple of every kappa; exactly one of the two is given.
        kappas: factors of the batch size, increasing whole numbers above 1.
        rule: (method, kappa) -> method, see `sdeadapt.rules`.
        margin: in standard deviations between runs of the base chain, a number or by metric; None, also of metrics left
            out, is the larger of 10 % of the base mean and .5 standard deviations.
        initial: overrides m and u of the start, a Point or {"u": …}, the same in SDE coordinates at every batch size
            (so v_0 becomes v_0 / kappa); None starts as torch does.
        times: SDE times to compare at, multiples of kappa base steps for every kappa; or how many; None is four.
        test_functions: metrics beside log loss, |theta|², |grad f|² and Tr Sigma (those that the oracle declares);
            names or a mapping name -> function of a Snapshot.
        runs: of every batch size, 4 or more; None plans them for a power of 90 % where the rule holds exactly.
        most_runs: the most that are planned.
        confidence: of CONFIRMED, of each batch size; of REFUTED, of all together. In (0, 1).
        rng: a whole number or a SeedSequence; nothing global is read.
        run: device, dtype, chunk, workers, progress.

    Returns:
        The report: verdict by kappa and in all, the largest kappa that holds, differences, noise-to-signal ratios.

    Raises:
        ValueError: if an argument is wrong, kappa (1 − beta) >= 1 or kappa B exceeds the data; before any run.
        FloatingPointError: if the base chain diverges.

    Example:
        >>> import sdeadapt as sa
        >>> oracle = sa.oracles.Quadratic([[1.0]], [[1.0]], scale=8.0)
        >>> options = dict(theta0=[3.0], steps=32, kappas=(2, 4), times=1, runs=400)
        >>> report = verify_scaling(sa.SGD(lr=0.01), oracle, **options)
        >>> str(report.verdict), report.largest_kappa
        ('CONFIRMED', 4)
        >>> str(verify_scaling(sa.SGD(lr=0.01), oracle, rule=sa.rules.none, **options).verdict)
        'REFUTED'

    Malladi et al. 2022 (arXiv 2205.10287), Definitions 5.2 and 5.3; Li, Malladi, Arora 2021 (arXiv 2102.12470).
    """
    begin = time.perf_counter()
    study = ScalingStudy.build(
        method, oracle, theta0=theta0, horizon=horizon, steps=steps, kappas=kappas, rule=rule, margin=margin,
        initial=initial, times=times, test_functions=test_functions, confidence=confidence, run=run,
    )  # fmt: skip
    seeds = SeedTree.of(rng)
    plan = study.plan(runs, most_runs, seeds, run)
    chunk = min(plan.runs, study.chunk(run))
    processes = Processes(study.levels, seeds, plan.runs, chunk, Purpose.CHAIN)
    everything, _ = processes.collect(run)
    finite = [np.isfinite(v).all((1, 2)) for v in everything]
    values = [v[kept] for v, kept in zip(everything, finite, strict=True)]
    if len(values[0]) < max(4, plan.runs / 2):
        raise FloatingPointError(_lost(plan.runs - len(values[0]), plan.runs))
    diverged = np.array([plan.runs - len(v) for v in values])
    alive = [k for k in range(len(study.kappas)) if len(values[k + 1]) >= 4]
    found = None
    if alive:
        samples = [study.decided(values[k + 1]) for k in alive]
        found = equivalence(study.decided(values[0]), samples, study.units, confidence=confidence)
    verdicts, needed = _decide(found, alive, diverged, plan.runs, len(study.kappas), confidence)
    base, shape = study.levels[0], (len(study.kappas), len(study.clock.times), len(study.metrics))

    def spread(name: str) -> np.ndarray:
        out = np.full((shape[0], shape[1] * shape[2]), np.nan)
        if found is not None:
            out[alive] = getattr(found, name)
        return out.reshape(shape)

    metrics = slice(len(study.metrics))
    ratio, ratio_sem = _ratios(study, values, seeds, run)
    batch = getattr(base.oracle, "batch_size", None)
    return ScalingReport(
        config={
            "method": method.describe(), "oracle": oracle.describe(), "theta0": describe(base.initial.theta),
            "initial": describe(initial), "steps": study.clock.times[-1], "times": list(study.clock.times),
            "kappas": list(study.kappas), "rule": describe(rule), "margin": describe(margin),
            "metrics": list(study.metrics), "runs": runs, "most_runs": most_runs, "confidence": confidence,
            "seed": describe(getattr(rng, "entropy", rng)), "device": run.device, "dtype": run.dtype, "chunk": chunk,
        },
        seconds=time.perf_counter() - begin,
        lr=np.array([level.method.lr for level in study.levels]),
        h=study.clock.h,
        linear=method.refinement(2) == 2,
        kappas=np.array(study.kappas),
        batch_sizes=None if batch is None else np.array([batch, *(batch * kappa for kappa in study.kappas)]),
        noise_ratios=np.array([(base.oracle.scale / level.oracle.scale) ** 2 for level in study.levels[1:]]),
        metrics=study.metrics,
        times=study.clock.seconds,
        mean=np.array([v[:, :, metrics].mean(0) if len(v) else np.full(shape[1:], np.nan) for v in values]),
        sd=np.array([v[:, :, metrics].std(0, ddof=1) if len(v) > 1 else np.full(shape[1:], np.nan) for v in values]),
        runs=np.array([len(v) for v in values]),
        diverged=diverged,
        first_divergence=np.array([processes.first_divergence(p, kept) for p, kept in enumerate(finite)]),
        margin=np.full(shape[1:], np.nan) if found is None else found.margin.reshape(shape[1:]),
        difference=spread("difference"),
        sem=spread("sem"),
        high=spread("high"),
        low=spread("low"),
        verdicts=verdicts,
        needed=needed,
        wanted=plan.wanted,
        noise_to_signal=ratio,
        noise_to_signal_sem=ratio_sem,
    )  # fmt: skip


def at_batch(oracle: Oracle, kappa: int) -> Oracle:
    """Return the oracle at `kappa` times the batch; `rescaled` where there are no batches.

    Raises:
        ValueError: if the data do not hold as many examples.
    """
    batch, examples = getattr(oracle, "batch_size", None), getattr(oracle, "examples", math.inf)
    if batch is None:
        return oracle.rescaled(kappa)
    if kappa * batch > examples:
        raise ValueError(
            f"`kappas` must leave batches of at most the {examples} examples; got kappa = {kappa}, a batch of "
            f"{kappa * batch}. Take a smaller base batch."
        )
    return oracle.with_batch(kappa * batch)


def _clock(
    method: Method, kappas: tuple[int, ...], horizon: float | None, steps: int | None,
    times: int | Iterable[float] | None,
) -> Clock:  # fmt: skip
    """Return the base clock, on which every chain meets every time.

    Raises:
        ValueError: if a time is not a multiple of every kappa.
    """
    common = math.lcm(*kappas)
    count = times if isinstance(times, int) else 4 if times is None else None
    given = None if count is not None else times
    clock = make_clock(method, horizon=horizon, steps=steps, times=given, compares_sde=False)
    end = clock.times[-1]
    off = [t for t in clock.times if t % common]
    if off:
        what = "`steps` or `horizon`" if count is not None else "Every one of `times`"
        raise ValueError(
            f"{what} must be a multiple of {common} base steps, so that every batch size meets it after as many "
            f"examples; got {off[0]}. The nearest is {max(1, round(off[0] / common)) * common}."
        )
    if count is None:
        return clock
    cells = end // common
    count = min(check_integer("times", count), cells)
    return Clock(clock.h, 0, tuple(sorted({common * round(cells * (i + 1) / count) for i in range(count)})))


def _declared(name: str, x0: Any, oracle: Oracle) -> bool:
    try:
        return bool(Named(name)(Snapshot(x0, oracle)).isfinite().all())
    except NotDeclared:
        return False


def _functions(
    given: Iterable[str] | Mapping[str, TestFunction] | None, x0: Any, oracle: Oracle
) -> dict[str, TestFunction]:
    """Return the metrics: the standard ones that are declared and finite at the start, and the user's."""
    own = resolve_test_functions([name for name in METRICS if _declared(name, x0, oracle)], x0, oracle)
    return own if given is None else own | resolve_test_functions(given, x0, oracle)


def _units(margin: float | Mapping[str, float] | None, metrics: tuple[str, ...], times: int) -> np.ndarray | None:
    """Return the margin of each metric at each time in standard deviations, NaN for the default one.

    Raises:
        ValueError: if a margin is not positive or names no metric.
    """
    if margin is None:
        return None
    by_metric = margin if isinstance(margin, Mapping) else dict.fromkeys(metrics, margin)
    if unknown := set(by_metric) - set(metrics):
        raise ValueError(f"`margin` must name metrics among {', '.join(metrics)}; got {', '.join(sorted(unknown))}.")
    return np.tile([check_positive("margin", by_metric[m]) if m in by_metric else np.nan for m in metrics], times)


def _checked(scaled: Any, method: Method, kappa: int, rule: Any) -> Method:
    """Return what a rule made, if it is a method of the same kind.

    Raises:
        ValueError: if it is not.
    """
    if not isinstance(scaled, Method) or scaled.State is not method.State:
        raise ValueError(
            f"`rule` must return a method with the same state, {type(method).__name__}; got {type(scaled).__name__}."
        )
    if rule is rules.own and abs(scaled.time_step / (kappa * method.time_step) - 1) > 1e-9:
        raise ValueError(
            f"`rescaled` must multiply the time step by kappa = {kappa}; got {scaled.time_step / method.time_step:g}."
        )
    return scaled


def _decide(
    found: Equivalence | None, alive: list[int], diverged: np.ndarray, runs: int, kappas: int, confidence: float
) -> tuple[tuple[Verdict, ...], np.ndarray]:
    """Return verdict and runs needed for every kappa.

    That more chains diverge than of the base is a difference in itself: then the means do not even exist.
    """
    verdicts, needed = [], np.full(kappas, np.nan)
    level = (1 - confidence) / kappas
    for k in range(kappas):
        lost = [int(diverged[k + 1]), int(diverged[0])]
        p = fisher_exact(np.array([[n, runs - n] for n in lost]), alternative="greater").pvalue
        row = alive.index(k) if k in alive else None
        outside = found is not None and row is not None and bool(found.outside[row].any())
        if outside or p < level:
            verdicts.append(Verdict.REFUTED)
        elif found is not None and row is not None and found.inside[row].all() and not any(lost):
            verdicts.append(Verdict.CONFIRMED)
        else:
            verdicts.append(Verdict.INCONCLUSIVE)
            if found is not None and row is not None and not any(lost):
                needed[k] = found.needed([row])
    return tuple(verdicts), needed


def _ratios(study: ScalingStudy, values: list[np.ndarray], seeds: SeedTree, run: Run) -> tuple[np.ndarray, np.ndarray]:
    """Return the noise-to-signal ratio of every chain at every time, with its standard error, (K + 1, T) each."""
    names = list(study.functions)
    if {"noise_trace", "gradient_norm_squared"} <= set(names):
        noise, signal = names.index("noise_trace"), names.index("gradient_norm_squared")
        pairs = [
            (v[:, :, noise] * level.oracle.scale**2, v[:, :, signal])
            for v, level in zip(values, study.levels, strict=True)
        ]
    else:
        quiet = Run(run.device, run.dtype, run.chunk, run.executor)
        pairs = list(run_chunks(NoiseProbe(study.levels, seeds), len(study.levels), quiet))
    nothing = np.full((2, len(study.clock.times)), np.nan)
    ratios = np.array([noise_to_signal(*pair) if len(pair[0]) > 1 else nothing for pair in pairs])
    return ratios[:, 0], ratios[:, 1]


def _lost(lost: int, runs: int) -> str:
    return (
        f"{lost} of {runs} runs of the base chain did not stay finite: there is nothing to compare with. Use a smaller "
        "lr or a larger eps; or the log of a loss below 0 is not defined."
    )
