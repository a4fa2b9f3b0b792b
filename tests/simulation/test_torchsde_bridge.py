"""torchsde as a backend: the same steps on the same path, its order of convergence, and objects in and out."""

import math
from types import SimpleNamespace
from typing import NamedTuple

import numpy as np
import pytest
import torch
import torchsde

from sdeadapt.methods.base import ItoSDE
from sdeadapt.methods.rmsprop import RMSprop, RMSpropPoint
from sdeadapt.methods.sgd import SGD, SGDPoint
from sdeadapt.oracles.analytic import MultiplicativeNoise, Quadratic, Rippled
from sdeadapt.simulation.paths import Level, run_paths
from sdeadapt.simulation.solvers import Increments, draw_increments, euler, solver
from sdeadapt.simulation.torchsde_bridge import from_torchsde, noise_structure, to_torchsde, torchsde_advance

F64 = torch.float64


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def geometric(drift=0.3, size=0.7):
    """dX = drift X dt + size X dW, in every component its own."""

    def at(t, x):
        return SGDPoint(drift * x.theta), lambda dw: SGDPoint(size * x.theta * dw)

    return at


def rmsprop(dim=3, correlation=0.5):
    method, oracle = RMSprop(lr=0.1, beta=0.95), Rippled(2.0, dim=dim, correlation=correlation, noise="gaussian")
    theta = torch.linspace(-1, 1, 5 * dim, dtype=F64).reshape(5, dim)
    return method, oracle, RMSpropPoint(theta, 1 + theta.square())


# --- the same steps -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [1, 10, 99, 200])  # on a clock of float sums dt = .1 and 1/99 would take one step more
def test_euler_is_ours_on_the_same_path_in_exactly_n_steps(n):
    method, oracle, x = rmsprop()
    sde, looks = method.sde(oracle), []
    counted = ItoSDE(lambda t, x: (looks.append(t), sde.at(t, x))[1], sde.noise_dim, sde.point)
    increments = draw_increments(generator(), n, 1 / n, 5, 3, F64)
    ours, theirs = euler(sde, 0.25, x, increments), torchsde_advance("euler")(counted, 0.25, x, increments)
    for a, b in zip(ours, theirs, strict=True):
        assert torch.allclose(a, b, rtol=0, atol=1e-12)
    assert looks == pytest.approx(
        [0.25, *(0.25 + i / n for i in range(n))]
    )  # once to check its argument, then every step


def test_time_dependent_coefficients_see_sde_time():
    sde = ItoSDE(lambda t, x: (SGDPoint(t * x.theta), lambda dw: SGDPoint(math.cos(t) * dw)), 1, SGDPoint)
    increments = draw_increments(generator(), 7, 0.1, 4, 1, F64)
    x = SGDPoint(torch.ones(4, 1, dtype=F64))
    ours = euler(sde, 0.5, x, increments).theta
    assert torch.allclose(torchsde_advance("euler")(sde, 0.5, x, increments).theta, ours, rtol=0, atol=1e-14)
    assert not torch.allclose(torchsde_advance("euler")(sde, 0.0, x, increments).theta, ours, rtol=0, atol=1e-3)


@pytest.mark.parametrize("dtype", [torch.float32, F64])
def test_dtype_is_kept(dtype):
    sde = ItoSDE(geometric(), 2, SGDPoint)
    for method in ("euler", "milstein", "srk"):
        increments = draw_increments(generator(), 4, 0.1, 3, 2, dtype, area=True)
        assert (
            torchsde_advance(method)(sde, 0.0, SGDPoint(torch.ones(3, 2, dtype=dtype)), increments).theta.dtype == dtype
        )


def test_a_level_runs_on_torchsde_with_the_same_numbers():
    method, oracle, x = rmsprop()
    functions = {"square": lambda x: x.theta.square().sum(1), "u": lambda x: x.u.mean(1)}
    values = [
        run_paths(
            Level(method, oracle, oracle, method.sde(oracle), x, 0, (5, 10), functions, 4, name), "sde", generator(), 64
        )
        for name in ("extrapolated", "torchsde:euler")
    ]
    assert torch.allclose(values[0].sde, values[1].sde, rtol=0, atol=1e-12)
    assert float(values[0].sde.std()) > 1e-3


