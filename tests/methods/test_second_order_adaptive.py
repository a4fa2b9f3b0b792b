"""SDEs of order 2 of RMSprop and Adam: first and second moments of one iteration, up to O(h^3). No Monte Carlo."""

import math
from dataclasses import replace
from functools import cached_property

import pytest
import torch
from torch.func import jacfwd

from sdeadapt.methods import Adam, RMSprop
from sdeadapt.methods.averages import averages, with_averages
from sdeadapt.oracles import Amplified, FromFunctions, Quadratic
from sdeadapt.oracles.analytic import MultiplicativeNoise
from sdeadapt.oracles.base import Local, NotDeclared
from sdeadapt.oracles.noise import StudentT, TwoPoint

F64 = torch.float64
START = {"theta": [0.7, -0.4], "m": [0.5, 0.9], "u": [1.3, 0.6]}
T = 0.5


class Bent(Quadratic):
    """f' = theta + sin(2 theta)/2 where dim = 1; coupled coordinates where dim = 2. Sigma is constant and diagonal."""

    def __init__(self, dim, scale, noise="gaussian"):
        weights = torch.tensor([[1.0, 0.4], [0.4, 2.0]], dtype=F64)[:dim, :dim]
        super().__init__(weights, torch.tensor([0.8, 1.5], dtype=F64)[:dim], scale, noise)
        self._set(axis=torch.tensor([2.0, 1.0], dtype=F64)[:dim])

    def at(self, theta):
        return LocalBent(self, theta)


class LocalBent(Local):
    @cached_property
    def gradient(self):
        w = self.oracle.axis
        return self.theta @ self.oracle.curvature + torch.sin(self.theta @ w)[:, None] * w / 4

    @cached_property
    def covariance_diagonal(self):
        return self.oracle.covariance.diagonal().expand_as(self.theta)

    def diffuse(self, xi):
        return xi @ self.oracle.root.T

    def hessian_product(self, v):
        w = self.oracle.axis
        return v @ self.oracle.curvature + torch.cos(self.theta @ w)[:, None] * (v @ w)[:, None] * w / 4

    def third_contraction(self, weights):
        w = self.oracle.axis
        return -torch.sin(self.theta @ w)[:, None] * (weights @ w.square())[:, None] * w / 4


def start(method, dim):
    return torch.tensor([START[name][:dim] for name in method.Point._fields], dtype=F64).flatten()


def as_point(method, rows, dim):
    return method.Point(*rows.split(dim, -1))


def joined(fields, like):
    return torch.cat([torch.zeros_like(like) if f is None else f for f in fields], -1)


def one_step(method, oracle, x):
    """Moments of orders 1 to 3 of one iteration's increments from x at time T, exactly, by the law's own nodes."""
    z, weights = oracle.noise.nodes(8)
    grid = torch.cartesian_prod(*[torch.arange(len(z))] * oracle.dim).reshape(-1, oracle.dim)
    z, weights = z[grid], weights[grid].prod(-1)
    point = as_point(method, x.expand(len(z), -1), oracle.dim)
    local = oracle.at(point.theta)
    g = local.gradient + oracle.scale * local.diffuse(z)
    state = method.step(method.from_point(point, oracle.scale), g, round(T / method.time_step))
    delta = torch.cat(tuple(method.to_point(state, oracle.scale)), -1) - x
    second = torch.einsum("n,ni,nj->ij", weights, delta, delta)
    return weights @ delta, second, torch.einsum("n,ni,nj,nk->ijk", weights, delta, delta, delta)


def sde_step(sde, method, x, dim):
    """The same of the SDE up to O(h^3), from its coefficients b and a = M M^T and their derivatives."""

    def coefficients(t, x):
        rows = x.expand(sde.noise_dim, -1)
        drift, diffuse = sde.at(t, as_point(method, rows, dim))
        columns = joined(diffuse(torch.eye(sde.noise_dim, dtype=F64)), rows[:, :dim])
        return torch.cat([joined(drift, rows[:, :dim])[:1], columns.T @ columns])  # b, then the rows of a

    slope = jacfwd(lambda y: coefficients(T, y))
    now, first, h, e = coefficients(T, x), slope(x), method.time_step, 1e-4
    rate = (coefficients(T + e, x) - coefficients(T - e, x)) / (2 * e)  # t is a number
    b, a, b_x, a_x = now[0], now[1:], first[0], first[1:]
    generator = rate + first @ b + (jacfwd(slope)(x) * a).sum((-2, -1)) / 2
    lb, la = generator[0], generator[1:]
    cross = b_x @ a
    second = h * a + h**2 / 2 * (2 * torch.outer(b, b) + cross + cross.T + la)
    third = torch.einsum("ij,k->ijk", 2 * a, b) + torch.einsum("il,jkl->ijk", a, a_x)
    third = third + third.permute(1, 2, 0) + third.permute(2, 0, 1)
    return h * b + h**2 / 2 * lb, second, h**2 / 2 * third


