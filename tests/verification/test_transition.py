"""Transition operators: known moments, a plain dense sum, powers against steps, and Gauss rules of discrete laws."""

import itertools
import math

import pytest
import torch

from sdeadapt.methods import SGD
from sdeadapt.oracles.amplified import Amplified
from sdeadapt.oracles.analytic import Quadratic
from sdeadapt.oracles.finite_sum import LinearRegression
from sdeadapt.oracles.noise import Gaussian, ShiftedExponential, TwoPoint, Uniform
from sdeadapt.simulation.paths import Level
from sdeadapt.verification.images import gradient_law
from sdeadapt.verification.transition import Axis, Grid, Operator, compressed


def row(*values):
    return torch.tensor(values, dtype=torch.float64)


def expectation(grid, moments, phi):
    return float((grid.weights(moments).reshape(-1) * phi(*grid.rows)).sum())


def gaussian(nodes=40):
    return Gaussian().nodes(nodes)


PLANE = Grid((Axis(-2.0, 3.0, 12, decay=1.0), Axis(0.5, 2.0, 9, root=True, decay=0.5)))
NOISE, WEIGHTS = row(-1.3, 0.1, 0.9), row(0.3, 0.5, 0.2)


def inward(x, u, z):
    """A step that stays inside the grid: theta sees everything, u only itself and the noise."""
    return 0.4 * x + 0.2 * torch.sin(x * u.sqrt()) + 0.3 * z, 0.8 * u + 0.2 * (1 + z / 4).square() + 0.1


# -- moments -----------------------------------------------------------------------------------------------------------


def test_moments_of_a_uniform_law_are_those_of_chebyshev_polynomials():
    """On [-1, 1], E T_a = (1 + (-1)^a) / (2 (1 - a^2)), and 0 for odd a."""
    z, weights = Uniform().nodes(20)
    found = Grid((Axis(-math.sqrt(3), math.sqrt(3), 12),)).moments([z], weights)
    known = [0.0 if a % 2 else 1 / (1 - a * a) for a in range(12)]
    assert torch.allclose(found, row(*known), atol=1e-14, rtol=0)


@pytest.mark.parametrize("decay", [0.0, 2.0])
def test_polynomials_are_averaged_exactly_without_a_weight_and_closely_with_one(decay):
    z, weights = gaussian()
    grid = Grid((Axis(-8.0, 8.0, 60, decay=decay),))
    inside = z.abs() < 8
    moments = grid.moments([z[inside]], weights[inside])
    for degree in range(7):
        exact = float((weights[inside] * z[inside] ** degree).sum())
        assert expectation(grid, moments, lambda x, n=degree: x**n) == pytest.approx(exact, abs=1e-10)


def test_an_axis_with_a_root_is_exact_for_polynomials_of_the_root():
    axis = Axis(0.5, 2.0, 6, root=True)
    assert (axis.nodes.min() > 0.25) & (axis.nodes.max() < 4)
    grid, atoms, weights = Grid((axis,)), row(0.3, 1.7, 3.6), row(0.5, 0.3, 0.2)
    moments = grid.moments([atoms], weights)
    for power in (0.5, 1.0, 2.5):
        exact = float((weights * atoms**power).sum())
        assert expectation(grid, moments, lambda u, p=power: u**p) == pytest.approx(exact, abs=1e-14)
    plain = Grid((Axis(0.25, 4.0, 6),))  # the twin: the root is no polynomial of u
    exact = float((weights * atoms.sqrt()).sum())
    assert abs(expectation(plain, plain.moments([atoms], weights), torch.sqrt) - exact) > 1e-5


def test_values_beyond_the_edge_are_moved_to_it():
    axis = Axis(-1.0, 2.0, 5, decay=1.0)
    assert torch.equal(axis.polynomials(row(7.0)), axis.polynomials(row(2.0)))
    assert torch.equal(axis.polynomials(row(-3.0)), axis.polynomials(row(-1.0)))


# -- operators ---------------------------------------------------------------------------------------------------------


def dense(grid, step, noise, weights, moments):
    """The moments after a step, by the sum over every node and every noise."""
    nodal, found = grid.weights(moments).reshape(-1), 0.0
    for z, w in zip(noise, weights, strict=True):
        found = found + grid.moments(step(*grid.rows, z), nodal * w)
    return found


def images(grid, step, noise):
    moved = [step(*grid.rows, z) for z in noise]
    return [torch.stack([m[i] for m in moved]).reshape(-1, *grid.shape) for i in range(len(grid.axes))]


