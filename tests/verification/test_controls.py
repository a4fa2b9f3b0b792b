"""Control variates that are there in name only."""

import math

from sdeadapt.methods import RMSprop
from sdeadapt.oracles.analytic import Rippled
from sdeadapt.simulation.randomness import SeedTree
from sdeadapt.simulation.run import Run
from sdeadapt.verification.estimators import make_expansion, run_pilot
from sdeadapt.verification.study import Study


def coefficients(noise):
    root = math.sqrt(1 / 8)
    level = Study.build(
        RMSprop(root, 15 / 16, 0.7 / root), Rippled(0.99 / root, noise=noise), theta0=[1.0], steps=4, horizon=None,
        sde=None, multipliers=(1, 2, 3), refine="noise", order=1, initial=None, start=None, times=None,
        test_functions=["mean_u"], solver="extrapolated", substeps=2, run=Run(),
    ).levels[0]  # fmt: skip
    return run_pilot(level, "chain", make_expansion(level), SeedTree.of(0), 0, 512).coefficients[0]


def test_a_control_that_is_only_rounding_is_not_used():
    """Of two-point noise zeta^2 - sigma^2 Sigma is rounding: its mean is not zero beside its spread.

    Used all the same, it moved E u by 15 standard errors.
    """
    found = coefficients("two-point")
    assert found[1] == 0
    assert found[0] != 0
    assert coefficients("gaussian")[1] != 0
