"""Adagrad: torch parity, the batch rule that leaves lr alone, the SDE's one-step moments and closed form."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from one_step_moments import coefficients, one_step_errors, oracle, weak_errors
from scipy.integrate import quad

from sdeadapt.methods import Adagrad, RMSprop
from sdeadapt.methods.adagrad import AdagradPoint, AdagradState
from sdeadapt.oracles.analytic import Quadratic
from sdeadapt.oracles.base import NotDeclared
from sdeadapt.testing import MethodMismatch, check_method

F64 = torch.float64
X = AdagradPoint(torch.tensor([[1.0, -2.0]], dtype=F64), torch.tensor([[1.5, 0.7]], dtype=F64))


@pytest.mark.parametrize(("eps", "start"), [(1e-10, 0.0), (0.3, 0.1)])
def test_equals_torch_path_by_path_over_a_thousand_steps(eps, start):
    def torchs(p):
        return torch.optim.Adagrad(p, lr=0.1, eps=eps, initial_accumulator_value=start)

    method = Adagrad(0.1, eps, start)
    parity = check_method(method, torch=torchs, steps=1000 if eps < 1e-3 else 100).comparisons[-1]
    assert parity.name == "torch"
    assert parity.deviation < 1e-12
    for wrong in (replace(method, lr=0.1 * (1 + 1e-7)), replace(method, denominator="old", eps=max(eps, 0.1))):
        with pytest.raises(MethodMismatch, match="torch: Adagrad must be equal path by path"):
            check_method(wrong, torch=torchs, steps=20)


def test_old_denominator_and_schedule_follow_the_plain_formula():
    method = Adagrad(0.1, 0.2, time_step=0.5, denominator="old", schedule=lambda t: 1 / (1 + t))
    gs = torch.randn(50, 1, 1, dtype=F64, generator=torch.Generator().manual_seed(0))
    state, theta, total = AdagradState(torch.ones(1, 1, dtype=F64), torch.full((1, 1), 0.3, dtype=F64)), 1.0, 0.3
    for k, g in enumerate(gs):
        state = method.step(state, g, k)
        theta -= 0.1 / (1 + 0.5 * k) * float(g) / (math.sqrt(total) + 0.2)
        total += float(g) ** 2
    assert float(state.theta) == pytest.approx(theta, rel=1e-12)


def test_the_batch_rule_leaves_lr_alone():
    method = Adagrad(0.5, eps=3.0, initial_accumulator_value=0.8, time_step=0.02)
    large = method.rescaled(4.0)
    assert (large.lr, large.time_step, large.eps, large.initial_accumulator_value) == (0.5, 0.08, 0.75, 0.05)
    assert method.refinement(3) == 9

    def gap(rule, kappa):
        got = coefficients(rule(method, kappa).sde(oracle(5.0).rescaled(kappa)), 0.5, X)
        want = coefficients(method.sde(oracle(5.0)), 0.5, X)
        return max(float((a - b).abs().max() / b.abs().max()) for a, b in zip(got, want, strict=True))

    for kappa in (0.01, 0.3, 8.0):
        assert gap(lambda m, k: m.rescaled(k), kappa) < 1e-12
        assert gap(lambda m, k: replace(m.rescaled(k), lr=m.lr * math.sqrt(k)), kappa) > 0.3
        assert gap(lambda m, k: replace(m.rescaled(k), eps=m.eps), kappa) > 0.01
        assert gap(lambda m, k: replace(m.rescaled(k), eps=m.eps / math.sqrt(k)), kappa) > 0.005


def forgetful(sde):
    """The SDE with RMSprop's equation for u."""

    def at(t, x):
        drift, diffuse = sde.at(t, x)
        return drift._replace(u=drift.u - x.u), diffuse

    return replace(sde, at=at)


@pytest.mark.parametrize("denominator", ["new", "old"])
@pytest.mark.parametrize("schedule", [None, lambda t: 0.2 + t])
def test_one_iteration_has_the_sdes_moments_up_to_order_h(denominator, schedule):
    method = Adagrad(0.6, 0.1, time_step=1 / 16, denominator=denominator, schedule=schedule)
    sde = method.sde(oracle(4.0))
    errors = one_step_errors(method, sde, 4.0, X)
    assert errors[-1].max() < 0.025
    ratios = errors[:-1] / errors[1:]
    assert ((ratios > 3.6) & (ratios < 4.4) | (errors[1:] < 1e-11)).all(), (errors, ratios)
    assert one_step_errors(method, forgetful(sde), 4.0, X)[-1, 0] > 0.3
    unscheduled = replace(method, schedule=lambda t: 1.05 * (1.0 if schedule is None else schedule(t)))
    assert one_step_errors(method, unscheduled.sde(oracle(4.0)), 4.0, X)[-1, 1] > 0.05


