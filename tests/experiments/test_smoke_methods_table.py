"""The experiment on every method runs, and has a study for every method with an SDE."""

import importlib
import sys
from pathlib import Path

import pytest

from sdeadapt import load
from sdeadapt.methods import METHODS

EXPERIMENTS = Path(__file__).parents[2] / "experiments"


@pytest.fixture
def experiment(monkeypatch):
    monkeypatch.syspath_prepend(str(EXPERIMENTS))
    yield importlib.import_module("methods_table")
    sys.modules.pop("methods_table")


def test_no_method_is_left_out(experiment):
    names = {name.partition(",")[0] for name in experiment.studies()}
    assert names | set(experiment.without_sde()) == set(METHODS)
    assert not names & set(experiment.without_sde())


@pytest.mark.slow
def test_smoke(experiment, tmp_path, capsys):
    assert experiment.main(["--out", str(tmp_path), "--smoke", "--only", "sgd", "rmsprop, ballistic"]) == 0
    assert "Cost:" in capsys.readouterr().out
    assert load(tmp_path / "sgd").config["method"]["class"].endswith("SGD")
