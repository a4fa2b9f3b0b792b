"""The dissection of Adam: identities on methods' states, Lemma 1, one-step improvements, idealised SVAG."""

import math
import re
import runpy
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import integrate, optimize, stats
from scipy.special import erf

from sdeadapt.analysis.dissection import (
    adam_factor,
    diagonal_share,
    gradient_factor,
    gradient_improvement,
    idealised_svag_limit,
    relative_variance,
    sign_factor,
    sign_improvement,
    sign_success,
)
from sdeadapt.methods import Adam, MomentumVarianceAdapted, VarianceAdapted
from sdeadapt.oracles.base import NotDeclared
from sdeadapt.oracles.noise import Laplace, ShiftedExponential, StudentT

F64 = torch.float64
BETA = 0.9
DENSITIES = {
    "gaussian": stats.norm.pdf,
    Laplace(): stats.laplace(scale=math.sqrt(0.5)).pdf,
    StudentT(5.0): stats.t(5, scale=math.sqrt(0.6)).pdf,
    ShiftedExponential(): stats.expon(loc=-1).pdf,
}


def states(method, steps=60):
    """Every state of a run on noisy gradients, and the gradient that led to it."""
    generator = torch.Generator().manual_seed(0)
    state = method.init(torch.zeros(4, 3, dtype=F64))
    for k in range(steps):
        g = 0.3 + torch.randn(4, 3, dtype=F64, generator=generator)
        before, state = state, method.step(state, g, k)
        yield k + 1, before, state, g


@pytest.mark.parametrize(
    "method", [Adam(0.1, BETA, BETA), Adam(0.1), MomentumVarianceAdapted(0.1), VarianceAdapted(0.1)]
)
def test_adams_direction_is_a_sign_times_a_magnitude(method):
    for _, _, state, _ in states(method):
        eta = (1 + relative_variance(state.m, state.v)).sqrt()  # Adam's two betas may make the variance negative
        torch.testing.assert_close(state.m / state.v.sqrt(), state.m.sign() / eta, rtol=1e-12, atol=0)
        assert float((state.m / state.v.sqrt() - state.m.sign() / eta.square()).abs().max()) > 0.1


def test_a_step_of_adam_is_the_sign_times_the_factor():
    method = Adam(0.1, BETA, BETA, eps=0.0)
    for steps, before, state, _ in states(method):
        gone = 1 - BETA**steps
        eta = relative_variance(state.m / gone, state.v / gone).clamp_min(0).sqrt()
        expected = -0.1 * state.m.sign() * adam_factor(eta)
        torch.testing.assert_close(state.theta - before.theta, expected, rtol=1e-12, atol=1e-15)


def test_the_variance_is_an_average_of_squared_surprises():
    average = torch.zeros(4, 3, dtype=F64)
    for _, before, state, g in states(Adam(0.1, BETA, BETA, bias_correction=False)):
        average = BETA * average + (1 - BETA) * (before.m - g).square()
        torch.testing.assert_close(state.v - state.m.square(), BETA * average, rtol=1e-12, atol=1e-15)
        late = (state.v - state.m.square() - BETA * (state.m - g).square()).abs().max()
        assert float(late) > 1e-3


@pytest.mark.parametrize("law", DENSITIES, ids=str)
@pytest.mark.parametrize("eta", [0.3, 1.0, 3.0])
def test_lemma_1_by_minimisation(law, eta):
    density = DENSITIES[law]

    def risk(direction, target):
        def mean(gamma):
            pieces = [(-np.inf, -1 / eta), (-1 / eta, np.inf)]  # p = 1: the sign of 1 + eta z changes there
            if isinstance(law, ShiftedExponential):
                pieces = [(max(a, -1), b) for a, b in pieces if b > -1]
            return sum(
                integrate.quad(lambda z: (gamma * direction(1 + eta * z) - target) ** 2 * density(z), *ends)[0]
                for ends in pieces
            )

        return optimize.minimize_scalar(mean, bounds=(-0.5, 1.5), method="bounded", options={"xatol": 1e-10}).x

    x = torch.tensor([eta], dtype=F64)
    assert risk(lambda p: p, 1.0) == pytest.approx(float(gradient_factor(x)), abs=2e-7)
    assert risk(np.sign, 1.0) == pytest.approx(float(sign_factor(x, law)), abs=2e-7)
    assert abs(risk(np.sign, 1.0) - float(gradient_factor(x))) > 1e-3  # the other factor


