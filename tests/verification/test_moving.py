"""Clouds thinned in a moving frame: kept moments, degenerate laws, closed forms of Adam, and the grid at rest."""

import itertools
import math
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from sdeadapt.methods import SGD, Adam, RMSprop
from sdeadapt.oracles.analytic import Quadratic, Rippled
from sdeadapt.simulation.run import Run
from sdeadapt.verification.moving import Cloud, Frame, Moving
from sdeadapt.verification.quadrature import _neville, _resting
from sdeadapt.verification.resolution import Resolution
from sdeadapt.verification.study import Study

sys.path.append(str(Path(__file__).parents[1] / "convergence"))
import reference_moments

STATE = {
    "theta": lambda x: x.theta[:, 0],
    "m": lambda x: x.m[:, 0],
    "theta^2": lambda x: x.theta[:, 0] ** 2,
    "theta m": lambda x: x.theta[:, 0] * x.m[:, 0],
    "m^2": lambda x: x.m[:, 0] ** 2,
}


def levels(method, oracle, **options):
    defaults = dict.fromkeys(("horizon", "sde", "initial", "start", "times", "steps"))
    defaults |= {"refine": "noise", "order": 1, "solver": "extrapolated", "substeps": 4, "run": Run()}
    defaults |= {"multipliers": (1, 2, 4), "theta0": (1.0,), "test_functions": STATE}
    return Study.build(method, oracle, **(defaults | options)).levels


def cloud(n=500):
    """A skewed law of (theta, m, u), u positive and correlated with theta."""
    z = torch.as_tensor(np.random.default_rng(1).standard_normal((3, n)))
    theta = 0.5 + z[0] + 0.2 * z[0].square()
    return Cloud((theta, 0.3 * z[1] - 0.5 * theta, (0.3 * z[2] + 0.2 * theta).exp()), torch.full((n,), 1 / n).double())


def moment(law, *degrees):
    y = law.rows[0], law.rows[1], law.rows[2].log()
    return float((law.weights * math.prod(x**d for x, d in zip(y, degrees, strict=True))).sum())


# -- thinning ----------------------------------------------------------------------------------------------------------


def test_moments_of_total_degree_one_are_kept():
    """Axes of 5, 5 and 3 nodes: degrees a/4 + b/4 + c/2 <= 1, in theta, m and log u alike by the shear."""
    law = cloud()
    thin = Frame((5, 5, 3), (False, False, True), 30.0).thinned(law)
    assert len(thin.weights) == 75
    for a, b in itertools.product(range(5), repeat=2):
        if a + b <= 4:
            assert moment(thin, a, b, 0) == pytest.approx(moment(law, a, b, 0), rel=1e-11)
    for a, b, c in [(1, 1, 1), (2, 0, 1), (0, 0, 2)]:
        assert moment(thin, a, b, c) == pytest.approx(moment(law, a, b, c), rel=1e-11)
    for a, b, c in [(5, 0, 0), (2, 1, 2), (0, 0, 3)]:  # the twin: beyond them
        assert abs(moment(thin, a, b, c) / moment(law, a, b, c) - 1) > 1e-6


def test_a_small_cloud_stays_as_it_is():
    law = cloud(75)
    assert Frame((5, 5, 3), (False, False, True), 30.0).thinned(law) is law


def test_points_far_out_are_moved_to_the_edge_and_counted():
    law = Cloud(
        (torch.cat([torch.linspace(-1, 1, 99).double(), torch.tensor([50.0]).double()]),),
        torch.full((100,), 0.01).double(),
    )
    thin = Frame((8,), (False,), 3.0).thinned(law)
    assert thin.moved == pytest.approx(0.01)
    assert float((thin.weights * thin.rows[0]).sum()) < float((law.weights * law.rows[0]).sum()) - 0.1
    assert Frame((8,), (False,), 30.0).thinned(law).moved == 0


def test_a_law_without_spread_in_some_direction():
    """u is a point, and m a multiple of theta: what is thinned is still the law."""
    theta = torch.linspace(-1, 1, 200).double()
    law = Cloud((theta, -2 * theta, torch.full_like(theta, 0.7)), torch.full_like(theta, 1 / 200))
    thin = Frame((5, 5, 3), (False, False, True), 30.0).thinned(law)
    assert float(thin.weights.abs().sum()) < 3
    for degrees in [(1, 0, 0), (4, 0, 0), (2, 2, 0), (1, 1, 0), (0, 0, 1), (2, 0, 1)]:
        assert moment(thin, *degrees) == pytest.approx(moment(law, *degrees), abs=1e-7)


