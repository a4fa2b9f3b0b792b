"""Increments and steps: their laws, their formulas, and what joins a fine and a coarse path."""

import math
from typing import NamedTuple

import pytest
import torch

from sdeadapt.methods.base import ItoSDE
from sdeadapt.simulation.solvers import (
    SOLVERS,
    Increments,
    Pair,
    check_substeps,
    draw_increments,
    euler_step,
    solver,
)

F64 = torch.float64


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


class Point(NamedTuple):
    theta: torch.Tensor
    m: torch.Tensor
    u: torch.Tensor


# --- increments ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("halvings", [0, 1, 2])
def test_increments_and_areas_have_their_joint_law(halvings):
    """Var dW = dt, Cov(dW, U) = dt^2/2, Var U = dt^3/3, also after halving; 10^5 draws see 2 % at 4.5 sem."""
    increments = draw_increments(generator(), 4, 0.3, 25_000 << halvings, 1, F64, area=True)
    for _ in range(halvings):
        increments = increments.halved()
    dt, w, area = increments.dt, increments.dw.flatten(), increments.area.flatten()
    assert dt == 0.3 * 2**halvings
    for product, exact in ((w * w, dt), (w * area, dt**2 / 2), (area * area, dt**3 / 3), (w, 0.0), (area, 0.0)):
        sem = float(product.std()) / math.sqrt(len(product))
        assert abs(float(product.mean()) - exact) < 4 * sem
        if exact:
            assert abs(float(product.mean()) - 1.1 * exact) > 5 * sem  # control


def test_halving_sums_a_path_and_its_integral():
    """Against W itself: U is the integral of W - W(t_i), here of a path that is linear within a sub-step."""
    dt, dw = 0.25, torch.tensor([1.0, -2.0, 0.5, 3.0], dtype=F64)[:, None, None]
    fine = Increments(dt, dw, dt / 2 * dw)
    once = fine.halved()
    assert once.dw.flatten().tolist() == [-1.0, 3.5]
    # trapezoids under (0, 1, -1) and (0, .5, 3.5)
    assert once.area.flatten().tolist() == pytest.approx([dt * (0.5 + 0.0), dt * (0.25 + 2.0)])
    twice = once.halved()
    assert twice.dt == 4 * dt
    assert twice.dw.flatten().tolist() == [2.5]
    assert twice.area.flatten().tolist() == pytest.approx([dt * (0.5 + 0.0 + -0.75 + 1.0)])


def test_normals_are_drawn_in_float32_unless_the_law_is_heavy():
    light, heavy = (draw_increments(generator(), 2, 1.0, 8, 3, F64, heavy=h).dw for h in (False, True))
    assert light.dtype == heavy.dtype == F64
    assert torch.equal(light, light.float().double())
    assert not torch.equal(heavy, heavy.float().double())
    assert draw_increments(generator(), 2, 1.0, 8, 3, torch.float32).dw.dtype == torch.float32


# --- steps --------------------------------------------------------------------------------------------------------


def coefficients(t, x):
    return Point(t - x.theta, None, x.u + x.m), lambda dw: Point(x.u * dw, dw, None)


def test_euler_step_is_its_formula_and_none_is_zero():
    x = Point(*(torch.randn(3, 5, 2, dtype=F64, generator=generator())))
    dw = torch.randn(5, 2, dtype=F64, generator=generator(1))
    got = euler_step(ItoSDE(coefficients, 2, Point), 0.7, x, 0.1, dw)
    expected = Point(x.theta + 0.1 * (0.7 - x.theta) + x.u * dw, x.m + dw, x.u + 0.1 * (x.u + x.m))
    for a, b in zip(got, expected, strict=True):
        assert torch.allclose(a, b, rtol=1e-14)


def test_a_step_changes_nothing_that_it_was_given():
    x = Point(*(torch.ones(3, 5, 2, dtype=F64)))
    dw = torch.ones(5, 2, dtype=F64)
    euler_step(ItoSDE(coefficients, 2, Point), 0.7, x, 0.1, dw)
    assert all(bool((field == 1).all()) for field in (*x, dw))


def test_euler_looks_at_every_sub_step_once_at_its_time():
    times = []

    def at(t, x):
        times.append(t)
        return Point(None, None, None), lambda dw: Point(dw, None, None)

    advance, area = solver("euler")
    increments = draw_increments(generator(), 4, 0.25, 3, 1, F64)
    x = Point(*torch.zeros(3, 3, 1, dtype=F64))
    assert torch.allclose(
        advance(ItoSDE(at, 1, Point), 2.0, x, increments).theta, increments.dw.sum(0), rtol=0, atol=1e-14
    )
    assert times == [2.0, 2.25, 2.5, 2.75]
    assert not area


def test_a_pair_runs_on_one_path():
    sde = ItoSDE(lambda t, x: (Point(None, None, None), lambda dw: Point(dw, x.theta * dw, None)), 1, Point)
    x = Point(*torch.ones(3, 64, 1, dtype=F64))
    fine = draw_increments(generator(), 4, 0.25, 64, 1, F64)
    pair = Pair(x, x).advance(solver("extrapolated")[0], sde, 0.0, fine, fine.halved())
    assert torch.allclose(pair.fine.theta, pair.coarse.theta, rtol=0, atol=1e-14)
    assert float((pair.fine.m - pair.coarse.m).abs().min()) > 0


# --- the edge -----------------------------------------------------------------------------------------------------


def test_solvers_by_name():
    for name in SOLVERS:
        assert solver(name)[1] == (name == "torchsde:srk")
    with pytest.raises(ValueError, match=r"`solver` must be one of .* got 'torchsde:heun'"):
        solver("torchsde:heun")


@pytest.mark.parametrize("substeps", [1, 3])
def test_an_odd_number_of_substeps_has_no_coarse_solution(substeps):
    with pytest.raises(ValueError, match=rf"`substeps` must be even: .* got {substeps}. Euler at the chain's own step"):
        check_substeps(substeps)
    assert check_substeps(2) == 2
