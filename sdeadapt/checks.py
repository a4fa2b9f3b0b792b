"""Checks of arguments at the public edge. Every message says the rule, the value and, where it helps, the remedy."""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterable

__all__ = ["check_choice", "check_integer", "check_open_unit", "check_positive"]


def check_positive(name: str, value: float, *, zero: bool = False) -> float:
    """Return `value` as a float if it is finite and positive (or zero, where allowed).

    Raises:
        ValueError: if it is not.
    """
    number = float(value)
    if not math.isfinite(number) or number < 0 or (number == 0 and not zero):
        rule = "finite and not negative" if zero else "finite and positive"
        raise ValueError(f"`{name}` must be {rule}; got {value!r}.")
    return number


def check_open_unit(name: str, value: float) -> float:
    """Return `value` as a float if it lies in (0, 1).

    Raises:
        ValueError: if it does not.
    """
    number = float(value)
    if not 0 < number < 1:
        raise ValueError(f"`{name}` must lie in (0, 1); got {value!r}.")
    return number


def check_integer(name: str, value: int, *, minimum: int = 1) -> int:
    """Return `value` as an int if it is a whole number of at least `minimum`.

    Raises:
        ValueError: if it is not.
    """
    if isinstance(value, bool) or int(value) != value or value < minimum:
        raise ValueError(f"`{name}` must be a whole number >= {minimum}; got {value!r}.")
    return int(value)


def check_choice(name: str, value: str, choices: Iterable[str]) -> str:
    """Return `value` if it is one of `choices`; otherwise suggest the nearest.

    Raises:
        ValueError: if it is none of them.
    """
    known = list(choices)
    if value not in known:
        near = difflib.get_close_matches(str(value), known, n=1)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        raise ValueError(f"`{name}` must be one of {', '.join(map(repr, known))}; got {value!r}.{hint}")
    return value
