"""The experiment on every method runs, and has a study for every method with an SDE."""

import pytest

from sdeadapt import load
from sdeadapt.methods import METHODS


def test_no_method_is_left_out(experiment):
    table = experiment("methods_table")
    names = {name.partition(",")[0] for name in table.studies()}
    assert names | set(table.without_sde()) == set(METHODS)
    assert not names & set(table.without_sde())


@pytest.mark.slow
def test_smoke(experiment, tmp_path, capsys):
    assert (
        experiment("methods_table").main(["--out", str(tmp_path), "--smoke", "--only", "sgd", "rmsprop, ballistic"])
        == 0
    )
    assert "Cost:" in capsys.readouterr().out
    assert load(tmp_path / "sgd").config["method"]["class"].endswith("SGD")
