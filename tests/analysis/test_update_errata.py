"""Zhang and Ziyin's formulas: each misprint fails where its correction holds. docs/update_distribution.md lists them.

The sources of truth are brute force, quadrature, and `scipy.stats`.
"""

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from scipy import integrate, special, stats

from sdeadapt.analysis.updates import mean_abs, update_law, var_abs

GAMMA = special.gamma
CLOSE = {"rel": 1e-9, "abs": 1e-9}


def quad(f, a, b):
    return integrate.quad(f, a, b, limit=400)[0]


def draws(m, n=400_000, seed=0):
    """Return (m, n) normals."""
    return np.random.default_rng(seed).standard_normal((m, n))


def test_equations_3_and_4_are_not_adam():
    """Printed: normalise, then average (LaProp). Adam averages, then normalises; they agree at mu = 0 only."""
    g = torch.tensor(draws(12, 5))
    beta = 0.9
    for mu, same in ((0.0, True), (0.9, False)):
        theta = torch.zeros(5, dtype=torch.float64, requires_grad=True)
        optimizer = torch.optim.Adam([theta], lr=0.1, betas=(mu, beta), eps=0)
        n = m = printed = torch.zeros(5, dtype=torch.float64)
        for t, gradient in enumerate(g, 1):
            theta.grad = gradient
            optimizer.step()
            n = beta * n + (1 - beta) * gradient**2
            m = mu * m + (1 - mu) * gradient / (n / (1 - beta**t)).sqrt()
            printed = printed - 0.1 * m / (1 - mu**t)
        assert (float((printed - theta.detach()).abs().max()) < 1e-12) is same


def test_equation_7_has_the_wrong_power():
    """Density of F(1, m - 1): (m - 1)^((m - 1)/2), printed (m - 1)^(m - 1/2)."""
    m, z = 6, 1.7
    rest = GAMMA(m / 2) / (GAMMA(0.5) * GAMMA((m - 1) / 2)) * z**-0.5 / (m - 1 + z) ** (m / 2)
    truth = stats.f(1, m - 1).pdf(z)
    assert (m - 1) ** ((m - 1) / 2) * rest == pytest.approx(truth, **CLOSE)
    assert (m - 1) ** (m - 0.5) * rest > 100 * truth


def test_the_variance_of_f():
    """2 (m - 1)²(m - 2)/((m - 3)²(m - 5)) for m > 5, printed with (m - 2)²(m - 4)."""
    for m in (7, 8, 20):
        top, truth = 2 * (m - 1) ** 2 * (m - 2), stats.f(1, m - 1).var()
        assert top / ((m - 3) ** 2 * (m - 5)) == pytest.approx(truth, **CLOSE)
        assert top / ((m - 2) ** 2 * (m - 4)) < 0.9 * truth
    m = 8
    assert 2 * (m - 1) ** 2 * (m - 2) / ((m - 2) ** 2 * (m - 4)) == pytest.approx(4.08, abs=0.005)
    assert stats.f(1, 7).var() == pytest.approx(7.84)
    assert math.isinf(stats.f(1, 4).var())  # m = 5, where the printed form is finite


@pytest.mark.parametrize("beta", [0.5, 0.9])
def test_equations_8_to_11_are_off_by_one(beta):
    """An average of m terms has m, not m - 1, in every power; the limit beta -> 1 (printed: infinity) is 1/m."""
    m = 7
    w = (1 - beta) * beta ** np.arange(m)
    assert 1 - beta**m == pytest.approx(w.sum(), **CLOSE)
    assert 1 - beta ** (m - 1) < 0.99 * w.sum() or beta < 0.6
    assert abs(1 - beta ** (m - 1) - w.sum()) > 1e-3

    def variance(k):
        return (1 - beta) / (1 + beta) * (1 + beta**k) / (1 - beta**k)

    truth = (w**2).sum() / w.sum() ** 2
    assert variance(m) == pytest.approx(truth, **CLOSE)
    assert variance(m - 1) > truth + 1e-3
    powers = beta ** np.arange(m)  # the right side of (9) has m terms: it contradicts the left
    assert (powers**2).sum() / powers.sum() ** 2 == pytest.approx(truth, **CLOSE)
    beta = 1 - 1e-7
    assert variance(m) == pytest.approx(1 / m, rel=1e-5)


