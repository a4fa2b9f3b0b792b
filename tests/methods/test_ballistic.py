"""The ballistic scaling of RMSprop and Adam: the same iteration, another clock, and an ODE for its limit."""

import math
from dataclasses import replace

import pytest
import torch

from sdeadapt import simulate
from sdeadapt.methods import Adam, RMSprop
from sdeadapt.oracles import Quadratic

F64 = torch.float64
METHODS = {
    "rmsprop": RMSprop(0.1, 0.9, 0.2, scaling="ballistic"),
    "rmsprop-old": RMSprop(0.1, 0.9, 0.2, denominator="old", scaling="ballistic", schedule=lambda t: 1 + t),
    "adam": Adam(0.1, 0.8, 0.9, 0.2, scaling="ballistic"),
    "adam-plain": Adam(0.1, 0.8, 0.9, 0.2, bias_correction=False, scaling="ballistic"),
}
TORCH = {
    "rmsprop": lambda p: torch.optim.RMSprop(p, lr=0.1, alpha=0.9, eps=0.2),
    "adam": lambda p: torch.optim.Adam(p, lr=0.1, betas=(0.8, 0.9), eps=0.2),
}
T = 0.5


def oracle(scale=0.7):
    return Quadratic([[1.0, 0.4], [0.4, 2.0]], [[2.0, -0.7], [-0.7, 0.5]], scale=scale)


def point(method, rows=1):
    values = {"theta": (1.0, -2.0), "m": (0.3, 0.4), "u": (1.5, 0.2)}
    return method.Point(*(torch.tensor([values[f]], dtype=F64).expand(rows, -1) for f in method.Point._fields))


def drift(method, oracle, t=T):
    return torch.cat(tuple(method.sde(oracle).at(t, point(method))[0]), 1)


def gap(a, b):
    return float(((a - b) / b).abs().max())


@pytest.mark.parametrize("name", TORCH)
def test_the_iteration_is_torchs(name):
    gs = torch.randn(200, 3, dtype=F64, generator=torch.Generator().manual_seed(0)) + 0.1
    parameter = torch.nn.Parameter(torch.ones(3, dtype=F64))
    optimizer = TORCH[name]([parameter])
    state = METHODS[name].init(torch.ones(1, 3, dtype=F64))
    for k, g in enumerate(gs):
        parameter.grad = g
        optimizer.step()
        state = METHODS[name].step(state, g[None], k)
    assert gap(state.theta, parameter.detach()[None]) < 1e-12
    assert gap(state.theta * (1 + 1e-9), parameter.detach()[None]) > 1e-12


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("kappa", [1 / 64, 1 / 3, 4.0])
def test_rescaling_leaves_the_ode_as_it_is_with_the_noise_unchanged(name, kappa):
    method = METHODS[name]
    scaled = method.rescaled(kappa)
    assert gap(drift(scaled, oracle()), drift(method, oracle())) < 1e-13
    assert scaled.time_step == pytest.approx(kappa * method.time_step, rel=1e-15)
    assert scaled.eps == method.eps
    assert scaled.rescaled(1 / kappa).time_step == pytest.approx(0.1, rel=1e-15)


@pytest.mark.parametrize("name", METHODS)
def test_wrong_rescalings_change_the_ode(name):
    method, kappa = METHODS[name], 1 / 4
    right = drift(method, oracle())
    assert gap(drift(method.rescaled(kappa), oracle().rescaled(kappa)), right) > 0.05  # noise that follows the batch
    betas = {f: getattr(method, f) for f in vars(method) if f.startswith("beta")}
    assert gap(drift(replace(method.rescaled(kappa), **betas), oracle()), right) > 0.05
    assert gap(drift(replace(method.rescaled(kappa), eps=method.eps * 2), oracle()), right) > 0.02
    square_root = replace(method, scaling="batch-equivalent").rescaled(kappa)
    assert gap(drift(replace(square_root, scaling="ballistic"), oracle()), right) > 0.05