def test_the_law_matters_to_a_sign():
    eta = torch.tensor([0.5, 1.0, 2.0], dtype=F64)
    torch.testing.assert_close(sign_factor(eta), torch.from_numpy(erf(1 / (math.sqrt(2) * eta.numpy()))))
    torch.testing.assert_close(sign_success(eta), (1 + sign_factor(eta)) / 2)
    assert float((sign_factor(eta, StudentT(5.0)) - sign_factor(eta)).abs().min()) > 0.002
    with pytest.raises(NotDeclared, match="does not declare `cdf`"):
        sign_success(eta, "two-point")


def test_limits_of_the_factors():
    ends = torch.tensor([0.0, math.inf], dtype=F64)
    for factor in (gradient_factor, adam_factor, sign_factor):
        assert factor(ends).tolist() == [1.0, 0.0]


def test_adams_factor_is_within_a_sixteenth_of_the_optimum():
    eta = torch.linspace(1e-3, 40, 400_000, dtype=F64)
    gap = sign_factor(eta) - adam_factor(eta)
    assert float(gap.min()) == pytest.approx(-0.06442, abs=1e-5)
    assert float(gap.max()) == pytest.approx(0.06183, abs=1e-5)
    assert float(eta[gap.argmin()]) == pytest.approx(1.913, abs=1e-3)
    assert float(eta[gap.argmax()]) == pytest.approx(0.455, abs=1e-3)


def problem(dim=6, paths=3):
    """Gradients, Hessians and the covariance of the noise of x in (theta - x)' H (theta - x) / 2."""
    generator = torch.Generator().manual_seed(0)
    basis = torch.linalg.qr(torch.randn(paths, dim, dim, dtype=F64, generator=generator))[0]
    curvatures = torch.linspace(0.2, 3.0, dim, dtype=F64)
    hessian = basis * curvatures @ basis.mT
    return torch.randn(paths, dim, dtype=F64, generator=generator), hessian, 0.7**2 * hessian @ hessian, curvatures


def gains(direction, gradient, hessian, step):
    """Decreases of the loss, (draws, paths), along draws of a direction."""
    slope = (direction * gradient).sum(-1)
    return step * slope - step**2 / 2 * torch.einsum("npi,pij,npj->np", direction, hessian, direction)


@pytest.mark.parametrize(
    ("improvement", "transform"), [(gradient_improvement, lambda g: g), (sign_improvement, torch.sign)]
)
def test_improvements_by_monte_carlo(improvement, transform):
    gradient, hessian, covariance, _ = problem()
    found, generator = improvement(gradient, hessian, covariance), torch.Generator().manual_seed(1)
    z = 0.7 * torch.einsum("pij,npj->npi", hessian, torch.randn(100_000, 3, 6, dtype=F64, generator=generator))
    direction = transform(gradient + z)
    gained = gains(direction, gradient, hessian, found.step)
    sem = gained.std(0) / len(gained) ** 0.5
    assert float(((gained.mean(0) - found.decrease) / sem).abs().max()) < 5  # three chances, 2e-6 of a false alarm
    for factor in (0.8, 1.25):  # a worse step, on the same draws: it must show
        less = gained - gains(direction, gradient, hessian, factor * found.step)
        assert float((less.mean(0) / (less.std(0) / len(less) ** 0.5)).min()) > 5
    noiseless = improvement(gradient, hessian, 0 * covariance)
    assert float(((gained.mean(0) - noiseless.decrease) / sem).abs().min()) > 5


