"""The report as text: its order, its numbers, and the warnings that each broken assumption raises."""

import dataclasses

import numpy as np
import pytest
from small_reports import small_report

import sdeadapt
from sdeadapt.methods import RMSprop
from sdeadapt.oracles.analytic import Quadratic
from sdeadapt.simulation.run import Run
from sdeadapt.statistics.estimate import Estimate
from sdeadapt.verification.planning import Budget
from sdeadapt.verification.study import Study
from sdeadapt.verification.summary import summarise, summarise_plan
from sdeadapt.verification.weak_error import prepare


@pytest.fixture(scope="module")
def report():
    return small_report(power=True, times=[0.0625, 0.125])


def but(report, **changes):
    """Return the report with other diagnostics."""
    return dataclasses.replace(report, diagnostics={**report.diagnostics, **changes})


def test_parts_come_in_order(report):
    text = summarise(report)
    marks = ["RMSprop(lr=0.25", "1. At lr", f"2. {report.verdict}", "3. Any error", "4. orders", "weak errors",
             "5. Assumptions", "6. an SDE 10 % off in"]  # fmt: skip
    places = [text.index(mark) for mark in marks]
    assert places == sorted(places)
    assert report.summary() == text


def test_error_at_the_users_lr_comes_with_its_shares(report):
    own = [own for own in report.error_at_own_lr if own.test_function == "loss"][-1]
    text = summarise(report)
    assert f"At lr = 0.25 the SDE misstates E loss at t = 0.125 by {own.error!r}" in text
    assert f"{100 * own.relative:.2g} % of it, {100 * own.of_change:.2g} % of its change over the horizon" in text


def test_every_error_is_listed_with_its_three_numbers(report):
    lines = summarise(report).splitlines()
    for j, row in enumerate(report.rows):
        error = repr(Estimate(row.error, row.sem if row.sem > 1e-12 else 0.0, 0))
        expected = [str(row.multiplier), error, f"{row.bias_bound:.2g}", "512 + 512"]
        assert any(all(part in line for part in expected) for line in lines), (j, expected)


def test_it_is_narrow(report):
    assert max(map(len, summarise(report).splitlines())) <= 120


def test_nothing_is_warned_of_in_a_sound_study(report):
    assert "WARNING" not in summarise(but(report, kurtosis=50.0, control_z=3.0))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rate_theta": 0.2}, "the coarsest step is large for theta"),
        ({"kurtosis": 150.0}, "kurtosis above 100"),
        ({"control_z": 7.0}, "the oracle's gradient or covariance is not what its samples have"),
        ({"least_u": -0.1}, "u became negative"),
        ({"diverged": 3, "diverged_fraction": 0.001, "first_divergence": 7}, r"3 paths diverged (0.1 % of all)"),
    ],
)
def test_each_broken_assumption_is_warned_of(report, changes, message):
    sound = but(report, kurtosis=50.0, control_z=3.0)
    (warning,) = [line for line in summarise(but(sound, **changes)).splitlines() if "WARNING" in line]
    assert message in warning


def test_one_large_chunk_counts_only_among_many(report):
    heavy = but(report, largest_chunk_share=0.9, kurtosis=50.0, control_z=3.0)
    many = dataclasses.replace(heavy, config={**heavy.config, "chunk": 16})
    assert "one chunk of paths makes most" in summarise(many)
    assert "one chunk" not in summarise(heavy)


def test_many_targets_are_cut_but_no_violated_one():
    every = small_report(test_functions={f"f{i}": "theta_0" for i in range(20)})
    first = dataclasses.replace(every.tests[0], status="violated", reason="a plateau, or too low an order")
    decision = dataclasses.replace(every.decision, tests=(first, *every.tests[1:]))
    text = summarise(dataclasses.replace(every, decision=decision))
    assert "and 8 more targets" in text
    assert "violated, a plateau, or too low an order: f0" in text
    assert "\nf1 " not in text


def test_constant_targets_and_their_study():
    constant = small_report(test_functions=["noise_trace"])
    text = summarise(constant)
    assert "3. Nothing is excluded: no target varies." in text
    assert "dropped, constant on both sides: noise_trace" in text


def test_blind_spots_are_named(report):
    row = report.power[0]
    blind = dataclasses.replace(row, visible=np.zeros_like(row.visible))
    assert "each would have been seen somewhere" in summarise(dataclasses.replace(report, power=(report.power[0],)))
    assert f"blind to: {row.name}" in summarise(dataclasses.replace(report, power=(blind,)))


def test_it_survives_saving(report, tmp_path):
    back = sdeadapt.load(report.save(tmp_path / "run"))
    assert back == report
    assert summarise(back) == summarise(report)


def test_a_plan_says_what_it_costs():
    oracle = Quadratic([[1.0]], [[1.0]], scale=4.0)
    study = Study.build(
        RMSprop(lr=0.25, beta=0.9375, eps=0.4), oracle, theta0=[1.5], horizon=None, steps=2, sde=None,
        multipliers=(1, 2, 4), refine="svag", order=1, initial=None, start=None, times=None, test_functions=None,
        solver="extrapolated", substeps=4, run=Run(),
    )  # fmt: skip
    ready = prepare(study, estimator="independent", rng=0, budget=Budget(paths=3000), run=Run())
    text = summarise_plan(ready)
    assert text.count("3,000 + 3,000") == 3
    assert f"{ready.plan.path_steps:.3g} path-steps" in text
    assert "4,096 paths at a time" in text
