r"""What a method is, on a card: iteration, time step, SDE, batch-size rule and source, read off its class.

The words come from the docstrings, in the form that they have here; what can be computed is computed: the orders of
the SDE by asking for it, the powers of kappa by calling `rescaled`.
"""

from __future__ import annotations

import dataclasses
import inspect
import math
import re
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from sdeadapt.methods.base import Method
from sdeadapt.methods.registry import METHODS, method
from sdeadapt.oracles.analytic import Quadratic
from sdeadapt.oracles.base import NotDeclared
from sdeadapt.text import table

__all__ = ["MethodCard", "card", "methods_table"]

_RULE = "Batch-size rule"
_KAPPA = 1 / 4  # every beta allows it


class MethodCard(NamedTuple):
    r"""A method in words with `$formulas$`.

    Attributes:
        name: of its class.
        scaling: of this instance.
        iteration: the formula of a step.
        time_step: what h is.
        sde: the equation, or why there is none.
        orders: the weak orders that an SDE is claimed to have, empty without one.
        second_order: the `refine` under which order 2 is claimed; "" where it is not.
        rule: the paragraph "Batch-size rule …".
        powers: what `rescaled(kappa)` multiplies by which power of kappa, as "lr" or "1 - beta"; empty without a rule.
        source: where the method comes from.
    """

    name: str
    scaling: str
    iteration: str
    time_step: str
    sde: str
    orders: tuple[int, ...]
    second_order: str
    rule: str
    powers: Mapping[str, float]
    source: str


def card(method: Method) -> MethodCard:
    """Return what the class of a method says in its docstrings, and what the instance does.

    Args:
        method: the instance; its hyper-parameters matter for `scaling`, `orders` and `powers` only.

    Raises:
        ValueError: naming each part that is missing, and where it belongs.

    Example:
        >>> from sdeadapt.methods import RMSprop
        >>> found = card(RMSprop(lr=0.1))
        >>> found.time_step, found.powers
        ('lr², or lr in the ballistic scaling.', {'lr': 0.5, '1 - beta': 1.0, 'eps': -0.5})
    """
    name, doc = type(method).__name__, inspect.getdoc(type(method)) or ""
    *body, source = _paragraphs(doc)
    words = _before_sections(body)
    rule = [text for text in words if text.startswith(_RULE)]
    iteration = [text for text in words if not text.startswith(_RULE)]
    sde, orders = _equation(method)
    time_step = _time_step(method, doc)
    needed = {
        "an iteration in the class docstring, with a $formula$": any("$" in text for text in iteration),
        f"a paragraph '{_RULE}: …' in the class docstring": bool(rule),
        "a source as the last paragraph of the class docstring, with its year": bool(re.search(r"(19|20)\d\d", source)),
        "a docstring of `time_step`, or its line under Args": bool(time_step),
        r"a docstring of `sde` with its $formula\,dt$": not orders or r"\,dt" in sde,
    }
    if missing := [part for part, found in needed.items() if not found]:
        raise ValueError(f"{name} must have {'; '.join(missing)}; got none.")
    second = method.second_order if 2 in orders else ""
    texts = "\n\n".join(iteration), time_step, sde, orders, second, "\n\n".join(rule)
    return MethodCard(name, method.scaling, *texts, _powers(method), source)


def methods_table(methods: Iterable[Method] | None = None) -> str:
    """Return one line for each method as text: its scaling, what h is, its rule for kappa times the batch, its SDE.

    Args:
        methods: by default those known by name, at lr = 0.1.

    Example:
        >>> from sdeadapt.methods import SGD
        >>> print(methods_table([SGD(lr=0.1)]))
          method  scaling           SDE of order        batch x kappa  time step h
          SGD     batch-equivalent  1, 2 (refine=step)  lr kappa       lr
    """
    cards = [card(one) for one in (methods or (method(name, lr=0.1) for name in METHODS))]
    rows = [
        [c.name, c.scaling, _orders(c), ", ".join(f"{n} {_power(p)}" for n, p in c.powers.items()) or "-",
         c.time_step.split(",")[0].rstrip(".")]
        for c in cards
    ]  # fmt: skip
    return table(["method", "scaling", "SDE of order", "batch x kappa", "time step h"], rows, left=5)


def _orders(c: MethodCard) -> str:
    numbers = ", ".join(map(str, c.orders)) or "-"
    return f"{numbers} (refine={c.second_order})" if c.second_order else numbers


def _power(p: float) -> str:
    return {1.0: "kappa", 0.5: "sqrt(kappa)", -0.5: "/ sqrt(kappa)", -1.0: "/ kappa"}.get(p, f"kappa^{p:g}")


def _paragraphs(doc: str) -> list[str]:
    return [text.strip("\n") for text in re.split(r"\n\s*\n", doc)]


def _before_sections(paragraphs: Iterable[str]) -> list[str]:
    """Return the paragraphs that come before "Args:" and the like."""
    found: list[str] = []
    for text in paragraphs:
        if re.match(r"(Args|Attributes|Returns|Raises|Example):", text):
            break
        found.append(text)
    return found


def _time_step(method: Method, doc: str) -> str:
    """Return what the docstring of the property says after "The time step h", or the line under Args of a field."""
    own = inspect.getattr_static(type(method), "time_step")
    if isinstance(own, property):
        text = inspect.getdoc(own) or ""
    else:
        line = re.search(r"^ +time_step: .*?: (.*)$", doc, re.MULTILINE)
        text = f"a field: {line.group(1)}" if line else ""
    return re.sub(r"^The time step h(:| =) ", "", text)


def _equation(method: Method) -> tuple[str, tuple[int, ...]]:
    """Return the docstring of `sde` and the orders that it has, or why there is none."""
    orders: list[int] = []
    why = ""
    for order in (2, 1):
        try:
            method.sde(Quadratic(1.0, 1.0, scale=1.0), order)
            orders.insert(0, order)
        except NotDeclared as missing:
            why = str(missing)
    if not orders:
        return why, ()
    text = "\n\n".join(_before_sections(_paragraphs(inspect.getdoc(type(method).sde) or "")))
    text = text.removeprefix("Return ")
    return text[:1].upper() + text[1:], tuple(orders)


def _powers(method: Method) -> dict[str, float]:
    """Return every hyper-parameter that a larger batch changes, with its power of kappa."""
    if method.scaling != "batch-equivalent":
        return {}
    try:
        other = method.rescaled(_KAPPA)
    except NotDeclared:
        return {}
    found: dict[str, float] = {}
    known: Any = method  # its class need not be a dataclass
    names = [f.name for f in dataclasses.fields(known) if f.init] if dataclasses.is_dataclass(known) else []
    for name in names:
        before, after = getattr(method, name), getattr(other, name)
        if name == "time_step" or not isinstance(before, float) or before == after:
            continue
        for what, a, b in ((name, before, after), (f"1 - {name}", 1 - before, 1 - after)):
            twice = 2 * math.log(b / a) / math.log(_KAPPA) if a > 0 and b > 0 else 0.5
            if abs(twice - round(twice)) < 1e-6:
                found[what] = round(twice) / 2
                break
    return found
