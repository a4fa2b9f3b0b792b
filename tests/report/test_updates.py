import numpy as np
import pytest

from sdeadapt.analysis.updates import update_law, var_abs
from sdeadapt.analysis.updates_networks import network_updates
from sdeadapt.report.updates import distance_panel, histogram_panel, size_panel, updates_figure


@pytest.fixture(scope="module")
def report():
    return network_updates(["mlp", "transformer"], looks=[1, 2, 3], copies=8, batch_size=2)


def test_a_row_per_network_and_two_panels_below(report, tmp_path):
    figure = updates_figure(report)
    assert len(figure.axes) == 2 * 3 + 2
    assert [ax.get_title() for ax in figure.axes[:3]] == ["m = 1", "m = 2", "m = 3"]
    assert [figure.axes[k].get_ylabel() for k in (0, 3, 6, 7)] == [
        "mlp", "transformer", "Var|Δθ|", "distance from the law"
    ]  # fmt: skip
    assert figure.get_suptitle().startswith(report.verdict)
    assert len(updates_figure(report, steps=[2]).axes) == 2 + 2
    figure.savefig(tmp_path / "figure.png")
    assert (tmp_path / "figure.png").stat().st_size > 10_000


def test_what_is_drawn_is_what_was_measured(report):
    figure = updates_figure(report)
    ax = histogram_panel(report, "mlp", 3, figure.add_subplot())
    stairs = ax.patches[0].get_data()
    np.testing.assert_allclose(stairs.values * np.diff(stairs.edges), report.share[0, 2], rtol=1e-12)
    x, y = ax.lines[-1].get_data()
    np.testing.assert_allclose(y, update_law(3).pdf(x))
    law = size_panel(report, figure.add_subplot()).lines[0].get_ydata()
    np.testing.assert_allclose(law, var_abs([1, 2, 3]))
    drawn = distance_panel(report, figure.add_subplot()).lines[0].get_ydata()
    np.testing.assert_array_equal(drawn, report.distance[0])


def test_the_law_of_an_exponential_average_is_drawn_by_bins():
    report = network_updates(["mlp"], looks=[4], copies=8, batch_size=2, beta=0.5)
    ax = updates_figure(report).axes[0]
    width = np.diff(ax.patches[0].get_data().edges)
    np.testing.assert_allclose((ax.lines[-1].get_ydata() * width).sum(), 1, rtol=1e-12)