@pytest.mark.parametrize("denominator", ["new", "old"])
def test_the_weak_order_is_one_and_forgetting_leaves_a_plateau(denominator):
    """At h = 1/32, 1/128 and 40,000 paths E theta is resolved to 4 % and 8 %; order 1/2 would be seen at 8 sigma."""

    def errors(h, change=lambda sde: sde):
        method = Adagrad(0.8, 0.05 / (8 * h), time_step=h, denominator=denominator)
        return weak_errors(method, h**-0.5, [1.0, 1.5], 1.0, 40_000, seed=1, change=change)

    (coarse, a), (fine, b) = errors(1 / 32), errors(1 / 128)
    assert abs(coarse[0]) > 15 * a[0]
    assert (abs(coarse - 4 * fine) < 4 * np.hypot(a, 4 * b)).all()
    (coarse, a), (fine, b) = errors(1 / 32, forgetful), errors(1 / 128, forgetful)
    assert (abs(coarse - 4 * fine) > 15 * np.hypot(a, 4 * b))[0]  # E theta^2 happens to be nearly the same
    assert abs(fine / coarse)[0] > 0.7


def test_the_theta_equation_is_rmsprops_at_the_same_step_size_and_time_step():
    lr = 0.5
    adagrad, rmsprop = Adagrad(lr, 0.1, time_step=lr**2), RMSprop(lr, 0.9, 0.1 * lr)
    ours, theirs = (coefficients(m.sde(oracle(4.0)), 0.3, m.Point(*X)) for m in (adagrad, rmsprop))
    for a, b in zip(ours, theirs, strict=True):  # sum = u sigma^2 / h where v = u sigma^2: theta's rows are lr times
        torch.testing.assert_close(a[:2], lr * b[:2], rtol=1e-12, atol=0)
    assert ours[0][2:].tolist() == [2.0, 0.5]


def test_moments_of_the_one_dimensional_sde_have_their_closed_form():
    """f = theta^2 / 2, Sigma = 1: u = u0 + t and theta is linear; E theta^2 by the SDE's own coefficients."""
    lr, sigma0, h, u0, end = 0.8, 1.3, 1 / 64, 0.5, 1.0
    sde = Adagrad(lr, 0.0, time_step=h).sde(Quadratic(1.0, 1.0, scale=sigma0 / math.sqrt(h)))

    def rates(t):
        x = AdagradPoint(torch.ones(1, 1, dtype=F64), torch.full((1, 1), u0 + t, dtype=F64))
        drift, diffuse = sde.at(t, x)
        assert float(drift.u) == 1.0
        return -float(drift.theta), float(diffuse(torch.ones(1, 1, dtype=F64)).theta) ** 2

    def decay(s):
        return math.exp(-quad(lambda t: rates(t)[0], s, end)[0])

    mean, noise = decay(0.0), quad(lambda s: rates(s)[1] * decay(s) ** 2, 0, end)[0]
    a = 2 * lr / sigma0  # -log of the decay is a (sqrt(u0 + T) - sqrt(u0)), and the noise has density lr^2 / u
    assert mean == pytest.approx(math.exp(-a * (math.sqrt(u0 + end) - math.sqrt(u0))), rel=1e-9)
    expected = quad(lambda s: lr**2 / (u0 + s) * math.exp(-2 * a * (math.sqrt(u0 + end) - math.sqrt(u0 + s))), 0, end)
    assert noise == pytest.approx(expected[0], rel=1e-9)


def test_maps_invert_each_other_and_the_default_start_is_one_unit_of_noise():
    method = Adagrad(0.5, time_step=0.01, initial_accumulator_value=2.0)
    state = method.from_point(X, 3.0)
    torch.testing.assert_close(state.sum, X.u * 9.0 / 0.01, rtol=1e-15, atol=0)
    torch.testing.assert_close(method.to_point(state, 3.0).u, X.u, rtol=5e-16, atol=0)
    assert bool((method.init(X.theta).sum == 2.0).all())
    for kappa in (1.0, 4.0):
        start = method.rescaled(kappa).initial(oracle(3.0).at(X.theta))
        assert start.u.tolist() == [[2.0, 0.5]]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"lr": 0.0}, r"`lr` must be finite and positive; got 0\.0"),
        ({"lr": 0.1, "eps": -1.0}, r"`eps` must be finite and not negative; got -1\.0"),
        ({"lr": 0.1, "initial_accumulator_value": -1.0}, "`initial_accumulator_value` must be finite and not negative"),
        ({"lr": 0.1, "time_step": 0.0}, r"`time_step` must be finite and positive; got 0\.0"),
        ({"lr": 0.1, "denominator": "newest"}, "`denominator` must be one of .*Did you mean 'new'?"),
    ],
)
def test_errors_name_the_rule_and_the_value(options, message):
    with pytest.raises(ValueError, match=message):
        Adagrad(**options)
    with pytest.raises(NotDeclared, match="Adagrad has no SDE of order 2"):
        Adagrad(0.1).sde(oracle(1.0), order=2)