def start(grid):
    at = [row(*([0.5 * (a.low + a.high)] * 2)) + row(0.0, 0.1) for a in grid.axes]
    at = [x.square() if a.root else x for x, a in zip(at, grid.axes, strict=True)]
    return grid.moments(at, row(0.25, 0.75))


def test_a_step_is_the_sum_over_nodes_and_noises():
    operator = Operator(PLANE, images(PLANE, inward, NOISE), WEIGHTS)
    exact = dense(PLANE, inward, NOISE, WEIGHTS, start(PLANE))
    assert torch.allclose(operator.push(start(PLANE)), exact, atol=1e-13, rtol=0)


def space(x, m, u, z):
    """As Adam: m and u see the noise and few coordinates, theta all of them."""
    after = 0.8 * m + 0.1 * torch.sin(x) + 0.1 * z, 0.9 * u + 0.05 * (z + 0.2 * x).square()
    return 0.9 * x - 0.2 * after[0] / (after[1].sqrt() + 0.3), *after


@pytest.mark.parametrize("quiet", [False, True], ids=["noise in all", "noise in one"])
def test_in_three_coordinates_too(quiet):
    grid = Grid((Axis(-1.5, 1.5, 7, decay=0.5), Axis(-1.0, 1.0, 6), Axis(0.4, 1.5, 5, root=True)))

    def step(x, m, u, z):
        if not quiet:
            return space(x, m, u, z)
        return 0.9 * x - 0.1 * m / u.sqrt(), 0.8 * m + 0.1 * x + 0.1 * z, 0.9 * u + 0.1

    operator = Operator(grid, images(grid, step, NOISE), WEIGHTS)
    exact = dense(grid, step, NOISE, WEIGHTS, start(grid))
    assert torch.allclose(operator.push(start(grid)), exact, atol=1e-13, rtol=0)


def test_weights_may_depend_on_the_first_coordinate():
    """Two atoms of a law whose probabilities change with theta."""
    x = PLANE.axes[0].nodes
    share = 0.5 + 0.3 * torch.tanh(x)
    operator = Operator(PLANE, images(PLANE, inward, NOISE[:2]), torch.stack([share, 1 - share]))
    everywhere = 0.5 + 0.3 * torch.tanh(PLANE.rows[0])
    nodal = PLANE.weights(start(PLANE)).reshape(-1)
    exact = sum(
        PLANE.moments(inward(*PLANE.rows, z), nodal * w)
        for z, w in zip(NOISE[:2], (everywhere, 1 - everywhere), strict=True)
    )
    assert torch.allclose(operator.push(start(PLANE)), exact, atol=1e-13, rtol=0)


@pytest.mark.parametrize("steps", [9, 64, 1001])
def test_powers_are_steps(steps):
    """A matrix, squared where that pays (from N/4 = 27 steps on), against one contraction after the other."""
    stepped = Operator(PLANE, images(PLANE, inward, NOISE), WEIGHTS, steps=1)
    powered = Operator(PLANE, images(PLANE, inward, NOISE), WEIGHTS, steps=steps)
    assert stepped._matrix is None
    assert powered._matrix is not None
    difference = stepped.push(start(PLANE), steps) - powered.push(start(PLANE), steps)
    assert float(difference.abs().max()) < 1e-12


def test_polynomials_are_taken_over():
    found = images(PLANE, inward, NOISE)
    first = Operator(PLANE, found, WEIGHTS)
    second = Operator(PLANE, [found[0] / 2, found[1]], WEIGHTS, before=first)
    assert second._factors[1] is first._factors[1]
    fresh = Operator(PLANE, [found[0] / 2, found[1]], WEIGHTS)
    assert torch.equal(second.push(start(PLANE)), fresh.push(start(PLANE)))


def test_an_autoregression_has_its_closed_moments():
    """x' = .8 x + .1 z: Gaussian, mean .8^n, variance .01 (1 - .64^n) / .36; its fourth moment too."""
    z, weights = gaussian(16)
    grid = Grid((Axis(-1.2, 2.0, 80, decay=3.5),))
    operator = Operator(grid, [0.8 * grid.rows[0] + 0.1 * z[:, None]], weights, steps=40)
    moments = operator.push(grid.moments([row(1.0)], row(1.0)), 40)
    mean, variance = 0.8**40, 0.01 * (1 - 0.64**40) / 0.36
    assert expectation(grid, moments, lambda x: x) == pytest.approx(mean, abs=1e-9)
    assert expectation(grid, moments, torch.square) == pytest.approx(variance + mean**2, abs=1e-9)
    assert expectation(grid, moments, lambda x: x**4) == pytest.approx(3 * variance**2, abs=1e-8)
    cosine = math.exp(-variance * 25 / 2)
    assert expectation(grid, moments, lambda x: torch.cos(5 * x)) == pytest.approx(cosine, abs=1e-6)