def test_no_global_random_state_moves():
    method, oracle, x = rmsprop()
    increments = draw_increments(generator(), 4, 0.1, 5, 3, F64)
    torch.manual_seed(1)
    before, numpy_before = torch.random.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    torchsde_advance("euler")(method.sde(oracle), 0.0, x, increments)
    assert torch.equal(before, torch.random.get_rng_state())
    assert np.array_equal(numpy_before, np.random.get_state()[1])  # noqa: NPY002
    # control: torchsde itself moves it, so the test would notice
    bm = torchsde.BrownianInterval(0.0, 1.0, size=(5, 3), dtype=F64, entropy=0)
    torchsde.sdeint(to_torchsde(method.sde(oracle), 3), torch.cat(x, 1), [0.0, 1.0], bm=bm, method="euler", dt=0.5)
    assert not torch.equal(before, torch.random.get_rng_state())


# --- what noise it is ---------------------------------------------------------------------------------------------


def crossed(t, x):
    """Each column moves one component, but by an amount that depends on the other one."""
    return SGDPoint(-x.theta), lambda dw: SGDPoint(x.theta.flip(1) * dw)


@pytest.mark.parametrize(
    ("sde", "expected"),
    [
        (SGD(0.1).sde(Quadratic([1.0, 2.0], [[1.0, 0.5], [0.5, 1.0]], 1.0)), "additive"),
        (SGD(0.1).sde(MultiplicativeNoise(1.0)), "scalar"),
        (ItoSDE(geometric(), 2, SGDPoint), "diagonal"),
        (SGD(0.1).sde(MultiplicativeNoise([1.0, 2.0], [[0.6, -0.8], [0.8, 0.6]])), "general"),
        (ItoSDE(crossed, 2, SGDPoint), "general"),
    ],
)
def test_noise_structure(sde, expected):
    assert noise_structure(sde, 0.0, SGDPoint(torch.zeros(1, sde.noise_dim, dtype=F64))).noise_type == expected
    x = SGDPoint(torch.full((3, sde.noise_dim), 0.7, dtype=F64))
    assert noise_structure(sde, 0.0, x).noise_type == expected


def test_noise_structure_of_methods_with_fields_that_no_column_moves():
    """u has no noise of its own and enters the noise of theta: that is diagonal still."""
    method, oracle, x = rmsprop(correlation=0.0)  # the size of each component's noise depends on its neighbour
    assert noise_structure(method.sde(oracle), 0.0, x).noise_type == "general"
    diagonal = MultiplicativeNoise([1.0, 2.0, 3.0], scale=2.0)
    assert noise_structure(method.sde(diagonal), 0.0, x).noise_type == "diagonal"


@pytest.mark.parametrize("method", ["milstein", "srk"])
def test_general_noise_is_refused_with_the_reason(method):
    rms, oracle, x = rmsprop()
    increments = draw_increments(generator(), 2, 0.1, 5, 3, F64, area=True)
    with pytest.raises(
        ValueError, match=rf"torchsde:{method} must have additive, scalar or diagonal noise; got general"
    ):
        torchsde_advance(method)(rms.sde(oracle), 0.0, x, increments)
    with pytest.raises(ValueError, match=r"`method` must be one of .* Did you mean 'euler'"):
        torchsde_advance("eulr")


# --- orders, and what U means --------------------------------------------------------------------------------------


def test_milstein_is_its_formula():
    """Derivative-free Milstein on dX = a X dt + b X dW has one closed form, sum of O(dt^1.5) included."""
    a, b, dt = 0.3, 0.7, 0.1
    increments = draw_increments(generator(), 1, dt, 50, 2, F64)
    x = torch.full((50, 2), 1.3, dtype=F64)
    dw = increments.dw[0]
    square = (dw**2 - dt) / 2
    expected = x * (1 + a * dt + b * dw + b**2 * square + a * b * math.sqrt(dt) * square)
    got = torchsde_advance("milstein")(ItoSDE(geometric(a, b), 2, SGDPoint), 0.0, SGDPoint(x), increments).theta
    assert torch.allclose(got, expected, rtol=1e-13)
    assert not torch.allclose(got, x * (1 + a * dt + b * dw), rtol=1e-3)


