"""`quadrature` against closed forms, `moments`, enumeration by brute force, and itself on other grids.

Every agreement is asked for within the bounds that the estimator states, and within a fixed small number beside it.
"""

import itertools
import math
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor

from sdeadapt.methods import SGD, Adagrad, Adam, ItoSDE, Method, Momentum, RMSprop
from sdeadapt.oracles.analytic import Quadratic, Rippled
from sdeadapt.oracles.finite_sum import LogisticRegression
from sdeadapt.oracles.noise import TwoPoint
from sdeadapt.simulation.run import Run
from sdeadapt.verification.noise_free import Exact, expectations
from sdeadapt.verification.resolution import Resolution
from sdeadapt.verification.study import Study

sys.path.append(str(Path(__file__).parents[1] / "convergence"))
import reference_moments

LINE = {"theta": lambda x: x.theta[:, 0], "theta^2": lambda x: x.theta[:, 0] ** 2}
COS = {"cos": lambda x: torch.cos(x.theta[:, 0])}
U, M2 = {"u": lambda x: x.u[:, 0]}, {"m^2": lambda x: x.m[:, 0] ** 2}
SMALL = Resolution(points=(16, 8), nodes=10, euler=8)


def study(method, oracle, theta0=(1.0,), steps=4, **options):
    defaults = dict.fromkeys(("horizon", "sde", "initial", "start", "times"))
    defaults |= {"refine": "svag", "order": 1, "solver": "extrapolated", "substeps": 4, "run": Run()}
    defaults |= {"multipliers": (1, 2, 4), "test_functions": LINE}
    return Study.build(method, oracle, theta0=theta0, steps=steps, **(defaults | options))


def law(found, resolution=SMALL, name="quadrature", level=0) -> Exact:
    """The expectations of one level."""
    return expectations(name, found.levels[level : level + 1], resolution, True)


def rmsprop(h=1 / 8, eps0=0.5, c2=0.5, **options):
    return RMSprop(lr=math.sqrt(h), beta=1 - c2 * h, eps=eps0 / math.sqrt(h), **options)


def quadratic(h=1 / 8, sigma0=0.8, **options):
    return Quadratic(1.0, 1.0, scale=sigma0 / math.sqrt(h), **options)


# -- closed forms ------------------------------------------------------------------------------------------------------


def test_the_sde_of_rmsprop_has_its_moments():
    """f quadratic, Sigma = 1: u is deterministic and theta Gaussian."""
    exact = law(
        study(rmsprop(), quadratic(), initial={"u": [1.6]}, test_functions=LINE | U),
        SMALL,
    )
    mean, second = reference_moments.rmsprop(1.0, 0.8, 0.5, 0.5, 1.0, 1.6, 0.5)
    u = reference_moments.u_path(1.6, 0.5)(0.5)
    assert exact.sde[:, 0] == pytest.approx([mean[0], second[0, 0], u], abs=1e-7)
    louder = reference_moments.rmsprop(1.0, 0.81, 0.5, 0.5, 1.0, 1.6, 0.5)[1]
    assert abs(exact.sde[1, 0] - louder[0, 0]) > 1e-3  # the twin: a hundredth more noise


def test_sgd_agrees_with_moments():
    found = study(SGD(1 / 8), Quadratic(1.2, 0.7, scale=1.0, minimum=0.3), refine="step", multipliers=(1, 2, 4))
    grid, closed = law(found, Resolution(points=(96,))), law(found, name="moments")
    for side in ("chain", "sde"):
        assert getattr(grid, side) == pytest.approx(getattr(closed, side), abs=1e-6)
    gap = np.abs((grid.chain - grid.sde) - (closed.chain - closed.sde))
    assert (gap <= grid.bound + grid.common[:, None] + closed.bound).all()


@pytest.mark.slow
def test_momentum_agrees_with_moments():
    found = study(Momentum(0.0625, 0.75, friction="langevin"), Quadratic(1.0, 1.0, scale=1.0))
    grid, closed = law(found, Resolution(points=(12, 12), nodes=10)), law(found, name="moments")
    assert grid.chain == pytest.approx(closed.chain, abs=1e-6)
    assert grid.sde == pytest.approx(closed.sde, abs=1e-6)
    gap = np.abs((grid.chain - grid.sde) - (closed.chain - closed.sde))
    assert (gap <= grid.bound + grid.common[:, None] + closed.bound).all()


def test_u_of_a_chain_is_a_short_recursion():
    """E u' = u + c h (Sigma + E (grad f)^2 / sigma^2 - u), where grad f depends on the law of theta: f = 0 here."""
    flat = Quadratic(0.0, 1.0, scale=2.0)
    exact = law(study(rmsprop(), flat, initial={"u": [1.6]}, test_functions=U))
    assert exact.chain[0, 0] == pytest.approx(1 + 0.6 * (1 - 1 / 16) ** 4, abs=1e-5)