def test_the_variances_at_beta_9_and_99_and_equation_12():
    """1/19 at .9 (printed 1/21), 1/199 at .99 (right); hence m = (1 + beta)/(1 - beta), printed 2/(1 - beta)."""
    for beta, right, printed in ((0.9, 19, 21), (0.99, 199, 199)):
        w = (1 - beta) * beta ** np.arange(5000)
        assert (w**2).sum() == pytest.approx(1 / right, **CLOSE)
        assert math.isclose((w**2).sum(), 1 / printed, rel_tol=1e-9) is (right == printed)
        assert (1 + beta) / (1 - beta) == pytest.approx(right)
        assert 2 / (1 - beta) == pytest.approx(right + 1)


def test_the_unbiased_estimator_mixes_n_and_m():
    """U = Q/(n - 1) with Q a sum of m squares about a known mean: unbiased is Q/m, for every n."""
    m, n = 5, 9
    q = (draws(m) ** 2).sum(0)
    sem = q.std() / math.sqrt(q.size)
    assert abs(q.mean() / m - 1) < 4.5 * sem / m < 0.02
    assert abs(q.mean() / (n - 1) - 1) > 0.3
    assert abs(q.mean() / (m - 1) - 1) > 0.2  # nor with n = m


def test_equation_16():
    """At m = 1, G = X²/X² = 1, printed X²/|X|, which is neither 1 nor the sign; the sign is X_g."""
    (x,) = draws(1, 1000)
    assert (x**2 / x**2 == 1).all()
    assert np.abs(x**2 / np.abs(x) - np.sign(x)).max() > 1
    assert np.array_equal(x / np.sqrt(x**2), np.sign(x))


def test_equation_19_has_the_wrong_exponent():
    """The joint density of z and k has exp(-z/2k), printed exp(-z/k): its integral over z must be the Beta density."""
    m, k = 4, 0.3

    def integrated(power):
        factor = 1 / (2 ** (m / 2) * math.sqrt(math.pi) * GAMMA((m - 1) / 2)) / k**2 * ((1 - k) / k) ** ((m - 3) / 2)
        return quad(lambda z: factor * z ** ((m - 2) / 2) * math.exp(-power * z / k), 0, np.inf)

    truth = stats.beta(0.5, (m - 1) / 2).pdf(k)
    assert integrated(0.5) == pytest.approx(truth, **CLOSE)
    assert integrated(1.0) == pytest.approx(truth / 2 ** (m / 2), **CLOSE)


@pytest.mark.parametrize("m", [4, 6, 20])
def test_the_densities_of_k_and_g_have_no_mode_inside(m):
    """Printed: a mode at 1/(m - 2), m/(m - 2) for G. The density falls from infinity at 0."""
    k = np.linspace(1e-6, 1 - 1e-6, 1001)
    density = stats.beta(0.5, (m - 1) / 2).pdf(k)
    assert (np.diff(density) < 0).all()
    assert density[0] > 100 * stats.beta(0.5, (m - 1) / 2).pdf(1 / (m - 2))


def test_equation_27_integrates_to_2():
    """G at m = 2: 1/(2 pi sqrt((g/2)(1 - g/2))), printed without the 2; its mass is near 0 and 2, not 0 and 1."""

    def printed(g):
        return 1 / math.pi / math.sqrt(g / 2 * (1 - g / 2))

    assert quad(printed, 0, 1) + quad(printed, 1, 2) == pytest.approx(2, rel=1e-6)
    assert printed(0.4) / 2 == pytest.approx(stats.beta(0.5, 0.5).pdf(0.2) / 2, **CLOSE)
    a, b = draws(2)
    g = b**2 / ((a**2 + b**2) / 2)
    near = [((g > low) & (g < low + 0.1)).mean() for low in (0, 0.95, 1.9)]
    assert min(near[0], near[2]) > 3 * near[1]


def test_the_support_of_equation_28():
    """X_k = sqrt(K) <= 1, printed [-sqrt m, sqrt m], where the printed density is not even real."""
    m = 5
    x = draws(m)
    assert np.abs(x[-1] / np.sqrt((x**2).sum(0))).max() <= 1
    c = GAMMA(m / 2) / (GAMMA((m - 1) / 2) * GAMMA(0.5))
    assert quad(lambda y: c * (1 - y * y) ** ((m - 3) / 2), -1, 1) == pytest.approx(1, **CLOSE)
    wide = quad(lambda y: c * (1 - y * y) ** ((m - 3) / 2), -math.sqrt(m), math.sqrt(m))  # m = 5: a polynomial
    assert abs(wide - 1) > 0.5