def mean_rate(method, problem, k, x):
    """The mean of one iteration per unit of SDE time, and its covariance, exactly."""
    draws, weights = problem.rule(8)
    rows = point(method, len(weights))
    g = problem.sample(problem.at(rows.theta), draws)
    after = method.to_point(method.step(method.from_point(rows, problem.scale), g, k), problem.scale)
    delta = torch.cat(tuple(after), 1) - torch.cat(tuple(rows), 1)
    mean = weights @ delta
    return mean[None] / method.time_step, ((weights[:, None] * delta).T @ delta - torch.outer(mean, mean)).abs().max()


@pytest.mark.parametrize("name", METHODS)
def test_one_iteration_has_the_odes_mean_and_no_noise_at_first_order(name):
    """Both differ by O(h): the mean rate by that, and the covariance is O(h^2) per step."""
    errors, covariances = [], []
    for j in (12, 14):
        method = METHODS[name].rescaled(2.0**-j / 0.1)
        mean, covariance = mean_rate(method, oracle(), round(T * 2**j), point(method))
        errors.append(gap(drift(method, oracle()), mean))
        covariances.append(float(covariance))
    assert errors[1] < 0.01
    assert 3.8 < errors[0] / errors[1] < 4.2 or errors[0] < 1e-12  # the old v has it exactly
    assert 15 < covariances[0] / covariances[1] < 17
    wrong = replace(METHODS[name], scaling="batch-equivalent").rescaled(2.0**-12 / 0.01)
    assert gap(drift(wrong, oracle()), mean) > 0.05  # the other scaling's equation is not it


@pytest.mark.parametrize("name", METHODS)
def test_the_ode_has_no_diffusion(name):
    sde = METHODS[name].sde(oracle())
    _, diffuse = sde.at(T, point(METHODS[name]))
    assert sde.noise_dim == 2
    assert all(f is None for f in diffuse(torch.ones(1, 2, dtype=F64)))


@pytest.mark.parametrize("order", [1, 2])
@pytest.mark.parametrize("name", ["rmsprop", "adam-plain"])
def test_without_noise_u_is_v(name, order):
    """Deterministic RMSprop and Adam have their equations too: those of tiny noise, in v."""
    method = METHODS[name]
    silent, quiet = (Quadratic([1.0, 2.0], [1.0, 3.0], scale=scale) for scale in (0.0, 1e-7))
    here = point(method)
    none = method.sde(silent, order=order).at(T, here)[0]
    tiny = method.sde(quiet, order=order).at(T, here._replace(u=here.u / 1e-14))[0]
    expected = torch.cat(tuple(tiny._replace(u=tiny.u * 1e-14)), 1)
    assert gap(torch.cat(tuple(none), 1), expected) < 1e-6


@pytest.mark.parametrize("name", METHODS)
def test_clock(name):
    method = METHODS[name]
    assert method.time_step == 0.1
    assert replace(method, scaling="batch-equivalent").time_step == pytest.approx(0.01)
    assert (method.refinement(3), replace(method, scaling="batch-equivalent").refinement(3)) == (3, 9)
    assert method.time(10) == pytest.approx(1.0)


def test_errors_name_the_rule():
    with pytest.raises(ValueError, match="`scaling` must be one of 'batch-equivalent', 'ballistic'; got 'balistic'"):
        RMSprop(0.1, scaling="balistic")
    with pytest.raises(ValueError, match=r"`kappa` must be below 5 = 1 / \(1 - beta1\)"):
        METHODS["adam"].rescaled(5.0)
    with pytest.raises(ValueError, match="`multiplier` must be 1 under scaling='ballistic'"):
        simulate(METHODS["rmsprop"], oracle(), theta0=[1.0, 1.0], steps=4, paths=10, multiplier=2)


def test_long_runs_follow_the_ode():
    """One path of 2,000 small steps without noise against Euler's solution of the ODE at the same steps."""
    method = METHODS["adam-plain"].rescaled(1 / 200)
    silent = oracle(0.0)
    x = point(method)
    state, ode = method.from_point(x, 0.0), method.sde(silent)
    for k in range(2000):
        state = method.step(state, silent.at(state.theta).gradient, k)
        slope, _ = ode.at(method.time(k), x)
        x = type(x)(*(a + method.time_step * b for a, b in zip(x, slope, strict=True)))
    assert gap(state.theta, x.theta) < 0.01
    assert math.isclose(method.time(2000), 1.0)
