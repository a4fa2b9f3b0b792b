"""Two one-sided tests with an estimated margin: bounds, calibration, runs needed."""

import numpy as np
import pytest
from scipy.stats import norm
from scipy.stats import t as student

from sdeadapt.statistics.equivalence import equivalence, planned_runs

LAWS = {  # draws, mean, standard deviation
    "normal": (lambda rng, shape: rng.standard_normal(shape), 0.0, 1.0),
    "exponential": (lambda rng, shape: rng.standard_exponential(shape), 1.0, 1.0),
    "left-skewed": (lambda rng, shape: -rng.standard_exponential(shape), -1.0, 1.0),
}
HALF = np.array([0.5])


def correlated(rng, runs, metrics=8):
    """Metrics that share half of their variance, as times of one run do."""
    return np.sqrt(0.5) * (rng.standard_normal((runs, 1)) + rng.standard_normal((runs, metrics)))


def test_bounds_are_those_of_the_textbook_where_the_margin_is_hardly_random():
    rng = np.random.default_rng(0)
    base, x = rng.standard_normal((2, 100, 1))
    found = equivalence(base, [x], np.array([1e-3]))  # its own error is 1e-3 of the rest
    se = np.sqrt(base.var(ddof=1) / 100 + x.var(ddof=1) / 100)
    d, margin = (x.mean() - base.mean()), 1e-3 * base.std(ddof=1)
    np.testing.assert_allclose(found.difference, d)
    np.testing.assert_allclose(found.sem, se)
    high = 1 + (abs(d) - margin + student.ppf(0.95, 99) * se) / margin
    np.testing.assert_allclose(found.high, high, rtol=2e-3)
    assert not found.inside.any()


@pytest.mark.parametrize("units", [np.array([0.5, 0.5]), None])
def test_errors_of_difference_less_margin_are_those_of_the_jackknife(units):
    rng = np.random.default_rng(1)
    base, x = rng.exponential(size=(2, 300, 2)) + np.array([0.0, 9.0])  # the second margin is 10 % of the mean
    found = equivalence(base, [x], units)
    for side in (0, 1):
        variance = 0.0
        for sample in (0, 1):
            without = []
            for i in range(300):
                pair = [base, x]
                pair[sample] = np.delete(pair[sample], i, 0)
                without.append(equivalence(pair[0], pair[1:], units).excess[side, 0])
            variance = variance + 299 * np.var(without, axis=0)
        np.testing.assert_allclose(found.side_sem[side, 0], np.sqrt(variance), rtol=0.02)


def confirmed(law, shift, runs, seeds):
    draw, _, sd = LAWS[law]
    count = 0
    for seed in range(seeds):
        rng = np.random.default_rng(seed)
        base, x = draw(rng, (runs, 1)), draw(rng, (runs, 1)) + shift * sd
        count += equivalence(base, [x], HALF).inside.all()
    return count


@pytest.mark.parametrize("law", LAWS)
@pytest.mark.parametrize("sign", [-1, 1])
def test_a_difference_of_exactly_the_margin_is_rarely_called_inside(law, sign):
    # 5 % of 400, 99.9 % quantile of the binomial law: 35
    assert confirmed(law, 0.5 * sign, 64, 400) <= 35


def test_a_larger_margin_than_claimed_would_be_seen():  # the twin: at .8 of the margin it exceeds the quantile
    assert confirmed("normal", 0.3, 64, 400) > 35


@pytest.mark.parametrize("law", LAWS)
def test_equal_laws_are_called_inside_at_the_planned_runs(law):
    draw, _, _ = LAWS[law]
    held = 0
    for seed in range(200):
        rng = np.random.default_rng(1000 + seed)
        runs = int(planned_runs(draw(rng, (128, 1)), 1, HALF))
        held += equivalence(draw(rng, (runs, 1)), [draw(rng, (runs, 1))], HALF).inside.all()
    assert held >= 160  # 80 %; aimed at 90 %, of which 160 of 200 is the 1e-5 quantile


