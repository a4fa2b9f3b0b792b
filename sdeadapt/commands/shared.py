"""What the commands share: from options to the arguments of a study, the run around it, the report it leaves."""

from __future__ import annotations

import contextlib
import dataclasses
import importlib
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sdeadapt.options import CommonOptions, CompareOptions, Options, SdeOptions

if TYPE_CHECKING:
    from sdeadapt.simulation.run import Run

__all__ = ["INCONCLUSIVE", "Usage", "checking", "find", "finish", "job_of", "output", "pairs", "running"]

INCONCLUSIVE = 3


class Usage(Exception):
    """What the user asked for cannot be done; nothing has been."""


@contextlib.contextmanager
def checking() -> Iterator[None]:
    """Turn what a check refuses into `Usage`; outside, a ValueError is a failure.

    Raises:
        Usage: in place of a ValueError.
    """
    try:
        yield
    except ValueError as error:
        raise Usage(str(error)) from error


def find(what: str, spec: str, known: Mapping[str, Callable[..., Any]]) -> Callable[..., Any]:
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


def pairs(what: str, words: Sequence[str]) -> dict[str, str]:
    """Return name=value words as a mapping.

    Raises:
        ValueError: if a word has another form.
    """
    for word in words:
        if not word.partition("=")[0] or "=" not in word:
            raise ValueError(f"`{what}` must be of the form name=value; got {word!r}.")
    return {name.replace("-", "_").lower(): value for name, _, value in (word.partition("=") for word in words)}


def job_of(options: Options) -> dict[str, Any]:
    """Return the arguments that the commands share, and those about the SDE where it is asked about.

    Raises:
        ValueError: if a name, an option or a hyper-parameter is wrong.
    """
    from sdeadapt.methods.base import Method
    from sdeadapt.methods.registry import METHODS, build, plain_name
    from sdeadapt.problems import PROBLEMS, Problem, Suggestion

    problem: Problem = build(find("problem", options.problem, PROBLEMS), pairs("problem_set", options.problem_set))
    if not isinstance(problem, Problem):
        raise ValueError(f"`problem` must return a Problem; {options.problem!r} returned a {type(problem).__name__}.")
    name = options.method or next(iter(problem.suggested), None)
    if name is None:
        raise ValueError(f"`--method` must be given, as the problem {problem.name} suggests none.")
    suggestion = problem.suggested.get(plain_name(name), Suggestion({}))
    make = find("method", name, METHODS)
    method = build(make, {**suggestion.options, **pairs("set", options.set)})
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
            job |= {"shown": problem.shown, "paths": problem.paths if options.paths is None else options.paths}
        job["sde"] = None if options.sde is None else find("sde", options.sde, {})
    return job


def output(options: CommonOptions, command: str) -> Path:
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


@contextlib.contextmanager
def running(options: CommonOptions) -> Iterator[tuple[Run, Callable[[], int]]]:
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
        with checking():
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


def finish(
    options: CommonOptions, report: Any, out: Path, figure: Callable[[Any], Any] | None, config: Mapping[str, Any]
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
