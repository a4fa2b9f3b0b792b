"""Cards of methods: every registered method has every part, computed parts agree with the words, and gaps are named."""

import importlib.util
from dataclasses import dataclass
from pathlib import Path

import pytest

from sdeadapt.methods import METHODS, SGD, Adagrad, Adam, Momentum, RMSprop, card, method, methods_table

DOCS = Path(__file__).parents[2] / "docs"


@pytest.mark.parametrize("name", METHODS)
def test_every_method_has_its_card(name):
    found = card(method(name, lr=0.1))
    assert found.name == METHODS[name].__name__
    assert all(found[:5])
    assert found.rule.startswith("Batch-size rule")
    assert ("lr" in found.powers) == (r"\eta \to" in found.rule or "as for" in found.rule)
    assert bool(found.orders) == (r"\,dt" in found.sde)


def test_what_is_computed():
    adagrad = card(Adagrad(0.1, initial_accumulator_value=1.0))
    assert adagrad.powers == {"eps": -1.0, "initial_accumulator_value": -2.0}
    assert card(Momentum(0.01, friction="langevin")).powers == {"lr": 2.0, "1 - momentum": 1.0}
    ballistic = card(Adam(0.1, scaling="ballistic"))
    assert (ballistic.powers, ballistic.orders, ballistic.second_order) == ({}, (1, 2), "step")
    none = card(method("signum", lr=0.1))
    assert none.orders == ()
    assert none.sde.startswith("Signum has no SDE")


def test_a_wrong_rule_shows():
    class Linear(RMSprop):
        __doc__ = RMSprop.__doc__

        def rescaled(self, kappa):
            return Linear(self.lr * kappa, self.beta, self.eps)

    assert card(Linear(0.1)).powers == {"lr": 1.0}


def test_what_is_missing_is_named():
    @dataclass(frozen=True)
    class Bare(SGD):
        """Gradient descent."""

        @property
        def time_step(self):
            return self.lr

        def sde(self, oracle, order=1):
            """Return it."""
            return super().sde(oracle, order)

    with pytest.raises(ValueError, match="Bare must have an iteration in the class docstring") as error:
        card(Bare(0.1))
    for part in ("a paragraph 'Batch-size rule", "a source", "a docstring of `time_step`", r"formula\,dt"):
        assert part in str(error.value)


def test_the_table_as_text():
    lines = methods_table().splitlines()
    assert len(lines) == 1 + len(METHODS)
    assert any(
        line.split() == ["SGD", "batch-equivalent", "1,", "2", "(refine=step)", "lr", "kappa", "lr"] for line in lines
    )


def test_the_page():
    spec = importlib.util.spec_from_file_location("methods_table", DOCS / "methods_table.py")
    page = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(page)
    text = page.markdown()
    table = [line for line in text.splitlines() if line.startswith("|")]
    assert len(table) == 2 + len(METHODS) + len(page.OTHERS)
    assert all(line.count("|") == 6 for line in table)
    assert all(f"\n## {cls.__name__}\n" in text for cls in METHODS.values())
    source = [(DOCS / "methods.md").read_text()]
    page.insert(None, "methods", source)
    assert text in source[0]
    assert page.MARKER not in source[0]