def test_several_correlated_metrics_and_samples_are_planned_together():
    held, units = 0, np.full(8, 0.5)
    for seed in range(100):
        rng = np.random.default_rng(seed)
        runs = int(planned_runs(correlated(rng, 128), 2, units))
        held += equivalence(correlated(rng, runs), [correlated(rng, runs) for _ in range(2)], units).inside.all()
    assert held >= 80
    one = planned_runs(correlated(np.random.default_rng(0), 4000), 1, units)
    # of eight metrics a plan for one alone would be too small
    assert 1.2 * planned_runs(np.random.default_rng(0).standard_normal((4000, 1)), 1, HALF) < one


def test_runs_needed_by_the_normal_formula():
    pilot = np.random.default_rng(2).standard_normal((20_000, 1))
    for units, power in ((0.52, 0.8), (0.2, 0.8), (0.2, 0.9)):
        z = norm.ppf(0.95) + norm.ppf((1 + power) / 2)
        exact = (2 + units**2 / 2) * (z / units) ** 2  # variances of two means, and of the margin
        assert planned_runs(pilot, 1, np.array([units]), power=power) == pytest.approx(exact, rel=0.06)
    assert 60 < (2 + 0.52**2 / 2) * (2.926 / 0.52) ** 2 < 70


def test_what_lies_outside_needs_as_many_runs_as_prove_it():
    rng = np.random.default_rng(3)
    base, x = rng.standard_normal((2, 4000, 1))
    x += 0.6 - (x.mean() - base.mean()) * 1.0
    few = equivalence(base[:100], [x[:100]], HALF)
    assert not few.outside.any()
    many = equivalence(base, [x], HALF)
    z = norm.ppf(0.975) + norm.ppf(0.9)
    gap = many.excess.max()
    assert many.needed() == pytest.approx(4000 * (z * many.side_sem[0, 0, 0] / gap) ** 2, rel=0.01)


def refuted(seeds, critical=None):
    count = 0
    for seed in range(seeds):
        rng = np.random.default_rng(seed)
        base = correlated(rng, 100)
        found = equivalence(base, [correlated(rng, 100) + 0.5 for _ in range(3)], np.full(8, 0.5))
        low = found.low if critical is None else found._relative(found.excess - critical * found.side_sem)
        count += (low > 1).any()
    return count


def test_refutation_is_simultaneous():
    # all 24 differences are exactly at the margin; 5 % of 40, 99.9 % quantile: 8
    assert refuted(40) <= 8
    assert refuted(40, critical=norm.ppf(0.95)) > 12  # the twin: each on its own


def test_few_runs_take_the_wider_bound():
    rng = np.random.default_rng(4)
    base, x = rng.standard_normal((2, 20, 3))
    found = equivalence(base, [x])
    assert found.critical == pytest.approx(student.ppf(1 - 0.025 / 3, 19))
    wide = equivalence(np.tile(base, (4, 1)), [np.tile(x, (4, 1))])
    assert wide.critical < found.critical


def test_metrics_without_variance():
    base = np.tile([2.0, 0.0, 2.0], (70, 1))
    found = equivalence(base, [base, base + np.array([0.1, 0.1, 0.3])])
    np.testing.assert_array_equal(found.margin, [0.2, 0.0, 0.2])
    assert found.inside.tolist() == [[True, True, True], [True, False, False]]
    assert found.outside.tolist() == [[False, False, False], [False, True, True]]
    assert found.needed() <= 70


def test_a_margin_may_be_left_to_the_default_by_metric():
    base = np.random.default_rng(5).standard_normal((100, 2)) + np.array([100.0, 0.0])
    found = equivalence(base, [base], np.array([np.nan, 2.0]))
    np.testing.assert_allclose(found.margin, [0.1 * base[:, 0].mean(), 2 * base[:, 1].std(ddof=1)])


def test_wrong_numbers_are_refused():
    base = np.zeros((4, 1))
    with pytest.raises(ValueError, match=r"`confidence` must lie in \(0, 1\); got 1"):
        equivalence(base, [base], confidence=1.0)
    with pytest.raises(ValueError, match=r"`power` must lie in \(0, 1\); got 0"):
        planned_runs(base, 1, power=0.0)