def level(method, oracle, h):
    kappa = h / method.time_step
    return method.rescaled(kappa), oracle if method.ballistic else oracle.rescaled(kappa)


def order_two(method, oracle):
    return method.sde(oracle, order=2)


def differences(method, oracle, recipe=order_two, hs=(2**-10, 2**-11)):
    """Chain less SDE of every moment at both h: of order 1, 2 and 3, (2, ...) each."""
    found = []
    for h in hs:
        m, o = level(method, oracle, h)
        x = start(m, o.dim)
        pairs = zip(one_step(m, o, x), sde_step(recipe(m, o), m, x, o.dim), strict=True)
        found.append([chain - sde for chain, sde in pairs])
    return [torch.stack(of_order) for of_order in zip(*found, strict=True)]


def power(difference):
    """The power of h of each moment's difference, from h and h/2; infinite where there is none."""
    coarse, fine = difference.abs()
    return torch.where(fine > 1e-13, torch.log2(coarse / fine), math.inf)


def lowest_power(differences):
    """The smallest power of h in the first and second moments."""
    return min(float(power(d).min()) for d in differences[:2])


def method(name, scaling, **options):
    lr = 1 / 8 if scaling == "ballistic" else math.sqrt(1 / 8)
    eps = 0.1 if scaling == "ballistic" else 0.1 / lr
    betas = {"beta": 1 - 0.7 / 8} if name == "rmsprop" else {"beta1": 1 - 1.3 / 8, "beta2": 1 - 0.7 / 8}
    return {"rmsprop": RMSprop, "adam": Adam}[name](lr=lr, eps=eps, scaling=scaling, **betas, **options)


def sized(method, dim=1, noise="gaussian"):
    """Its problem, with sigma_0 = 1 where the noise follows h."""
    return Bent(dim, 0.8 if method.ballistic else 1 / method.lr, noise)


CASES = [
    ("rmsprop", "batch-equivalent", {"denominator": "old"}, "laplace"),
    ("rmsprop", "batch-equivalent", {"denominator": "new"}, "gaussian"),
    ("rmsprop", "ballistic", {"denominator": "old"}, "gaussian"),
    ("rmsprop", "ballistic", {"denominator": "new"}, TwoPoint(1.5)),
    ("adam", "batch-equivalent", {"denominator": "old"}, "gaussian"),
    ("adam", "batch-equivalent", {"denominator": "new"}, "laplace"),
    ("adam", "batch-equivalent", {"bias_correction": False}, "gaussian"),
    ("adam", "ballistic", {"denominator": "old"}, TwoPoint(1.5)),
    ("adam", "ballistic", {"denominator": "new"}, "gaussian"),
    ("adam", "ballistic", {"bias_correction": False}, "gaussian"),
    ("rmsprop", "batch-equivalent", {"schedule": lambda t: 0.4 + t**2}, "gaussian"),
    ("adam", "ballistic", {"schedule": lambda t: math.exp(-2 * t)}, "gaussian"),
]


@pytest.mark.parametrize(("name", "scaling", "options", "noise"), CASES)
def test_first_and_second_moments_of_one_iteration_agree_to_order_h_cubed(name, scaling, options, noise):
    m = method(name, scaling, **options)
    oracle = sized(m, dim=2, noise=noise)
    assert 2.9 < lowest_power(differences(m, oracle)) < 3.1