# -- laws of the gradient --------------------------------------------------------------------------------------


def at(oracle):
    """A level that draws from this oracle."""
    method = SGD(0.1)
    return Level(method, oracle, oracle, None, method.Point(torch.zeros(1, 1).double()), 0, (1,), {})


@pytest.mark.parametrize("size", [2, 5, 9])
def test_a_gauss_rule_has_the_moments_up_to_degree_2n_minus_1(size):
    atoms = torch.stack([torch.linspace(-1, 2, 40, dtype=torch.float64) ** 3, torch.arange(40).double() / 10])
    weights = torch.arange(1, 41).double()
    weights /= weights.sum()
    nodes, rule = compressed(atoms, weights, size)
    assert nodes.shape == rule.shape == (2, size)
    scale = atoms.abs().amax(1)
    for degree in range(2 * size):
        exact = ((atoms / scale[:, None]) ** degree * weights).sum(1)
        assert torch.allclose(((nodes / scale[:, None]) ** degree * rule).sum(1), exact, atol=1e-12, rtol=0), degree
    degree = 2 * size  # the twin: one degree more is off
    exact = ((atoms / scale[:, None]) ** degree * weights).sum(1)
    assert float((((nodes / scale[:, None]) ** degree * rule).sum(1) - exact).abs().min()) > 1e-11


def test_few_atoms_stay_as_they_are():
    atoms, weights = torch.stack([row(-0.5, 2.0), row(1.0, 1.0)]), row(0.8, 0.2)
    nodes, rule = compressed(atoms, weights, 2)
    assert torch.equal(nodes, atoms)
    assert torch.equal(rule, weights.expand(2, 2))


def test_equal_atoms_are_one():
    """A law with fewer different values than nodes: the rule is the law, its superfluous nodes weigh nothing."""
    atoms = row(-0.5, -0.5, 2.0, 2.0, 2.0)[None]
    weights = row(0.3, 0.5, 0.1, 0.05, 0.05)
    nodes, rule = compressed(atoms, weights, 4)
    for degree in range(8):
        exact = float((atoms**degree * weights).sum())
        assert float((nodes**degree * rule).sum()) == pytest.approx(exact, abs=1e-10)
    still, one = compressed(torch.ones(1, 5, dtype=torch.float64), weights, 3)
    assert float((still * one).sum()) == pytest.approx(1, abs=1e-14)


def test_two_points_are_exact():
    oracle = Quadratic(1.0, 1.0, scale=0.7, noise=TwoPoint(skewness=1.5))
    g, weights = gradient_law(at(oracle), row(0.3, -1.0), 8)
    assert g.shape == (2, 2)
    low, high = oracle.noise.values
    assert torch.allclose(g[:, 0], 0.3 + 0.7 * row(low, high), atol=1e-15)
    assert torch.allclose(weights[:, 1], row(0.8, 0.2), atol=1e-15)


@pytest.mark.parametrize("r", [4, 64])
def test_pairs_of_svag_keep_their_moments(r):
    """Nodes of r1 z1 + r2 z2 for exponential z: all moments up to degree 9 against products of the law's own."""
    oracle = Amplified(Quadratic(1.0, 1.0, scale=1.0, noise=ShiftedExponential()), r)
    g, weights = gradient_law(at(oracle), row(0.0), 12)
    assert len(g) <= 12
    z, w = ShiftedExponential().nodes(12)
    own = [float((w * z**k).sum()) for k in range(10)]
    first, second = oracle.weights
    for degree in range(10):
        exact = sum(
            math.comb(degree, k) * first**k * second ** (degree - k) * own[k] * own[degree - k]
            for k in range(degree + 1)
        )
        size = r ** (degree / 2) * math.prod(range(1, degree + 1))  # of an exponential's moments
        assert float((weights * g**degree).sum()) / size == pytest.approx(exact / size, abs=1e-11)


def test_minibatches_are_enumerated():
    x, y = row(1.0, -0.4, 0.8, 0.1)[:, None], row(1.0, -0.5, 0.3, 0.8)
    oracle = LinearRegression(x, y, 2, sampling="batch")
    g, weights = gradient_law(at(oracle), row(0.5), 24)
    single = x[:, 0] * (0.5 * x[:, 0] - y)
    pairs = sorted(float(single[[i, j]].mean()) for i, j in itertools.combinations(range(4), 2))
    assert torch.allclose(g[:, 0].sort().values, row(*pairs), atol=1e-14)
    assert torch.allclose(weights[:, 0], torch.full((6,), 1 / 6, dtype=torch.float64), atol=1e-15)
