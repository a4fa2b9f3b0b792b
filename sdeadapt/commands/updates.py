"""`sdeadapt updates`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sdeadapt.commands.shared import Usage, checking, find, finish, output, running
from sdeadapt.options import UpdatesOptions, asked

__all__ = ["run"]


def run(options: UpdatesOptions, plan: Mapping[str, Any] | None = None) -> int:
    """Compare the updates of networks with their law and return the exit code; there is no plan to repeat.

    Raises:
        Usage: if an option is wrong.
        ValueError: if a network fails once it runs.
    """
    with checking():
        out = output(options, "updates")
    from sdeadapt.analysis.updates_architectures import NETWORKS
    from sdeadapt.analysis.updates_networks import network_updates
    from sdeadapt.report.updates import updates_figure

    own = ("looks", "beta", "lr", "batch_size", "copies", "layer", "tolerance", "confidence")
    with running(options) as (run, done):
        with checking():
            networks = {name: find("networks", name, NETWORKS) for name in options.networks}
        try:
            report = network_updates(
                networks, **{name: getattr(options, name) for name in own}, rng=options.seed, run=run
            )
        except ValueError as error:  # its checks come before the first chunk
            if done():
                raise
            raise Usage(str(error)) from error
    return finish(options, report, out, updates_figure, {"command": "updates", **asked(options)})
