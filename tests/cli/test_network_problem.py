"""A user's own model, loss and data, from the command line."""

import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import sdeadapt
from sdeadapt.__main__ import main

EXAMPLE = Path(__file__).parents[2] / "docs" / "examples" / "network.py"


@pytest.fixture
def compare(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.delitem(sys.modules, "network", raising=False)
    shutil.copy(EXAMPLE, tmp_path)
    monkeypatch.chdir(tmp_path)

    def run(*options):
        given = ("--problem", "network:regression", "--steps", "10", "--paths", "64", "--times", "1", "--workers", "1")
        code = main(["compare", *given, "--out", str(tmp_path / "out"), *options])
        return code, capsys.readouterr()

    yield run
    sys.modules.pop("network", None)


def test_the_documented_network_is_compared_with_its_sde(compare, tmp_path):
    code, said = compare("--problem-set", "hidden=4", "--multipliers", "1")
    report = sdeadapt.load(tmp_path / "out")
    assert code == 0
    assert said.out.endswith("CONFIRMED\n")
    assert report.processes == ("chain", "SDE")
    assert report.names == ("loss", "theta_norm_squared", "gradient_norm_squared", "noise_trace", "at_zero")
    assert report.config["oracle"]["class"] == "Network"
    assert report.config["oracle"]["dim"] == 13
    assert report.config["shown"] == ["at_zero"]
    assert (tmp_path / "out" / "figure.png").stat().st_size > 10_000


def test_a_wrong_option_of_it_is_2(compare):
    code, said = compare("--problem-set", "hiden=4")
    assert code == 2
    assert "Did you mean 'hidden'?" in said.err


@pytest.mark.slow
def test_the_same_bits_on_any_number_of_workers(compare, tmp_path):
    command = [
        sys.executable, "-m", "sdeadapt", "compare", "--problem", "network:regression", "--steps", "12",
        "--paths", "128", "--times", "2", "--problem-set", "hidden=4", "--set", "bias_correction=false",
    ]  # fmt: skip
    reports = []
    for workers, seed in (("1", "0"), ("2", "0"), ("2", "1")):
        out = tmp_path / f"{workers}_{seed}"
        options = ["--workers", workers, "--seed", seed, "--out", str(out)]
        subprocess.run([*command, *options], cwd=tmp_path, check=False, capture_output=True)
        reports.append(sdeadapt.load(out))
    assert reports[0].n.min() == 128
    assert np.array_equal(reports[0].mean, reports[1].mean)
    assert not np.array_equal(reports[0].mean, reports[2].mean)
