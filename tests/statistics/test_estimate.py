"""Exact tests of the accumulator: against two passes over all samples, and of what merging may and may not change."""

from functools import reduce
from itertools import pairwise

import numpy as np
import pytest
import torch

from sdeadapt.statistics.estimate import Estimate, Moments

CHUNKS = (0, 300, 1000, 1001, 4000)


def skewed(n: int, *, shift: float = 0.0, scale: float = 1.0) -> torch.Tensor:
    """(n, 3), dependent, skewed and heavy-tailed samples."""
    z = torch.randn(n, 3, generator=torch.Generator().manual_seed(7), dtype=torch.float64)
    mix = torch.tensor([[1.0, 0.5, -2.0], [0.0, 1.0, 0.3], [0.0, 0.0, 0.1]], dtype=torch.float64)
    return shift + scale * (z + z**3 / 3 + z**2) @ mix


def chunked(y: torch.Tensor, cuts: tuple[int, ...] = CHUNKS) -> list[Moments]:
    return [Moments.of(y[a:b]) for a, b in pairwise(cuts)]


def close(a: Moments, b: Moments, rtol: float) -> bool:
    return a.n == b.n and all(
        np.allclose(getattr(a, f), getattr(b, f), rtol=rtol, atol=rtol * np.abs(getattr(b, f)).max())
        for f in ("mean", "second", "third", "fourth")
    )


def test_moments_equal_two_passes():
    y = skewed(4000)
    moments, x = reduce(Moments.merge, chunked(y)), y.numpy()
    c = x - x.mean(0)
    np.testing.assert_allclose(moments.mean, x.mean(0), rtol=1e-12)
    np.testing.assert_allclose(moments.covariance, np.cov(x.T), rtol=1e-12)
    np.testing.assert_allclose(moments.skewness, (c**3).mean(0) / (c**2).mean(0) ** 1.5, rtol=1e-11)
    np.testing.assert_allclose(moments.kurtosis, (c**4).mean(0) / (c**2).mean(0) ** 2, rtol=1e-11)
    assert moments.kurtosis.max() > 10  # the samples are far from Gaussian, so the formula is seen


def test_two_point_law_has_its_own_kurtosis():
    y = torch.tensor([-1.0, 1.0]).repeat(50)[:, None]
    np.testing.assert_allclose(Moments.of(y).kurtosis, 1.0, rtol=1e-14)
    np.testing.assert_allclose(Moments.of(y).skewness, 0.0, atol=1e-14)


def test_large_mean_with_tiny_variance_keeps_its_digits():
    y = skewed(4000, shift=1e6, scale=1e-3)
    exact = np.cov((y - 1e6).numpy().T)  # the subtraction is exact in float64
    x = y.numpy()
    np.testing.assert_allclose(Moments.of(y).covariance, exact, rtol=1e-12)
    np.testing.assert_allclose(reduce(Moments.merge, chunked(y)).covariance, exact, rtol=1e-7)
    naive = (x**2).mean(0) - x.mean(0) ** 2  # what the accumulator must not do: no digit is left
    assert np.all(np.abs(naive / np.diagonal(exact) - 1) > 0.1)


def test_merging_is_associative_to_rounding_and_identical_in_the_same_order():
    a, b, c, d = chunked(skewed(4000))
    left, tree = a.merge(b).merge(c).merge(d), a.merge(b.merge(c)).merge(d)
    assert close(left, tree, 1e-12)
    again = reduce(Moments.merge, chunked(skewed(4000)))
    for field in ("mean", "second", "third", "fourth"):
        assert getattr(left, field).tobytes() == getattr(again, field).tobytes()


def test_one_lost_path_is_seen():
    y = skewed(4000)
    assert not close(reduce(Moments.merge, chunked(y)), Moments.of(y[:-1]), 1e-12)


def test_empty_chunks_are_neutral():
    y = skewed(50)
    empty = Moments.of(y[:0])
    whole = Moments.of(y)
    assert empty.merge(whole) is whole
    assert whole.merge(empty) is whole
    assert whole.chunk_sizes == (50,)
    assert np.isnan(Moments.of(y[:1]).covariance).all()


def test_without_paths_there_is_no_number():
    nothing = Moments.of(torch.zeros(0, 4))
    estimates = nothing.estimates(("a", "b"), np.array([0.5, 1.0]))
    assert np.isnan(estimates.mean).all()
    assert np.isnan(estimates.sem).all()
    assert estimates.chunk_means.shape == (0, 4)
    assert np.isnan(nothing.largest_chunk_share).all()
    assert repr(estimates.estimate("b")) == "nan ± nan"


def test_float32_samples_are_summed_in_float64():
    y = torch.full((3000, 1), 0.1)
    assert Moments.of(y).mean[0] == pytest.approx(float(y[0, 0]), rel=1e-15)


def test_a_constant_component_has_no_kurtosis():
    assert np.isnan(Moments.of(torch.ones(10, 2)).kurtosis).all()


def test_memory_is_flat_in_paths():
    moments = Moments.of(torch.zeros(100_000, 2))
    arrays = [v for v in vars(moments).values() if isinstance(v, np.ndarray)]
    assert sum(a.nbytes for a in arrays) < 200


def test_largest_chunk_share_sees_an_outlier():
    y = skewed(4000)
    even = tuple(range(0, 4001, 250))
    assert np.all(reduce(Moments.merge, chunked(y, even)).largest_chunk_share < 0.6)
    y[17] += 1e4
    assert np.all(reduce(Moments.merge, chunked(y, even)).largest_chunk_share > 0.9)


def test_estimates_carry_the_covariance_of_the_means():
    y = torch.randn(4000, 6, generator=torch.Generator().manual_seed(1), dtype=torch.float64).cumsum(1)
    estimates = reduce(Moments.merge, chunked(y)).estimates(("theta", "loss"), np.array([0.5, 1.0, 1.5]))
    assert estimates.mean.shape == estimates.sem.shape == (3, 2)
    np.testing.assert_allclose(estimates.covariance, np.cov(y.numpy().T) / 4000, rtol=1e-12)
    last = estimates.estimate("loss")
    assert last.n == 4000
    assert last.mean == pytest.approx(float(y[:, 5].mean()), rel=1e-12)
    assert last.sem == pytest.approx(float(y[:, 5].std() / 4000**0.5), rel=1e-12)
    assert estimates.estimate("theta", 0).mean == pytest.approx(float(y[:, 0].mean()), rel=1e-12)
    assert estimates.chunk_means.shape == (4, 6)
    assert estimates.chunk_sizes.tolist() == [300, 700, 1, 2999]
    np.testing.assert_allclose(estimates.chunk_sizes @ estimates.chunk_means / 4000, estimates.mean.ravel(), rtol=1e-12)


@pytest.mark.parametrize(
    ("mean", "sem", "text"),
    [
        (0.12344, 0.00051, "0.12344 ± 0.00051"),
        (12.0, 0.3, "12.00 ± 0.30"),
        (1234.5, 67.8, "1234 ± 68"),
        (0.0, 1e-3, "0.0000 ± 0.0010"),
        (-3.21e-7, 4.4e-9, "(-3.210 ± 0.044)e-07"),
        (2.5e8, 1e6, "(2.500 ± 0.010)e+08"),
        (1.5, 0.0, "1.5 ± 0"),
        (float("nan"), 1.0, "nan ± 1"),
    ],
)
def test_repr_is_rounded_to_the_error(mean, sem, text):
    assert repr(Estimate(mean, sem, 10)) == text
