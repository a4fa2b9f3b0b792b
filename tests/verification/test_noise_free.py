"""`verify` without a random number: orders of SGD, the two families of theory, and budgets that are too small."""

import math
import re

import numpy as np
import pytest
import torch

from sdeadapt.methods import SGD, ItoSDE, RMSprop
from sdeadapt.oracles.analytic import Quadratic, Rippled, constant_noise
from sdeadapt.verification.planning import Budget
from sdeadapt.verification.resolution import Resolution
from sdeadapt.verification.weak_error import verify

CURVES, X0 = np.array([0.5, 1.0, 2.0]), np.array([1.0, -2.0, 1.5])


def closed_loss(h, time, order):
    """E f of the SDE and of SGD on constant noise, Sigma = H^2 (Li, Tai, E 2019, Section 5)."""
    k, c, x = round(time / h), CURVES, X0**2 / 2
    keep = (1 - h * c) ** (2 * k)
    chain = (c * x * keep).sum() + (h * c**2 / (2 - h * c) * (1 - keep)).sum() / 2
    rate = 2 * c + (h * c**2 if order == 2 else 0)
    rest = h / 4 * c**2 if order == 1 else h / 2 * c**2 / (2 + h * c)
    return chain, (c * x * np.exp(-rate * time) + rest * (1 - np.exp(-rate * time))).sum()


@pytest.mark.parametrize("order", [1, 2])
def test_sgd_of_fixed_noise_has_the_order_of_its_sde(order):
    """At T = 2 the error of the loss has its order from h = 2^-8 on: 2^-9 to 2^-12 here."""
    report = verify(
        SGD(2.0**-9), constant_noise(np.diag(CURVES)), theta0=X0, horizon=2.0, refine="step", order=order,
        multipliers=(1, 2, 4, 8), test_functions=["loss"],
    )  # fmt: skip
    assert (report.estimator, report.verdict.value) == ("moments", "CONFIRMED"), report.message
    assert report.order == pytest.approx(order, abs=0.01)
    assert report.tests[0].coarse_orders[-1] == pytest.approx(order, abs=0.01)
    assert "Li, Tai, E" in report.family
    for i, h in enumerate(report.h):
        chain, sde = closed_loss(h, 2.0, order)
        assert report.chain[0, i] == pytest.approx(chain, abs=1e-10)
        assert report.sde[0, i] == pytest.approx(sde, abs=1e-10)


# -- the two families --------------------------------------------------------------------------------------------------

LOOKS = ["theta_0", "theta_0_squared"]


def ode(method, oracle):
    """The SDE without its noise."""
    own = method.sde(oracle)
    return ItoSDE(lambda t, x: (own.at(t, x)[0], lambda dw: method.Point(torch.zeros_like(x.theta))), 1, own.point)


def sgd(refine, **options):
    """Moderate noise, sigma sqrt(h) = .4 at the base step."""
    return verify(
        SGD(1 / 32), Quadratic(1.0, 1.0, scale=0.4 * math.sqrt(32)), theta0=[1.5], horizon=1.0, refine=refine,
        multipliers=(1, 2, 4, 8), test_functions=LOOKS, **options,
    )  # fmt: skip


def test_with_a_fixed_sde_the_ode_leaves_a_plateau():
    """It is blind in E theta, and wrong by the variance in E theta^2."""
    wrong = sgd("svag", sde=ode)
    assert wrong.verdict.value == "REFUTED"
    assert "Malladi" in wrong.family
    assert wrong.tests[1].plateau == pytest.approx(0.08 * (1 - math.exp(-2)), rel=0.01)
    assert wrong.local is not None
    assert sgd("step", sde=ode).verdict.value == "CONFIRMED"  # with fixed noise it is of order 1 too


def test_with_a_fixed_sde_the_second_order_sde_is_of_order_1_and_worse():
    """The correction takes 1/2 off a drift that SVAG's own noise does not share (2.6 times worse for the loss)."""
    first, second = sgd("svag"), sgd("svag", sde=lambda method, oracle: method.sde(oracle, order=2))
    for report in (first, second):
        assert report.verdict.value == "CONFIRMED", report.message
    assert second.tests[1].order == pytest.approx(1, abs=0.05)


def test_with_a_fixed_sde_order_2_is_not_claimed():
    with pytest.raises(ValueError, match=r"`refine` must be 'step' for order=2 of SGD; got 'svag'.*only of order 1"):
        sgd("svag", order=2)
    assert sgd("step", order=2).verdict.value == "CONFIRMED"


# -- budgets that are too small ----------------------------------------------------------------------------------------


ROUGH = {"theta^2": lambda x: x.theta[:, 0] ** 2, "cos 3 theta": lambda x: torch.cos(3 * x.theta[:, 0])}


def rmsprop(resolution):
    h = 1 / 8
    return verify(
        RMSprop(math.sqrt(h), 1 - h / 2, 0.5 / math.sqrt(h)), Rippled(0.8 / math.sqrt(h), noise="gaussian"),
        theta0=[1.0], steps=2, initial={"u": [1.6]}, refine="noise", multipliers=(1, 2, 4),
        test_functions=ROUGH, budget=Budget(resolution=resolution),
    )  # fmt: skip


def test_a_sufficient_budget_confirms():
    report = rmsprop(Resolution(points=(14, 7), nodes=8, euler=2))
    assert (report.estimator, report.noise_free) == ("quadrature", True)
    assert report.verdict.value == "CONFIRMED", report.message


@pytest.mark.parametrize(
    ("resolution", "part"),
    [
        (Resolution(points=(14, 7), nodes=8, euler=2, radius=1.5), r"most of it is the domain: take a larger `radius`"),
        (Resolution(points=(4, 4), nodes=8, euler=2), r"most of it is the grid: take more `points`"),
        (Resolution(points=(14, 7), nodes=3, euler=2), r"most of it is the nodes: take more `nodes`"),
    ],
    ids=["domain", "grid", "nodes"],
)
def test_a_part_that_is_too_small_is_named(resolution, part):
    report = rmsprop(resolution)
    assert report.verdict.value == "INCONCLUSIVE"
    assert re.search(part, report.message), report.message
