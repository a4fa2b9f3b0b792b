"""Every bad argument of `verify` is refused before any path is run, with the rule, the value and the remedy."""

import math

import numpy as np
import pytest
import torch

from sdeadapt.methods import SGD, Adam, ItoSDE, RMSprop
from sdeadapt.oracles.amplified import Amplified
from sdeadapt.oracles.analytic import Quadratic
from sdeadapt.oracles.base import NotDeclared, Oracle, Stream
from sdeadapt.oracles.finite_sum import LogisticRegression
from sdeadapt.simulation.run import Run
from sdeadapt.verification.planning import Budget
from sdeadapt.verification.study import Study, default_multipliers, make_clock
from sdeadapt.verification.weak_error import verify

METHOD = RMSprop(0.25, 0.9375, 0.4)
ORACLE = Quadratic([[1.0, 0.3], [0.3, 0.5]], [[1.0, -0.4], [-0.4, 0.7]], scale=4.0)


def refused(message, method=METHOD, oracle=ORACLE, error=ValueError, **options):
    settings = {"theta0": [1.0, 2.0], "steps": 16, "budget": Budget(paths=4)} | options
    with pytest.raises(error, match=message):
        verify(method, oracle, **settings)


def regression(sampling):
    x = torch.arange(12, dtype=torch.float64).reshape(6, 2).sin()
    return LogisticRegression(x, torch.tensor([0, 1, 0, 1, 1, 0]), 2, l2=0.1, sampling=sampling)


class SamplingOnly(Oracle):
    dim, noise_dim, scale = 2, 0, 1.0

    def stream(self, generator, paths):
        class Normal(Stream):
            def next(self, xi=None):
                return torch.randn(paths, 2, generator=generator, dtype=torch.float64)

        return Normal()

    def sample(self, local, draw):
        return local.theta + draw

    def to(self, device, dtype):
        return self


def test_theta0():
    refused(r"`theta0` must have shape \(2,\) or \(rows, 2\); got \(1, 3\)", theta0=[1.0, 2.0, 3.0])
    refused("`theta0` must be finite", theta0=[math.nan, 0.0])


def test_clock():
    refused("Exactly one of `horizon` .* and `steps`", horizon=1.0)
    refused("Exactly one of", steps=None)
    refused(
        "`horizon` must be a whole number of base steps of 0.0625 .*; got 0.1. The nearest is 0.125",
        steps=None,
        horizon=0.1,
    )
    refused("`start` must be a whole number of base steps", start=0.03)
    refused("`horizon` must exceed `start`", start=1.0)
    refused("`times` must lie in", times=[2.0])
    refused("`times` must be a whole number of base steps", times=[0.1])
    refused("`steps` must be a whole number >= 1; got 0", steps=0)


def test_clock_of_adam_starts_after_eight_base_steps():
    clock = make_clock(Adam(0.25, 0.9, 0.99), horizon=None, steps=16)
    assert (clock.start, clock.times) == (8, (16,))
    assert make_clock(Adam(0.25, 0.9, 0.99, bias_correction=False), horizon=1.0, steps=None).start == 0
    refused("With bias correction the SDE is singular at t = 0", Adam(0.25, 0.9, 0.99), start=0.0)


def test_times_are_on_the_base_grid():
    assert make_clock(METHOD, horizon=None, steps=16, times=5).times == (3, 6, 10, 13, 16)
    assert make_clock(METHOD, horizon=1.0, steps=None, times=[0.5, 1.0]).times == (8, 16)
    assert np.allclose(make_clock(METHOD, horizon=1.0, steps=None, times=[0.5, 1.0]).seconds, [0.5, 1.0])


def test_initial():
    refused("`initial` must have fields among theta, u; got v", initial={"v": 1.0})
    refused("`initial` u must not be negative; got -1", initial={"u": -1.0})
    refused("`initial` u must be finite", initial={"u": [math.inf, 1.0]})
    refused(r"`initial` u must have shape \(1, 2\)", initial={"u": [1.0, 1.0, 1.0]})
    refused("`initial` theta must agree with `theta0`", initial={"theta": [9.0, 9.0]})
    refused("With bias correction m = u = 0 at t = 0; got `initial` u != 0", Adam(0.25, 0.9, 0.99), initial={"u": 1.0})


