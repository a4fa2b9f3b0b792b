"""The SDEs: the rule's invariance, the chain's one-step moments, the moments of the 1-D test. No Monte Carlo."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy.integrate import quad, solve_ivp

from sdeadapt.methods import SGD, Adam, RMSprop
from sdeadapt.oracles.analytic import Quadratic
from sdeadapt.oracles.base import NotDeclared

F64 = torch.float64
HESSIAN = [[1.0, 0.4], [0.4, 2.0]]
COVARIANCE = [[2.0, -0.7], [-0.7, 0.5]]  # does not commute with the Hessian


def oracle(scale):
    return Quadratic(HESSIAN, COVARIANCE, scale=scale)


def point(method, theta=(1.0, -2.0), m=(0.3, 0.4), u=(1.5, 0.2)):
    values = {"theta": theta, "m": m, "u": u}
    return method.Point(*(torch.tensor([values[f]], dtype=F64) for f in method.Point._fields))


def coefficients(sde, t, x):
    """Drift and diffusion matrix of every field, one after another; None is zero."""
    drift, _ = sde.at(t, x)
    eye = torch.eye(sde.noise_dim, dtype=F64)
    _, diffuse = sde.at(t, type(x)(*(f.expand(sde.noise_dim, -1) for f in x)))
    zero = torch.zeros_like(eye @ torch.zeros(sde.noise_dim, x.theta.shape[1], dtype=F64))
    matrix = torch.cat([zero if f is None else f for f in diffuse(eye)], 1).T
    return torch.cat(tuple(drift), 1)[0], matrix


def gap(a, b):
    """The largest difference in drift or diffusion, relative to the largest entry of that field's block."""
    worst = 0.0
    for left, right in zip(a, b, strict=True):
        blocks = zip(left.split(2), right.split(2), strict=True)
        worst = max(worst, *(float((p - q).abs().max() / q.abs().max().clamp_min(1e-300)) for p, q in blocks))
    return worst


def rescaling_gap(rule, method, sigma, kappa, t, x):
    ours = coefficients(rule(method, kappa).sde(oracle(sigma).rescaled(kappa)), t, x)
    return gap(ours, coefficients(method.sde(oracle(sigma)), t, x))


positive = st.floats(0.05, 5.0)
pairs = st.tuples(st.floats(-3.0, 3.0), st.floats(-3.0, 3.0))


@settings(max_examples=60, deadline=None)
@given(
    lr=st.floats(1e-3, 1.0),
    weights=st.tuples(st.floats(1e-5, 0.5), st.floats(1e-5, 0.5)),
    eps=st.floats(0.0, 1.0),
    sigma=st.floats(0.1, 100.0),
    fraction=st.floats(1e-4, 0.99),
    t=st.floats(1e-3, 10.0),
    theta=pairs,
    m=pairs,
    u=st.tuples(positive, positive),
    corrected=st.booleans(),
)
def test_the_rule_leaves_the_sde_as_it_is(lr, weights, eps, sigma, fraction, t, theta, m, u, corrected):
    kappa = fraction / max(weights)
    betas = [1 - w for w in weights]
    warm_up = {"schedule": lambda t: 1 - math.exp(-t)}
    for method in (
        SGD(lr, **warm_up),
        RMSprop(lr, betas[0], eps, **warm_up),
        Adam(lr, *betas, eps, bias_correction=corrected, **warm_up),
    ):
        x = point(method, theta, m, u)
        drift, _ = coefficients(method.sde(oracle(sigma)), t, x)
        assume(all(float(block.abs().max()) > 1e-9 for block in drift.split(2)))  # a relative gap needs a size
        assert rescaling_gap(lambda method, kappa: method.rescaled(kappa), method, sigma, kappa, t, x) < 1e-12


