"""Numbers and tables as plain text."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

__all__ = ["duration", "percent", "short", "table"]


def short(x: float, digits: int = 3) -> str:
    """Return a number to so many digits; "-" where there is none.

    >>> short(0.00012345), short(float("nan"))
    ('0.000123', '-')
    """
    return "-" if math.isnan(x) else f"{x:.{digits}g}"


def percent(share: float) -> str:
    """Return a share in per cent to two digits.

    >>> percent(0.01234), percent(12.0), percent(float("inf"))
    ('1.2 %', '1200 %', 'inf %')
    """
    if math.isnan(share):
        return "- %"
    return f"{100 * share:.0f} %" if 0.995 <= share < 100 else f"{100 * share:.2g} %"


def duration(seconds: float) -> str:
    """Return a time span to two digits or so.

    >>> duration(0.25), duration(75.0), duration(9000.0)
    ('0.25 s', '75 s', '2.5 h')
    """
    if seconds < 100:
        return f"{seconds:.2g} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.2g} h"


def table(header: Sequence[str], rows: Iterable[Sequence[str]], *, left: int = 1, indent: str = "  ") -> str:
    """Return an aligned table: the first `left` columns to the left, the others to the right.

    >>> print(table(["name", "n"], [["a", "1"], ["long", "100"]], indent=""))
    name    n
    a       1
    long  100
    """
    cells = [list(header), *map(list, rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = (
        "  ".join(c.ljust(w) if i < left else c.rjust(w) for i, (c, w) in enumerate(zip(row, widths, strict=True)))
        for row in cells
    )
    return "\n".join(indent + line.rstrip() for line in lines)
