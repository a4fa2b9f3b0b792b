"""`sdeadapt verify`, `compare` and `scaling`: options in, a report and an exit code out.

Nothing heavy is imported before the options are read, so that `--help` answers at once.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import importlib
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from sdeadapt.options import (
    CompareOptions,
    Options,
    ScalingOptions,
    SdeOptions,
    VerifyOptions,
    as_arguments,
    asked,
    on_top,
    read_options,
)

if TYPE_CHECKING:
    from sdeadapt.simulation.run import Run
    from sdeadapt.verification.study import Study

__all__ = ["COMMANDS", "run"]

USAGE, INCONCLUSIVE = 2, 3
_STYLE = (tyro.conf.DisallowNone, tyro.conf.FlagCreatePairsOff)

COMMANDS: dict[str, type[Options]] = {"verify": VerifyOptions, "compare": CompareOptions, "scaling": ScalingOptions}


def run(args: Sequence[str]) -> int:
    """Run a command and return its exit code.

    Args:
        args: the command line without the program's name.

    Raises:
        SystemExit: after `--help`, with 0, or on options that do not parse, with 2.
    """
    try:
        options, plan = _parse(args)
        if isinstance(options, VerifyOptions):
            return _local(options) if options.local else _verify(options, plan)
        return _compare(options) if isinstance(options, CompareOptions) else _scaling(options)
    except _Usage as error:
        print(f"sdeadapt: {error}", file=sys.stderr)
        return USAGE
    except FloatingPointError as error:
        print(f"INCONCLUSIVE: {error}", file=sys.stderr)
        return INCONCLUSIVE


class _Usage(Exception):
    """What the user asked for cannot be done; nothing has been."""


@contextlib.contextmanager
def _checking() -> Iterator[None]:
    """Turn what a check refuses into `_Usage`; outside, a ValueError is a failure.

    Raises:
        _Usage: in place of a ValueError.
    """
    try:
        yield
    except ValueError as error:
        raise _Usage(str(error)) from error


# --- options


def _parse(args: Sequence[str]) -> tuple[Any, Mapping[str, Any] | None]:
    """Return the options, and the plan of the run that `--config` names if they repeat it.

    Raises:
        _Usage: if `--config` holds no options of this command.
    """
    early = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    early.add_argument("--config")
    path = early.parse_known_args(list(args))[0].config
    stored: dict[str, Any] = {}
    if path is not None:
        with _checking():
            stored = read_options(Path(path))
        if args[0] in COMMANDS and stored.get("command", args[0]) != args[0]:
            raise _Usage(f"`--config` must be of the same command; got one of {stored['command']!r} for {args[0]!r}.")
    plan = stored.pop("plan", None)
    command = stored.pop("command", args[0] if args else "")
    defaults = {name: cls() for name, cls in COMMANDS.items()}
    if command in COMMANDS and stored:
        defaults[command] = tyro.cli(
            COMMANDS[command], args=as_arguments(stored), prog=f"sdeadapt {command} ({path})", config=_STYLE
        )
    verify, compare, scaling = (
        Annotated[COMMANDS[name], tyro.conf.subcommand(name, default=default)] for name, default in defaults.items()
    )
    about = "Is a stochastic differential equation a valid model of an optimizer? With error bars."
    either: Any = verify | compare | scaling
    options = tyro.cli(either, args=list(args), prog="sdeadapt", description=about, config=_STYLE)
    base = defaults[command]
    if path is not None:
        options = on_top(options, base)
    return options, plan if asked(options) == asked(base) else None


# --- what the options mean


def _find(what: str, spec: str, known: Mapping[str, Callable[..., Any]]) -> Callable[..., Any]:
    """Return what a name or an import path stands for.

    Raises:
        ValueError: if there is no such thing.
    """
    from sdeadapt.checks import check_choice
    from sdeadapt.methods.registry import plain_name

    if ":" in spec:
        if os.getcwd() not in sys.path:
            sys.path.insert(0, os.getcwd())  # workers are told
        module, _, attribute = spec.partition(":")
        try:
            found = getattr(importlib.import_module(module), attribute)
        except (ImportError, AttributeError) as error:
            raise ValueError(f"`{what}` must be a name or package.module:name; got {spec!r}: {error}.") from error
        if not callable(found):
            raise ValueError(f"`{what}` must name a class or a function; got {spec!r}, a {type(found).__name__}.")
        return found
    plain = {plain_name(name): make for name, make in known.items()}
    if plain_name(spec) not in plain:
        check_choice(what, spec, known or ["package.module:name"])
    return plain[plain_name(spec)]


def _pairs(what: str, words: Sequence[str]) -> dict[str, str]:
    """Return name=value words as a mapping.

    Raises:
        ValueError: if a word has another form.
    """
    for word in words:
        if not word.partition("=")[0] or "=" not in word:
            raise ValueError(f"`{what}` must be of the form name=value; got {word!r}.")
    return {name.replace("-", "_").lower(): value for name, _, value in (word.partition("=") for word in words)}


def _job(options: Options) -> dict[str, Any]:
    """Return the arguments that the commands share, and those about the SDE where it is asked about.

    Raises:
        ValueError: if a name, an option or a hyper-parameter is wrong.
    """
    from sdeadapt.methods.base import Method
    from sdeadapt.methods.registry import METHODS, build, plain_name
    from sdeadapt.problems import PROBLEMS, Problem, Suggestion

    problem: Problem = build(_find("problem", options.problem, PROBLEMS), _pairs("problem_set", options.problem_set))
    if not isinstance(problem, Problem):
        raise ValueError(f"`problem` must return a Problem; {options.problem!r} returned a {type(problem).__name__}.")
    name = options.method or next(iter(problem.suggested), None)
    if name is None:
        raise ValueError(f"`--method` must be given, as the problem {problem.name} suggests none.")
    suggestion = problem.suggested.get(plain_name(name), Suggestion({}))
    make = _find("method", name, METHODS)
    method = build(make, {**suggestion.options, **_pairs("set", options.set)})
    if not isinstance(method, Method):
        raise ValueError(f"`method` must make a Method; {name!r} made a {type(method).__name__}.")
    horizon = options.horizon
    if horizon is None and options.steps is None:
        horizon = suggestion.horizon or problem.horizon
    job = {
        "method": method,
        "oracle": problem.oracle,
        "theta0": problem.theta0,
        "horizon": horizon,
        "steps": options.steps,
        "times": options.times,
        "initial": suggestion.initial,
        "test_functions": options.test_functions or problem.test_functions,
        "confidence": options.confidence,
        "rng": options.seed,
    }
    if isinstance(options, SdeOptions):
        job |= {field: getattr(options, field) for field in ("start", "solver", "substeps", "refine")}
        job["multipliers"] = options.multipliers or suggestion.multipliers
        if isinstance(options, CompareOptions):
            job["shown"] = problem.shown
        job["sde"] = None if options.sde is None else _find("sde", options.sde, {})
    return job


def _output(options: Options, command: str) -> Path:
    """Return the directory to write to.

    Raises:
        ValueError: if it is used or cannot be written.
    """
    from sdeadapt.results import check_output

    if options.out is not None:
        return check_output(options.out)
    first = path = Path("runs") / f"{command}-{time.strftime('%Y%m%d-%H%M%S')}"
    count = 1
    while path.exists():
        count += 1
        path = first.with_name(f"{first.name}-{count}")
    return check_output(path)


# --- running


def _verify(options: VerifyOptions, plan: Mapping[str, Any] | None) -> int:
    with _checking():
        out = _output(options, "verify")
    from sdeadapt.report.figures import weak_error_figure
    from sdeadapt.verification.planning import Budget
    from sdeadapt.verification.resolution import Resolution
    from sdeadapt.verification.summary import summarise_plan
    from sdeadapt.verification.weak_error import prepare, verify

    with _running(options) as (run, _):
        with _checking():
            job = _job(options)
            grid = Resolution(options.points, options.nodes, options.radius)
            job["budget"] = Budget(options.paths, options.precision, options.seconds, grid)
            job |= {"estimator": options.estimator, "reference": options.reference}
            if plan is not None:
                paths = tuple(tuple(row) for row in plan["paths"]) or None
                job |= {"estimator": plan["estimator"], "budget": Budget(paths, resolution=grid)}
            study, free = _check_study(options, job, run)
        if options.dry_run and free:
            print(f"{free} estimator: exact up to a bound, no random number. Nothing was written.")
            return 0
        if options.dry_run:
            print(
                summarise_plan(
                    prepare(study, rng=options.seed, **{k: job[k] for k in ("estimator", "budget")}, run=run)
                )
            )
            return 0
        report = verify(**job, order=options.order, atol=options.atol, power=options.power, run=run)
    plan = {"estimator": report.estimator, "paths": report.config["paths"]}
    return _finish(options, report, out, weak_error_figure, {"command": "verify", **asked(options), "plan": plan})


def _local(options: VerifyOptions) -> int:
    from sdeadapt.verification.local_error import local_error

    with _checking():
        out = _output(options, "local")
        job = _job(options)
        given = {name: job[name] for name in ("method", "oracle", "sde", "initial", "refine")}
        report = local_error(
            **given, theta=job["theta0"], order=options.order, t=options.start, multipliers=options.multipliers
        )
    return _finish(options, report, out, None, {"command": "verify", **asked(options)})


def _check_study(options: VerifyOptions, job: Mapping[str, Any], run: Run) -> tuple[Study, str]:
    """Return the study and its noise-free estimator ("" for Monte Carlo), after every check that `verify` makes.

    What fails later is a failure, not a wrong option.
    """
    from sdeadapt.checks import check_integer, check_open_unit, check_positive
    from sdeadapt.simulation.randomness import SeedTree
    from sdeadapt.verification.estimators import candidates, modes
    from sdeadapt.verification.noise_free import which
    from sdeadapt.verification.self_reference import check_reference
    from sdeadapt.verification.study import Study

    check_open_unit("confidence", options.confidence)
    check_positive("atol", options.atol, zero=True)
    check_integer("order", options.order)
    check_reference(options.reference, power=options.power, **{k: job[k] for k in ("sde", "start", "multipliers")})
    SeedTree.of(options.seed)
    of_study = {k: v for k, v in job.items() if k not in ("confidence", "rng", "estimator", "budget")}
    study = Study.build(**of_study, order=options.order, run=run)
    alone, budget = options.reference == "self", job["budget"]
    free = which(job["estimator"], study.levels, own=job["sde"] is None, noisy=alone or budget.noisy)
    if free == "quadrature":
        budget.resolution.filled(study.levels[0].initial._fields)
    elif not free:
        kinds = {*candidates(job["estimator"], study.levels, known=True)} | {"independent", "coupled"}
        budget.check(len(study.levels), {len(modes(kind)) for kind in kinds})
    return study, free


def _compare(options: CompareOptions) -> int:
    with _checking():
        out = _output(options, "compare")
    from sdeadapt.report.comparison import comparison_figure
    from sdeadapt.verification.compare import compare

    own = ("quantiles", "closeness", "paths", "keep_paths")
    with _running(options) as (run, done):
        with _checking():
            job = _job(options)
        try:
            report = compare(**job, **{k: getattr(options, k) for k in own}, run=run)
        except ValueError as error:  # its checks come before the first chunk
            if done():
                raise
            raise _Usage(str(error)) from error
    return _finish(options, report, out, comparison_figure, {"command": "compare", **asked(options)})


def _scaling(options: ScalingOptions) -> int:
    with _checking():
        out = _output(options, "scaling")
    from sdeadapt.report.scaling import scaling_figure
    from sdeadapt.simulation.randomness import SeedTree
    from sdeadapt.verification import rules
    from sdeadapt.verification.scaling_rule import ScalingStudy, check_runs, verify_scaling

    known: dict[str, rules.Rule] = {
        "own": rules.own, "linear": rules.learning_rate(1.0), "sqrt": rules.learning_rate(0.5), "none": rules.none
    }  # fmt: skip
    with _running(options) as (run, _):
        with _checking():
            job = _job(options)
            job |= {"kappas": options.kappas, "margin": options.margin, "rule": _find("rule", options.rule, known)}
            rng = job.pop("rng")
            seeds, study = SeedTree.of(rng), ScalingStudy.build(**job, run=run)
            check_runs(options.runs, options.most_runs)
        if options.dry_run:
            print(study.plan(options.runs, options.most_runs, seeds, run))
            return 0
        report = verify_scaling(**job, rng=rng, runs=options.runs, most_runs=options.most_runs, run=run)
    return _finish(options, report, out, scaling_figure, {"command": "scaling", **asked(options)})


@contextlib.contextmanager
def _running(options: Options) -> Iterator[tuple[Run, Callable[[], int]]]:
    """Yield a Run with workers and a progress bar, and the number of chunks done.

    Meanwhile torch uses one thread, as the workers do: the last bits of sums depend on it.
    """
    import numpy as np
    import torch
    from tqdm import tqdm

    from sdeadapt.checks import check_integer
    from sdeadapt.simulation.run import Run, workers

    threads = torch.get_num_threads()
    with contextlib.ExitStack() as stack:
        with _checking():
            count = _cores() if options.workers is None else check_integer("workers", options.workers)
            run = Run(options.device, options.dtype)
        bar = stack.enter_context(tqdm(unit=" chunks", file=sys.stderr, disable=True if options.quiet else None))
        if count > 1 and torch.device(options.device).type == "cpu":
            run = dataclasses.replace(run, executor=stack.enter_context(workers(count)))
        chunks = 0

        def progress(done: int, total: int) -> None:
            nonlocal chunks
            bar.total, chunks = total, done
            bar.update(done - bar.n)

        torch.set_num_threads(1)
        stack.callback(torch.set_num_threads, threads)
        stack.enter_context(np.errstate(all="ignore"))  # paths that diverge are counted and reported
        yield dataclasses.replace(run, progress=progress), lambda: chunks


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _finish(
    options: Options, report: Any, out: Path, figure: Callable[[Any], Any] | None, config: Mapping[str, Any]
) -> int:
    """Print the report, the verdict last, leave the run directory, and return the exit code."""
    text = report.summary()
    if not options.quiet:
        print(text, end="\n\n", flush=True)  # before anything else can fail
    files: dict[str, Callable[[Path], Any]] = {
        "summary.txt": lambda path: path.write_text(text + "\n", encoding="utf-8")
    }
    if figure is not None:
        files["figure.png"] = lambda path: figure(report).savefig(path, dpi=150)
    report.save(out, config=config, files=files)
    print(f"{out}\n{report.verdict}")
    return {"CONFIRMED": 0, "REFUTED": 1}.get(report.verdict.value, INCONCLUSIVE)
