"""Momentum: torch's iteration, the batch rule of both scalings, and its SDEs by exact moments. No Monte Carlo."""

import math
import pickle
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from methods.linear_moments import chain_moments, errors, orders

from sdeadapt import SGD, Momentum, simulate
from sdeadapt.methods import method as by_name
from sdeadapt.methods.base import ItoSDE
from sdeadapt.oracles.analytic import Quadratic, Rippled
from sdeadapt.oracles.base import NotDeclared
from sdeadapt.verification.rules import learning_rate

F64 = torch.float64
MU = 1.3  # friction
LINEAR = Quadratic([[1.0, 0.4], [0.4, 2.0]], [[2.0, -0.7], [-0.7, 0.5]], scale=0.8)


def langevin(h=1 / 8, **options):
    return Momentum(h**2, 1 - MU * h, friction="langevin", **options)


def own(order):
    return lambda method, oracle: method.sde(oracle, order)


# -- iteration -------------------------------------------------------------------------------------------------------


def gap(a, b):
    return float((a - b).abs().max() / b.abs().max())


def run(method, theta, gs):
    state = method.init(theta)
    for k, g in enumerate(gs):
        state = method.step(state, g, k)
    return state


def run_torch(theta, gs, schedule=None, **options):
    """One optimizer and one parameter per path: its last theta and buffer."""
    ends = []
    for i, row in enumerate(theta):
        parameter = torch.nn.Parameter(row.clone())
        optimizer = torch.optim.SGD([parameter], **options)
        for k, g in enumerate(gs[:, i]):
            if schedule is not None:
                optimizer.param_groups[0]["lr"] = options["lr"] * schedule(k)
            parameter.grad = g.clone()
            optimizer.step()
        ends.append((parameter.detach(), optimizer.state[parameter]["momentum_buffer"]))
    return [torch.stack(part) for part in zip(*ends, strict=True)]