def test_improvements_in_the_papers_form():
    gradient, hessian, covariance, curvatures = problem()
    square = gradient.square().sum(-1)
    noise = 0.7**2 * (curvatures**3).sum()
    bent = torch.einsum("pi,pij,pj->p", gradient, hessian, gradient)
    torch.testing.assert_close(
        gradient_improvement(gradient, hessian, covariance).decrease, square**2 / 2 / (bent + noise)
    )

    def right(h, sigma):  # the numerator of I_SSD, over twice the trace
        eta = sigma.diagonal(dim1=-2, dim2=-1).sqrt() / gradient.abs()
        return (sign_factor(eta) * gradient.abs()).sum(-1).square() / (2 * curvatures.sum())

    found = sign_improvement(gradient, hessian, covariance).decrease
    assert (found >= right(hessian, covariance) * diagonal_share(hessian)).all()
    diagonal = torch.diag(curvatures)
    found = sign_improvement(gradient, diagonal, 0.7**2 * diagonal @ diagonal).decrease  # one problem for all paths
    torch.testing.assert_close(found, right(diagonal, 0.7**2 * diagonal @ diagonal))
    assert float(diagonal_share(diagonal)) == 1


def test_signs_without_noise_are_certain():
    gradient, hessian, covariance, _ = problem()
    s = gradient.sign()
    bent = torch.einsum("pi,pij,pj->p", s, hessian, s)
    found = sign_improvement(gradient, hessian, 0 * covariance)
    torch.testing.assert_close(found.step, gradient.abs().sum(-1) / bent)
    torch.testing.assert_close(sign_improvement(gradient, hessian, 1e-8 * covariance).step, found.step)


def test_the_limit_of_idealised_svag_is_that_of_its_inverse_square():
    curvature, variance = torch.tensor([1.0, 0.4], dtype=F64), torch.tensor([2.0, 3.0], dtype=F64)
    a = 0.8 * curvature.numpy()
    law = stats.chi2(3 + 2 / a)
    square = [integrate.quad(lambda x, d=d: stats.chi2.pdf(x, d) / x, 0, np.inf)[0] for d in law.args[0]]
    expected = variance.numpy() / a**2 * square / (2 * curvature.numpy())
    np.testing.assert_allclose(idealised_svag_limit(curvature, variance, 0.8), expected, rtol=1e-7)
    with pytest.raises(ValueError, match=r"`lr` must be at most 1 / the largest curvature, 1; got 1\.5"):
        idealised_svag_limit(curvature, variance, 1.5)
    with pytest.raises(ValueError, match="`lr` must be finite and positive"):
        idealised_svag_limit(curvature, variance, 0.0)


def test_idealised_svag_reaches_its_limit():
    generator, steps, paths = torch.Generator().manual_seed(0), 600, 8000
    theta = torch.full((paths, 2), 5.0, dtype=F64)
    curvature, lr = torch.tensor([1.0, 0.5], dtype=F64), 0.8
    for _ in range(steps):
        p = curvature * theta
        eta = 1 / p.abs()
        theta = theta - lr * gradient_factor(eta) * (p + torch.randn(paths, 2, dtype=F64, generator=generator))
    scaled = steps * curvature / 2 * theta.square()
    limit = idealised_svag_limit(curvature, torch.ones_like(curvature), lr)
    mean, sem = scaled.mean(0), scaled.std(0) / paths**0.5
    assert (((mean - limit).abs() - 0.1 * limit) / sem < 4.5).all()  # steps are finite: 10 % are allowed
    without_noise = 1 / (4 * lr * curvature**2)  # of dp/dk = -a p^3: the noise of the step left out
    assert (((mean - without_noise).abs() - 0.1 * without_noise) / sem > 4.5).all()


def test_the_example_of_the_page(capsys):
    docs = Path(__file__).parents[2] / "docs"
    gains = runpy.run_path(str(docs / "examples" / "dissection.py"))["gains"]
    assert gains["axis-aligned"][0] == pytest.approx(gains["rotated"][0], rel=1e-9)  # a gradient sees no basis
    shown = re.search(r"prints\n\n((?:    .*\n)+)", (docs / "dissecting_adam.md").read_text("utf-8"))[1]
    assert shown.split() == capsys.readouterr().out.split()
