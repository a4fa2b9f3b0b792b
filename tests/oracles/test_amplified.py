"""The SVAG operator: exact moments, the coupling, and the case r = 1."""

import math
from dataclasses import dataclass

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sdeadapt.oracles.amplified import Amplified
from sdeadapt.oracles.analytic import Quadratic, Rippled
from sdeadapt.oracles.base import NotDeclared, Oracle
from sdeadapt.oracles.noise import Laplace, ShiftedExponential, StudentT, TwoPoint, Uniform

F64 = torch.float64


def one_dimensional(noise="gaussian", scale=0.7):
    return Quadratic(1.3, 1.0, scale=scale, noise=noise)


def central_moments(oracle, theta, n=6):
    """Mean and central moments 2, 3, 4 of g in one dimension, exact through the rule."""
    draws, weights = oracle.rule(n)
    g = oracle.sample(oracle.at(theta), draws)[:, 0]
    mean = weights @ g
    return [float(mean)] + [float(weights @ (g - mean) ** p) for p in (2, 3, 4)]


@pytest.mark.parametrize("r", [2, 3, 4, 9, 64])
@pytest.mark.parametrize("law", [TwoPoint(1.5), Uniform(), Laplace(), ShiftedExponential(), StudentT(5.0)], ids=repr)
def test_moments_are_those_of_the_theory(law, r):
    """Malladi et al. 2022, Section 6: mean, r Sigma, third (3r - 1)/2 mu3, excess kurtosis (r^2 + 2r - 1)/(2 r^2)."""
    base = one_dimensional(law)
    oracle, theta = Amplified(base, r), torch.tensor([[0.4]], dtype=F64)
    mean, second, third, fourth = central_moments(oracle, theta)
    assert mean == pytest.approx(1.3 * 0.4, rel=1e-12)
    assert second == pytest.approx(r * base.scale**2, rel=1e-10)
    assert second == pytest.approx(oracle.scale**2, rel=1e-10)
    assert third == pytest.approx((3 * r - 1) / 2 * base.scale**3 * law.third, rel=1e-9, abs=1e-9)
    excess = (law.fourth - 3) * (r**2 + 2 * r - 1) / (2 * r**2)
    assert fourth / second**2 == pytest.approx(3 + excess, rel=1e-9)


def test_control_the_weights_of_the_sgd_paper_at_l_do_not_give_the_adaptive_methods_variance():
    """SGD's sqrt(2l - 1) multiplies the variance by l; adaptive methods at the multiplier l need l^2."""
    ell, base, theta = 4, one_dimensional(), torch.ones(1, 1, dtype=F64)
    sgd, adaptive = (central_moments(Amplified(base, r), theta)[1] / base.scale**2 for r in (ell, ell**2))
    assert adaptive == pytest.approx(ell**2, rel=1e-10)
    assert sgd == pytest.approx(ell, rel=1e-10)
    assert abs(sgd - ell**2) > 10


@settings(derandomize=True, deadline=None, max_examples=60)
@given(st.integers(1, 10_000))
def test_weights(r):
    first, second = Amplified(one_dimensional(), r).weights
    assert first > 0 >= second
    assert first + second == pytest.approx(1, abs=1e-12)
    assert first**2 + second**2 == pytest.approx(r, rel=1e-12)
    assert first**3 + second**3 == pytest.approx((3 * r - 1) / 2, rel=1e-10)


