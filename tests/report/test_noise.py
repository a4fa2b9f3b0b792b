import numpy as np
import pytest

from sdeadapt import RMSprop, problems
from sdeadapt.analysis.noise import gradient_noise
from sdeadapt.oracles.analytic import Quadratic
from sdeadapt.report.noise import noise_figure, ratio_panel, size_panel


def run(**options):
    problem = problems.digits()
    given = {"theta0": problem.theta0, "steps": 4, "times": 2, "draws": 128, "directions": 2} | options
    return gradient_noise(RMSprop(lr=0.25, beta=0.9375, eps=0.08), problem.oracle, **given)


@pytest.fixture(scope="module")
def report():
    return run()


def test_five_panels_and_the_verdict(report, tmp_path):
    figure = noise_figure(report)
    titles = [ax.get_title().split(":")[0] for ax in figure.axes]
    assert titles == ["noise and signal", "noise-to-signal N/G", "batch size", "skewness / √16", "excess kurtosis / 16"]
    assert figure.get_suptitle().startswith(report.verdict)
    figure.savefig(tmp_path / "figure.png")
    assert (tmp_path / "figure.png").stat().st_size > 10_000


def test_what_is_drawn_is_what_was_measured(report):
    ax = noise_figure(report).axes[0]
    drawn = [line.get_ydata() for line in size_panel(report, ax.figure.add_subplot()).lines]
    np.testing.assert_array_equal(drawn, [report.noise, report.signal])
    ax = ratio_panel(report, ax.figure.add_subplot())
    np.testing.assert_array_equal(ax.lines[0].get_ydata(), report.ratio)
    assert ax.lines[1].get_ydata()[0] == pytest.approx(1.0)
    assert ax.get_yscale() == "log"


def test_one_time_and_bounds_that_are_infinite_are_drawn():
    for steps in (0, 2):  # at the minimum: G is not resolved
        oracle, method = Quadratic([1.0, 1.0], [1.0, 1.0], 8.0), RMSprop(lr=0.01)
        report = gradient_noise(method, oracle, theta0=[0.0, 0.0], steps=steps, times=1, draws=128, exact=False)
        assert np.isinf(report.ratio_bounds[:, 1]).all()
        noise_figure(report).canvas.draw()
