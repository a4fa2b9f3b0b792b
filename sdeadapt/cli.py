"""The command line: options in, an exit code out; each command is a file in `commands`.

Nothing heavy is imported before the options are read, so that `--help` answers at once.
"""

from __future__ import annotations

import argparse
import functools
import importlib
import operator
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import tyro

from sdeadapt.commands.shared import INCONCLUSIVE, Usage, checking
from sdeadapt.options import (
    CommonOptions,
    CompareOptions,
    NoiseOptions,
    ScalingOptions,
    UpdatesOptions,
    VerifyOptions,
    as_arguments,
    asked,
    on_top,
    read_options,
)

__all__ = ["COMMANDS", "run"]

USAGE = 2
_STYLE = (tyro.conf.DisallowNone, tyro.conf.FlagCreatePairsOff)

COMMANDS: dict[str, type[CommonOptions]] = {
    "verify": VerifyOptions,
    "compare": CompareOptions,
    "scaling": ScalingOptions,
    "noise": NoiseOptions,
    "updates": UpdatesOptions,
}


def run(args: Sequence[str]) -> int:
    """Run a command and return its exit code.

    Args:
        args: the command line without the program's name.

    Raises:
        SystemExit: after `--help`, with 0, or on options that do not parse, with 2.
    """
    try:
        options, plan = _parse(args)
        name = next(name for name, kind in COMMANDS.items() if type(options) is kind)
        return importlib.import_module(f"sdeadapt.commands.{name}").run(options, plan)
    except Usage as error:
        print(f"sdeadapt: {error}", file=sys.stderr)
        return USAGE
    except FloatingPointError as error:
        print(f"INCONCLUSIVE: {error}", file=sys.stderr)
        return INCONCLUSIVE


def _parse(args: Sequence[str]) -> tuple[Any, Mapping[str, Any] | None]:
    """Return the options, and the plan of the run that `--config` names if they repeat it.

    Raises:
        Usage: if `--config` holds no options of this command.
    """
    early = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    early.add_argument("--config")
    path = early.parse_known_args(list(args))[0].config
    stored: dict[str, Any] = {}
    if path is not None:
        with checking():
            stored = read_options(Path(path))
        if args[0] in COMMANDS and stored.get("command", args[0]) != args[0]:
            raise Usage(f"`--config` must be of the same command; got one of {stored['command']!r} for {args[0]!r}.")
    plan = stored.pop("plan", None)
    command = stored.pop("command", args[0] if args else "")
    defaults = {name: cls() for name, cls in COMMANDS.items()}
    if command in COMMANDS and stored:
        defaults[command] = tyro.cli(
            COMMANDS[command], args=as_arguments(stored), prog=f"sdeadapt {command} ({path})", config=_STYLE
        )
    about = "Is a stochastic differential equation a valid model of an optimizer? With error bars."
    kinds = [
        Annotated[COMMANDS[name], tyro.conf.subcommand(name, default=default)] for name, default in defaults.items()
    ]
    either: Any = functools.reduce(operator.or_, kinds)
    options = tyro.cli(either, args=list(args), prog="sdeadapt", description=about, config=_STYLE)
    base = defaults[command]
    if path is not None:
        options = on_top(options, base)
    return options, plan if asked(options) == asked(base) else None
