"""`sdeadapt noise`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sdeadapt.commands.shared import Usage, checking, finish, job_of, output, running
from sdeadapt.options import NoiseOptions, asked

__all__ = ["run"]


def run(options: NoiseOptions, plan: Mapping[str, Any] | None = None) -> int:
    """Measure the gradient noise and return the exit code; there is no plan to repeat.

    Raises:
        Usage: if an option is wrong.
        ValueError: on a failure later than that.
    """
    with checking():
        out = output(options, "noise")
    from sdeadapt.analysis.noise import gradient_noise
    from sdeadapt.report.noise import noise_figure

    own = ("paths", "draws", "directions", "window", "closeness", "tolerance")
    with running(options) as (run, done):
        with checking():
            job = job_of(options)
        job.pop("test_functions")
        try:
            report = gradient_noise(**job, exact=not options.estimate, **{k: getattr(options, k) for k in own}, run=run)
        except ValueError as error:  # its checks come before the first chunk
            if done():
                raise
            raise Usage(str(error)) from error
    return finish(options, report, out, noise_figure, {"command": "noise", **asked(options)})
