"""Orders without a random number: RMSprop on a non-quadratic loss with a covariance that depends on theta.

Chosen after seeing: sigma0 = 1 and theta0 = 1, where no error of these functions changes sign for either denominator
and the law stays in place, so that one grid serves all times.
"""

import math
from pathlib import Path

import numpy as np
import pytest
import torch

from sdeadapt.methods import RMSprop
from sdeadapt.oracles.analytic import Quadratic, Rippled
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


def study(denominator, levels, **options):
    h = 1 / 8
    return verify(
        Halving(math.sqrt(h), 1 - h / 2, 0.7 / math.sqrt(h), denominator=denominator),
        Rippled(0.99 / math.sqrt(h), noise="gaussian"), theta0=[1.0], horizon=1.0, refine="noise",
        multipliers=[2**i for i in range(levels)], test_functions=FUNCTIONS, **options,
    )  # fmt: skip


@pytest.mark.parametrize("denominator", ["new", "old"])
def test_rmsprop_has_order_1(denominator):
    """h = 2^-3 to 2^-10, in 9.5 s of one core on a machine that is shared."""
    report = study(denominator, 8)
    assert (report.estimator, report.verdict.value) == ("quadrature", "CONFIRMED"), report.message
    assert sum(abs(t.share) <= 0.02 for t in report.tests) >= 5
    for test in report.tests:
        if len(set(np.sign(test.error))) == 1:
            assert all(0.98 <= o <= 1.02 for o in (*test.coarse_orders[-2:], test.order)), test.label
    assert sum(len(set(np.sign(t.error))) == 1 for t in report.tests) >= 5


def slower(method, oracle):
    """The SDE with an average of squares that is a tenth too slow."""
    return RMSprop(method.lr, 1 - 0.9 * method.one_minus_beta, method.eps).sde(oracle)


@pytest.mark.parametrize("wrong", [slower, lambda m, o: m.sde(o.rescaled(1 / 1.02))], ids=["slower", "louder"])
def test_a_wrong_sde_is_refuted(wrong):
    assert study("new", 5, sde=wrong).verdict.value == "REFUTED"


def test_stored_exact_sequences_are_this_estimator_s():
    """An entry of data/exact_sequences.npz (local interpolation in log u, no polynomials); the noise is Gaussian."""
    with np.load(Path(__file__).parents[1] / "data" / "exact_sequences.npz") as data:
        stored = data["error"][list(data["settings"]).index("normal False 1.0 0.1 0.25")]
    report = verify(
        RMSprop(0.5, 0.75, 0.2, denominator="old"), Quadratic(1.0, 1.0, scale=2.0), theta0=[1.5], steps=4,
        initial={"u": [2.0]}, refine="noise", multipliers=(1, 2, 4, 8),
        test_functions={name: FUNCTIONS[name] for name in ("theta", "theta^2", "u", "cos theta")},
    )  # fmt: skip
    assert report.error == pytest.approx(stored, abs=5e-6)
    assert (np.abs(report.error - stored) <= 2 * report.sem).all()
