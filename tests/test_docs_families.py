"""The examples on families, estimators and one-step moments say what the pages around them say."""

import re
import runpy
from pathlib import Path

import numpy as np
import pytest

from sdeadapt.verification.decision import Verdict

DOCS = Path(__file__).parents[1] / "docs"


def run(name):
    return runpy.run_path(str(DOCS / "examples" / f"{name}.py"))


def test_which_family():
    reports = run("which_family")["reports"]
    wrong = {key for key, report in reports.items() if report.verdict is not Verdict.CONFIRMED}
    assert wrong == {("svag", "ODE")}
    assert reports["svag", "ODE"].verdict is Verdict.REFUTED
    for (refine, name), report in reports.items():
        order = 0 if (refine, name) == ("svag", "ODE") else 2 if (refine, name) == ("step", "second-order SDE") else 1
        assert all(abs(test.order - order) < 0.02 for test in report.tests)
    second, first = (reports["svag", name].error[1, -1] for name in ("second-order SDE", "SDE"))
    assert abs(second / first) == pytest.approx(5.9, abs=0.05)


def test_wrong_moment(capsys):
    run("wrong_moment")
    printed, page = capsys.readouterr().out, (DOCS / "local_error.md").read_text()
    shown = re.search(r"prints\n\n((?:    .*\n)+)", page)[1]
    assert shown.split() == printed.split()


@pytest.mark.slow
def test_three_ways():
    reports = run("three_ways")["reports"]
    exact = reports["quadrature"]
    assert exact.noise_free
    for name in ("coupled", "independent"):
        gap = reports[name].error - exact.error
        assert np.abs(gap / np.hypot(reports[name].sem, exact.sem)).max() < 4 + 1e-9
