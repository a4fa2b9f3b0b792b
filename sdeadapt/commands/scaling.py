"""`sdeadapt scaling`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sdeadapt.commands.shared import checking, find, finish, job_of, output, running
from sdeadapt.options import ScalingOptions, asked

__all__ = ["run"]


def run(options: ScalingOptions, plan: Mapping[str, Any] | None = None) -> int:
    """Verify a batch-size rule and return the exit code; there is no plan to repeat."""
    with checking():
        out = output(options, "scaling")
    from sdeadapt.report.scaling import scaling_figure
    from sdeadapt.simulation.randomness import SeedTree
    from sdeadapt.verification import rules
    from sdeadapt.verification.scaling_rule import ScalingStudy, check_runs, verify_scaling

    known: dict[str, rules.Rule] = {
        "own": rules.own, "linear": rules.learning_rate(1.0), "sqrt": rules.learning_rate(0.5), "none": rules.none
    }  # fmt: skip
    with running(options) as (run, _):
        with checking():
            job = job_of(options)
            job |= {"kappas": options.kappas, "margin": options.margin, "rule": find("rule", options.rule, known)}
            rng = job.pop("rng")
            seeds, study = SeedTree.of(rng), ScalingStudy.build(**job, run=run)
            check_runs(options.runs, options.most_runs)
        if options.dry_run:
            print(study.plan(options.runs, options.most_runs, seeds, run))
            return 0
        report = verify_scaling(**job, rng=rng, runs=options.runs, most_runs=options.most_runs, run=run)
    return finish(options, report, out, scaling_figure, {"command": "scaling", **asked(options)})
