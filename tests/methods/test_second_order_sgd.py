"""SGD's SDE of order 2: closed forms, exact moments, one-step moments on a non-quadratic loss. No Monte Carlo."""

import numpy as np
import pytest
import torch
from methods.linear_moments import chain_moments, errors, orders, sde_moments

from sdeadapt import SGD
from sdeadapt.oracles.analytic import Quadratic, Rippled, constant_noise
from sdeadapt.oracles.base import NotDeclared
from sdeadapt.oracles.functions import FromFunctions

F64 = torch.float64
LAM, X0, END = np.array([0.5, 1.0, 2.0]), np.array([1.0, -2.0, 1.5]), 2.0


def loss(moments):
    return float(np.trace(np.diag(LAM) @ moments[1]) / 2)


def closed_forms(h):
    """E f of SGD and of its SDEs of order 1 and 2 at every step up to T = 2; the noise has covariance H^2."""
    k = np.arange(1, round(END / h) + 1)[:, None]
    chain = (1 - h * LAM) ** (2 * k)
    one, two = np.exp(-2 * LAM * k * h), np.exp(-(2 * LAM + h * LAM**2) * k * h)
    return (
        np.sum(LAM * X0**2 * chain / 2 + h * LAM**2 / (2 - h * LAM) * (1 - chain) / 2, 1),
        np.sum(LAM * X0**2 * one / 2 + h / 4 * LAM**2 * (1 - one), 1),
        np.sum(LAM * X0**2 * two / 2 + h / 2 * LAM**2 / (2 + h * LAM) * (1 - two), 1),
    )


def test_expected_loss_has_li_tai_and_es_closed_forms():
    oracle, gaps = constant_noise(LAM), []
    for j in range(2, 10):
        h = 2.0**-j
        chain, one, two = closed_forms(h)
        assert loss(chain_moments(SGD(h), oracle, X0, round(END / h))) == pytest.approx(chain[-1], abs=1e-10)
        assert loss(sde_moments(SGD(h).sde(oracle), 3, X0, END)) == pytest.approx(one[-1], abs=1e-10)
        assert loss(sde_moments(SGD(h).sde(oracle, order=2), 3, X0, END)) == pytest.approx(two[-1], abs=1e-10)
        gaps.append([np.abs(chain - one).max(), np.abs(chain - two).max()])
    # the largest error over all steps; at T = 2 alone the error of order 1 changes sign and its slope is .96
    assert orders(np.array(gaps)) == pytest.approx([1.0, 2.0], abs=0.01)


def missing_half(method, oracle):
    """The SDE of order 2 with the drift −grad f − h Hess f grad f."""
    one, two = method.sde(oracle), method.sde(oracle, order=2)

    def at(t, x):
        (a, _), (b, diffuse) = one.at(t, x), two.at(t, x)
        return type(x)(2 * b.theta - a.theta), diffuse

    return type(one)(at, one.noise_dim, one.point)


PROBLEMS = {
    "1-d": (Quadratic(1.5, 1.0, scale=0.8), np.array([1.2])),
    "2-d": (Quadratic([[1.0, 0.4], [0.4, 2.0]], [[2.0, -0.7], [-0.7, 0.5]], scale=0.8), np.array([1.0, -2.0])),
}


@pytest.mark.parametrize("name", PROBLEMS)
def test_orders_by_exact_moments_in_both_families(name):
    oracle, x0 = PROBLEMS[name]

    def found(recipe, family="step"):
        return orders(errors(SGD(1 / 8), oracle, recipe, x0, 1.0, (11, 12, 13), family))

    def second(method, oracle):
        return method.sde(oracle, order=2)

    assert found(SGD.sde) == pytest.approx(1.0, abs=0.01)
    assert found(second) == pytest.approx(2.0, abs=0.01)
    assert found(missing_half) == pytest.approx(1.0, abs=0.01)  # the twin that must fail
    # sigma² h fixed: the noise is O(1), and what order 2 leaves out of the diffusion is O(h)
    mixed = found(second, "noise")
    means = len(x0)
    assert mixed[:means] == pytest.approx(2.0, abs=0.01)
    assert mixed[means:] == pytest.approx(1.0, abs=0.01)


NONQUADRATIC = {
    "rippled": Rippled(scale=0.6, dim=2),
    "functions": FromFunctions(
        lambda x: (x**4).sum() / 4 + x[0] * x[1].sin(),
        dim=2,
        diffuse=lambda x, xi: (2 + x.sin()) * xi,
        noise_dim=1,
        scale=0.6,
    ),
}


def one_step_gap(oracle, recipe, h):
    """Mean and raw second moments of one iteration less the SDE's over h, up to O(h³)."""
    x = torch.tensor([[0.7, -1.1]], dtype=F64)
    draws, weights = oracle.rule(8)
    method = SGD(h)
    rows = x.expand(len(weights), -1)
    delta = method.step(method.init(rows), oracle.sample(oracle.at(rows), draws), 0).theta - x
    sde = recipe(method, oracle)
    drift, turn = torch.func.jvp(
        lambda y: sde.at(0.0, sde.point(y))[0].theta, (x,), (sde.at(0.0, sde.point(x))[0].theta,)
    )
    pair = sde.point(x.expand(oracle.noise_dim, -1))
    m = sde.at(0.0, pair)[1](torch.eye(oracle.noise_dim, dtype=F64)).theta
    mean = (weights[:, None] * delta).sum(0) - (h * drift + h * h / 2 * turn)[0]
    second = (weights[:, None] * delta).T @ delta - h * m.T @ m - h * h * drift.T @ drift
    return float(mean.norm()), float(second.norm())


@pytest.mark.parametrize("name", NONQUADRATIC)
def test_one_iteration_has_the_moments_of_order_2_on_a_non_quadratic_loss(name):
    oracle = NONQUADRATIC[name]

    def powers(recipe):
        return orders(np.array([one_step_gap(oracle, recipe, 2.0**-j) for j in (9, 10, 11)]))

    mean, second = powers(lambda m, o: m.sde(o, order=2))
    assert mean == pytest.approx(3.0, abs=0.01)
    assert second > 2.98
    for wrong in (SGD.sde, missing_half):
        assert powers(wrong)[0] == pytest.approx(2.0, abs=0.01)


def test_order_2_is_declared_at_a_constant_lr_only():
    oracle = PROBLEMS["1-d"][0]
    with pytest.raises(NotDeclared, match=r"SGD has an SDE of order 2 at a constant lr only.*Pass schedule=None"):
        SGD(0.1, schedule=lambda t: 1 / (1 + t)).sde(oracle, order=2)
    with pytest.raises(NotDeclared, match="SGD has no SDE of order 3"):
        SGD(0.1).sde(oracle, order=3)
    assert SGD.linear
    assert SGD.second_order == "step"
