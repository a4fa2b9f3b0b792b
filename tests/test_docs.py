"""The examples of the documentation run as they stand, and say what the text around them says."""

import runpy
from pathlib import Path

from sdeadapt.verification.decision import Verdict

EXAMPLES = Path(__file__).parents[1] / "docs" / "examples"


def test_own_optimizer(capsys):
    found = runpy.run_path(str(EXAMPLES / "own_optimizer.py"))
    assert found["right"].verdict is Verdict.CONFIRMED
    assert found["wrong"].verdict is Verdict.REFUTED
    printed = capsys.readouterr().out
    assert "confirmed" in printed
    assert "refuted" in printed
    code = [line for line in (EXAMPLES / "own_optimizer.py").read_text().splitlines() if line.strip()]
    assert len(code) <= 35


def test_batch_size(capsys):
    runpy.run_path(str(EXAMPLES / "batch_size.py"))
    small, large = (float(word) for word in capsys.readouterr().out.split() if word.startswith("0."))
    assert abs(large / small - 1) < 0.25


def test_svag():
    losses = runpy.run_path(str(EXAMPLES / "svag.py"))["losses"]
    assert abs(losses[2] / losses[1] - 1) < 0.25


def test_update_law(capsys):
    runpy.run_path(str(EXAMPLES / "update_law.py"))
    page = (EXAMPLES.parent / "update_distribution.md").read_text("utf-8")
    printed = capsys.readouterr().out.splitlines()
    assert len(printed) == 3
    assert all(f"    {line}" in page.splitlines() for line in printed)