@pytest.mark.parametrize("scaling", ["batch-equivalent", "ballistic"])
@pytest.mark.parametrize("name", ["rmsprop", "adam"])
def test_those_of_the_equation_of_order_1_do_not(name, scaling):
    m = method(name, scaling)
    assert lowest_power(differences(m, sized(m), lambda m, o: m.sde(o))) < 2.1


# What is wrong with an equation shows as a moment whose difference is of order h^2. A change takes and returns the
# drift and the noise of the right equation.


def changed(change):
    def recipe(m, o):
        right = m.sde(o, order=2)
        return replace(right, at=lambda t, x: change(m, o, t, x, *right.at(t, x)))

    return recipe


def doubled_correction(m, o, t, x, drift, noise):
    first, _ = m.sde(o).at(t, x)
    return drift._replace(theta=2 * drift.theta - first.theta), noise


def covariance_sign(m, o, t, x, drift, noise):
    def diffuse(dw):
        flipped = torch.cat([-dw[:, : o.dim], dw[:, o.dim :]], 1)
        return noise(dw)._replace(u=noise(flipped).u)

    return drift, diffuse


def no_own_fluctuation(m, o, t, x, drift, noise):
    return drift, lambda dw: noise(torch.cat([dw[:, : o.dim], 0 * dw[:, o.dim :]], 1))


def no_half_step(m, o, t, x, drift, noise):
    return m.sde(o, order=2).at(t + m.time_step / 2, x)


def other_denominator(m, o, t, x, drift, noise):
    return with_averages(m, averages(m), 1.0, denominator="old").sde(o, order=2).at(t, x)


def gaussian_law(m, o, t, x, drift, noise):
    return m.sde(Bent(o.dim, o.scale), order=2).at(t, x)


def preconditioner(m, x, scale):
    """The rate c of the average of squares, and D without bias correction."""
    c = (m.one_minus_beta if isinstance(m, RMSprop) else m.one_minus_beta2) / m.time_step
    return c, m.lr / m.time_step / (scale * x.u.sqrt() + m.eps)


# The next three are in the public code of arXiv 2509.21614.


def hessian_times_c(m, o, t, x, drift, noise):  # c D H M / 2 for D H M / 2
    (c, d), local, h = preconditioner(m, x, o.scale), o.at(x.theta), m.time_step

    def diffuse(dw):
        kick = noise(dw)
        leading = -math.sqrt(h) * d * o.scale * local.diffuse(dw[:, : o.dim])
        return kick._replace(theta=kick.theta + (c - 1) * h / 2 * d * local.hessian_product(leading))

    return drift, diffuse


def third_derivative(m, o, t, x, drift, noise):  # -D^3 s^2 f''' for D^3 s^2 f''' / 4
    (_, d), local, h = preconditioner(m, x, o.scale), o.at(x.theta), m.time_step
    cubed = h * o.scale**2 * local.covariance_diagonal * d**3 * local.third_contraction(torch.ones_like(x.theta))
    return drift._replace(theta=drift.theta - 1.25 * h * cubed), noise


def gradient_for_m(m, o, t, x, drift, noise):  # f' D f' f'' for m D f' f'' in Adam's u
    (c, d), local = preconditioner(m, x, o.scale), o.at(x.theta)
    wrong = c * local.gradient * local.hessian_product(d * (local.gradient - x.m)) / o.scale**2
    return drift._replace(u=drift.u + m.time_step * wrong), noise


BATCH, BALLISTIC, PLAIN = "batch-equivalent", "ballistic", {"bias_correction": False}
WRONG = [
    (doubled_correction, "rmsprop", BATCH, {}, "gaussian", ["theta"]),
    (doubled_correction, "adam", BALLISTIC, {}, "gaussian", ["theta"]),
    (covariance_sign, "rmsprop", BALLISTIC, {}, "gaussian", ["theta", "u"]),
    (covariance_sign, "adam", BATCH, {}, "gaussian", ["m", "u"]),
    (no_own_fluctuation, "rmsprop", BALLISTIC, {}, "gaussian", ["u", "u"]),
    (no_half_step, "adam", BATCH, {}, "gaussian", ["theta"]),
    (other_denominator, "rmsprop", BATCH, {}, "gaussian", ["theta"]),
    (gaussian_law, "rmsprop", BATCH, {}, "laplace", ["u", "u"]),
    (gaussian_law, "rmsprop", BALLISTIC, {}, TwoPoint(1.5), ["theta", "u"]),
    (hessian_times_c, "rmsprop", BATCH, {}, "gaussian", ["theta", "theta"]),
    (third_derivative, "rmsprop", BATCH, {}, "gaussian", ["theta"]),
    (gradient_for_m, "adam", BALLISTIC, PLAIN, "gaussian", ["u"]),
]
ALONE = (doubled_correction, covariance_sign, no_own_fluctuation, hessian_times_c, third_derivative, gradient_for_m)


