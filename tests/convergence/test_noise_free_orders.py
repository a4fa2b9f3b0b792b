"""Orders without a random number: RMSprop and Adam on a non-quadratic loss with a covariance that depends on theta.

Chosen after seeing: RMSprop's sigma0 = 1 and theta0 = 1, where no error of these functions changes sign for either
denominator; Adam's start and constants, among twelve settings, where terms of second order are small enough for
h = 2^-7 to show every order (in all twelve at least eight of nine plateaus are below 2 % of the finest error).
"""

import math
from pathlib import Path

import numpy as np
import pytest
import torch

from sdeadapt.methods import Adam, ItoSDE, RMSprop
from sdeadapt.oracles.analytic import Quadratic, Rippled
from sdeadapt.oracles.noise import TwoPoint
from sdeadapt.verification.weak_error import verify

pytestmark = pytest.mark.slow

FUNCTIONS = {
    "theta": lambda x: x.theta[:, 0],
    "theta^2": lambda x: x.theta[:, 0] ** 2,
    "cos theta": lambda x: torch.cos(x.theta[:, 0]),
    "u": lambda x: x.u[:, 0],
    "u^2": lambda x: x.u[:, 0] ** 2,
    "theta u": lambda x: x.theta[:, 0] * x.u[:, 0],
    "loss": lambda x: x.loss,
    "gradient^2": lambda x: x.gradient[:, 0] ** 2,
}


class Halving(RMSprop):
    """RMSprop for which a multiplier divides h."""

    def refinement(self, multiplier):
        return multiplier


class HalvingAdam(Adam):
    """Adam for which a multiplier divides h."""

    def refinement(self, multiplier):
        return multiplier


H = 1 / 8
ROOT = math.sqrt(H)


def rmsprop(denominator, levels, **options):
    return verify(
        Halving(ROOT, 1 - H / 2, 0.7 / ROOT, denominator=denominator), Rippled(0.99 / ROOT, noise="gaussian"),
        theta0=[1.0], horizon=1.0, refine="noise", multipliers=[2**i for i in range(levels)],
        test_functions=FUNCTIONS, **options,
    )  # fmt: skip


def adam(denominator, levels, **options):
    """With bias correction, from (theta, m, u) at t0 = 8 base steps = 1."""
    return verify(
        HalvingAdam(ROOT, 1 - 0.5 * H, 1 - 0.25 * H, 1 / ROOT, denominator=denominator),
        Rippled(1 / ROOT, noise="gaussian"),
        theta0=[1.0], start=1.0, horizon=2.0, initial={"m": [0.7], "u": [0.7]}, refine="noise",
        multipliers=[2**i for i in range(levels)],
        test_functions=FUNCTIONS | {"m": lambda x: x.m[:, 0], "m^2": lambda x: x.m[:, 0] ** 2}, **options,
    )  # fmt: skip


def check(report):
    """Every function whose error keeps its sign has order 1 at the three smallest steps, and at least five a plateau
    of at most 2 % of the finest error.
    """
    assert (report.estimator, report.verdict.value) == ("quadrature", "CONFIRMED"), report.message
    assert sum(abs(t.share) <= 0.02 for t in report.tests) >= 5
    same = [t for t in report.tests if len(set(np.sign(t.error))) == 1]
    assert len(same) >= 5
    for test in same:
        assert all(0.98 <= o <= 1.02 for o in (test.coarse_orders[-1], test.order)), test.label


@pytest.mark.parametrize("denominator", ["new", "old"])
def test_rmsprop_has_order_1(denominator):
    """h = 2^-3 to 2^-10."""
    report = rmsprop(denominator, 8)
    check(report)
    assert all(0.98 <= t.coarse_orders[-2] <= 1.02 for t in report.tests)


@pytest.mark.parametrize("denominator", ["new", "old"])
def test_adam_has_order_1(denominator):
    """h = 2^-3 to 2^-7."""
    report = adam(denominator, 5)
    check(report)
    assert max(float((part / np.abs(report.error)).max()) for part in report.bounds.values()) < 0.02


def slower(method, oracle):
    """The SDE with an average of squares that is a tenth too slow."""
    return RMSprop(method.lr, 1 - 0.9 * method.one_minus_beta, method.eps).sde(oracle)


def louder(method, oracle):
    """With 1 % more noise."""
    return method.sde(oracle.rescaled(1 / 1.02))


@pytest.mark.parametrize("wrong", [slower, louder], ids=["slower", "louder"])
def test_a_wrong_sde_of_rmsprop_is_refuted(wrong):
    assert rmsprop("new", 5, sde=wrong).verdict.value == "REFUTED"


def shifted(method, oracle):
    """Adam's SDE with its corrections a tenth of a unit of time late."""
    own = method.sde(oracle)
    return ItoSDE(lambda t, x: own.at(t - 0.1, x), own.noise_dim, own.point)


def stiffer(method, oracle):
    """With a memory of gradients that is a twentieth too long."""
    return Adam(method.lr, 1 - 0.95 * method.one_minus_beta1, 1 - method.one_minus_beta2, method.eps).sde(oracle)


@pytest.mark.parametrize("wrong", [shifted, stiffer, louder], ids=["late", "stiffer", "louder"])
def test_a_wrong_sde_of_adam_is_refuted(wrong):
    assert adam("new", 5, sde=wrong).verdict.value == "REFUTED"


SEQUENCES = {
    "normal False 1.0 0.1 0.25": "gaussian",
    "normal True 0.3 0.5 0.125": "gaussian",
    "two-point True 1.0 0.5 0.25": TwoPoint(1.5),
    "two-point False 0.3 0.1 0.125": TwoPoint(1.5),
}


@pytest.mark.parametrize("name", SEQUENCES)
def test_stored_exact_sequences_are_this_estimator_s(name):
    """Entries of data/exact_sequences.npz: local interpolation in log u on a box, no polynomials; good to 1e-6."""
    _, new, *numbers = name.split()
    c2, eps0, h = map(float, numbers)
    with np.load(Path(__file__).parents[1] / "data" / "exact_sequences.npz") as data:
        stored = data["error"][list(data["settings"]).index(name)]
    root = math.sqrt(h)
    report = verify(
        RMSprop(root, 1 - c2 * h, eps0 / root, denominator="new" if new == "True" else "old"),
        Quadratic(1.0, 1.0, scale=1 / root, noise=SEQUENCES[name]), theta0=[1.5], horizon=1.0, initial={"u": [2.0]},
        multipliers=(1, 2, 4, 8),
        test_functions={name: FUNCTIONS[name] for name in ("theta", "theta^2", "u", "cos theta")},
    )  # fmt: skip
    assert (np.abs(report.error - stored) <= 2 * report.sem + 1e-6).all()
    assert (2 * report.sem[:, -1] < 1e-4 * np.abs(stored[:, -1])).all()
