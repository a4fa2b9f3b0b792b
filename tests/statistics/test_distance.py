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


def test_whitened_pool_has_unit_covariance_whatever_the_units():
    rng = np.random.default_rng(7)
    mix = rng.standard_normal((4, 4)) * [1e-6, 1.0, 1e3, 1e8]
    pair = rng.standard_normal((300, 4)) @ mix + [1e-4, 0, -1e5, 1e9], rng.standard_normal((200, 4)) @ mix
    pool = np.vstack(whiten(*pair))
    np.testing.assert_allclose(np.cov(pool.T), np.eye(4), atol=1e-8)
    np.testing.assert_allclose(pool.mean(0), 0, atol=1e-12)


def test_collinear_and_constant_columns_add_nothing():
    rng = np.random.default_rng(8)
    x, y = rng.standard_normal((2, 150, 2))
    same = [np.hstack([a, a @ [[2.0], [-3.0]] + 1e6, np.full((150, 1), 0.1)]) for a in (x, y)]
    extended = whiten(*same)
    assert extended[0].shape == (150, 2)
    found, plain = (energy_distance(*pair, np.random.default_rng(9)) for pair in (extended, whiten(x, y)))
    # whitening is unique up to a rotation, which distances do not see
    np.testing.assert_allclose(found, plain, rtol=1e-6)


def test_equal_constants_have_no_distance():
    constant = np.full((10, 2), 3.7)
    x, y = whiten(constant, constant)
    assert x.shape == (10, 0)
    assert energy_distance(x, y, np.random.default_rng(0)) == (0.0, 0.0, 1.0)


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