def test_a_law_that_travels():
    """Adagrad's accumulator grows: E S = S0 + t for f = 0 and Sigma = 1, for chain and SDE alike."""
    method, flat = Adagrad(0.3, time_step=1 / 8), Quadratic(0.0, 1.0, scale=1 / math.sqrt(1 / 8))
    found = study(method, flat, initial={"u": [1.0]}, test_functions=U)
    exact = law(found, Resolution())
    assert exact.chain[0, 0] == pytest.approx(1.5, abs=1e-6)
    assert exact.sde[0, 0] == pytest.approx(1.5, abs=1e-9)  # without noise of its own in u it is a point that travels


# -- laws of the gradient, by brute force ------------------------------------------------------------------------------


def enumerated(level):
    """E phi of the chain: every sequence of draws by itself."""
    method, oracle = level.method, level.oracle
    draws, weights = oracle.rule(2)
    total = 0.0
    for one in itertools.product(range(len(weights)), repeat=level.records[-1]):
        state, probability = method.from_point(level.initial, oracle.scale), 1.0
        for k, i in enumerate(one):
            index = torch.tensor([i])
            draw = tuple(d[index] for d in draws) if isinstance(draws, tuple) else draws[index]
            state = method.step(state, oracle.sample(oracle.at(state.theta), draw), k)
            probability *= float(weights[i])
        total = total + probability * level.evaluate(method.to_point(state, oracle.scale))[0]
    return total.numpy()


@pytest.mark.slow
def test_two_points_are_exact():
    found = study(rmsprop(), quadratic(noise=TwoPoint(1.5)), initial={"u": [1.6]}, test_functions=LINE | U | COS)
    exact = law(found)
    assert exact.chain[:, 0] == pytest.approx(enumerated(found.levels[0]), abs=1e-12)


@pytest.mark.slow
def test_svag_pairs_are_exact():
    """One refined level: pairs of two points, four atoms a step."""
    found = study(rmsprop(1 / 4), quadratic(1 / 4, noise=TwoPoint(1.5)), steps=1, initial={"u": [1.6]},
                  test_functions=LINE | U | COS)  # fmt: skip
    exact = law(found, level=1)
    assert exact.chain[:, 0] == pytest.approx(enumerated(found.levels[1]), abs=1e-7)


def regression():
    x = torch.tensor([[1.0], [-0.6], [0.8], [0.3], [-1.2]], dtype=torch.float64)
    return LogisticRegression(x, torch.tensor([1, 0, 0, 1, 1]), 2, l2=0.2, sampling="batch")


def test_minibatches_are_exact():
    """Ten batches of two among five examples; two iterations are 100 sequences."""
    found = study(RMSprop(0.2, 0.9, 0.1), regression(), theta0=[0.4], steps=2, test_functions=LINE | U | COS)
    exact = law(found)
    assert exact.chain[:, 0] == pytest.approx(enumerated(found.levels[0]), abs=1e-12)


# -- a user's own ------------------------------------------------------------------------------------------------------


class Scaled(NamedTuple):
    theta: Tensor


@dataclass(frozen=True)
class Damped(Method):
    """A user's method, theta' = theta - lr sin(g): it knows nothing of grids."""

    lr: float
    State = Point = Scaled

    @property
    def time_step(self):
        return self.lr

    def refinement(self, multiplier):
        return multiplier

    def rescaled(self, kappa):
        return replace(self, lr=self.lr * kappa)

    def init(self, theta):
        return Scaled(theta)

    def step(self, state, g, k):
        return Scaled(state.theta - self.lr * torch.sin(g))

    def to_point(self, state, scale):
        return state

    def from_point(self, point, scale):
        return point

    def initial(self, local):
        return Scaled(local.theta)


def test_a_method_and_an_sde_of_the_user():
    """Two points, sigma fixed: the chain by enumeration; the ODE x' = -sin(x) cos(sigma) in closed form."""
    oracle = Quadratic(1.0, 1.0, scale=0.5, noise="two-point")

    def ode(method, oracle):
        rate = math.cos(oracle.scale)
        return ItoSDE(lambda t, x: (Scaled(-torch.sin(x.theta) * rate), lambda dw: Scaled(None)), 1, Scaled)

    found = study(Damped(1 / 4), oracle, sde=ode, refine="step", test_functions=LINE | COS)
    exact = expectations("quadrature", found.levels[:1], Resolution(points=(48,)), False)
    assert exact.chain[:, 0] == pytest.approx(enumerated(found.levels[0]), abs=1e-9)
    end = 2 * math.atan(math.tan(0.5) * math.exp(-math.cos(0.5)))
    assert exact.sde[:, 0] == pytest.approx([end, end**2, math.cos(end)], abs=1e-8)


