"""The ledger names the scripts there are, and `python -m experiments` runs them and says how they ended."""

import importlib.util
import json
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from sdeadapt.verification.decision import Verdict

ROOT = Path(__file__).parents[2]
ROW = "| a claim | `python experiments/one.py --out results/one` | CONFIRMED | 2 s |"


@pytest.fixture(scope="module")
def runner():
    spec = importlib.util.spec_from_file_location("experiments_runner", ROOT / "experiments" / "__main__.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_ledger_and_scripts_name_each_other(runner):
    rows = runner.ledger((ROOT / "experiments" / "README.md").read_text("utf-8"))
    assert {row.script for row in rows} == set(runner.scripts())
    for row in rows:
        assert any(word in row.verdict for word in runner.WORDS), row.claim


def test_a_row_without_a_command_is_of_the_script_above(runner):
    rows = runner.ledger(rf"## Source{chr(10)}{ROW}{chr(10)}| \|x\| falls | the same | REFUTED | |")
    assert [(row.section, row.script) for row in rows] == [("Source", "one")] * 2
    assert rows[1].claim == "|x| falls"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("| a | `python experiments/one.py` | CONFIRMED |", "must have claim, command, verdict and cost; got"),
        (f"{ROW}\n## Next\n| a claim | the same | CONFIRMED | 1 s |", r"must name its script, experiments/NAME\.py"),
    ],
)
def test_rows_of_another_form_are_refused(runner, text, message):
    with pytest.raises(ValueError, match=message):
        runner.ledger(text)


@pytest.mark.parametrize("arguments", [["--all", "--full"], ["--run", "no_such"], [], ["--all", "--jobs", "0"]])
def test_usage(runner, arguments, capsys):
    with pytest.raises(SystemExit, match="2"):
        runner.main(arguments)
    assert "error" in capsys.readouterr().err


def test_a_failure_is_reported_and_logged(runner, tmp_path, monkeypatch, capsys):
    good = "import sys\nif __name__ == '__main__':\n    print('out', sys.argv[-1])\n\n\ndef main(): ...\n"
    for name, text in {"good": good, "bad": "raise SystemExit(3)  # def main(  __main__\n"}.items():
        (tmp_path / f"{name}.py").write_text(text)
    monkeypatch.setattr(runner, "HERE", tmp_path)
    assert runner.scripts() == ["bad", "good"]
    assert runner.main(["--all", "--smoke", "--out", str(tmp_path / "out")]) == 1
    printed = capsys.readouterr().out
    assert "FAILED  bad" in printed
    assert "exit code 3" in printed
    assert "1 passed, 1 failed" in printed
    assert (tmp_path / "out" / "good.log").read_text() == "out --smoke\n"
    assert runner.main(["--run", "good", "--out", str(tmp_path / "again")]) == 0
    assert runner.main(["--run", "bad", "good", "--out", str(tmp_path / "again")]) == 1


def test_it_runs_from_the_root():
    done = subprocess.run(
        [sys.executable, "-m", "experiments", "--list"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "why_not_the_slope" in done.stdout


# --- claims


@pytest.mark.parametrize(
    ("interval", "verdict"),
    [
        ((0.2, 0.8), "CONFIRMED"),
        ((0.0, 1.0), "CONFIRMED"),
        ((-0.1, 0.5), "INCONCLUSIVE"),
        ((-2.0, 3.0), "INCONCLUSIVE"),
        ((1.1, 3.0), "REFUTED"),
        ((-3.0, -0.1), "REFUTED"),
        ((float("nan"), 0.5), "INCONCLUSIVE"),
    ],
)
def test_an_interval_decides(experiment, interval, verdict):
    assert experiment("claims").decide(*interval, (0.0, 1.0)) == verdict


def test_intervals_of_the_wrong_order_are_refused(experiment):
    with pytest.raises(ValueError, match=r"must go from low to high; got 1 to 0 and 0 to 1"):
        experiment("claims").decide(1.0, 0.0, (0.0, 1.0))


def test_a_conjunction_needs_every_part(experiment):
    joint, (yes, no, open_) = experiment("claims").joint, Verdict
    assert joint([yes, yes]) is yes
    assert joint([yes, open_]) is open_
    assert joint([yes, open_, no]) is no
    with pytest.raises(ValueError, match="must have at least one claim"):
        joint([])


@pytest.mark.parametrize(("smoke", "expected", "code"), [(0, "CONFIRMED", 0), (0, "REFUTED", 1), (1, "REFUTED", 0)])
def test_the_exit_code_says_whether_the_verdicts_are_the_ledgers(experiment, tmp_path, capsys, smoke, expected, code):
    claims = experiment("claims")
    made = [claims.Claim("it is small", Verdict.CONFIRMED, "between 0 and 1", expected)]
    options = SimpleNamespace(out=tmp_path, smoke=bool(smoke))
    assert claims.conclude(made, options, time.perf_counter()) == code
    assert "it is small" in capsys.readouterr().out
    stored = json.loads((tmp_path / "claims.json").read_text("utf-8"))
    assert stored["claims"][0] == {
        "text": "it is small", "verdict": "CONFIRMED", "evidence": "between 0 and 1", "expected": expected
    }  # fmt: skip
    assert stored["size"] == ("smoke" if smoke else "default")


def test_a_used_directory_is_refused_before_the_work(experiment, tmp_path, capsys):
    (tmp_path / "kept").write_text("mine")
    with pytest.raises(SystemExit, match="2"):
        experiment("claims").arguments("a claim", ["--out", str(tmp_path)])
    assert "must be new or empty" in capsys.readouterr().err
    assert (tmp_path / "kept").read_text() == "mine"
