import numpy as np
import pytest

from sdeadapt import rules, verify_scaling
from sdeadapt.methods import SGD
from sdeadapt.oracles.analytic import Quadratic
from sdeadapt.report.scaling import noise_to_signal_panel, scaling_figure, trajectory_panel


def run(rule=rules.own, **options):
    given = {"theta0": [3.0], "steps": 16, "kappas": (2, 4), "runs": 64} | options
    return verify_scaling(SGD(lr=0.01), Quadratic([[1.0]], [[1.0]], scale=8.0), rule=rule, **given)


@pytest.fixture(scope="module")
def reports():
    return run(), run(rules.none)


def test_a_panel_per_metric_and_one_for_the_ratio(reports, tmp_path):
    figure = scaling_figure(reports[0])
    assert [ax.get_title() for ax in figure.axes] == [*reports[0].metrics, "noise-to-signal ratio"]
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["base", "κ = 2", "κ = 4"]
    assert figure.get_suptitle().startswith(reports[0].verdict)
    figure.savefig(tmp_path / "figure.png")
    assert (tmp_path / "figure.png").stat().st_size > 10_000


def test_rules_side_by_side(reports):
    figure = scaling_figure(reports)
    assert len(figure.axes) == 5 * 2
    assert [ax.get_title().split("\n")[0] for ax in figure.axes[:2]] == ["own", "none"]
    assert figure.axes[0].get_ylabel() == "log_loss"
    assert figure.axes[8].get_ylabel() == "noise-to-signal ratio"
    with pytest.raises(ValueError, match="must have the same metrics"):
        scaling_figure([reports[0], run(test_functions=["theta_0"])])


def test_what_is_drawn_is_what_was_measured(reports):
    report, ax = reports[0], scaling_figure(reports[0]).axes[0]
    m = report.metrics.index("theta_norm_squared")
    drawn = [line.get_ydata() for line in trajectory_panel(report, "theta_norm_squared", ax.figure.add_subplot()).lines]
    np.testing.assert_array_equal(drawn, report.mean[:, :, m])
    ax = noise_to_signal_panel(report, ax.figure.add_subplot())
    np.testing.assert_array_equal([line.get_ydata() for line in ax.lines[:3]], report.noise_to_signal)
    assert ax.get_yscale() == "log"


def test_a_kappa_without_a_finite_chain_is_drawn_as_nothing():
    report = run(lambda method, kappa: SGD(1e80), steps=32, kappas=(4,))
    assert len(scaling_figure(report).axes) == 5
