import numpy as np
import pytest
from matplotlib.colors import to_rgba

from sdeadapt.methods import SGD
from sdeadapt.oracles.analytic import Quadratic
from sdeadapt.report.comparison import comparison_figure, differences, ratios, trajectories
from sdeadapt.verification.compare import compare

LINE = Quadratic([[1.5]], [[1.0]], scale=0.8)


def run(**options):
    given = {"theta0": [2.0], "steps": 6, "times": 3, "multipliers": (1, 2), "paths": 64}
    return compare(SGD(lr=0.4), LINE, test_functions=["theta_0", "loss"], **(given | options))


@pytest.fixture(scope="module")
def report():
    return run()


def lines(ax):
    return [line.get_ydata() for line in ax.lines if len(line.get_ydata()) == 3]


def test_a_panel_per_test_function_and_one_for_closeness(report, tmp_path):
    figure = comparison_figure(report)
    assert len(figure.axes) == 2 * 2 + 1
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["chain", "SVAG(2)", "SDE"]
    assert figure.get_suptitle().startswith(report.verdict)
    assert {ax.get_xlabel() for ax in figure.axes} == {"", "SDE time"}
    figure.savefig(tmp_path / "figure.png")
    assert (tmp_path / "figure.png").stat().st_size > 10_000
    assert len(comparison_figure(report, ["noise_trace"]).axes) == 3


def test_what_is_drawn_is_what_was_measured(report):
    ax = comparison_figure(report).axes[0]
    drawn = lines(trajectories(report, "loss", ax.figure.add_subplot()))
    f = report.names.index("loss")
    for p in range(3):  # per chain two edges and the mean; for the SDE a band and the mean
        np.testing.assert_array_equal(drawn[min(3 * p + 2, 6)], report.mean[p, :, f])
    np.testing.assert_array_equal(drawn[:2], report.quantiles[0, [0, -1], :, f])
    drawn = lines(differences(report, "loss", ax.figure.add_subplot()))
    np.testing.assert_array_equal(drawn, [report.difference(p)[0][:, f] for p in ("chain", "SVAG(2)")])
    ax = ratios(report, ax.figure.add_subplot())
    np.testing.assert_array_equal(np.transpose(lines(ax)), report.closeness.ratio)
    levels = [line.get_ydata()[0] for line in ax.lines if len(line.get_ydata()) == 2]
    np.testing.assert_allclose(levels, [2**0.5, 2**-0.5])
    assert ax.get_ylim()[0] < min(levels)


def test_colours_tell_the_processes_apart(report):
    handles, _ = comparison_figure(report).axes[0].get_legend_handles_labels()
    assert len({to_rgba(handle.get_color()) for handle in handles}) == 3


def test_a_chain_alone_has_no_differences_and_no_ratios():
    oracle = type("Samples", (Quadratic,), {"independent": False})([[1.5]], [[1.0]], scale=0.8)
    report = compare(SGD(lr=0.4), oracle, theta0=[2.0], steps=6, times=3, paths=64, test_functions=["theta_0"])
    figure = comparison_figure(report)
    assert len(figure.axes) == 1
    with pytest.raises(ValueError, match="Ratios need a second process"):
        ratios(report, figure.axes[0])


def test_an_unknown_test_function_is_refused(report):
    with pytest.raises(ValueError, match=r"`names` must be one of 'theta_0', 'loss', .*Did you mean 'loss'"):
        comparison_figure(report, ["los"])
