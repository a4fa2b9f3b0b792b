import math

import numpy as np
import pytest
from scipy import stats

from sdeadapt.statistics import distance
from sdeadapt.statistics.distance import energy_distance, whiten


def brute_force(x, y):
    def mean(a, b, pairs):
        return sum(math.dist(p, q) for p in a for q in b) / pairs

    n, m = len(x), len(y)
    return 2 * mean(x, y, n * m) - mean(x, x, n * (n - 1)) - mean(y, y, m * (m - 1))


@pytest.fixture
def samples():
    rng = np.random.default_rng(0)
    return rng.standard_normal((13, 3)), rng.standard_normal((17, 3)) + 0.3


def test_estimate_is_the_u_statistic(samples):
    x, y = samples
    assert energy_distance(x, y, np.random.default_rng(1)).estimate == pytest.approx(brute_force(x, y), abs=1e-13)


def test_sem_is_the_jackknife_of_the_u_statistic(samples):
    x, y = samples
    without_x = np.array([brute_force(np.delete(x, i, 0), y) for i in range(len(x))])
    without_y = np.array([brute_force(x, np.delete(y, j, 0)) for j in range(len(y))])
    expected = math.sqrt((len(x) - 1) * without_x.var() + (len(y) - 1) * without_y.var())
    assert energy_distance(x, y, np.random.default_rng(1)).sem == pytest.approx(expected, rel=1e-10)


def test_p_value_counts_the_permuted_u_statistics(samples):
    x, y = samples[0], samples[1] - 0.3
    pool, observed = np.vstack([x, y]), brute_force(x, y)
    labels = np.zeros((19, 30))
    labels[:, :13] = 1
    labels = np.random.default_rng(5).permuted(labels, axis=1).astype(bool)
    permuted = [brute_force(pool[row], pool[~row]) for row in labels]
    expected = (1 + sum(e >= observed for e in permuted)) / 20
    assert 1 / 20 < expected < 1
    assert energy_distance(x, y, np.random.default_rng(5), permutations=19).p_value == expected


def test_blocks_change_nothing(samples, monkeypatch):
    whole = energy_distance(*samples, np.random.default_rng(2))
    monkeypatch.setattr(distance, "_BLOCK_BYTES", 7 * 8 * 30)
    np.testing.assert_allclose(energy_distance(*samples, np.random.default_rng(2)), whole, rtol=1e-12)


def test_unbiased_and_its_error_is_right():
    """Two normals a shift of 1 apart: the distance is known. 1000 replicates, each with its own jackknife error."""
    truth = 2 * stats.foldnorm(1 / math.sqrt(2), scale=math.sqrt(2)).mean() - 4 / math.sqrt(math.pi)
    rng = np.random.default_rng(3)
    pairs = (rng.standard_normal((2, 20, 1)) for _ in range(1000))
    found = np.array([energy_distance(x, y + 1, rng, permutations=1) for x, y in pairs])
    spread = found[:, 0].std(ddof=1)
    sem = spread / math.sqrt(1000)
    assert abs(found[:, 0].mean() - truth) < 4 * sem
    assert 8 * sem < 2 * 1.128 / 20  # the bias if the diagonals were counted: it could not pass
    assert np.sqrt((found[:, 1] ** 2).mean()) == pytest.approx(spread, rel=0.15)  # of 1000 replicates: 2 % each way


def p_values(shift, stretch, replicates=200):
    rng = np.random.default_rng(4)
    pairs = (rng.standard_normal((2, 60, 2)) for _ in range(replicates))
    return np.array([energy_distance(*whiten(x, stretch * y + shift), rng, permutations=99).p_value for x, y in pairs])


def test_p_values_are_uniform_under_equality():
    p = p_values(shift=0.0, stretch=1.0)
    assert stats.kstest(p, "uniform").pvalue > 0.01
    assert (p <= 0.05).mean() < 0.05 + 4 * math.sqrt(0.05 * 0.95 / len(p))