WRONG = {
    "eps kept": lambda method, kappa: replace(method.rescaled(kappa), eps=method.eps),
    "beta kept": lambda method, kappa: replace(
        method.rescaled(kappa), **{name: getattr(method, name) for name in vars(method) if name.startswith("beta")}
    ),
    "lr times kappa": lambda method, kappa: replace(method.rescaled(kappa), lr=method.lr * kappa),
    "lr kept": lambda method, kappa: replace(method.rescaled(kappa), lr=method.lr),
}


@pytest.mark.parametrize("wrong", WRONG)
@pytest.mark.parametrize("method", [RMSprop(0.1, 0.9, 0.5), Adam(0.1, 0.8, 0.9, 0.5)])
def test_a_wrong_rule_changes_the_sde(method, wrong):
    assert rescaling_gap(WRONG[wrong], method, 10.0, 4.0, 0.3, point(method)) > 0.05
    assert rescaling_gap(lambda m, kappa: m.rescaled(kappa), method, 10.0, 4.0, 0.3, point(method)) < 1e-12


def test_the_square_root_rule_is_wrong_for_sgd():
    method = SGD(0.1)
    assert rescaling_gap(lambda m, kappa: SGD(m.lr * math.sqrt(kappa)), method, 3.0, 4.0, 0.3, point(method)) > 0.05


CASES = {
    "sgd": SGD(1 / 16),
    "sgd-schedule": SGD(1 / 16, schedule=lambda t: 0.2 + t),
    "rmsprop": RMSprop(0.25, 0.9, 0.1),
    "rmsprop-old": RMSprop(0.25, 0.9, 0.1, denominator="old"),
    "rmsprop-schedule": RMSprop(0.25, 0.9, 0.1, schedule=lambda t: 0.2 + t),
    "adam": Adam(0.25, 0.8, 0.9, 0.1),
    "adam-old": Adam(0.25, 0.8, 0.9, 0.1, denominator="old"),
    "adam-plain": Adam(0.25, 0.8, 0.9, 0.1, bias_correction=False),
    "adam-schedule": Adam(0.25, 0.8, 0.9, 0.1, schedule=lambda t: 0.2 + t),
}


def one_step(method, problem, k, x):
    """Mean, covariance and covariance with the coupled noise of one iteration from x, per unit of SDE time, exactly."""
    draws, weights = problem.rule(12)
    rows = type(x)(*(field.expand(len(weights), -1) for field in x))
    g = problem.sample(problem.at(rows.theta), draws)
    after = method.to_point(method.step(method.from_point(rows, problem.scale), g, k), problem.scale)
    delta, h = torch.cat(tuple(after), 1) - torch.cat(tuple(rows), 1), method.time_step
    weighted = weights[:, None] * delta
    return weighted.sum(0) / h, weighted.T @ delta / h, weighted.T @ draws / math.sqrt(h)


def one_step_errors(method, sde, sigma, t=0.5):
    """Relative differences of one iteration from the SDE at h = 2^-8, 2^-10, 2^-12, where the chain is at time t."""
    x, errors = point(method), []
    drift, matrix = coefficients(sde, t, x)
    for j in (8, 10, 12):
        kappa = 2.0**-j / method.time_step
        chain, problem = method.rescaled(kappa), oracle(sigma).rescaled(kappa)
        mean, covariance, with_noise = one_step(chain, problem, round(t * 2**j), x)
        pairs = ((mean, drift), (covariance, matrix @ matrix.T), (with_noise, matrix))
        errors.append([float((a - b).abs().max() / b.abs().max()) for a, b in pairs])
    return np.array(errors)


@pytest.mark.parametrize("name", CASES)
def test_one_iteration_has_the_sdes_moments_up_to_order_h(name):
    method = CASES[name]
    errors = one_step_errors(method, method.sde(oracle(4.0)), 4.0)
    assert errors[-1].max() < 0.01
    ratios = errors[:-1] / errors[1:]
    assert ((ratios > 3.6) & (ratios < 4.4) | (errors[1:] < 1e-11)).all(), (errors, ratios)


