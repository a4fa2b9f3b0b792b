"""The page of methods, made from the code: `conf.py` puts it in place of the marker in methods.md."""

import re

from sdeadapt.methods import METHODS, Adam, Momentum, RMSprop, SignSGD, card, method

MARKER = "<!-- made from the code -->"
OTHERS = {
    "Momentum, Langevin": Momentum(lr=0.1, friction="langevin"),
    "RMSprop, ballistic": RMSprop(lr=0.1, scaling="ballistic"),
    "Adam, ballistic": Adam(lr=0.1, scaling="ballistic"),
    "SignSGD, fixed noise": SignSGD(lr=0.1, scaling="fixed-noise"),
}


def power(p):
    """Return the factor kappa^p as a formula."""
    known = {1.0: r"\kappa", 0.5: r"\sqrt\kappa", -0.5: r"1/\sqrt\kappa", -1.0: r"1/\kappa"}
    return "$" + known.get(p, rf"\kappa^{{{p:g}}}") + "$"


def row(name, found):
    """Return the row of a method in the table at a glance."""
    rule = ", ".join(f"`{n}` × {power(p)}" for n, p in found.powers.items()) or "none"
    orders = "1" if found.orders else "none"
    if found.second_order:
        orders += f'; 2 under `"{found.second_order}"`'
    step = found.time_step.split(", which")[0].rstrip(".")
    return f"| [{name}](#{found.name.lower()}) | {found.scaling} | {step} | {rule} | {orders} |"


def section(found):
    """Return what the docstrings say of a method."""
    name, text = re.match(r"(Batch-size rule)(.*)", found.rule, re.DOTALL).groups()
    return "\n\n".join([
        f"## {found.name}", found.iteration, f"**Time step h:** {found.time_step}", f"**{name}**{text}",
        f"**SDE.** {found.sde}", f"**Source.** {found.source}",
    ])  # fmt: skip


def markdown():
    """Return the table at a glance and a section for each method."""
    cards = {found.name: found for found in (card(method(name, lr=0.1)) for name in METHODS)}
    rows = [row(name, found) for name, found in (cards | {name: card(one) for name, one in OTHERS.items()}).items()]
    header = "| method | scaling | time step h | κ times the batch | SDE of weak order |\n|---|---|---|---|---|"
    return "\n".join([header, *sorted(rows, key=str.lower)]) + "\n\n" + "\n\n".join(map(section, cards.values()))


def insert(app, docname, source):
    """Fill in the page, when Sphinx reads it."""
    if docname == "methods":
        source[0] = source[0].replace(MARKER, markdown())
