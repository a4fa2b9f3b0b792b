"""The plan: as many paths as asked for, as precise as asked for, as long as asked for."""

import numpy as np
import pytest

from sdeadapt.methods import RMSprop
from sdeadapt.oracles.analytic import Quadratic
from sdeadapt.simulation.run import Run
from sdeadapt.verification.planning import Budget, make_plan
from sdeadapt.verification.study import Study
from sdeadapt.verification.weak_error import prepare, verify

METHOD = RMSprop(0.25, 0.9375, 0.4)
ORACLE = Quadratic([[1.0]], [[1.0]], scale=4.0, noise="exponential")


@pytest.fixture(scope="module")
def study():
    return Study.build(
        METHOD, ORACLE, theta0=[1.5], horizon=None, steps=8, sde=None, multipliers=(1, 2, 4), refine="svag", order=1,
        initial={"u": [2.0]}, start=None, times=None, test_functions=None, solver="extrapolated", substeps=2, run=Run(),
    )  # fmt: skip


def plan(study, **budget):
    return prepare(study, estimator="independent", rng=0, budget=Budget(**budget), run=Run()).plan


def test_paths_are_taken_as_given(study):
    assert plan(study, paths=700).paths == ((700, 700),) * 3
    rows = ((100, 200), (300, 400), (500, 600))
    assert plan(study, paths=rows).paths == rows


def test_half_the_precision_needs_four_times_the_paths(study):
    coarse, fine = (np.array(plan(study, precision=p).paths, dtype=float) for p in (0.02, 0.01))
    unclamped = coarse > 512
    assert unclamped.any()
    assert np.allclose((fine / coarse)[unclamped], 4, rtol=0.01)


def test_planned_errors_come_true(study):
    """The pilot's standard errors are those of the run, within a fifth; with a wrong N they are not."""
    planned = plan(study, precision=0.05)
    report = verify(
        METHOD, ORACLE, theta0=[1.5], steps=8, multipliers=(1, 2, 4), initial={"u": [2.0]}, substeps=2,
        estimator="independent", budget=Budget(precision=0.05),
    )  # fmt: skip
    ratio = report.planned_sem / report.sem
    assert np.allclose(report.planned_sem, planned.sem)
    assert (np.abs(np.log(ratio)) < 0.35).all()


def test_a_plan_repeats_to_the_bit():
    options = {
        "theta0": [1.5], "steps": 8, "multipliers": (1, 2, 4), "initial": {"u": [2.0]}, "substeps": 2,
    }  # fmt: skip
    first = verify(METHOD, ORACLE, **options, budget=Budget(seconds=0.5))
    rows = tuple(tuple(row) for row in first.config["paths"])
    again = verify(METHOD, ORACLE, **options, budget=Budget(paths=rows), estimator=first.estimator)
    assert np.array_equal(first.error, again.error)


def test_seconds_scale_the_plan(study):
    """Ten times the seconds buy ten times the paths, at the speed of one pilot."""
    ready = prepare(study, estimator="independent", rng=0, budget=Budget(paths=64), run=Run())
    one, ten = (
        np.array(make_plan(ready.pilots, study.levels, study.h, "independent", Budget(seconds=s)).paths)
        for s in (100.0, 1000.0)
    )
    free = one > 512
    assert free.any()
    assert np.allclose(ten[free] / one[free], 10, rtol=0.01)
