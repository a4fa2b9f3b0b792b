import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sdeadapt.statistics.intervals import critical_value, fieller_interval, log_log_slope, max_t_quantile

REPLICATES = 4000
FOUR_SE = 4 * math.sqrt(0.05 * 0.95 / REPLICATES)  # of a coverage of 95 %: 1.4 points


def test_critical_values_are_normal_quantiles():
    assert critical_value(0.95) == pytest.approx(1.959963985, abs=1e-8)
    assert critical_value(0.95, 10) == pytest.approx(critical_value(1 - 0.05 / 10), abs=1e-12)


@pytest.mark.parametrize("confidence", [0.0, 1.0, 1.2])
def test_confidence_outside_the_unit_interval_is_refused(confidence):
    with pytest.raises(ValueError, match=r"`confidence` must lie in \(0, 1\)"):
        critical_value(confidence)


def test_max_t_of_independent_statistics_is_the_exact_quantile():
    chunks = np.random.default_rng(1).standard_normal((2000, 3))
    exact = critical_value(0.95 ** (1 / 3))  # 2.388; simulation and sampled correlation: about .015
    assert max_t_quantile(chunks) == pytest.approx(exact, abs=0.05)


def test_max_t_controls_correlated_statistics_where_one_interval_does_not():
    rng = np.random.default_rng(2)
    mix = np.sqrt(0.8) * np.ones((1, 12)), np.sqrt(0.2) * np.eye(12)

    def sample(n):
        return rng.standard_normal((n, 1)) @ mix[0] + rng.standard_normal((n, 12)) @ mix[1]

    z = max_t_quantile(sample(100))
    worst = np.abs(sample(100_000)).max(1)  # standard error of a 5 % rate: .07 points
    assert 0.035 < (worst > z).mean() < 0.065  # 100 chunks leave the correlation, hence the level, about a point unsure
    assert (worst > critical_value(0.95, 12)).mean() < 0.03  # Bonferroni wastes half of the level
    assert (worst > critical_value(0.95)).mean() > 0.12  # negative control: no correction


def test_max_t_ignores_constant_statistics_and_the_global_generator():
    chunks = np.random.default_rng(3).standard_normal((64, 2))
    still = np.column_stack([chunks, np.full(64, 3.7)])
    np.random.seed(5)  # noqa: NPY002
    before = np.random.get_state()[1].copy()  # noqa: NPY002
    assert max_t_quantile(still) == max_t_quantile(chunks)
    assert (np.random.get_state()[1] == before).all()  # noqa: NPY002
    assert max_t_quantile(np.ones((64, 3))) == critical_value(0.95)


@pytest.mark.parametrize("chunks", [np.zeros((63, 2)), np.zeros(64), np.full((64, 2), np.nan)])
def test_max_t_wants_64_finite_chunks(chunks):
    with pytest.raises(ValueError, match="at least 64 chunks"):
        max_t_quantile(chunks)


@pytest.mark.parametrize("y", [1.0, 0.25, 0.05])  # 10, 2.5 and half a standard error from 0
def test_fieller_covers_also_where_the_denominator_is_lost(y):
    rng = np.random.default_rng(4)
    cov = np.array([[0.04, 0.006], [0.006, 0.01]])
    draws = np.array([4 * y, y]) + rng.standard_normal((REPLICATES, 2)) @ np.linalg.cholesky(cov).T
    low, high = np.array([fieller_interval(a, b, cov, 1.96) for a, b in draws.tolist()]).T
    assert ((low <= 4) & (high >= 4)).mean() > 0.95 - FOUR_SE


def test_the_delta_method_does_not():
    rng = np.random.default_rng(4)
    x, y = 0.2 + 0.05 * rng.standard_normal(REPLICATES), 0.05 + 0.1 * rng.standard_normal(REPLICATES)
    ratio = x / y
    se = np.hypot(0.05 / x, 0.1 / y) * np.abs(ratio)
    assert (np.abs(ratio - 4) < 1.96 * se).mean() < 0.95 - FOUR_SE


@settings(max_examples=60, deadline=None)
@given(st.floats(-3, 3), st.floats(-3, 3), st.floats(0.1, 1), st.floats(0.1, 1), st.floats(-0.9, 0.9))
def test_fieller_is_the_hull_of_the_acceptable_ratios(x, y, sx, sy, rho):
    cov = np.array([[sx * sx, rho * sx * sy], [rho * sx * sy, sy * sy]])
    low, high = fieller_interval(x, y, cov, 1.96)
    ratio = np.tan(np.linspace(-1.57, 1.57, 20_001))
    spread = cov[0, 0] - 2 * ratio * cov[0, 1] + ratio**2 * cov[1, 1]
    inside = np.abs(ratio[(x - ratio * y) ** 2 <= 1.96**2 * spread])
    assert (inside >= low * (1 - 1e-9)).all()
    assert (inside <= high * (1 + 1e-9)).all()
    if inside.size:
        assert np.arctan(inside.min()) - np.arctan(low) < 4e-4  # the grid step is 1.6e-4
        assert np.arctan(high) - np.arctan(inside.max()) < 1.5e-3  # the grid ends at 1.57


@settings(max_examples=60, deadline=None)
@given(st.floats(-3, 3), st.floats(-3, 3), st.floats(0, 1), st.floats(0, 1), st.floats(-1, 1), st.floats(-1, 1))
def test_a_biased_fieller_interval_holds_every_shifted_one(x, y, bx, by, u, v):
    cov = np.diag([0.04, 0.01])
    low, high = fieller_interval(x, y, cov, 1.96, (bx, by))
    shifted = fieller_interval(x + u * bx, y + v * by, cov, 1.96)
    assert low <= shifted[0] * (1 + 1e-9)
    assert high >= shifted[1] * (1 - 1e-9)


def test_fieller_without_noise_is_the_ratio():
    assert fieller_interval(-0.3, 0.1, np.zeros((2, 2)), 1.96) == pytest.approx((3, 3))
    assert fieller_interval(0.3, 0.0, np.zeros((2, 2)), 1.96) == (0, math.inf)
    with pytest.raises(ValueError, match="`bias` must be finite and not negative"):
        fieller_interval(1.0, 1.0, np.eye(2), 1.96, (-1.0, 0.0))


def test_slope_and_its_standard_error():
    h, rng = np.array([1.0, 0.25, 1 / 16, 1 / 64]), np.random.default_rng(6)
    error, sem = 0.1 * h**1.3, 0.02 * 0.1 * h**1.3
    slope, se = log_log_slope(h, error, sem)
    assert float(slope) == pytest.approx(1.3, abs=1e-12)
    many, _ = log_log_slope(h, error + sem * rng.standard_normal((REPLICATES, 4)), sem)
    assert many.std() == pytest.approx(float(se), rel=0.06)  # its own relative standard error is 1.1 %
    assert np.isnan(log_log_slope(h, 0 * error, sem)[0])
    with pytest.raises(ValueError, match="`h` must be at least two different positive steps"):
        log_log_slope([1.0, 1.0], [1.0, 1.0], [0.0, 0.0])
