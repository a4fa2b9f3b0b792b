"""`sdeadapt scaling`: exit codes, run directory, wrong options."""

import json

import pytest

import sdeadapt
from sdeadapt.__main__ import main

SMALL = ["scaling", "--problem", "one-dimensional", "--problem-set", "scale=8", "start=3", "--method", "sgd",
         "--set", "lr=.01", "--horizon", ".32", "--kappas", "2", "4", "--times", "1", "--workers", "1"]  # fmt: skip


@pytest.fixture
def out(tmp_path):
    return tmp_path / "run"


def test_confirmed_is_0_and_leaves_a_run_directory(out, capsys):
    assert main([*SMALL, "--runs", "400", "--out", str(out)]) == 0
    said = capsys.readouterr().out
    assert said.splitlines()[-2:] == [str(out), "CONFIRMED"]
    assert {path.name for path in out.iterdir()} >= {"figure.png", "summary.txt", "manifest.json", "result.npz"}
    report = sdeadapt.load(out)
    assert report.largest_kappa == 4
    assert report.summary() in said
    assert json.loads((out / "config.json").read_text())["command"] == "scaling"


@pytest.mark.parametrize(("rule", "name"), [("none", "none"), ("sqrt", "square root")])
def test_a_wrong_rule_is_1(out, rule, name):
    steps = ["--horizon", ".64", "--rule", rule, "--runs", "400", "--out", str(out), "--quiet"]
    assert main([*SMALL, *steps]) == 1
    assert sdeadapt.load(out).rule == name


def test_inconclusive_is_3(out):
    assert main([*SMALL, "--runs", "8", "--out", str(out), "--quiet"]) == 3


def test_config_repeats_a_planned_run_bit_by_bit(out, tmp_path):
    code = main([*SMALL, "--most-runs", "100", "--out", str(out), "--quiet"])
    other = tmp_path / "other"
    assert main(["scaling", "--config", str(out), "--out", str(other), "--quiet", "--workers", "1"]) == code
    assert sdeadapt.load(other).mean.tobytes() == sdeadapt.load(out).mean.tobytes()


def test_a_dry_run_prints_the_plan_and_writes_nothing(out, capsys):
    assert main([*SMALL, "--dry-run", "--out", str(out)]) == 0
    said = capsys.readouterr().out
    assert "runs of each batch size" in said
    assert "steps in all" in said
    assert not out.exists()


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--rule", "sqr"], "`rule` must be one of 'own', 'linear', 'sqrt', 'none'; got 'sqr'. Did you mean 'sqrt'?"),
        (["--kappas", "1"], "`kappas` must be a whole number >= 2; got 1"),
        (["--kappas", "3"], "must be a multiple of 3 base steps"),
        (["--runs", "2"], "`runs` must be a whole number >= 4; got 2"),
        (["--margin", "-1"], "`margin` must be finite and positive"),
        (["--problem", "digits", "--kappas", "128", "--steps", "128", "--problem-set", "--set"], "a batch of 512"),
    ],
)
def test_wrong_options_are_2(out, capsys, args, message):
    small = [word for word in SMALL if word not in ("--horizon", ".32")] if "--steps" in args else SMALL
    assert main([*small, *args, "--out", str(out)]) == 2
    assert message in capsys.readouterr().err
    assert not out.exists()


def test_divergence_of_the_base_is_3(out, capsys):
    assert main([*SMALL, "--set", "lr=1e80", "--horizon", "4e80", "--kappas", "2", "--out", str(out), "--quiet"]) == 3
    assert "of the base chain did not stay finite" in capsys.readouterr().err