@pytest.mark.parametrize("name", CASES)
def test_one_iteration_sees_a_wrong_sde(name):
    method = CASES[name]
    right = method.sde(oracle(4.0))

    def off(factor, power):
        def at(t, x):
            drift, diffuse = right.at(t, x)
            drift = type(x)(*(f * factor for f in drift))
            return drift, lambda dw: type(x)(*(None if f is None else f * power for f in diffuse(dw)))

        return replace(right, at=at)

    assert one_step_errors(method, off(1.05, 1.0), 4.0)[-1, 0] > 0.03  # drift
    assert one_step_errors(method, off(1.0, 1.05), 4.0)[-1, 1] > 0.03  # diffusion
    assert one_step_errors(method, off(1.0, -1.0), 4.0)[-1, 2] > 1.0  # sign of the noise, which couples with the chain


# The standard 1-D test: f = theta^2 / 2, Sigma = 1; u is deterministic, theta and m are linear Gaussian.

H, SIGMA0, EPS0, C1, C2 = 1 / 64, 1.0, 0.1, 2.0, 1.0


def one_dimensional(method_class):
    lr = math.sqrt(H)
    betas = {"beta": 1 - C2 * H} if method_class is RMSprop else {"beta1": 1 - C1 * H, "beta2": 1 - C2 * H}
    method = method_class(lr=lr, eps=EPS0 / lr, **betas)
    return method, method.sde(Quadratic([[1.0]], [[1.0]], scale=SIGMA0 / lr))


def moment_rates(sde, t, mean, second, u):
    """Rates of E y and E y yT for y = (theta[, m]), from the SDE's coefficients at deterministic u."""
    n = len(mean)

    def drift(*y):
        x = sde.point(*(torch.tensor([[float(v)]], dtype=F64) for v in (*y, u)))
        b, diffuse = sde.at(t, x)
        kick = [0.0 if f is None else float(f) for f in diffuse(torch.ones(1, 1, dtype=F64))]
        return np.array([float(f) for f in b[:n]]), np.array(kick[:n]), float(b[-1])

    matrix = np.stack([drift(*row)[0] for row in np.eye(n)], 1)
    _, kick, u_rate = drift(*np.zeros(n))
    return matrix @ mean, matrix @ second + second @ matrix.T + np.outer(kick, kick), u_rate


def integrate(sde, t0, t1, mean, second, u, steps=200):
    dt = (t1 - t0) / steps
    y = (np.array(mean, float), np.array(second, float), u)

    def shifted(slope, length):
        return tuple(a + length * b for a, b in zip(y, slope, strict=True))

    for i in range(steps):
        t = t0 + i * dt
        a = moment_rates(sde, t, *y)
        b = moment_rates(sde, t + dt / 2, *shifted(a, dt / 2))
        c = moment_rates(sde, t + dt / 2, *shifted(b, dt / 2))
        d = moment_rates(sde, t + dt, *shifted(c, dt))
        y = tuple(v + dt / 6 * (p + 2 * q + 2 * r + s) for v, p, q, r, s in zip(y, a, b, c, d, strict=True))
    return y


def test_rmsprop_moments_of_the_standard_test_have_their_closed_form():
    _, sde = one_dimensional(RMSprop)
    theta0, u0, end = 1.5, 2.0, 1.0
    mean, second, u = integrate(sde, 0.0, end, [theta0], [[theta0**2]], u0, steps=100)

    def rate(t):
        return 1 / (SIGMA0 * math.sqrt(1 + (u0 - 1) * math.exp(-C2 * t)) + EPS0)

    def decay(a, b):
        return math.exp(-quad(rate, a, b, epsabs=1e-13)[0])

    noise = quad(lambda s: (SIGMA0 * rate(s) * decay(s, end)) ** 2, 0, end, epsabs=1e-13)[0]
    assert u == pytest.approx(1 + (u0 - 1) * math.exp(-C2 * end), abs=1e-9)
    assert mean[0] == pytest.approx(theta0 * decay(0, end), abs=1e-9)
    assert second[0, 0] == pytest.approx((theta0 * decay(0, end)) ** 2 + noise, abs=1e-9)


