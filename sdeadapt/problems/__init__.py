"""Named problems: an oracle, a start and a horizon, with hyper-parameters that fit them.

Each is a function whose options are strings and numbers. Suggested hyper-parameters are at a base step at which the
SDE is a sensible model; sigma, lr and eps belong together, so changing one of them changes the SDE.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from sdeadapt.checks import check_choice
from sdeadapt.methods.registry import build, plain_name
from sdeadapt.problems.base import Problem, Suggestion
from sdeadapt.problems.closed_form import (
    digits,
    digits_linear,
    multiplicative,
    one_dimensional,
    quadratic,
    rippled,
)
from sdeadapt.problems.networks import digits_cnn, digits_mlp, digits_small

__all__ = [
    "PROBLEMS",
    "Problem",
    "Suggestion",
    "digits",
    "digits_cnn",
    "digits_linear",
    "digits_mlp",
    "digits_small",
    "multiplicative",
    "one_dimensional",
    "problem",
    "quadratic",
    "rippled",
]

PROBLEMS: dict[str, Callable[..., Problem]] = {
    f.__name__: f
    for f in (
        digits,
        digits_linear,
        quadratic,
        one_dimensional,
        multiplicative,
        rippled,
        digits_mlp,
        digits_cnn,
        digits_small,
    )
}


def problem(name: str, **options: Any) -> Problem:
    """Return the problem called `name`; hyphens, underscores and case do not matter.

    Args:
        name: one of `PROBLEMS`.
        options: of the problem, as values or as text.

    Raises:
        ValueError: on an unknown name or option (with the nearest known one), or a value of the wrong type.

    Example:
        >>> problem("one-dimensional", scale="2").oracle.scale
        2.0
    """
    known = {plain_name(key): key for key in PROBLEMS}
    if plain_name(name) not in known:
        check_choice("problem", name, PROBLEMS)
    return build(PROBLEMS[known[plain_name(name)]], options)