# -- starts and times --------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_rows_are_averaged():
    one, two, both = (
        law(study(rmsprop(), quadratic(), theta0=t, initial={"u": [1.6]})) for t in ([[1.0]], [[0.2]], [[1.0], [0.2]])
    )
    assert both.chain == pytest.approx((one.chain + two.chain) / 2, abs=1e-5)
    assert both.sde == pytest.approx((one.sde + two.sde) / 2, abs=1e-5)


@pytest.mark.slow
def test_several_times_are_several_studies():
    h = 1 / 8
    together = law(study(rmsprop(), quadratic(), times=[2 * h, 4 * h], initial={"u": [1.6]}))
    alone = [law(study(rmsprop(), quadratic(), steps=n, initial={"u": [1.6]})) for n in (2, 4)]
    assert together.chain[:, 0] == pytest.approx(np.concatenate([a.chain[:, 0] for a in alone]), abs=1e-5)
    assert together.sde[:, 0] == pytest.approx(np.concatenate([a.sde[:, 0] for a in alone]), abs=1e-5)


def test_adam_goes_on_from_a_state():
    """Two points: from (theta, m, u) at t = 4h, two iterations with the corrections of iterations 4 and 5."""
    h = 1 / 8
    method = Adam(lr=math.sqrt(h), beta1=1 - h, beta2=1 - h / 2, eps=0.7 / math.sqrt(h))
    oracle = quadratic(sigma0=0.5, noise="two-point")
    found = study(method, oracle, steps=6, start=4 * h, initial={"m": [0.4], "u": [0.3]},
                  test_functions=LINE | M2 | U)  # fmt: skip
    level = found.levels[0]
    assert level.begin == level.start == 4
    exact = law(found, Resolution(euler=2))

    def enumerated_from(begin):
        total = 0.0
        for signs in itertools.product((-1.0, 1.0), repeat=2):
            now = method.from_point(level.initial, oracle.scale)
            for k, sign in enumerate(signs, start=begin):
                now = method.step(now, now.theta + sign * oracle.scale, k)
            total = total + level.evaluate(method.to_point(now, oracle.scale))[0] / 4
        return total.numpy()

    assert exact.chain[:, 0] == pytest.approx(enumerated_from(4), abs=1e-12)
    assert abs(exact.chain[0, 0] - enumerated_from(3)[0]) > 3e-3  # the twin: an iteration earlier


# -- the bound ---------------------------------------------------------------------------------------------------------


def bounded(method, oracle, resolution):
    exact = law(study(method, oracle, steps=4, initial={"u": [1.6]}, test_functions=LINE | U), resolution)
    return (exact.chain - exact.sde)[:, 0], {k: v[:, 0] for k, v in exact.parts.items()}


ADAM = Adam(lr=math.sqrt(1 / 8), beta1=7 / 8, beta2=15 / 16, eps=0.5 * math.sqrt(8), bias_correction=False)
COARSE = {
    "rests": (rmsprop(), Rippled(2.0), Resolution(points=(36, 14), nodes=8, radius=5.0, euler=4)),
    "moves": (rmsprop(), Rippled(2.0, noise="gaussian"), Resolution(points=(8, 5), nodes=5, radius=3.5, euler=2)),
    "three": (ADAM, Rippled(2.0, noise="gaussian"), Resolution(points=(6, 6, 4), nodes=4, radius=3.5, euler=2)),
}
FINER = {
    "points": lambda r: replace(r, points=tuple(2 * n for n in r.points)),
    "nodes": lambda r: replace(r, nodes=2 * r.nodes),
    "radius": lambda r: replace(r, radius=2 * r.radius, points=(84, 44) if r.points[0] > 30 else r.points),
    "euler": lambda r: replace(r, euler=2 * r.euler),
}


@pytest.mark.slow
@pytest.mark.parametrize("part", FINER)
@pytest.mark.parametrize("case", COARSE)
def test_doubling_a_part_stays_within_the_bound(part, case):
    """On a grid at rest, on one that moves, and on one with three coordinates."""
    method, problem, coarse = COARSE[case]
    (first, bound), (second, _) = (bounded(method, problem, r) for r in (coarse, FINER[part](coarse)))
    assert (np.abs(first - second) <= sum(bound.values())).all()


@pytest.mark.slow
def test_without_its_part_for_the_grid_the_bound_does_not_hold():
    """The twin: a coarse grid, the other parts small."""
    coarse = Resolution(points=(8, 5), nodes=16, radius=10.0, euler=16)
    (first, bound), (second, _) = (
        bounded(rmsprop(), Rippled(2.0, noise="gaussian"), r) for r in (coarse, replace(coarse, points=(20, 10)))
    )
    gap = np.abs(first - second)
    assert (gap <= sum(bound.values())).all()
    rest = sum(v for k, v in bound.items() if k in ("nodes", "extrapolation", "rounding"))
    assert (gap > rest).any()
