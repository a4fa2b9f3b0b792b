"""The figure of `verify`: what is drawn, by its artists."""

import dataclasses

import matplotlib as mpl
import numpy as np
import pytest
from matplotlib.container import ErrorbarContainer
from matplotlib.figure import Figure
from small_reports import small_report

from sdeadapt.report.figures import log_log, plateaus, scaled_errors, targets_shown, weak_error_figure


@pytest.fixture(scope="module")
def report():
    return small_report(power=False)


def bars(ax):
    """Return what each error bar of an axes shows: (x, y)."""
    return [c.lines[0].get_data(orig=False) for c in ax.containers if isinstance(c, ErrorbarContainer)]


def test_scaled_errors_are_divided_by_h_and_scale(report):
    ax = scaled_errors(report, Figure().subplots())
    drawn = bars(ax)
    assert len(drawn) == len(report.names)
    for j, (x, y) in enumerate(drawn):
        np.testing.assert_allclose(x, report.h)
        np.testing.assert_allclose(y, report.error[j] / (report.h * report.scale[j]))
    assert ax.get_xlim()[0] == 0
    assert "time step" in ax.get_xlabel()


def test_the_curve_meets_the_three_finest_levels(report):
    ax = scaled_errors(report, Figure().subplots())
    x, y = next(line.get_data() for line in ax.lines if len(line.get_xdata()) > 10)  # of the first target
    own = report.error[0] / (report.h * report.scale[0])
    np.testing.assert_allclose([y[0], y[-1]], [own[-1], own[-3]])
    assert (x[0], x[-1]) == (report.h[-1], report.h[-3])


def test_plateaus_lie_where_the_tests_say(report):
    ax = plateaus(report, Figure().subplots())
    power = int(ax.get_xlabel().split("{")[1].split("}")[0])
    for k, (test, (x, y)) in enumerate(zip(report.tests, bars(ax), strict=True)):
        np.testing.assert_allclose(x, [test.plateau / test.scale / 10.0**power])
        np.testing.assert_allclose(y, [k])
    allowed = [bar.get_width() / 2 for bar in ax.patches if bar.get_width() and bar.get_height() == pytest.approx(0.6)]
    np.testing.assert_allclose(allowed, [t.allowed / t.scale / 10.0**power for t in report.tests])
    assert [label.get_text() for label in ax.get_yticklabels()] == list(report.names)
    assert [text.get_text() for text in ax.texts] == [test.status for test in report.tests]


def test_unresolved_points_are_hollow(report):
    sem = report.sem.copy()
    sem[0] = np.array([0.0, 0.0, 10.0])  # the first target is lost in noise at the finest level
    ax = log_log(dataclasses.replace(report, sem=sem), Figure().subplots())
    hollow = [c.lines[0].get_fillstyle() for c in ax.containers]
    assert hollow[0] == "none"
    (filled,) = [line for line in ax.lines if line.get_label().startswith("_child") and len(line.get_xdata()) == 2]
    np.testing.assert_allclose(filled.get_xdata(), report.h[:2])
    resolved = log_log(dataclasses.replace(report, sem=0 * sem), Figure().subplots())
    assert {c.lines[0].get_fillstyle() for c in resolved.containers} == {"full"}
    assert (ax.get_xscale(), ax.get_yscale()) == ("log", "log")


def test_the_title_says_the_verdict(report):
    figure = weak_error_figure(report)
    assert figure.get_suptitle().startswith(f"{report.verdict} — RMSprop on Quadratic, lr = 0.25.")
    assert len(figure.axes) == 3
    assert all(ax.get_xlabel() and ax.get_title() for ax in figure.axes)


def test_violated_targets_are_always_among_those_shown():
    many = small_report(test_functions={f"f{i}": "theta_0" for i in range(12)})
    assert len(targets_shown(many)) == 8
    last = dataclasses.replace(many.tests[-1], status="violated")
    marked = dataclasses.replace(many.decision, tests=(*many.tests[:-1], last))
    assert 11 not in targets_shown(many)
    assert 11 in targets_shown(dataclasses.replace(many, decision=marked))
    assert "4 more targets not drawn" in weak_error_figure(many).get_supxlabel()


def test_a_study_without_a_varying_target_has_a_figure(tmp_path):
    constant = small_report(test_functions=["noise_trace"])
    assert targets_shown(constant) == []
    weak_error_figure(constant).savefig(tmp_path / "figure.png")


def test_nothing_global_is_touched(report, tmp_path):
    import matplotlib.pyplot as plt

    before, open_figures = dict(mpl.rcParams), plt.get_fignums()
    weak_error_figure(report).savefig(tmp_path / "figure.png")
    assert dict(mpl.rcParams) == before
    assert plt.get_fignums() == open_figures
