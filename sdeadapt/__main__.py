"""`python -m sdeadapt` and the `sdeadapt` command."""

from __future__ import annotations

import sys
import traceback
from collections.abc import Sequence

__all__ = ["main"]

FAILURE, INTERRUPTED = 4, 130


def main(args: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code; 1 means REFUTED and nothing else.

    Args:
        args: the words after the program's name; None takes them from `sys.argv`.
    """
    try:
        from sdeadapt import cli

        return cli.run(sys.argv[1:] if args is None else args)
    except SystemExit as stop:  # of the option parser
        return stop.code if isinstance(stop.code, int) else FAILURE
    except KeyboardInterrupt:
        return INTERRUPTED
    except BaseException:
        traceback.print_exc()
        return FAILURE


if __name__ == "__main__":
    sys.exit(main())