@pytest.mark.parametrize(("shift", "stretch"), [(0.6, 1.0), (0.0, 1.8)])
def test_planted_differences_are_found(shift, stretch):
    """The negative-control twin: a shifted mean, and an equal mean with another variance."""
    assert (p_values(shift, stretch, replicates=60) <= 0.05).mean() > 0.75


def test_sem_of_equal_laws_covers_the_estimate():
    rng = np.random.default_rng(6)
    found = energy_distance(*rng.standard_normal((2, 400, 2)), rng)
    assert abs(found.estimate) < 6 * found.sem


def test_whitened_pool_is_uncorrelated_whatever_the_units():
    rng = np.random.default_rng(7)
    units = np.array([1e-6, 1.0, 1e3, 1e8])
    pair = [rng.standard_normal((n, 4)) @ rng.standard_normal((4, 4)) for n in (300, 200)]
    plain, scaled = whiten(*pair), whiten(*(a * units for a in pair))
    np.testing.assert_allclose(np.abs(np.vstack(scaled)), np.abs(np.vstack(plain)), rtol=1e-6)  # signs are free
    covariance = np.cov(np.vstack(plain).T)
    np.testing.assert_allclose(covariance - np.diag(np.diag(covariance)), 0, atol=1e-10)
    assert (np.diag(covariance) > 0.5).all()
    assert (np.diag(covariance) < 1.01).all()


def test_collinear_and_constant_columns_are_harmless():
    """A third column is the sum of the others up to one part in a million, a fourth never moves."""
    rng = np.random.default_rng(8)
    x, y = rng.standard_normal((2, 150, 2))
    constant = np.full((150, 1), 0.1)
    pair = [np.hstack([a, a.sum(1, keepdims=True) + e, constant]) for a, e in ((x, 0.0), (y, 1e-6))]
    found, bare = (energy_distance(*whiten(*pair, ridge=ridge), np.random.default_rng(9)) for ridge in (0.01, 1e-16))
    assert abs(found.estimate) < 0.05
    assert found.p_value > 0.05
    assert bare.estimate > 0.3  # the negative control: without the ridge the millionth is all that is seen
    assert bare.p_value < 0.01


def test_spread_that_vanishes_against_a_constant_is_a_distance_that_vanishes():
    """RMSprop's u: random in the chain, by O(sqrt h), and deterministic in its SDE. Without ridge nothing converges."""
    rng = np.random.default_rng(10)
    noise, still = rng.standard_normal((200, 1)), np.full((200, 1), 2.0)
    far, near = (energy_distance(*whiten(2 + s * noise, still), rng).estimate for s in (0.08, 0.02))
    assert far > 3 * near > 0
    far, near = (energy_distance(*whiten(2 + s * noise, still, ridge=1e-12), rng).estimate for s in (0.08, 0.02))
    assert far == pytest.approx(near, rel=1e-3)


def test_equal_constants_have_no_distance():
    constant = np.full((10, 2), 3.7)
    assert energy_distance(*whiten(constant, constant), np.random.default_rng(0)) == (0.0, 0.0, 1.0)


@pytest.mark.parametrize(
    ("x", "y", "message"),
    [
        (np.zeros((5, 2)), np.zeros((5, 3)), r"must have shapes \(n, d\) and \(m, d\)"),
        (np.zeros((2, 1)), np.zeros((5, 1)), r"at least 3 rows each; got 2 and 5"),
        (np.full((5, 1), np.nan), np.zeros((5, 1)), r"must be finite; drop the paths that diverged"),
    ],
)
def test_bad_samples_are_refused(x, y, message):
    with pytest.raises(ValueError, match=message):
        energy_distance(x, y, np.random.default_rng(0))
    with pytest.raises(ValueError, match=message):
        whiten(x, y)


def test_permutations_must_be_positive():
    with pytest.raises(ValueError, match=r"`permutations` must be a whole number >= 1; got 0"):
        energy_distance(np.zeros((5, 1)), np.zeros((5, 1)), np.random.default_rng(0), permutations=0)


def test_ridge_must_be_positive():
    with pytest.raises(ValueError, match=r"`ridge` must be finite and positive; got 0"):
        whiten(np.ones((5, 1)), np.ones((5, 1)), ridge=0.0)
