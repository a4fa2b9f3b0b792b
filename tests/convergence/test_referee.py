"""Monte Carlo against the estimators that draw nothing, on twelve problems.

Every error of every estimator is asked to lie within four standard errors, its bound on the solver's bias and the
bound of the referee: some 350 comparisons, of which one fails by chance in 2 % of all choices of the seed. The twin is
the referee's error of an SDE with 5 % more noise, which the same comparison must reject. Test functions are those
whose error does not change sign.
"""

import math
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch

from sdeadapt.methods import SGD, Adagrad, Adam, Momentum, RMSprop, RMSpropW
from sdeadapt.oracles.analytic import MultiplicativeNoise, Quadratic, Rippled
from sdeadapt.oracles.finite_sum import LinearRegression
from sdeadapt.simulation.run import Run
from sdeadapt.verification.planning import Budget
from sdeadapt.verification.resolution import Resolution
from sdeadapt.verification.weak_error import verify

H = 1 / 8
ROOT = math.sqrt(H)
SHARE = 0.02  # standard errors are at most this share of the weak error, where a case says so


class _Halved:
    """A method for which a multiplier divides h."""

    def refinement(self, multiplier):
        return multiplier


class HalvedRMSprop(_Halved, RMSprop): ...


class HalvedRMSpropW(_Halved, RMSpropW): ...


class HalvedAdagrad(_Halved, Adagrad): ...


class HalvedAdam(_Halved, Adam): ...


def regression():
    """Batches of two among twelve examples."""
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(12, 2, generator=generator, dtype=torch.float64)
    y = x @ x.new_tensor([1.0, -0.5]) + 0.7 * torch.randn(12, generator=generator, dtype=torch.float64)
    return LinearRegression(x, y, 2)


def line(sigma0, **options):
    return Quadratic(1.0, 1.0, sigma0 / ROOT, **options)


def louder(method, oracle):
    """The SDE of the method with 5 % more noise."""
    own = method.sde(oracle)

    def at(t, x):
        drift, diffuse = own.at(t, x)
        return drift, lambda dw: diffuse(1.05 * dw)

    return replace(own, at=at)


class Case(NamedTuple):
    """A study, its referee, and what may be compared.

    paths: at every level. resolved: how many levels, from the user's own lr on, have standard errors of at most SHARE
    of every error; at finer ones, where errors are smaller, that would take many more paths.
    """

    method: Any
    oracle: Any
    referee: str
    estimators: tuple[str, ...]
    functions: tuple[str, ...]
    options: dict[str, Any]
    paths: int = 4096
    resolved: int = 3
    grid: Resolution = Resolution()

    def verify(self, **more):
        options = {"steps": 8, "multipliers": (1, 2, 4), "test_functions": self.functions} | self.options
        return verify(self.method, self.oracle, **(options | more))

    def exact(self, **more):
        """The referee's errors and the bound on them, (J, L) each."""
        found = self.verify(estimator=self.referee, budget=Budget(resolution=self.grid), **more)
        return found.error, sum(found.bounds.values())

    def measured(self, estimator):
        found = self.verify(estimator=estimator, substeps=16, rng=1, budget=Budget(paths=self.paths))
        return found.error, found.sem, found.bias + 2 * found.bias_sem


BOTH, KNOWN = ("coupled", "independent"), ("coupled", "independent", "exact-sde")
THETA, LOSS = ("theta_0", "theta_0_squared"), ("loss",)
PLANE = {"theta0": [1.5, -0.8]}
HESSIAN, COVARIANCE = [[0.8, 0.3], [0.3, 0.4]], [[1.0, -0.4], [-0.4, 0.7]]
SPACE = [[0.9, 0.2, 0.0], [0.2, 0.6, -0.1], [0.0, -0.1, 0.4]], [[1.0, -0.3, 0.2], [-0.3, 0.8, 0.0], [0.2, 0.0, 0.6]]
ROTATION = [[math.cos(0.5), -math.sin(0.5)], [math.sin(0.5), math.cos(0.5)]]
LANGEVIN = Momentum(H / 2, 0.75, friction="langevin")

