"""Adadelta: torch parity, its batch rule, the SDE's one-step moments."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from one_step_moments import coefficients, one_step_errors, oracle, weak_errors

from sdeadapt.methods import Adadelta
from sdeadapt.methods.adadelta import AdadeltaPoint
from sdeadapt.oracles.base import NotDeclared
from sdeadapt.testing import MethodMismatch, check_method

F64 = torch.float64
X = AdadeltaPoint(*(torch.tensor([v], dtype=F64) for v in ([1.0, -2.0], [1.5, 0.7], [0.3, 0.1])))


@pytest.mark.parametrize(("lr", "rho", "eps"), [(1.0, 0.9, 1e-6), (0.3, 0.8, 0.1)])
def test_equals_torch_path_by_path_over_a_thousand_steps(lr, rho, eps):
    def torchs(p):
        return torch.optim.Adadelta(p, lr=lr, rho=rho, eps=eps)

    method = Adadelta(lr, rho, eps)
    parity = check_method(method, torch=torchs, steps=1000 if eps < 1e-3 else 100).comparisons[-1]
    assert parity.name == "torch"
    assert parity.deviation < 1e-12
    for wrong in (replace(method, lr=lr * (1 + 1e-7)), replace(method, eps=1.001 * eps)):
        with pytest.raises(MethodMismatch, match="torch: Adadelta must be equal path by path"):
            check_method(wrong, torch=torchs, steps=20)


def test_the_batch_rule_keeps_eps():
    method = Adadelta(0.5, 0.9, 0.2)
    large = method.rescaled(4.0)
    assert (large.lr, large.eps, large.one_minus_rho) == (1.0, 0.2, 4 * method.one_minus_rho)
    assert (method.time_step, method.refinement(3)) == (0.25, 9)

    def gap(rule, kappa):
        got = coefficients(rule(method, kappa).sde(oracle(5.0).rescaled(kappa)), 0.5, X)
        want = coefficients(method.sde(oracle(5.0)), 0.5, X)
        return max(float((a - b).abs().max() / b.abs().max()) for a, b in zip(got, want, strict=True))

    for kappa in (0.01, 0.3, 4.0):
        assert gap(lambda m, k: m.rescaled(k), kappa) < 1e-12
        assert gap(lambda m, k: replace(m, lr=m.lr * k), kappa) > 0.3
        assert gap(lambda m, k: replace(m, lr=m.rescaled(k).lr), kappa) > 0.1  # rho kept
        assert gap(lambda m, k: m.rescaled(k).__class__(m.rescaled(k).lr, m.rescaled(k).rho, m.eps / k), kappa) > 0.1


@pytest.mark.parametrize("schedule", [None, lambda t: 0.2 + t])
def test_one_iteration_has_the_sdes_moments_up_to_order_h(schedule):
    method = Adadelta(0.25, 0.9, 0.1, schedule=schedule)
    sde = method.sde(oracle(4.0))
    errors = one_step_errors(method, sde, 4.0, X)
    assert errors[-1].max() < 0.025
    ratios = errors[:-1] / errors[1:]
    assert ((ratios > 3.6) & (ratios < 4.4) | (errors[1:] < 1e-11)).all(), (errors, ratios)
    other = Adadelta(0.25, 0.9, 0.2, schedule=schedule)  # the eps beside q is in the SDE
    assert one_step_errors(method, other.sde(oracle(4.0)), 4.0, X)[-1, :2].min() > 0.05


def test_the_weak_order_is_one_and_another_eps_leaves_a_plateau():
    """At h = 1/64, 1/256 and 40,000 paths both errors are resolved to 4 %, and order 1/2 would be seen at 10 sigma."""

    def errors(h, change=lambda sde: sde):
        return weak_errors(Adadelta(h**0.5, 1 - h, 0.2), h**-0.5, [1.0, 1.5, 0.8], 1.0, 40_000, seed=1, change=change)

    (coarse, a), (fine, b) = errors(1 / 64), errors(1 / 256)
    assert (abs(coarse) > 15 * a).all()
    assert (abs(coarse - 4 * fine) < 4 * np.hypot(a, 4 * b)).all()

    def without_eps(sde):  # beside q
        return replace(sde, at=lambda t, x: sde.at(t, x._replace(q=x.q - 0.2)))

    (coarse, a), (fine, b) = errors(1 / 64, without_eps), errors(1 / 256, without_eps)
    assert (abs(coarse - 4 * fine) > 15 * np.hypot(a, 4 * b)).all()
    assert (abs(fine / coarse) > 0.7).all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"lr": 0.0}, r"`lr` must be finite and positive; got 0\.0"),
        ({"rho": 1.0}, r"`rho` must lie in \(0, 1\); got 1\.0"),
        ({"eps": 0.0}, r"`eps` must be finite and positive; got 0\.0"),
    ],
)
def test_errors_name_the_rule_and_the_value(options, message):
    with pytest.raises(ValueError, match=message):
        Adadelta(**options)


def test_what_has_no_sde_is_refused():
    with pytest.raises(ValueError, match=r"`kappa` must be below 10 = 1 / \(1 - rho\)"):
        Adadelta(1.0, 0.9).rescaled(20.0)
    with pytest.raises(ValueError, match=r"`scale` must be finite and positive; got 0\.0"):
        Adadelta().sde(oracle(0.0))
    with pytest.raises(NotDeclared, match="Adadelta has no SDE of order 2"):
        Adadelta().sde(oracle(1.0), order=2)
