"""`sdeadapt noise`: exit codes, run directory, wrong options."""

import json

import pytest

import sdeadapt
from sdeadapt.__main__ import main

SMALL = ["noise", "--problem", "one-dimensional", "--problem-set", "scale=8", "--steps", "0", "--workers", "1"]


@pytest.fixture
def out(tmp_path):
    return tmp_path / "run"


def test_confirmed_is_0_and_leaves_a_run_directory(out, capsys):
    assert main([*SMALL, "--out", str(out)]) == 0
    said = capsys.readouterr().out
    assert said.splitlines()[-2:] == [str(out), "CONFIRMED"]
    assert {path.name for path in out.iterdir()} >= {"figure.png", "summary.txt", "manifest.json", "result.npz"}
    report = sdeadapt.load(out)
    assert report.ratio[0] == pytest.approx(64 / 1.5**2)
    assert report.summary() in said
    assert json.loads((out / "config.json").read_text())["command"] == "noise"


@pytest.mark.parametrize(
    "args", [["--problem-set", "scale=1"], ["--problem-set", "noise=exponential", "--window", "9"]]
)
def test_a_failing_assumption_is_1(out, args):
    assert main([*SMALL, *args, "--out", str(out), "--quiet"]) == 1


def test_too_few_draws_are_3(out):
    assert main([*SMALL, "--draws", "128", "--window", "4", "--out", str(out), "--quiet"]) == 3


def test_config_repeats_a_run_bit_by_bit(out, tmp_path):
    args = ["--steps", "2", "--paths", "2", "--estimate", "--draws", "128", "--out", str(out), "--quiet"]
    code, other = main([*SMALL, *args]), tmp_path / "other"
    assert main(["noise", "--config", str(out), "--out", str(other), "--quiet", "--workers", "1"]) == code
    assert sdeadapt.load(other).sums.tobytes() == sdeadapt.load(out).sums.tobytes()


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--draws", "200"], "`draws` must be a multiple of 64; got 200"),
        (["--closeness", "1"], "`closeness` must be a finite factor C > 1"),
        (["--steps", "-1"], "`steps` must be a whole number >= 1"),
    ],
)
def test_wrong_options_are_2(out, capsys, args, message):
    assert main([*SMALL, *args, "--out", str(out)]) == 2
    assert message in capsys.readouterr().err
    assert not out.exists()


def test_divergence_is_3(out, capsys):
    assert main([*SMALL, "--method", "sgd", "--set", "lr=1e3", "--steps", "200", "--out", str(out), "--quiet"]) == 3
    assert "All paths must stay finite" in capsys.readouterr().err
