"""`sdeadapt compare`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sdeadapt.commands.shared import Usage, checking, finish, job_of, output, running
from sdeadapt.options import CompareOptions, asked

__all__ = ["run"]


def run(options: CompareOptions, plan: Mapping[str, Any] | None = None) -> int:
    """Compare the processes and return the exit code; there is no plan to repeat.

    Raises:
        Usage: if an option is wrong.
        ValueError: on a failure later than that.
    """
    with checking():
        out = output(options, "compare")
    from sdeadapt.report.comparison import comparison_figure
    from sdeadapt.verification.compare import compare

    own = ("quantiles", "closeness", "keep_paths")
    with running(options) as (run, done):
        with checking():
            job = job_of(options)
        try:
            report = compare(**job, **{k: getattr(options, k) for k in own}, run=run)
        except ValueError as error:  # its checks come before the first chunk
            if done():
                raise
            raise Usage(str(error)) from error
    return finish(options, report, out, comparison_figure, {"command": "compare", **asked(options)})