def test_adam_moments_of_the_standard_test_solve_their_equations():
    _, sde = one_dimensional(Adam)
    start, end, mean0, u0 = 0.5, 1.5, [1.0, 0.3], 0.9
    second0 = np.outer(mean0, mean0)
    mean, second, _ = integrate(sde, start, end, mean0, second0, u0, steps=100)

    def equations(t, y):
        theta, m, tt, tm, mm, u = y
        g1, g2 = 1 - math.exp(-C1 * t), 1 - math.exp(-C2 * t)
        a = math.sqrt(g2) / g1 / (SIGMA0 * math.sqrt(u) + EPS0 * math.sqrt(g2))
        return [
            -a * m,
            C1 * (theta - m),
            -2 * a * tm,
            -a * mm + C1 * (tt - tm),
            2 * C1 * (tm - mm) + SIGMA0**2 * C1**2,
            C2 * (1 - u),
        ]

    y0 = [*mean0, second0[0, 0], second0[0, 1], second0[1, 1], u0]
    expected = solve_ivp(equations, (start, end), y0, method="DOP853", rtol=1e-12, atol=1e-13).y[:, -1]
    assert [*mean, second[0, 0], second[0, 1], second[1, 1]] == pytest.approx(expected[:5], abs=1e-7)


@pytest.mark.parametrize("name", CASES)
def test_coefficients_can_be_differentiated_and_leave_their_inputs_alone(name):
    sde, x = CASES[name].sde(oracle(4.0)), point(CASES[name])
    dw = torch.tensor([[0.3, -0.8]], dtype=F64)
    before = [f.clone() for f in x]

    def flat(*fields):
        drift, diffuse = sde.at(0.5, type(x)(*fields))
        return torch.cat([f for f in (*drift, *diffuse(dw)) if f is not None], 1)

    directions = tuple(torch.cos(torch.arange(2.0, dtype=F64) + i)[None] for i in range(len(x)))
    _, slope = torch.func.jvp(flat, tuple(x), directions)
    e = 1e-6
    ahead, behind = (flat(*(f + s * d for f, d in zip(x, directions, strict=True))) for s in (e, -e))
    torch.testing.assert_close(slope, (ahead - behind) / (2 * e), rtol=1e-7, atol=1e-7)
    assert all(torch.equal(a, b) for a, b in zip(x, before, strict=True))


@pytest.mark.parametrize("method", [RMSprop(0.1, eps=0.5), Adam(0.1, eps=0.5)])
def test_u_is_clamped_inside_the_root_only(method):
    sde = method.sde(oracle(4.0))
    at_zero, below = (sde.at(0.5, point(method, u=(v, v)))[0] for v in (0.0, -0.25))
    assert torch.equal(at_zero.theta, below.theta)
    assert bool((below.u > at_zero.u).all())


def test_adams_sde_is_singular_at_zero_only_with_bias_correction():
    with pytest.raises(ValueError, match=r"`t` must be positive.*Start after 8 steps"):
        Adam(0.1).sde(oracle(4.0)).at(0.0, point(Adam(0.1)))
    plain = Adam(0.1, bias_correction=False)
    drift, _ = plain.sde(oracle(4.0)).at(0.0, point(plain))
    assert bool(drift.theta.isfinite().all())


@pytest.mark.parametrize("method", [SGD(0.1), RMSprop(0.1), Adam(0.1)])
def test_other_orders_are_not_declared(method):
    with pytest.raises(NotDeclared, match="has no SDE of order 3; pass one as `sde=`"):
        method.sde(oracle(4.0), order=3)
