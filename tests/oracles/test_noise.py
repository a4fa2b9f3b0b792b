"""Noise laws: moments, quadrature, quantiles, tails."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import integrate, special, stats

from sdeadapt.oracles.base import NotDeclared
from sdeadapt.oracles.noise import (
    Gaussian,
    Laplace,
    Noise,
    NoiseStream,
    ShiftedExponential,
    StudentT,
    TwoPoint,
    Uniform,
    noise,
    standard_normal,
)

F64 = torch.float64
LAWS = [
    Gaussian(),
    TwoPoint(),
    TwoPoint(skewness=2.5),
    TwoPoint(skewness=-40.0),
    Uniform(),
    Laplace(),
    ShiftedExponential(),
    StudentT(df=2.2),
    StudentT(df=5.0),
    StudentT(df=9.5),
    StudentT(df=40.0),
]
NAMES = [repr(law) for law in LAWS]
every_law = pytest.mark.parametrize("law", LAWS, ids=NAMES)


def reference_quantile(law, xi):
    """The quantile of Phi(xi), from the other tail where xi > 0, by code that shares nothing with the maps."""
    tail = stats.norm.sf(np.abs(xi))
    if isinstance(law, StudentT):
        return np.sign(xi) * stats.t(law.df, scale=math.sqrt((law.df - 2) / law.df)).isf(tail)
    if isinstance(law, Laplace):
        return np.sign(xi) * stats.laplace(scale=math.sqrt(0.5)).isf(tail)
    if isinstance(law, Uniform):
        return math.sqrt(3) * (2 * stats.norm.cdf(xi) - 1)
    if isinstance(law, ShiftedExponential):
        return np.where(xi > 0, stats.expon(loc=-1).isf(tail), stats.expon(loc=-1).ppf(tail))
    return xi


@every_law
def test_nodes_have_the_declared_moments(law):
    z, w = law.nodes(24)
    assert z.dtype == w.dtype == F64
    assert (w > 0).all()
    moments = [float(w @ z**p) for p in range(5)]
    assert moments[:3] == pytest.approx([1, 0, 1], abs=1e-10)
    if not math.isnan(law.third):
        assert moments[3] == pytest.approx(law.third, abs=1e-10, rel=1e-10)
    if math.isfinite(law.fourth):
        assert moments[4] == pytest.approx(law.fourth, rel=1e-10)


@pytest.mark.parametrize("n", [2, 3])
@every_law
def test_two_or_three_nodes_keep_mean_and_variance(law, n):
    z, w = law.nodes(n)
    assert [float(w @ z**p) for p in range(3)] == pytest.approx([1, 0, 1], abs=1e-12)


def test_gauss_rules_are_exact_up_to_their_degree_and_not_beyond():
    exact = {
        Gaussian(): [1, 0, 1, 0, 3, 0, 15, 0, 105, 0, 945],
        Uniform(): [3 ** (p / 2) / (p + 1) * (p % 2 == 0) for p in range(11)],
        ShiftedExponential(): [
            sum(math.comb(p, j) * (-1) ** (p - j) * math.factorial(j) for j in range(p + 1)) for p in range(11)
        ],
    }
    for law, moments in exact.items():
        z, w = law.nodes(5)
        found = [float(w @ z**p) for p in range(11)]
        assert found[:10] == pytest.approx(moments[:10], rel=1e-11, abs=1e-11)
        assert abs(found[10] / moments[10] - 1) > 1e-4


@pytest.mark.parametrize("df", [2.2, 3.0, 5.0, 8.0, 12.5])
def test_student_rule_is_exact_for_every_moment_that_exists(df):
    law, k = StudentT(df), math.ceil(df / 2) - 1
    z, w = law.nodes(k + 1)
    for j in range(k + 1):  # E t^(2j) of Student's t, times the scale to unit variance
        t_moment = math.exp(
            j * math.log(df) + math.lgamma(j + 0.5) + math.lgamma(df / 2 - j) - math.lgamma(0.5) - math.lgamma(df / 2)
        )
        assert float(w @ z ** (2 * j)) == pytest.approx(t_moment * ((df - 2) / df) ** j, rel=1e-10)


def test_student_rule_is_spectral_where_gauss_hermite_through_the_map_is_not():
    law, scale = StudentT(df=3.0), math.sqrt(1 / 3)

    def f(z):
        return 1 / (2 + z**2)

    exact = integrate.quad(lambda t: f(t * scale) * stats.t.pdf(t, 3), -np.inf, np.inf, epsabs=1e-14)[0]
    errors = [abs(float(torch.dot(w, f(z))) - exact) for z, w in map(law.nodes, (4, 8, 16))]
    assert errors[1] < errors[0] / 100
    assert errors[2] < 1e-10
    xi, w = Gaussian().nodes(8)
    assert abs(float(w @ law.map(xi).square()) - 1) > 5e-3  # the control: the variance itself is off


@pytest.mark.parametrize("law", [law for law in LAWS if not isinstance(law, TwoPoint)], ids=repr)
def test_map_is_the_quantile_far_into_both_tails(law):
    xi = np.concatenate([-np.geomspace(9, 1e-3, 400), np.geomspace(1e-3, 9, 400)])
    z = law.map(torch.from_numpy(xi)).numpy()
    np.testing.assert_allclose(z, reference_quantile(law, xi), rtol=1e-10, atol=1e-13)
    assert (np.diff(z) >= 0).all()


@pytest.mark.parametrize("law", [Laplace(), ShiftedExponential()], ids=repr)
def test_control_a_naive_logarithm_fails_in_the_tail(law):
    xi = torch.tensor([9.0], dtype=F64)
    naive = -torch.log(1 - torch.special.ndtr(xi))
    assert torch.isinf(naive).all()
    assert torch.isfinite(law.map(xi)).all()


@every_law
def test_map_integrates_to_the_declared_moments_over_the_normal(law):
    """Ties `map` to `third` and `fourth` without `nodes`: trapezoid over [-9, 9], or the two-point threshold."""
    if isinstance(law, TwoPoint):
        lower, upper = law.values
        p = stats.norm.sf(law.threshold)
        moments = [p * upper**j + (1 - p) * lower**j for j in range(5)]
        assert law.map(torch.tensor([law.threshold - 1e-9, law.threshold + 1e-9], dtype=F64)).tolist() == [lower, upper]
    else:
        xi = torch.linspace(-9, 9, 20_001, dtype=F64)
        weight = torch.exp(-xi.square() / 2) * float(xi[1] - xi[0]) / math.sqrt(2 * math.pi)
        z = law.map(xi)
        moments = [float(weight @ z**j) for j in range(5)]
    light = not isinstance(law, StudentT) or law.df > 9
    assert moments[:2] == pytest.approx([1, 0], abs=1e-9)
    if light:
        assert moments[2:] == pytest.approx([1, law.third, law.fourth], rel=2e-6, abs=1e-7)
    elif law.df >= 5:
        assert moments[2] == pytest.approx(1, rel=1e-6)


@pytest.mark.parametrize("df", [2.05, 3.0, 5.0, 30.0, 1e4])
def test_student_map_accuracy_stated_in_its_docstring(df):
    xi = np.linspace(1e-3, 9, 5001)
    exact = -special.stdtrit(df, special.ndtr(-xi)) * math.sqrt((df - 2) / df)
    found = StudentT(df).map(torch.from_numpy(xi)).numpy()
    assert np.abs(found / exact - 1)[xi > 0.1].max() < 1e-10
    assert np.abs(found - exact).max() < 1e-10 * exact.max()
    beyond = StudentT(df).map(torch.tensor([9.0, 9.5, 12.0], dtype=F64))
    assert (beyond.diff() > 0).all()


@every_law
def test_map_works_in_float32(law):
    xi = torch.linspace(-5, 5, 1001, dtype=torch.float32)
    z, exact = law.map(xi), law.map(xi.double())
    assert z.dtype == torch.float32
    # Student-t with df near 2 grows like exp(xi^2/2 df): rounding of xi^2 is amplified by xi^2/df.
    torch.testing.assert_close(z.double(), exact, rtol=2e-5, atol=2e-6)


@pytest.mark.parametrize(
    "law",
    [law for law in LAWS if math.isfinite(law.fourth) and not (isinstance(law, StudentT) and law.df <= 8)],
    ids=repr,
)
def test_sample_moments(law):
    """z-test at 5 standard errors of moments 1 and 2 (8th-moment laws only); a wrong variance of 3 % would fail it."""
    n = 200_000
    z = NoiseStream(law, torch.Generator().manual_seed(11), n, 1).next()[:, 0]
    for p, exact in ((1, 0.0), (2, 1.0)):
        sem = float((z**p).std()) / math.sqrt(n)
        assert abs(float((z**p).mean()) - exact) <= 5 * sem + 1e-12
    if law.fourth < 50:
        assert abs(float((1.03 * z).square().mean()) - 1) > 5 * float((1.03 * z).square().std()) / math.sqrt(n)


def test_float32_normals_stop_early_and_float64_normals_do_not():
    """Why some laws are heavy: a float32 Box-Muller draw has 24-bit uniforms, hence |xi| <= sqrt(48 log 2) = 5.77."""
    edge = math.sqrt(48 * math.log(2))
    # At that edge Student-t(5) has 5 % of its fourth moment still to come, and the exponential 1e-4.
    missing = {}
    for law in (StudentT(df=5.0), ShiftedExponential()):
        xi = np.linspace(edge, 9.0 if isinstance(law, ShiftedExponential) else 37.0, 40_001)
        size = reference_quantile(law, xi)
        missing[law] = np.trapezoid(size**4 * stats.norm.pdf(xi), xi) / law.fourth * (2 if law.heavy else 1)
    assert missing[StudentT(df=5.0)] > 0.03
    assert missing[ShiftedExponential()] < 2e-4
    assert StudentT().heavy
    assert TwoPoint(skewness=100.0).heavy
    assert not any(law.heavy for law in (Gaussian(), TwoPoint(), Uniform(), Laplace(), ShiftedExponential()))
    assert float(standard_normal(torch.Generator().manual_seed(3), (2**22,)).abs().max()) < 5.8


@pytest.mark.parametrize("dtype", [torch.float32, F64])
@pytest.mark.parametrize("heavy", [False, True])
def test_standard_normals_are_cast_float32_draws_unless_heavy(dtype, heavy):
    found = standard_normal(torch.Generator().manual_seed(5), (64, 3), dtype, heavy)
    drawn = torch.randn(64, 3, generator=torch.Generator().manual_seed(5), dtype=F64 if heavy else torch.float32)
    assert torch.equal(found, drawn.to(dtype))


@every_law
def test_stream_maps_given_normals_and_repeats_by_seed(law):
    xi = standard_normal(torch.Generator().manual_seed(1), (8, 2))
    stream = NoiseStream(law, torch.Generator().manual_seed(2), 8, 2)
    again = NoiseStream(law, torch.Generator().manual_seed(2), 8, 2)
    assert torch.equal(stream.next(xi), law.map(xi))
    first = stream.next()
    assert torch.equal(first, again.next())
    assert first.shape == (8, 2)


@settings(derandomize=True, deadline=None, max_examples=60)
@given(st.floats(-1e3, 1e3))
def test_two_point_moments_for_any_skewness(skewness):
    law = TwoPoint(skewness)
    z, w = law.nodes(2)
    lower, upper = law.values
    assert lower < 0 < upper
    assert [float(w @ z**p) for p in range(3)] == pytest.approx([1, 0, 1], abs=1e-9)
    assert float(w @ z**3) == pytest.approx(law.third, rel=1e-9, abs=1e-9)
    assert float(w @ z**4) == pytest.approx(law.fourth, rel=1e-9)
    assert stats.norm.sf(law.threshold) == pytest.approx(float(w[1]), rel=1e-9)


@settings(derandomize=True, deadline=None, max_examples=40)
@given(st.floats(2.01, 500.0), st.integers(2, 30))
def test_student_nodes_keep_the_variance_for_any_df(df, n):
    z, w = StudentT(df).nodes(n)
    assert (w > 0).all()
    assert float(w @ z**2) == pytest.approx(1, rel=1e-9)


def test_names():
    assert noise("gaussian") == Gaussian()
    assert noise("student_t") == noise("student-t") == StudentT(df=5.0)
    assert noise("exponential") == ShiftedExponential()
    law = TwoPoint(skewness=1.0)
    assert noise(law) is law


def test_errors_say_the_rule_the_value_and_the_remedy():
    with pytest.raises(ValueError, match=r"`noise` must be one of .*; got 'gausian'. Did you mean 'gaussian'\?"):
        noise("gausian")
    with pytest.raises(ValueError, match=r"`df` must be finite and above 2, so that the variance exists; got 2.0"):
        StudentT(df=2.0)
    with pytest.raises(ValueError, match=r"`skewness` must be finite; got inf"):
        TwoPoint(skewness=math.inf)
    for law in LAWS:
        with pytest.raises(ValueError, match=r"`n` must be a whole number >= 2; got 1"):
            law.nodes(1)


def test_a_users_law_needs_no_nodes():
    class Cube(Noise):
        third, fourth = 0.0, 10395 / 225

        def map(self, xi):
            return xi**3 / math.sqrt(15)

    with pytest.raises(NotDeclared, match="Cube does not declare `nodes`"):
        Cube().nodes(4)
    assert noise(Cube()).fourth == pytest.approx(46.2)