def test_equations_32_and_33_are_of_the_other_normalisation():
    """c = m - 1 in place of m: their variances are 1/2 and 2/3, against Corollary 1's 1 and Equation 30."""

    def printed_2(x):
        return 1 / (math.pi * math.sqrt(1 - x * x))

    assert 2 * quad(lambda x: x * x * printed_2(x), 0, 1) == pytest.approx(1 / 2, rel=1e-6)
    assert quad(lambda x: x * x / (2 * math.sqrt(2)), -math.sqrt(2), math.sqrt(2)) == pytest.approx(2 / 3, **CLOSE)
    for m, variance in ((2, 1 / 2), (3, 2 / 3)):
        x = draws(m)
        ours, theirs = (x[-1] / np.sqrt((x**2).sum(0) / c) for c in (m, m - 1))
        assert abs((ours**2).mean() - 1) < 0.01
        assert abs((theirs**2).mean() - variance) < 0.01
    assert update_law(2).pdf(0.3) == pytest.approx(1 / (math.pi * math.sqrt(2 - 0.09)), **CLOSE)
    assert update_law(2).pdf(0.3) < 0.75 * printed_2(0.3)
    assert update_law(3).pdf(0.3) == pytest.approx(1 / (2 * math.sqrt(3)), **CLOSE)


def test_theorem_1_divides_by_t():
    """c_n = t makes n_t/c_n a mean; with the printed 1/t the update shrinks as 1/t."""
    t = 6
    x = draws(t)
    squares = (x**2).sum(0)
    assert abs(((x[-1] / np.sqrt(squares / t)) ** 2).mean() - 1) < 0.01
    assert ((x[-1] / np.sqrt(squares * t)) ** 2).mean() == pytest.approx(1 / t**2, rel=0.01)


def test_the_variance_of_the_size_in_the_text():
    """ "|X_g| has variance (m - 1)/m" contradicts Corollary 2: that is Var X_g where c = m - 1."""
    for m in (2, 5, 20):
        x = draws(m)
        root = np.sqrt((x**2).sum(0))
        size, other = np.abs(x[-1] / root * math.sqrt(m)), x[-1] / root * math.sqrt(m - 1)
        assert abs(size.var() - var_abs(m)) < 0.005
        assert abs(size.var() - (m - 1) / m) > 0.2
        assert abs(other.var() - (m - 1) / m) < 0.01


def test_corollaries_1_and_2_are_right_as_printed():
    """Var 1; 1 - 4 m Gamma(m/2)²/((m - 1)² pi Gamma((m - 1)/2)²), increasing, to the finite 1 - 2/pi."""

    def printed(m):
        return 1 - 4 * m * GAMMA(m / 2) ** 2 / ((m - 1) ** 2 * math.pi * GAMMA((m - 1) / 2) ** 2)

    steps = [2, 3, 4, 5, 10, 20, 100]
    for m in steps:
        law = update_law(m)
        root = law.support()[1]  # x = sqrt(m) sin(phi)
        size = 2 * quad(
            lambda p, r=root, f=law.pdf: r * math.sin(p) * f(r * math.sin(p)) * r * math.cos(p), 0, math.pi / 2
        )
        assert size == pytest.approx(mean_abs(m), **CLOSE)
        assert printed(m) == pytest.approx(1 - size**2, **CLOSE)
        assert printed(m) == pytest.approx(var_abs(m), rel=1e-12)
        assert law.var() == 1
    assert all(printed(a) < printed(b) < 1 - 2 / math.pi for a, b in pairwise(steps))
    assert abs(np.abs(draws(2)[-1] / np.sqrt((draws(2) ** 2).mean(0))).var() - printed(2)) < 0.002


def test_the_inequality_34_and_the_trend():
    """Var T > 1 > Var|X_g| stands with Corollary 2's variance, and only that one grows with m."""
    for m in (3, 5, 50):
        assert stats.t(m).var() > 1 > var_abs(m)
    assert stats.t(5).var() > stats.t(50).var()
    assert var_abs(5) < var_abs(50)