@pytest.mark.parametrize("noise", ["gaussian", "exponential", "student-t"])
def test_at_one_it_is_the_bare_oracle_bit_for_bit(noise):
    base = Rippled(scale=0.3, dim=2, noise=noise)
    oracle = Amplified(base, 1)
    theta = torch.tensor([[0.3, -0.4]] * 6, dtype=F64)
    assert oracle.weights == (1.0, 0.0)
    ours, bare = (o.stream(torch.Generator().manual_seed(3), 6) for o in (oracle, base))
    xi = torch.randn(6, 2, generator=torch.Generator().manual_seed(4), dtype=F64)
    for given_xi in (None, xi, None):
        draw, expected = ours.next(given_xi), bare.next(given_xi)
        assert torch.equal(draw, expected)
        assert torch.equal(oracle.sample(oracle.at(theta), draw), base.sample(base.at(theta), expected))
    direction = torch.ones_like(theta)
    derivatives = [o.sample_derivative(o.at(theta), draw, direction) for o in (oracle, base)]
    assert torch.equal(*derivatives)
    assert oracle.scale == base.scale
    for found, expected in zip(oracle.rule(3), base.rule(3), strict=True):
        assert torch.equal(found, expected)


@pytest.mark.parametrize("r", [2, 4, 25])
def test_coupled_gaussian_draws_add_up_to_the_given_normals(r):
    base = Quadratic([[2.0, 0.5], [0.5, 1.0]], [[1.0, 0.3], [0.3, 2.0]], scale=0.3)
    oracle = Amplified(base, r)
    xi = torch.randn(1000, 2, generator=torch.Generator().manual_seed(4), dtype=F64)
    draw = oracle.stream(torch.Generator().manual_seed(5), 1000).next(xi)
    first, second = oracle.weights
    torch.testing.assert_close(first * draw[0] + second * draw[1], math.sqrt(r) * xi, rtol=1e-12, atol=1e-12)
    # What `gaussian` promises: given xi the noise is scale S(theta) xi.
    here = oracle.at(torch.zeros(1, 2, dtype=F64))
    torch.testing.assert_close(oracle.sample(here, draw), oracle.scale * here.diffuse(xi), rtol=1e-12, atol=1e-12)
    # The control: with the weights in the other order they do not add up.
    assert (second * draw[0] + first * draw[1] - math.sqrt(r) * xi).abs().mean() > 0.3


@pytest.mark.parametrize("coupled", [False, True])
@pytest.mark.parametrize("r", [2, 16])
def test_the_two_draws_are_independent_with_and_without_coupling(r, coupled):
    """Covariances of z1, z2 and of their squares within 5 standard errors of 200,000 draws; 0.02 off would fail."""
    n = 200_000
    oracle = Amplified(one_dimensional("exponential"), r)
    xi = torch.randn(n, 1, generator=torch.Generator().manual_seed(8), dtype=F64) if coupled else None
    a, b = (d[:, 0] for d in oracle.stream(torch.Generator().manual_seed(9), n).next(xi))
    for x, y in ((a, b), (a.square() - 1, b), (a, b.square() - 1)):
        product = x * y
        assert abs(float(product.mean())) < 5 * float(product.std()) / math.sqrt(n)
    # The control: the same draw twice.
    assert float((a * a).mean()) > 5 * float((a * a).std()) / math.sqrt(n)


def test_coupling_is_tight_for_gaussian_noise_and_loose_for_skewed_noise():
    """Why only Gaussian laws couple by default: for others the path difference is O(1)."""
    xi = torch.randn(20_000, 1, generator=torch.Generator().manual_seed(8), dtype=F64)
    left = {}
    for noise in ("gaussian", "exponential"):
        oracle = Amplified(one_dimensional(noise, scale=1.0), 16)
        here = oracle.at(torch.zeros(1, 1, dtype=F64))
        g = oracle.sample(here, oracle.stream(torch.Generator().manual_seed(9), 20_000).next(xi))
        left[noise] = float((g / oracle.scale - xi).std())
    assert left["gaussian"] < 1e-12
    assert 0.1 < left["exponential"] < 1


def test_what_the_draws_have_in_common_survives_a_large_refinement_in_float32():
    base = one_dimensional(scale=0.0).to("cpu", torch.float32)
    oracle = Amplified(base, 1_000_000)
    theta = torch.linspace(-3, 3, 101)[:, None]
    draw = oracle.stream(torch.Generator().manual_seed(0), 101).next()
    here = oracle.at(theta)
    assert torch.equal(oracle.sample(here, draw), here.gradient)
    # The control: the plain weighted sum loses the last bits.
    first, second = oracle.weights
    assert not torch.equal(first * here.gradient + second * here.gradient, here.gradient)