SGD_QUADRATIC = Case(
    SGD(H), Quadratic(HESSIAN, COVARIANCE, 0.4 / ROOT), "moments", KNOWN, (*THETA, "theta_1_squared", "loss"), PLANE,
    paths=1024,
)  # fmt: skip
CASES = {
    "SGD, three dimensions, two points, noise": Case(
        SGD(H), Quadratic(*SPACE, 0.4 / ROOT, noise="two-point"), "moments", KNOWN, THETA + LOSS,
        {"theta0": [1.5, -0.8, 1.0], "refine": "noise"},
    ),
    "SGD, multiplicative, step": Case(
        SGD(H), MultiplicativeNoise([0.9, 0.3], ROTATION), "moments", BOTH, THETA + LOSS, PLANE | {"refine": "step"},
        paths=32768,
    ),
    "SGD, minibatches, SVAG": Case(
        SGD(H), regression(), "moments", ("independent",), (*THETA, "theta_1_squared"), PLANE, paths=16384, resolved=1
    ),
    "SGD, rippled, exponential, noise": Case(
        SGD(H), Rippled(0.3 / ROOT), "quadrature", BOTH, THETA + LOSS, {"theta0": [1.5], "refine": "noise"},
        paths=16384, resolved=1, grid=Resolution(points=(64,)),
    ),
    "momentum, two dimensions, SVAG": Case(
        LANGEVIN, Quadratic(HESSIAN, COVARIANCE, 0.4 / ROOT), "moments", KNOWN,
        (*THETA, *LOSS, "velocity_norm_squared"), PLANE,
    ),
    "momentum, minibatches, SVAG": Case(
        LANGEVIN, regression(), "moments", ("independent",), THETA, PLANE, paths=8192,
    ),
    "RMSprop, old v, quadratic, SVAG": Case(
        HalvedRMSprop(ROOT, 1 - H / 2, 0.7 / ROOT, denominator="old"), line(0.5), "quadrature", KNOWN,
        (*THETA, "mean_u"), {"theta0": [1.5], "initial": {"u": [2.0]}},
    ),
    "RMSprop, rippled, noise": Case(
        HalvedRMSprop(ROOT, 1 - H / 2, 0.7 / ROOT), Rippled(0.5 / ROOT, noise="gaussian"), "quadrature", BOTH,
        (*THETA, "mean_u"), {"theta0": [2.0], "refine": "noise"}, paths=32768, resolved=1,
    ),
    "RMSpropW, rippled, two points, SVAG": Case(
        HalvedRMSpropW(ROOT, 1 - H / 2, 0.7 / ROOT, weight_decay=0.25), Rippled(0.6 / ROOT, noise="two-point"),
        "quadrature", BOTH, ("theta_0", "mean_u"), {"theta0": [1.0]}, paths=16384,
    ),
    "Adagrad, rippled, SVAG": Case(
        HalvedAdagrad(0.5, 0.5 / H, time_step=H), Rippled(0.5 / ROOT, noise="gaussian"), "quadrature", BOTH,
        (*THETA, *LOSS, "mean_u"), {"theta0": [1.0], "initial": {"u": [1.0]}}, paths=16384,
    ),
    "Adam from a state, two points, SVAG": Case(
        HalvedAdam(ROOT, 1 - H, 1 - H / 2, 0.7 / ROOT), line(0.4, noise="two-point"), "quadrature", KNOWN,
        (*THETA, "mean_u", "m_norm_squared"),
        {"theta0": [1.0], "steps": 16, "start": 8 * H, "initial": {"m": [0.6], "u": [0.7]}},
    ),
}  # fmt: skip


def agrees(found, exact):
    (error, sem, bias), (expected, bound) = found, exact
    return np.abs(error - expected) <= 4 * sem + bias + bound + 1e-12  # controls leave linear chains no noise at all


def check(case):
    exact, wrong = case.exact(), case.exact(sde=louder)
    for estimator in case.estimators:
        found = case.measured(estimator)
        assert agrees(found, exact).all(), estimator
        assert not agrees(found, wrong).all(), estimator
        share = found[1] / np.abs(exact[0])
        assert share[:, : case.resolved].max() <= SHARE, estimator


def test_monte_carlo_agrees_with_moments():
    check(SGD_QUADRATIC)


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_monte_carlo_agrees_with_what_draws_nothing(name):
    check(CASES[name])


# -- intervals ---------------------------------------------------------------------------------------------------------

SEEDS = 400
LEAST, MOST = 364, 394  # of 400 intervals of 95 %: false alarms in .03 % of cases, .2 % for all six intervals
SMALL = CASES["SGD, rippled, exponential, noise"]._replace(functions=THETA)


@pytest.mark.slow
def test_intervals_cover_the_error():
    """Coupled, 512 paths: the solver's bias is far below the standard errors. The twin: intervals halved."""
    short = {"steps": 2, "multipliers": (1, 2, 3)}
    expected, _ = SMALL.exact(**short)
    options = short | {"estimator": "coupled", "substeps": 8, "budget": Budget(paths=512), "run": Run(chunk=512)}
    reports = [SMALL.verify(rng=seed, **options) for seed in range(1000, 1000 + SEEDS)]
    error, sem = np.array([r.error for r in reports]), np.array([r.sem for r in reports])
    off = np.abs(error - expected)
    covered = (off <= 1.959964 * sem).sum(0)
    assert covered.min() >= LEAST, covered
    assert covered.max() <= MOST, covered
    assert ((off <= 0.98 * sem).sum(0) < LEAST).all()