def test_srk_reads_the_area_as_the_integral_of_w():
    """SRA1 on dX = -c X dt + s dW is x (1 - c dt + (c dt)^2 / 2) + s dW - c s U with U the integral of W - W(t_i)."""
    c, s, dt = 1.7, 0.9, 0.2
    sde = ItoSDE(lambda t, x: (SGDPoint(-c * x.theta), lambda dw: SGDPoint(s * dw)), 2, SGDPoint)
    increments = draw_increments(generator(), 1, dt, 50, 2, F64, area=True)
    x = torch.full((50, 2), 1.3, dtype=F64)
    expected = x * (1 - c * dt + (c * dt) ** 2 / 2) + s * increments.dw[0] - c * s * increments.area[0]
    got = torchsde_advance("srk")(sde, 0.0, SGDPoint(x), increments).theta
    assert torch.allclose(got, expected, rtol=1e-13)
    without = Increments(dt, increments.dw, torch.zeros_like(increments.dw))
    assert not torch.allclose(torchsde_advance("srk")(sde, 0.0, SGDPoint(x), without).theta, expected, rtol=1e-3)


class Scaled(NamedTuple):
    """X and a factor of its noise that no column moves."""

    theta: torch.Tensor
    u: torch.Tensor


def strong_errors(method, *, right_area=True, paths=4000):
    """Mean error against the exact solution of dX = a X dt + b u X dW, u' = -u / 2, on 16 and 64 steps of one path."""
    a, b = 0.3, 0.6

    def at(t, x):
        return Scaled(a * x.theta, -x.u / 2), lambda dw: Scaled(b * x.u * x.theta * dw, None)

    finest = draw_increments(generator(3), 1024, 1 / 1024, paths, 1, F64, area=True)
    u = torch.exp(-torch.arange(1024, dtype=F64) / 2048)[:, None, None]
    lag = finest.dt * finest.dw - finest.area  # the integral of (s - t_i) dW
    integral = (u * (finest.dw - lag / 2)).sum(0)  # of u dW, with u to first order within a sub-step
    exact = torch.exp(a - b**2 / 2 * (1 - math.exp(-1.0)) + b * integral)
    increments, found = finest, {}
    for n in (512, 256, 128, 64, 32, 16):
        increments = increments.halved()
        if n in (64, 16):
            area = increments.area if right_area else increments.dt / 2 * increments.dw
            x = Scaled(torch.ones(paths, 1, dtype=F64), torch.ones(paths, 1, dtype=F64))
            x = torchsde_advance(method)(ItoSDE(at, 1, Scaled), 0.0, x, Increments(increments.dt, increments.dw, area))
            found[n] = float((x.theta - exact).abs().mean())
    return found


def test_strong_orders_are_those_that_torchsde_declares():
    """.5, 1 and 1.5 (Rößler 2010), each within .15; the areas are what makes 1.5 of 1."""
    for method, order in (("euler", 0.5), ("milstein", 1.0), ("srk", 1.5)):
        errors = strong_errors(method)
        assert math.log(errors[16] / errors[64], 4) == pytest.approx(order, abs=0.15)
    wrong = strong_errors("srk", right_area=False)
    assert math.log(wrong[16] / wrong[64], 4) < 1.2


def test_the_solver_by_name_asks_for_areas():
    assert solver("torchsde:srk")[1]
    assert not solver("torchsde:milstein")[1]


# --- objects out and in -------------------------------------------------------------------------------------------


def test_out_it_solves_in_torchsde():
    method, oracle, x = rmsprop()
    sde, n = method.sde(oracle), 8
    bm = torchsde.BrownianInterval(0.0, 1.0, size=(5, 3), dtype=F64, entropy=5, cache_size=None)
    theirs = torchsde.sdeint(to_torchsde(sde, 3), torch.cat(x, 1), [0.0, 1.0], bm=bm, method="euler", dt=1 / n)[-1]
    dw = torch.stack([bm(i / n, (i + 1) / n) for i in range(n)])
    assert torch.allclose(torch.cat(euler(sde, 0.0, x, Increments(1 / n, dw)), 1), theirs, rtol=0, atol=1e-12)


