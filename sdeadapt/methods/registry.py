"""Methods by name, for the command line."""

from __future__ import annotations

import inspect
import math
import typing
from collections.abc import Callable, Mapping
from typing import Any

from sdeadapt.checks import check_choice
from sdeadapt.methods.adadelta import Adadelta
from sdeadapt.methods.adagrad import Adagrad
from sdeadapt.methods.adam import Adam
from sdeadapt.methods.adamw import AdamW, RMSpropW
from sdeadapt.methods.base import Method
from sdeadapt.methods.momentum import Momentum
from sdeadapt.methods.rmsprop import RMSprop
from sdeadapt.methods.schedules import FadingAdam
from sdeadapt.methods.sgd import SGD
from sdeadapt.methods.sign_sgd import SignSGD
from sdeadapt.methods.signum import Signum
from sdeadapt.methods.variance_adapted import MomentumVarianceAdapted, VarianceAdapted

__all__ = ["METHODS", "build", "method", "plain_name"]

METHODS: dict[str, type[Method]] = {
    "adadelta": Adadelta,
    "adagrad": Adagrad,
    "adam": Adam,
    "adamw": AdamW,
    "fadingadam": FadingAdam,
    "momentum": Momentum,
    "momentumvarianceadapted": MomentumVarianceAdapted,
    "rmsprop": RMSprop,
    "rmspropw": RMSpropW,
    "sgd": SGD,
    "signsgd": SignSGD,
    "signum": Signum,
    "varianceadapted": VarianceAdapted,
}


def plain_name(name: str) -> str:
    """Return `name` in lower case without hyphens and underscores, in which names are compared."""
    return name.lower().replace("-", "").replace("_", "")


def method(name: str, **options: Any) -> Method:
    """Return the method called `name`; hyphens, underscores and case do not matter.

    Args:
        name: one of `METHODS`.
        options: hyper-parameters, as values or as text.

    Raises:
        ValueError: on an unknown name or option (with the nearest known one), or a value of the wrong type.

    Example:
        >>> method("RMS-prop", lr="0.1", beta=0.9).time_step
        0.010000000000000002
    """
    return build(METHODS[check_choice("method", plain_name(name), METHODS)], options)


def build(make: Callable[..., Any], options: Mapping[str, Any]) -> Any:
    """Return what a class or function makes of options that are values or text, each checked against its type.

    Args:
        make: a dataclass, or a function with typed parameters.
        options: parameter -> value; in names, hyphens, underscores and case do not matter.

    Raises:
        ValueError: if a parameter is unknown or missing, or a value is of the wrong type.
    """
    known = {plain_name(name): parameter for name, parameter in inspect.signature(make).parameters.items()}
    hints = typing.get_type_hints(make)
    chosen = {}
    for option, value in options.items():
        if plain_name(option) not in known:
            check_choice(f"option of {make.__name__}", option, [p.name for p in known.values()])
        name = known[plain_name(option)].name
        chosen[name] = _typed(name, value, hints.get(name, str))
    needed = [p.name for p in known.values() if p.default is p.empty]
    if missing := [name for name in needed if name not in chosen]:
        raise ValueError(f"{make.__name__} needs `{missing[0]}`; got {', '.join(chosen) or 'no options'}.")
    return make(**chosen)


def _typed(name: str, value: Any, hint: Any) -> Any:
    """Return `value` as the type `hint` (float, int, bool or str; anything else passes if it is not text).

    Raises:
        ValueError: if it is not of that type.
    """
    text = isinstance(value, str)
    error = ValueError(f"`{name}` must be of type {getattr(hint, '__name__', hint)}; got {value!r}.")
    if hint is bool:
        words = {"true": True, "false": False}
        if isinstance(value, bool) or (text and value.lower() in words):
            return words[value.lower()] if text else value
    elif hint in (float, int):
        try:
            number = float(value)
            if not isinstance(value, bool) and (hint is float or number == math.floor(number)):
                return hint(number)
        except (TypeError, ValueError, OverflowError):
            pass
    elif text == (hint is str):
        return value
    raise error