def test_multipliers():
    refused("`multipliers` must be a whole number >= 1; got 0", multipliers=(0, 2, 4))
    refused("`multipliers` must be at least three increasing whole numbers", multipliers=(1, 2))
    refused("`multipliers` must be at least three increasing whole numbers", multipliers=(4, 2, 1))
    assert default_multipliers(METHOD) == (1, 2, 4, 8)
    assert default_multipliers(SGD(0.1)) == (1, 4, 16, 64)


def test_family():
    refused("`refine` must be one of .*; got 'savg'. Did you mean 'svag'", refine="savg")
    refused("reshuffled epochs .* SVAG and `verify` refuse", oracle=regression("epoch"))
    refused("`refine` must divide the time step by r = 4", refine=lambda m, o, r: (m, Amplified(o, r)))
    refused("`refine` must be 'step' under scaling='ballistic'", RMSprop(0.25, 0.9375, 0.4, scaling="ballistic"))
    for refine in ("svag", "noise"):
        refused("`refine` must be 'step' for order=2 of SGD; .* only of order 1", SGD(0.1), order=2, refine=refine)


def test_a_state_at_the_start_of_the_comparison():
    asked = {
        "theta0": [1.0, 2.0], "horizon": 1.0, "steps": None, "sde": None, "multipliers": (1, 2, 4), "refine": "svag",
        "order": 1, "initial": {"m": 0.5, "u": 1.0}, "times": None, "test_functions": None, "solver": "extrapolated",
        "substeps": 4, "run": Run(),
    }  # fmt: skip
    study = Study.build(Adam(0.25, 0.9, 0.99), ORACLE, start=0.5, **asked)
    assert [(level.begin, level.start) for level in study.levels] == [(8, 8), (32, 32), (128, 128)]
    torn = Study.build(Adam(0.25, 0.9, 0.99), ORACLE, start=0.5, **{**asked, "initial": None})
    assert [(level.begin, level.start) for level in torn.levels] == [(0, 8), (0, 32), (0, 128)]


def test_solver():
    refused("`solver` must be one of .*; got 'euler'", solver="euler")
    refused("`substeps` must be even.*Euler at the chain's own step", substeps=1)
    refused("`substeps` must be a whole number >= 1; got 0", substeps=0)


def test_numbers():
    refused(r"`confidence` must lie in \(0, 1\); got 1.5", confidence=1.5)
    refused("`atol` must be finite and not negative", atol=-1.0)
    refused("`order` must be a whole number >= 1; got 0", order=0)
    refused("`rng` must be a whole number >= 0 or a numpy SeedSequence; got -3", rng=-3)
    refused("`estimator` must be one of .*; got 'copled'. Did you mean 'coupled'", estimator="copled")
    with pytest.raises(ValueError, match="at most one of paths, precision and seconds"):
        Budget(paths=10, seconds=1.0)
    with pytest.raises(ValueError, match="`paths` must be a whole number >= 2; got 1"):
        Budget(paths=1)
    refused("`paths` must have 4 rows of 2 numbers", budget=Budget(paths=((1000,),)), estimator="independent")


def test_what_is_not_declared():
    refused("SamplingOnly does not declare", oracle=SamplingOnly(), error=NotDeclared, initial={"u": 1.0})
    refused("has no SDE of order 3", error=NotDeclared, order=3, refine="step")
    refused("cannot be coupled to an SDE", oracle=regression("replacement"), estimator="coupled")


def test_the_users_sde():
    def no_field(method, oracle):
        from typing import NamedTuple

        class Other(NamedTuple):
            theta: torch.Tensor

        return ItoSDE(lambda t, x: (x, lambda dw: x), 2, Other)

    refused(r"The SDE's Point must have the fields \('theta', 'u'\)", sde=no_field)
    own = METHOD.sde(ORACLE)
    refused("at least 2 Brownian columns; got 1", sde=ItoSDE(own.at, 1, own.point))
    broad = ItoSDE(lambda t, x: (own.point(x.theta[:, :1], None), own.at(t, x)[1]), 2, own.point)
    refused(r"must have shape \(paths, 2\); got \(2, 1\)", sde=broad)


def test_batch_without_replacement_of_everything_has_no_noise():
    with pytest.raises(ValueError, match=r"no noise|without noise"):
        LogisticRegression(torch.eye(4, dtype=torch.float64), torch.tensor([0, 1, 0, 1]), 4, sampling="batch")
