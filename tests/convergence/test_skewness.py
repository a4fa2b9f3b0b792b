"""A fixed skewness of the noise lowers RMSprop's weak order to 1/2; SVAG restores it.

On a quadratic, z = Exp(1) - 1 has cov(dtheta, du) = -P^-1 c E[z^3] h^(3/2) in one iteration, the SDE none: E theta^2
sees it, E u does not. Malladi et al. 2022, Definition 2.6 ("low skewness"). No random number is drawn.
"""

import math

import numpy as np
import pytest

from sdeadapt import Budget, verify
from sdeadapt.methods import RMSprop
from sdeadapt.oracles.analytic import Quadratic
from sdeadapt.oracles.noise import TwoPoint
from sdeadapt.verification.resolution import Resolution

FUNCTIONS = {"theta^2": lambda x: x.theta[:, 0] ** 2, "u": lambda x: x.u[:, 0]}


def study(h, noise, points, **options):
    method = RMSprop(math.sqrt(h), 1 - h / 2, 0.3 / math.sqrt(h), denominator="old")
    return verify(
        method, Quadratic(1.0, 1.0, 1 / math.sqrt(h), noise), theta0=[1.0], initial={"u": [1.3]},
        test_functions=FUNCTIONS, budget=Budget(resolution=Resolution(points=points, nodes=12, euler=4)),
        **{"horizon": 0.25, "refine": "noise", "multipliers": (1, 2, 4)} | options,
    )  # fmt: skip


def orders(report, name):
    error = report.error[report.names.index(name)]
    return np.log(error[:-1] / error[1:]) / np.log(report.h[:-1] / report.h[1:])


def shares(report, name):
    """The plateau of every three neighbouring levels, fitted by a + b h + c h^2, as a share of the finest error."""
    error, found = report.error[report.names.index(name)], []
    for i in range(len(report.h) - 2):
        powers = np.vander(report.h[i : i + 3], 3, increasing=True)
        found.append(np.linalg.solve(powers, error[i : i + 3])[0] / error[i + 2])
    return np.abs(found)


def test_a_fixed_skewness_gives_order_one_half():
    """h = 2^-9 to 2^-13."""
    report = study(2**-9, "exponential", (30, 24), horizon=1 / 8)
    assert report.noise_free
    assert report.verdict.value == "REFUTED", report.message
    assert orders(report, "theta^2") == pytest.approx(0.5, abs=0.03)
    assert orders(report, "u") == pytest.approx(1, abs=0.03)


@pytest.mark.slow
def test_svag_leaves_no_plateau():
    """Its pairs of draws have the skewness E[z^3] (w1^3 + w2^3) / r^(3/2) = O(1 / sqrt(r)) of what they replace."""
    report = study(2**-5, "exponential", (36, 24), refine="svag", multipliers=(1, 2, 4, 8))
    assert report.verdict.value == "CONFIRMED", report.message
    found = shares(report, "theta^2")
    assert (found[1:] < found[:-1]).all()
    assert found[-1] < 0.02
    fixed = shares(study(2**-5, "exponential", (36, 24), multipliers=(1, 2, 4, 8)), "theta^2")
    assert (fixed > 0.4).all()  # the twin


def low_skewness(method, oracle, r):
    """The two-point law whose skewness is 2 sqrt(h) at every level."""
    h = method.time_step / r
    return method.rescaled(1 / r), Quadratic(1.0, 1.0, oracle.scale * math.sqrt(r), TwoPoint(2 * math.sqrt(h)))


@pytest.mark.slow
def test_a_skewness_that_falls_with_the_root_of_h_gives_order_one():
    """The "low skewness" of Malladi et al.; the twin has the same first level and keeps its law."""
    h = 2**-5
    noise = TwoPoint(2 * math.sqrt(h))
    falls, stays = (
        study(h, noise, (14, 7), refine=refine, horizon=1.0, multipliers=(1, 2, 4))
        for refine in (low_skewness, "noise")
    )
    assert falls.noise_free
    assert falls.verdict.value == "CONFIRMED", falls.message
    assert orders(falls, "theta^2")[-1] == pytest.approx(1, abs=0.02)
    assert orders(falls, "u")[-1] == pytest.approx(1, abs=0.02)
    assert shares(falls, "theta^2")[-1] < 0.02
    assert stays.verdict.value == "REFUTED"
    assert (orders(stays, "theta^2") < 0.8).all()