def forms(noise_type, dim=2):
    """The same SDE in every form that torchsde takes, and in forms with more than is needed."""
    matrix = torch.tensor([[1.0, 0.3], [-0.2, 0.8]], dtype=F64)

    def f(t, y):
        return -y * (1 + t)

    def g(t, y):
        return torch.sin(y) if noise_type == "diagonal" else torch.cos(y)[:, :, None] * matrix

    def g_prod(t, y, v):
        return g(t, y) * v if noise_type == "diagonal" else torch.einsum("pij,pj->pi", g(t, y), v)

    both = {"f_and_g": lambda t, y: (f(t, y), g(t, y)), "f_and_g_prod": lambda t, y, v: (f(t, y), g_prod(t, y, v))}
    available = {"f": f, "g": g, "g_prod": g_prod, **both}
    chosen = [["f_and_g_prod"], ["f", "g_prod"], ["f_and_g"], ["f", "g"], ["f", "f_and_g_prod"], list(available)]
    return [SimpleNamespace(sde_type="ito", noise_type=noise_type, **{n: available[n] for n in c}) for c in chosen]


@pytest.mark.parametrize("noise_type", ["general", "diagonal"])
def test_in_every_form_gives_the_same_path(noise_type):
    x = SGDPoint(torch.linspace(0.2, 1, 8, dtype=F64).reshape(4, 2))
    increments = draw_increments(generator(), 8, 1 / 8, 4, 2, F64)
    paths = [euler(from_torchsde(obj, SGDPoint, 2, 2), 0.0, x, increments).theta for obj in forms(noise_type)]
    for path in paths[1:]:
        assert torch.equal(path, paths[0])
    bm = SimpleNamespace(shape=(4, 2), levy_area_approximation="none")

    class Sequential:
        shape, levy_area_approximation = bm.shape, "none"

        def __call__(self, ta, tb, **_):
            return increments.dw[round(float(ta) * 8)]

    with torch.random.fork_rng():
        theirs = torchsde.sdeint(forms(noise_type)[0], x.theta, [0.0, 1.0], bm=Sequential(), method="euler", dt=1 / 8)[
            -1
        ]
    assert torch.allclose(paths[0], theirs, rtol=0, atol=1e-14)


def test_in_and_out_is_the_identity():
    method, oracle, x = rmsprop()
    sde = method.sde(oracle)
    back = from_torchsde(to_torchsde(sde, 3), RMSpropPoint, 3, 3)
    dw = torch.randn(5, 3, dtype=F64, generator=generator())
    (drift, diffuse), (drift_back, diffuse_back) = sde.at(0.5, x), back.at(0.5, x)
    for a, b in zip((*drift, *diffuse(dw)), (*drift_back, *diffuse_back(dw)), strict=True):
        assert torch.equal(torch.zeros_like(b) if a is None else a, b)


@pytest.mark.parametrize(
    ("changes", "shape", "message"),
    [
        (
            {"sde_type": "stratonovich"},
            (2, 2),
            "must be 'ito'; got 'stratonovich'. A Stratonovich equation has another drift",
        ),
        ({"sde_type": None}, (2, 2), "must be 'ito'; got None"),
        ({"noise_type": "diag"}, (2, 2), "`obj.noise_type` must be one of .* Did you mean 'diagonal'"),
        ({"noise_type": "scalar"}, (2, 2), "`noise_dim` must be 1 for scalar noise and 2 components; got 2"),
        ({"noise_type": "diagonal"}, (2, 3), "`noise_dim` must be 2 for diagonal noise and 2 components; got 3"),
        ({}, (0, 2), "`dim` must be a whole number >= 1; got 0"),
    ],
)
def test_in_refuses(changes, shape, message):
    obj = SimpleNamespace(**{"sde_type": "ito", "noise_type": "general", "f": abs, "g": abs, **changes})
    with pytest.raises(ValueError, match=message):
        from_torchsde(obj, SGDPoint, *shape)


def test_in_refuses_what_has_no_diffusion_or_another_size():
    with pytest.raises(ValueError, match=r"`obj` must offer f_and_g_prod, f and g_prod, .*; got f."):
        from_torchsde(SimpleNamespace(sde_type="ito", noise_type="general", f=abs), SGDPoint, 2, 2)
    sde = from_torchsde(forms("general")[1], SGDPoint, 2, 2)
    wrong = from_torchsde(
        SimpleNamespace(sde_type="ito", noise_type="diagonal", f=lambda t, y: y[:, :1], g=lambda t, y: y),
        SGDPoint,
        2,
        2,
    )
    x = SGDPoint(torch.ones(3, 2, dtype=F64))
    sde.at(0.0, x)
    with pytest.raises(ValueError, match=r"drift of `obj` must have shape \(3, 2\); got \(3, 1\)"):
        wrong.at(0.0, x)