# -- Adam --------------------------------------------------------------------------------------------------------------

H, ROOT = 1 / 16, 1 / 4
MOVING = Resolution(points=(8, 8, 4)).filled(("theta", "m", "u"))


def adam(**options):
    return Adam(lr=ROOT, beta1=1 - 1.5 * H, beta2=1 - 0.6 * H, eps=0.5 / ROOT, **options)


def test_theta_may_have_no_noise_of_its_own():
    """g = ±sigma and u = 1: (theta, m) is linear in the noise. 2^10 steps, no moment is lost."""
    found = levels(adam(bias_correction=False), Quadratic(0.0, 1.0, scale=1 / ROOT, noise="two-point"),
                   steps=16, initial={"m": [0.5], "u": [1.0]}, multipliers=(1, 4, 8))  # fmt: skip
    for level in found[::2]:
        h, steps = level.method.time_step, level.records[-1]
        keep, kick, size = 1 - 1.5 * h, 1.5 * math.sqrt(h), h / (1 + 0.5)
        a, b = np.array([[1, -size * keep], [0, keep]]), kick * np.array([-size, 1.0])
        mean, second = np.array([1.0, 0.5]), np.outer([1.0, 0.5], [1.0, 0.5])
        for _ in range(steps):
            mean, second = a @ mean, a @ second @ a.T + np.outer(b, b)
        way = Moving(found, MOVING)
        *_, (_, law) = way.chain(level, 8)
        assert len(law.weights) == 256
        assert float(law.weights.abs().sum()) < 2
        exact = [*mean, second[0, 0], second[0, 1], second[1, 1]]
        assert way.mean(level, law).phi.numpy() == pytest.approx(exact, abs=1e-10)


def test_adam_s_sde_has_its_moments():
    """f quadratic, Sigma = 1: u is deterministic, (theta, m) Gaussian."""
    found = levels(adam(), Quadratic(1.0, 1.0, scale=0.8 / ROOT), start=1.0, horizon=2.0,
                   initial={"m": [0.5], "u": [1.4]})  # fmt: skip
    way, multiples = Moving(found, MOVING), (1, 2, 3, 4, 6)
    start = dict(way.chain(found[0], 8))[found[0].start]
    runs = [way.mean(found[0], law).phi for n in multiples for law in way.sde(found[0], start, n)]
    solved = _neville([1 / n for n in multiples], runs).numpy()
    for sigma0, right in ((0.8, True), (0.81, False)):
        mean, second = reference_moments.adam(
            1.0, sigma0, 0.5, 1.5, 0.6, [1.0, 0.5], 1.4, 2.0, start=1.0, bias_correction=True
        )
        exact = [*mean, second[0, 0], second[0, 1], second[1, 1]]
        assert (np.abs(solved - exact).max() < 2e-6) == right


def test_tails_too_long_are_said_to():
    """SGD with exponential noise, on a grid that asks for moments of degree 23 without a radius to speak of."""
    found = levels(SGD(1 / 8), Rippled(0.4 * math.sqrt(8), noise="exponential"), theta0=[1.5], steps=8,
                   test_functions={"theta": STATE["theta"]})  # fmt: skip
    way = Moving(found, Resolution((24,), 12, 1e3, 2))
    with pytest.raises(FloatingPointError, match=r"tails too long for a grid of 24 points\. Take fewer"):
        list(way.chain(found[0], 12))


# -- the grid at rest --------------------------------------------------------------------------------------------------


def test_a_grid_at_rest_finds_the_same():
    """RMSprop on a rippled loss: two ways that have only the images of points in common."""
    looks = {"theta": STATE["theta"], "theta^2": STATE["theta^2"], "u": lambda x: x.u[:, 0]}
    found = levels(RMSprop(ROOT, 1 - H / 2, 0.7 / ROOT), Rippled(1 / ROOT, noise="gaussian"), steps=8,
                   test_functions=looks)  # fmt: skip
    level, fields = found[0], found[0].initial._fields
    ways = Moving(found, Resolution().filled(fields, moves=True)), _resting(found, Resolution((48, 24)).filled(fields))
    means = []
    for way in ways:
        *_, (_, law) = way.chain(level, 16)
        means.append(way.mean(level, law).phi.numpy())
    assert means[0] == pytest.approx(means[1], abs=3e-6)
    assert np.abs(means[0] - [1.0, 1.0, float(level.initial.u)]).min() > 0.01  # it has moved