def normals(*shape, seed=0):
    return torch.randn(*shape, dtype=F64, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("nesterov", [False, True])
@pytest.mark.parametrize(("lr", "momentum"), [(0.01, 0.9), (1e-4, 0.999)])
def test_equals_torch_path_by_path_over_a_thousand_steps(lr, momentum, nesterov):
    theta, gs = normals(3, 2, seed=1), 0.3 + normals(1000, 3, 2)
    expected = run_torch(theta, gs, lr=lr, momentum=momentum, nesterov=nesterov)
    for friction in ("fixed-momentum", "langevin"):
        method = Momentum(lr, momentum, nesterov, friction)
        for ours, torchs in zip(run(method, theta, gs), expected, strict=True):
            assert gap(ours, torchs) < 1e-12
    for wrong in (replace(method, nesterov=not nesterov), replace(method, momentum=momentum + 1e-9)):
        assert gap(run(wrong, theta, gs).theta, expected[0]) > 1e-9


def test_a_schedule_is_torchs_lr():
    method = Momentum(0.01, 0.8, schedule=lambda t: 1 / (1 + t / 0.05))
    assert method.time_step == pytest.approx(0.05)
    theta, gs = normals(3, 2, seed=1), normals(100, 3, 2)
    expected = run_torch(theta, gs, lambda k: 1 / (1 + k), lr=0.01, momentum=0.8)[0]
    assert gap(run(method, theta, gs).theta, expected) < 1e-12
    assert gap(run(replace(method, schedule=None), theta, gs).theta, expected) > 1e-3


@pytest.mark.parametrize("friction", ["fixed-momentum", "langevin"])
@pytest.mark.parametrize("dtype", [torch.float32, F64])
def test_step_is_pure_keeps_the_dtype_and_takes_expanded_rows(friction, dtype):
    method, row = Momentum(0.1, 0.8, True, friction), torch.tensor([[0.5, -1.0]], dtype=dtype)
    state, g = method.State(row.expand(4, -1), (2 * row).expand(4, -1)), torch.ones(4, 2, dtype=dtype)
    before = [field.clone() for field in state]
    after, single = method.step(state, g, 3), method.step(method.State(row, 2 * row), g[:1], 3)
    for field, copy, whole, part in zip(state, before, after, single, strict=True):
        assert torch.equal(field, copy)
        assert whole.dtype == dtype
        assert torch.equal(whole, part.expand(4, -1))


# -- scalings --------------------------------------------------------------------------------------------------------


def test_langevin_coordinates_are_theta_and_the_velocity():
    method = langevin(0.25)
    point = method.to_point(method.State(torch.ones(1, 1), torch.full((1, 1), 8.0)), 3.0)
    assert type(point) is method.Point
    assert (float(point.theta), float(point.velocity)) == (1.0, -2.0)
    assert (method.time_step, method.refinement(4), method.second_order, method.invertible) == (0.25, 4, "step", True)
    local = LINEAR.at(torch.ones(2, 2, dtype=F64))
    assert not method.initial(local).velocity.any()
    h = 0.3  # not a power of 2
    state = langevin(h).State(normals(5, 2), normals(5, 2, seed=1))
    back = langevin(h).from_point(langevin(h).to_point(state, 3.0), 3.0)
    assert type(back) is langevin(h).State
    torch.testing.assert_close(back.m, state.m, rtol=3e-16, atol=0)


def test_a_fixed_momentum_keeps_theta_alone_and_starts_the_buffer_afresh():
    method = Momentum(0.1, 0.9)
    assert method.time_step == pytest.approx(1.0)
    point = method.to_point(method.State(torch.ones(1, 1), torch.full((1, 1), 8.0)), 3.0)
    assert type(point) is method.Point
    assert point._fields == ("theta",)
    state = method.from_point(point, 3.0)
    assert type(state) is method.State
    assert not state.m.any()
    assert torch.equal(method.to_point(state, 3.0).theta, point.theta)
    assert (method.refinement(4), method.second_order, method.invertible) == (4, "", False)
    assert torch.equal(method.initial(LINEAR.at(torch.ones(2, 2, dtype=F64))).theta, torch.ones(2, 2, dtype=F64))


def coefficients(sde, x):
    drift, diffuse = sde.at(0.4, x)
    noise = diffuse(torch.tensor([[0.3, -0.8]], dtype=F64))
    return torch.cat([f for f in (*drift, *noise) if f is not None], 1)


def invariance_gap(method, kappa, sigma, x):
    oracle = Quadratic(LINEAR.curvature, LINEAR.covariance, scale=sigma)
    ours = coefficients(method.rescaled(kappa).sde(oracle.rescaled(kappa)), x)
    return float((ours - coefficients(method.sde(oracle), x)).abs().max())


@settings(max_examples=40, deadline=None)
@given(
    lr=st.floats(1e-3, 1.0),
    one_minus=st.floats(1e-4, 0.5),
    fraction=st.floats(1e-3, 0.99),
    sigma=st.floats(0.1, 10.0),
    nesterov=st.booleans(),
)
def test_the_rule_leaves_the_sde_as_it_is(lr, one_minus, fraction, sigma, nesterov):
    kappa = fraction / one_minus
    for friction in ("fixed-momentum", "langevin"):
        method = Momentum(lr, 1 - one_minus, nesterov, friction, schedule=lambda t: 1 - math.exp(-t))
        x = method.Point(*(torch.tensor([[1.0, -2.0]], dtype=F64) for _ in method.Point._fields))
        size = float(
            coefficients(method.sde(Quadratic(LINEAR.curvature, LINEAR.covariance, scale=sigma)), x).abs().max()
        )
        assert invariance_gap(method, kappa, sigma, x) < 1e-12 * size
        assert method.rescaled(kappa).time_step == pytest.approx(kappa * method.time_step, rel=1e-14)


def test_a_rule_of_the_other_scaling_changes_the_sde():
    method = langevin(1 / 32)
    four, x = method.rescaled(4.0), method.Point(*torch.ones(2, 1, 2, dtype=F64))
    right = coefficients(method.sde(LINEAR), x)
    for wrong in (replace(four, momentum=method.momentum), replace(four, lr=4 * method.lr), method):
        assert gap(coefficients(wrong.sde(LINEAR.rescaled(4.0)), x), right) > 0.005
    assert gap(coefficients(four.sde(LINEAR.rescaled(4.0)), x), right) < 1e-12


def test_rescaling_keeps_the_digits_of_the_friction():
    method = Momentum(0.01, 0.999, friction="langevin").rescaled(1 / 4096.0)
    assert method.one_minus_momentum == (1 - 0.999) / 4096
    assert method.lr == 0.01 / 4096**2
    assert method.rescaled(4096.0) == Momentum(0.01, 0.999, friction="langevin")
    assert pickle.loads(pickle.dumps(method)) == method
    fixed = Momentum(0.01, 0.999).rescaled(8.0)
    assert (fixed.lr, fixed.momentum) == (0.08, 0.999)


def test_rules_for_the_learning_rate_leave_a_fixed_momentum_alone():
    assert learning_rate(1.0)(Momentum(0.01), 4.0) == Momentum(0.01).rescaled(4.0)
    moving = Momentum(0.01, friction="langevin")
    assert learning_rate(2.0)(moving, 4.0) == moving.rescaled(4.0)


# -- SDEs: exact moments on quadratics -------------------------------------------------------------------------------


def changed(order, change):
    """A recipe: the method's own SDE with `change(drift, x, method, oracle)` for its drift."""

    def recipe(method, oracle):
        right = method.sde(oracle, order)

        def at(t, x):
            drift, diffuse = right.at(t, x)
            return change(drift, x, method, oracle), diffuse

        return ItoSDE(at, right.noise_dim, right.point)

    return recipe


def wrong_friction(drift, x, method, oracle):
    return drift._replace(velocity=drift.velocity - 0.1 * x.velocity)


def missing_half(drift, x, method, oracle):
    """Twice the second-order part of the drift."""
    first, _ = method.sde(oracle).at(0.0, x)
    return type(x)(*(2 * a - b for a, b in zip(drift, first, strict=True)))


def heavy_balls(method, oracle):
    """The SDE of order 2 without Nesterov's gradient ahead."""
    return replace(method, nesterov=False).sde(oracle, order=2)


STARTS = {
    "1-d": (Quadratic(1.5, 1.0, scale=0.8), np.array([1.2, 0.5])),
    "2-d": (LINEAR, np.array([1.0, -2.0, 0.5, 0.8])),
}


@pytest.mark.parametrize("nesterov", [False, True])
@pytest.mark.parametrize("name", STARTS)
def test_langevin_orders_by_exact_moments(name, nesterov):
    """E of every coordinate and product of two: theta, velocity, their squares and theta times velocity."""
    oracle, x0 = STARTS[name]

    def found(recipe, family="step"):
        return orders(errors(langevin(nesterov=nesterov), oracle, recipe, x0, 2.0, (11, 12, 13), family))

    assert found(own(1)) == pytest.approx(1.0, abs=0.01)
    assert found(own(2)) == pytest.approx(2.0, abs=0.01)
    assert found(own(1), "noise") == pytest.approx(1.0, abs=0.01)  # the SDE is then the same at every h
    means = len(x0)
    assert found(own(2), "noise")[means:] == pytest.approx(1.0, abs=0.01)
    assert found(changed(1, wrong_friction)) == pytest.approx(0.0, abs=0.01)
    assert found(changed(2, missing_half)) == pytest.approx(1.0, abs=0.01)
    if nesterov:
        assert found(heavy_balls) == pytest.approx(1.0, abs=0.01)


@pytest.mark.parametrize("nesterov", [False, True])
def test_a_fixed_momentum_has_sgds_sde_of_order_1(nesterov):
    method = Momentum(0.1, 0.5, nesterov)

    def found(recipe, family):
        return orders(errors(method, LINEAR, recipe, np.array([1.0, -2.0]), 1.0, (11, 12, 13), family))

    assert found(own(1), "step") == pytest.approx(1.0, abs=0.01)
    assert found(own(1), "noise") == pytest.approx(1.0, abs=0.01)
    # with the bare lr in the noise: seen where the noise does not vanish with h
    assert found(lambda method, oracle: SGD(method.lr).sde(oracle), "noise")[2:] == pytest.approx(0.0, abs=0.01)


@pytest.mark.parametrize(("nesterov", "shift"), [(False, 1.5), (True, 0.75)])
def test_at_a_fixed_momentum_theta_alone_starts_o_h_away(nesterov, shift):
    """E theta = theta_0 exp(−lambda t) (1 + h (a + b t) + O(h²)): an SDE of theta alone from theta_0 has a = 0."""
    oracle, h = Quadratic(1.5, 1.0, scale=0.8), 2.0**-14

    def intercept(method):
        one, two = (
            (float(chain_moments(method, oracle, np.ones(1), round(t / h))[0][0]) * math.exp(1.5 * t) - 1) / h
            for t in (1.0, 2.0)
        )
        return 2 * one - two

    method = Momentum(h / 2, 0.5, nesterov)
    assert intercept(method) == pytest.approx(shift, abs=0.01)  # lambda p / (1 − p), Nesterov's times p
    assert intercept(SGD(h)) == pytest.approx(0.0, abs=0.01)
    with pytest.raises(NotDeclared, match=r"no SDE of order 2: while the buffer fills.*Use friction='langevin'"):
        method.sde(oracle, order=2)


# -- SDEs: one-step moments on a non-quadratic loss ------------------------------------------------------------------


def one_step_gap(oracle, method, recipe):
    """Mean and raw second moments of one iteration less the SDE's over h, up to O(h³)."""
    h, dim = method.time_step, oracle.dim
    x = method.Point(torch.tensor([[0.7, -1.1]], dtype=F64), torch.tensor([[0.4, 0.9]], dtype=F64))
    draws, weights = oracle.rule(8)
    rows = method.Point(*(f.expand(len(weights), -1) for f in x))
    state = method.from_point(rows, oracle.scale)
    after = method.to_point(method.step(state, oracle.sample(oracle.at(rows.theta), draws), 0), oracle.scale)
    delta = torch.cat(tuple(after), 1) - torch.cat(tuple(rows), 1)
    sde, flat = recipe(method, oracle), torch.cat(tuple(x), 1)

    def drift(y):
        return torch.cat(tuple(sde.at(0.0, sde.point(*y.split(dim, 1)))[0]), 1)

    b, turn = torch.func.jvp(drift, (flat,), (drift(flat),))
    kicks = sde.at(0.0, sde.point(*(f.expand(sde.noise_dim, -1) for f in x)))[1](torch.eye(sde.noise_dim, dtype=F64))
    m = torch.cat([torch.zeros_like(kicks.velocity), kicks.velocity], 1)
    mean = (weights[:, None] * delta).sum(0) - (h * b + h * h / 2 * turn)[0]
    second = (weights[:, None] * delta).T @ delta - h * m.T @ m - h * h * b.T @ b
    return float(mean.norm()), float(second.norm())


@pytest.mark.parametrize("nesterov", [False, True])
def test_one_iteration_has_the_moments_of_order_2_on_a_non_quadratic_loss(nesterov):
    oracle = Rippled(scale=0.6, dim=2)

    def powers(recipe):
        return orders(
            np.array([one_step_gap(oracle, langevin(2.0**-j, nesterov=nesterov), recipe) for j in (9, 10, 11)])
        )

    mean, second = powers(own(2))
    assert mean == pytest.approx(3.0, abs=0.01)
    assert second > 2.99
    wrong = [own(1), changed(2, missing_half)] + [heavy_balls] * nesterov
    for recipe in wrong:
        assert powers(recipe)[0] == pytest.approx(2.0, abs=0.01)


def test_a_schedule_multiplies_the_velocity_in_the_sde():
    method = langevin(schedule=lambda t: 0.5 + t)
    x = method.Point(*torch.ones(2, 1, 2, dtype=F64))
    drift, _ = method.sde(LINEAR).at(0.25, x)
    plain, _ = langevin().sde(LINEAR).at(0.25, x)
    assert torch.equal(drift.theta, 0.75 * plain.theta)
    assert torch.equal(drift.velocity, plain.velocity)
    with pytest.raises(NotDeclared, match=r"Momentum has an SDE of order 2 at a constant lr only.*Pass schedule=None"):
        method.sde(LINEAR, order=2)


# -- in the library --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", [langevin(), Momentum(1 / 16, 0.5)])
def test_simulated_paths_have_the_exact_moments(method):
    """Means of 4,096 paths within 4.5 standard errors (false alarm 3e-5 in all); another momentum is 10 off."""
    theta0, steps = [1.0, -2.0], 16
    moments = chain_moments(method, LINEAR, np.array(theta0 + [0.0] * (2 * len(method.Point._fields) - 2)), steps)
    functions = ["theta_0", "theta_0_squared"]

    def z(method):
        final = simulate(method, LINEAR, theta0=theta0, steps=steps, test_functions=functions, paths=4096).final
        exact = (moments[0][0], moments[1][0, 0])
        return max(abs(final[f].mean - e) / final[f].sem for f, e in zip(functions, exact, strict=True))

    assert z(method) < 4.5
    assert z(replace(method, momentum=method.momentum - 0.1)) > 10


def test_built_by_name():
    assert by_name("momentum", lr="0.1", nesterov="true", friction="langevin") == Momentum(
        0.1, nesterov=True, friction="langevin"
    )


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: Momentum(-0.1), "`lr` must be finite and positive"),
        (lambda: Momentum(0.1, 0.0), r"`momentum` must lie in \(0, 1\); got 0\.0"),
        (lambda: Momentum(0.1, friction="langevan"), "`friction` must be one of .*Did you mean 'langevin'"),
        (lambda: langevin().rescaled(7.0), r"`kappa` must be below 6\.1538.* = 1 / \(1 - momentum\)"),
        (lambda: Momentum(0.1).rescaled(0.0), "`kappa` must be finite and positive"),
        (lambda: Momentum(0.1).refinement(0), "`multiplier` must be a whole number >= 1"),
        (lambda: langevin().sde(LINEAR, order=3), "Momentum has no SDE of order 3"),
    ],
)
def test_errors_name_the_rule_and_the_value(build, message):
    with pytest.raises(ValueError, match=message):
        build()