@pytest.mark.parametrize(("change", "name", "scaling", "options", "noise", "where"), WRONG)
def test_a_wrong_term_shows_in_its_moment_at_order_h_squared(change, name, scaling, options, noise, where):
    m = method(name, scaling, **options)
    found = differences(m, sized(m, noise=noise), changed(change))
    place = tuple(m.Point._fields.index(field) for field in where)
    powers = [power(d) for d in found[:2]]
    assert float(powers[len(where) - 1][place]) < 2.1
    if change in ALONE:  # and nowhere else
        powers[len(where) - 1][place] = powers[len(where) - 1][place[::-1]] = 3
        assert min(float(p.min()) for p in powers) > 2.9


@pytest.mark.parametrize("denominator", ["old", "new"])
@pytest.mark.parametrize(("name", "noise"), [("rmsprop", "gaussian"), ("rmsprop", "laplace"), ("adam", "laplace")])
def test_third_moments_differ_at_order_h_squared_where_noise_dominates(name, noise, denominator):
    """By (E z^4 − 1) c M^2 s^2 for the noise M of theta or m, twice, and u. At fixed noise they agree."""
    m = method(name, BATCH, denominator=denominator)
    oracle = sized(m, noise=noise)
    fine, noisy = level(m, oracle, 2**-11)
    c, d = preconditioner(fine, as_point(fine, start(fine, 1)[None], 1), noisy.scale)
    field, size = (0, float(d)) if name == "rmsprop" else (1, fine.one_minus_beta1 / fine.time_step)
    expected = (oracle.noise.fourth - 1) * c * 0.8 * (size * noisy.scale * fine.lr) ** 2 * 0.8 * fine.time_step**2
    third = differences(m, oracle)[2]
    assert float(third[1, field, field, -1]) == pytest.approx(expected, rel=0.01)
    ballistic = method(name, BALLISTIC, denominator=denominator)
    assert float(power(differences(ballistic, sized(ballistic, noise=noise))[2]).min()) > 2.9


@pytest.mark.parametrize(("noise", "fourth"), [("gaussian", 3), ("laplace", 6)])
def test_the_fourth_moment_of_theta_is_the_diffusions_for_gaussian_noise_only(noise, fourth):
    """Of one iteration it is E z^4 M^4, of a diffusion 3 M^4, both of order h^2 where noise dominates."""
    m = method("rmsprop", BATCH)
    m, oracle = level(m, sized(m, noise=noise), 2**-11)
    z, weights = oracle.noise.nodes(8)
    x = as_point(m, start(m, 1).expand(len(z), -1), 1)
    local = oracle.at(x.theta)
    g = local.gradient + oracle.scale * local.diffuse(z[:, None])
    delta = (m.step(m.from_point(x, oracle.scale), g, 0).theta - x.theta)[:, 0]
    _, diffuse = m.sde(oracle, order=2).at(T, as_point(m, start(m, 1)[None], 1))
    kick = diffuse(torch.tensor([[math.sqrt(m.time_step), 0.0]], dtype=F64)).theta
    assert float(weights @ delta**4 / kick**4) == pytest.approx(fourth, rel=0.01)


@pytest.mark.parametrize("scaling", [BATCH, BALLISTIC])
@pytest.mark.parametrize(("name", "field"), [("rmsprop", "theta"), ("adam", "m")])
def test_the_first_brownian_columns_are_the_chains_noise_with_its_sign(name, field, scaling):
    m = method(name, scaling)
    m, oracle = level(m, sized(m, dim=2), 2**-14)
    z = torch.tensor([[0.0, 0.0], [0.3, 0.0], [0.0, 0.3], [0.2, -0.4]], dtype=F64)
    x = as_point(m, start(m, 2).expand(len(z), -1), 2)
    local = oracle.at(x.theta)
    g = local.gradient + oracle.scale * local.diffuse(z)
    after = getattr(m.step(m.from_point(x, oracle.scale), g, round(T / m.time_step)), field)
    dw = torch.cat([math.sqrt(m.time_step) * z, torch.zeros_like(z)], 1)
    kick = getattr(m.sde(oracle, order=2).at(T, x)[1](dw), field)
    torch.testing.assert_close(after - after[:1], kick, rtol=0, atol=0.01 * float(kick.abs().max()))


