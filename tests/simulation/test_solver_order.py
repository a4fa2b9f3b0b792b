"""The solvers' own weak order, measured without noise on three problems whose expectations are known.

The transition operator of a scheme is applied exactly: to second moments where the SDE is linear (the step is affine
in dW, so two-point increments have the right moments), by Gauss–Hermite quadrature on a grid otherwise. Both call the
solver.
"""

import itertools
import math

import numpy as np
import pytest
import torch
from scipy.interpolate import CubicSpline
from scipy.linalg import expm

from sdeadapt.methods.base import ItoSDE
from sdeadapt.methods.sgd import SGDPoint
from sdeadapt.simulation.solvers import euler_step

F64 = torch.float64


def linear(drift, *columns):
    """dX = A X dt + sum_i B_i X dW_i, a path a row."""
    a, b = torch.tensor(drift, dtype=F64), torch.tensor(columns, dtype=F64)

    def at(t, x):
        moved = torch.einsum("kij,pj->kpi", b, x.theta)
        return SGDPoint(x.theta @ a.T), lambda dw: SGDPoint(torch.einsum("kpi,pk->pi", moved, dw))

    return ItoSDE(at, len(columns), SGDPoint)


def second_moments(sde, dim, x0, steps):
    """E X X^T after `steps` Euler steps to t = 1: the mean of kron(F, F) over increments ±sqrt(h), to a power."""
    h = 1 / steps
    operator = np.zeros((dim * dim, dim * dim))
    signs = list(itertools.product((-1.0, 1.0), repeat=sde.noise_dim))
    for sign in signs:
        dw = math.sqrt(h) * torch.tensor(sign, dtype=F64).expand(dim, -1)
        step = euler_step(sde, 0.0, SGDPoint(torch.eye(dim, dtype=F64)), h, dw).theta.numpy().T
        operator += np.kron(step, step) / len(signs)
    return (np.linalg.matrix_power(operator, steps) @ np.outer(x0, x0).ravel()).reshape(dim, dim)


def arsinh(drift_error=0.0):
    """dX = (X/2 + sqrt(X^2 + 1)) dt + sqrt(X^2 + 1) dW, so X = sinh(t + W); Debrabant and Roessler 2009."""

    def at(t, x):
        root = (x.theta.square() + 1).sqrt()
        return SGDPoint((0.5 + drift_error) * x.theta + root), lambda dw: SGDPoint(root * dw)

    return ItoSDE(at, 1, SGDPoint)


def polynomial(z):
    return z**3 - 6 * z**2 + 8 * z


def arsinh_mean(sde, steps, nodes=48, points=1601):
    """E p(arsinh X) at t = 1 from X = 0, by backward induction on a grid of z = arsinh x."""
    h, grid = 1 / steps, np.linspace(-9.0, 9.0, points)
    z, weights = np.polynomial.hermite_e.hermegauss(nodes)
    x = torch.as_tensor(np.repeat(np.sinh(grid), nodes))[:, None]
    dw = math.sqrt(h) * torch.as_tensor(np.tile(z, points))[:, None]
    landing = np.arcsinh(euler_step(sde, 0.0, SGDPoint(x), h, dw).theta.numpy()).reshape(points, nodes)
    value = polynomial(grid)
    for _ in range(steps):
        value = CubicSpline(grid, value)(landing) @ weights / weights.sum()
    return float(CubicSpline(grid, value)(0.0))


A, B1, B2 = [[-0.9, 0.4], [-0.3, -0.6]], [[0.3, 0.5], [0.0, 0.4]], [[0.2, 0.0], [0.6, -0.3]]


def moments_2d():
    """E X_1^2, E X_1 X_2 and E X_2^2 at t = 1, by the moment equation M' = A M + M A^T + sum_i B_i M B_i^T."""
    a, eye = np.array(A), np.eye(2)
    generator = np.kron(a, eye) + np.kron(eye, a) + sum(np.kron(b, b) for b in (np.array(B1), np.array(B2)))
    return (expm(generator) @ np.outer([1.0, -0.5], [1.0, -0.5]).ravel())[[0, 1, 3]]


def ito_corrected(drift, *columns):
    """The drift that is wrong by half the sum of B_i^2, as if the equation were a Stratonovich one."""
    return (np.array(drift) + sum(np.array(b) @ np.array(b) for b in columns) / 2).tolist()


PROBLEMS = {
    "geometric": (
        lambda n, wrong: second_moments(
            linear(ito_corrected([[0.3]], [[0.6]]) if wrong else [[0.3]], [[0.6]]), 1, [1.0], n
        ),
        math.exp(2 * 0.3 + 0.6**2),
    ),
    "arsinh": (lambda n, wrong: arsinh_mean(arsinh(0.5 if wrong else 0.0), n), 1 - 3 + 2),
    "non-commuting": (
        lambda n, wrong: second_moments(
            linear(ito_corrected(A, B1, B2) if wrong else A, B1, B2), 2, [1.0, -0.5], n
        ).ravel()[[0, 1, 3]],
        moments_2d(),
    ),
}
STEPS = (16, 32, 64, 128)


def errors(name, *, wrong=False):
    """Weak errors of Euler with 16 … 128 steps and of the pairs (16, 32) … (64, 128); a row per number."""
    expectation, exact = PROBLEMS[name]
    plain = [np.ravel(expectation(n, wrong)) - exact for n in STEPS]
    return np.array(plain), np.array([2 * fine - coarse for coarse, fine in itertools.pairwise(plain)])


@pytest.mark.parametrize("name", PROBLEMS)
def test_euler_has_weak_order_one_and_the_extrapolated_pair_two(name):
    plain, pair = errors(name)
    assert np.log2(plain[-2] / plain[-1]) == pytest.approx(1, abs=0.05)
    assert np.log2(pair[-2] / pair[-1]) == pytest.approx(2, abs=0.06)
    assert (np.abs(pair[-1]) < np.abs(plain[-1]) / 10).all()


@pytest.mark.parametrize("name", PROBLEMS)
def test_the_difference_of_the_pair_bounds_what_it_leaves(name):
    plain, pair = errors(name)
    assert (np.abs(pair) < np.abs(np.diff(plain, axis=0))).all()


@pytest.mark.parametrize("name", PROBLEMS)
def test_control_a_wrong_ito_drift_has_order_zero(name):
    for right, found in zip(errors(name), errors(name, wrong=True), strict=True):
        assert (np.abs(np.log2(np.abs(found[-2] / found[-1]))) < 0.15).all()
        assert (np.abs(found[-1]) > 5 * np.abs(right[-1])).all()


def test_the_quadrature_has_converged():
    """Nodes and grid of the arsinh problem change nothing beside errors of 1e-4 and more."""
    coarse, fine = (arsinh_mean(arsinh(), 32, *sizes) for sizes in ((32, 801), (48, 1601)))
    assert abs(coarse - fine) < 1e-7


def test_the_matrices_do_not_commute():
    b1, b2 = np.array(B1), np.array(B2)
    assert np.abs(b1 @ b2 - b2 @ b1).max() > 0.1