def test_derivative_at_a_fixed_draw():
    base = Rippled(scale=0.3, dim=3)
    oracle = Amplified(base, 5)
    theta = torch.randn(4, 3, generator=torch.Generator().manual_seed(1), dtype=F64)
    direction = torch.randn(4, 3, generator=torch.Generator().manual_seed(2), dtype=F64)
    draw = oracle.stream(torch.Generator().manual_seed(3), 4).next()
    expected = Oracle.sample_derivative(oracle, oracle.at(theta), draw, direction)
    torch.testing.assert_close(oracle.sample_derivative(oracle.at(theta), draw, direction), expected)


def test_it_delegates_what_it_does_not_change():
    base = Rippled(scale=0.3, dim=2, noise="student-t")
    oracle = Amplified(base, 4)
    theta = torch.tensor([[0.1, 0.2]], dtype=F64)
    for name in ("dim", "noise_dim", "couples", "gaussian", "additive", "heavy", "device", "dtype"):
        assert getattr(oracle, name) == getattr(base, name)
    assert oracle.scale == pytest.approx(2 * base.scale)
    assert oracle.bytes_per_path == 2 * base.bytes_per_path
    assert torch.equal(oracle.hessian(theta), base.hessian(theta))
    assert torch.equal(oracle.at(theta).gradient, base.at(theta).gradient)
    assert oracle.describe() == {"class": "Amplified", "oracle": base.describe(), "refinement": 4}
    assert oracle.rescaled(4.0).scale == pytest.approx(base.scale)
    assert oracle.rescaled(4.0).refinement == 4
    single = oracle.to("cpu", torch.float32)
    assert single.dtype == torch.float32
    assert single.sample(single.at(theta.float()), single.stream(torch.Generator(), 3).next()).dtype == torch.float32
    with pytest.raises(NotDeclared, match="draws no minibatches"):
        oracle.with_batch(8)


def test_amplified_twice():
    """The variance is r1 r2 times the base's, though the law is not that of r1 r2 at once."""
    twice = Amplified(Amplified(one_dimensional("exponential"), 2), 3)
    theta = torch.ones(1, 1, dtype=F64)
    moments, once = (
        central_moments(twice, theta, 4),
        central_moments(Amplified(one_dimensional("exponential"), 6), theta),
    )
    assert moments[1] == pytest.approx(once[1], rel=1e-10)
    assert moments[1] == pytest.approx(twice.scale**2, rel=1e-10)
    assert moments[2] == pytest.approx(2 * 0.7**3 * 2.5 * 4, rel=1e-10)


@dataclass(frozen=True, eq=False)
class Epochs(Oracle):
    scale: float = 1.0
    dim = noise_dim = 1
    independent = False

    def stream(self, generator, paths):
        raise NotImplementedError

    def sample(self, local, draw):
        raise NotImplementedError

    def to(self, device, dtype):
        return self


def test_errors_say_the_rule_the_value_and_the_reason():
    with pytest.raises(ValueError, match=r"`refinement` must be a whole number >= 1; got 0"):
        Amplified(one_dimensional(), 0)
    with pytest.raises(ValueError, match=r"`refinement` must be a whole number >= 1; got -4"):
        Amplified(one_dimensional(), -4)
    with pytest.raises(ValueError, match=r"`oracle` must have independent draws: over reshuffled epochs .* Epochs"):
        Amplified(Epochs(), 4)
    with pytest.raises(NotDeclared, match=r"at most 100,000 nodes; got 1024 for each of two draws. Lower `n`"):
        Amplified(Rippled(scale=1.0, dim=5), 2).rule(4)