def test_functions_give_the_same_equation_as_closed_forms():
    closed = Bent(2, 1.5, "laplace")
    functions = FromFunctions(
        lambda x: x @ closed.curvature @ x / 2 - torch.cos(closed.axis @ x) / 4,
        dim=2,
        covariance=closed.covariance,
        scale=1.5,
        noise="laplace",
    )
    m = method("rmsprop", BATCH)
    x = as_point(m, start(m, 2).expand(3, -1), 2)
    dw = torch.linspace(-1, 1, 12, dtype=F64).reshape(3, 4)
    ours, theirs = (m.sde(oracle, order=2).at(T, x) for oracle in (closed, functions))
    for a, b in zip((*ours[0], *ours[1](dw)), (*theirs[0], *theirs[1](dw)), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)


def test_coefficients_stay_finite_where_fluctuations_take_u_below_zero():
    m = method("rmsprop", BATCH)
    u = torch.tensor([[-0.5], [-0.01], [0.0], [0.01]], dtype=F64)
    drift, diffuse = m.sde(sized(m), order=2).at(T, m.Point(torch.ones_like(u), u))
    assert all(bool(f.isfinite().all()) for f in (*drift, *diffuse(torch.ones(4, 2, dtype=F64))))
    assert bool((drift.u > 0).all())


@pytest.mark.parametrize("noise", ["laplace", TwoPoint(1.5)])
def test_moments_of_amplified_noise(noise):
    oracle = Amplified(Bent(1, 0.7, noise), 5)
    draws, weights = oracle.rule(8)
    local = oracle.at(torch.zeros(1, 1, dtype=F64))
    z = (oracle.sample(local, draws) - local.gradient)[:, 0] / (oracle.scale * math.sqrt(0.8))
    assert oracle.noise_moments() == pytest.approx((float(weights @ z**3), float(weights @ z**4)), abs=1e-12)
    assert Amplified(oracle.oracle, 1).noise_moments() == oracle.oracle.noise_moments()


@pytest.mark.parametrize("name", ["rmsprop", "adam"])
@pytest.mark.parametrize(
    ("oracle", "message"),
    [
        (MultiplicativeNoise([1.0, 2.0]), r"constant Sigma only; that of MultiplicativeNoise varies. Use order=1"),
        (Quadratic([1.0, 2.0], [[1.0, 0.3], [0.3, 1.0]], scale=1.0), "diagonal Sigma with one noise component"),
        (Bent(1, 1.0, StudentT(3.5)), r"needs E z\^4; got noise with \(0.0, inf\)"),
        (Bent(1, 1.0, "exponential"), r"skewed noise in this scaling: E z\^3 = 2 gives third moments"),
    ],
)
def test_noise_without_an_equation_is_refused_with_the_reason(name, oracle, message):
    with pytest.raises(NotDeclared, match=message):
        method(name, BATCH).sde(oracle, order=2)


def test_adams_equation_needs_t_above_half_a_step_only_with_bias_correction():
    m, plain = method("adam", BALLISTIC), method("adam", BALLISTIC, **PLAIN)
    x = as_point(m, start(m, 1)[None], 1)
    with pytest.raises(ValueError, match=r"`t` must be above h / 2 = 0.0625.*Start after 8 steps"):
        m.sde(Bent(1, 1.0), order=2).at(0.05, x)
    assert bool(plain.sde(Bent(1, 1.0), order=2).at(0.0, x)[0].theta.isfinite().all())


@pytest.mark.parametrize(("scaling", "refine"), [(BATCH, "noise"), (BALLISTIC, "step")])
def test_the_family_of_the_claim_follows_the_scaling(scaling, refine):
    assert method("adam", scaling).second_order == method("rmsprop", scaling).second_order == refine
