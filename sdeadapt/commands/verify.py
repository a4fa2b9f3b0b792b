"""`sdeadapt verify`, and `verify --local`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from sdeadapt.commands.shared import checking, finish, job_of, output, running
from sdeadapt.options import VerifyOptions, asked

if TYPE_CHECKING:
    from sdeadapt.simulation.run import Run
    from sdeadapt.verification.study import Study

__all__ = ["run"]


def run(options: VerifyOptions, plan: Mapping[str, Any] | None) -> int:
    """Verify an SDE and return the exit code.

    Args:
        options: of the command.
        plan: estimator and paths of an earlier run that is repeated.
    """
    if options.local:
        return _local(options)
    with checking():
        out = output(options, "verify")
    from sdeadapt.report.figures import weak_error_figure
    from sdeadapt.verification.planning import Budget
    from sdeadapt.verification.resolution import Resolution
    from sdeadapt.verification.summary import summarise_plan
    from sdeadapt.verification.weak_error import prepare, verify

    with running(options) as (run, _):
        with checking():
            job = job_of(options)
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
    return finish(options, report, out, weak_error_figure, {"command": "verify", **asked(options), "plan": plan})


def _local(options: VerifyOptions) -> int:
    from sdeadapt.verification.local_error import local_error

    with checking():
        out = output(options, "local")
        job = job_of(options)
        given = {name: job[name] for name in ("method", "oracle", "sde", "initial", "refine")}
        report = local_error(
            **given, theta=job["theta0"], order=options.order, t=options.start, multipliers=options.multipliers
        )
    return finish(options, report, out, None, {"command": "verify", **asked(options)})


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
