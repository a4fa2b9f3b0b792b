"""Ensembles: means against closed forms, chunks, kept paths, divergence, and what is refused."""

import math

import numpy as np
import pytest
import torch

from sdeadapt.methods import SGD, Adam, RMSprop, from_torch
from sdeadapt.methods.base import ItoSDE
from sdeadapt.methods.sgd import SGDPoint
from sdeadapt.oracles.amplified import Amplified
from sdeadapt.oracles.analytic import Quadratic
from sdeadapt.oracles.base import NotDeclared, Oracle
from sdeadapt.oracles.noise import Gaussian, NoiseStream
from sdeadapt.simulation.ensemble import simulate, solve
from sdeadapt.simulation.randomness import Purpose, SeedTree
from sdeadapt.simulation.run import Run
from sdeadapt.simulation.torchsde_bridge import from_torchsde, to_torchsde

F64 = torch.float64
SQUARES = ["theta_0", "theta_0_squared"]


def z(estimate, exact):
    return (estimate.mean - exact) / estimate.sem


def quadratic(scale=0.5):
    return Quadratic(1.0, 1.0, scale=scale)


# --- against closed forms -----------------------------------------------------------------------------------------


def sgd_moments(lr, scale, k):
    """E theta and E theta^2 of SGD from 1 on theta^2/2 with noise of that scale."""
    mean, shrink = (1 - lr) ** k, (1 - lr) ** 2
    return mean, mean**2 + (lr * scale) ** 2 * (1 - shrink**k) / (1 - shrink)


def test_simulate_has_the_moments_of_sgd():
    """20,000 paths see 4 % in the variance: a noise 10 % too large shows at 14 standard errors."""
    result = simulate(SGD(0.1), quadratic(), theta0=[1.0], steps=20, times=4, test_functions=SQUARES, paths=20_000)
    assert result.times == pytest.approx([0.5, 1.0, 1.5, 2.0])
    for i, k in enumerate((5, 10, 15, 20)):
        for name, exact in zip(SQUARES, sgd_moments(0.1, 0.5, k), strict=True):
            assert abs(result.mean[name][i] - exact) < 4 * result.sem[name][i]
    assert result.final["theta_0"] == (result.mean["theta_0"][-1], result.sem["theta_0"][-1], 20_000)
    wrong = sgd_moments(0.1, 0.55, 20)[1]
    assert abs(z(result.final["theta_0_squared"], wrong)) > 6


def geometric(drift=0.5, size=0.4):
    def at(t, x):
        return SGDPoint(drift * x.theta), lambda dw: SGDPoint(size * x.theta * dw)

    return ItoSDE(at, 1, SGDPoint)


def test_solve_extrapolates_and_bounds_its_bias():
    """E X = e^(t/2): Euler in 8 steps is 1.5 % low, 13 standard errors of 2^17 paths; the pair is not."""
    exact, arguments = math.exp(0.5), {"initial": {"theta": [1.0]}, "horizon": 1.0, "step": 0.125, "paths": 1 << 17}
    pair = solve(geometric(), test_functions=["theta_0"], **arguments)
    euler = solve(geometric(), test_functions=["theta_0"], solver="euler", **arguments)
    assert z(euler.final["theta_0"], (1 + 0.5 / 8) ** 8) == pytest.approx(0, abs=4)
    assert z(euler.final["theta_0"], exact) < -7
    assert z(pair.final["theta_0"], 2 * (1 + 0.5 / 8) ** 8 - (1 + 0.5 / 4) ** 4) == pytest.approx(0, abs=4)
    error = abs(pair.final["theta_0"].mean - exact)
    assert error < pair.bias_bound["theta_0"][-1] + 3 * pair.final["theta_0"].sem
    gap = (1 + 0.5 / 8) ** 8 - (1 + 0.5 / 4) ** 4
    assert pair.bias_bound["theta_0"][-1] == pytest.approx(gap, rel=0.3)
    assert euler.bias_bound is None


def test_control_a_wrong_drift_is_seen():
    result = solve(
        geometric(drift=0.5 + 0.4**2 / 2), initial={"theta": [1.0]}, horizon=1.0, step=0.125, paths=1 << 14,
        test_functions=["theta_0"],
    )  # fmt: skip
    assert z(result.final["theta_0"], math.exp(0.5)) > 15


@pytest.mark.parametrize("solver", ["torchsde:euler", "torchsde:milstein", "torchsde:srk"])
def test_solve_on_torchsde(solver):
    result = solve(
        geometric(),
        initial={"theta": [1.0]},
        horizon=1.0,
        step=1 / 16,
        paths=2048,
        solver=solver,
        test_functions=["theta_0"],
    )
    assert abs(result.final["theta_0"].mean - math.exp(0.5)) < 4 * result.final["theta_0"].sem + 0.03
    assert result.bias_bound is None
    if solver == "torchsde:euler":
        ours = solve(geometric(), initial={"theta": [1.0]}, horizon=1.0, step=1 / 16, paths=2048, solver="euler",
                     test_functions=["theta_0"])  # fmt: skip
        assert result.final["theta_0"].mean == pytest.approx(ours.final["theta_0"].mean, rel=1e-13)


def test_solve_takes_an_sde_of_torchsde():
    method = RMSprop(lr=0.1)
    sde = method.sde(Quadratic([1.0, 2.0], [[1.0, 0.5], [0.5, 1.0]], scale=2.0))
    start = {"theta": [1.0, -1.0], "u": [1.0, 1.0]}
    results = [
        solve(s, initial=start, horizon=0.4, step=0.02, paths=256)
        for s in (sde, from_torchsde(to_torchsde(sde, 2), method.Point, 2, 2))
    ]
    for name, mean in results[0].mean.items():
        assert np.array_equal(mean, results[1].mean[name])


def test_start_is_sde_time():
    """dX = t dt from X(1) = 0: X(3) = 4, to the last bit but for Euler's own error."""
    sde = ItoSDE(lambda t, x: (SGDPoint(torch.full_like(x.theta, t)), lambda dw: SGDPoint(0 * dw)), 1, SGDPoint)
    result = solve(
        sde,
        initial={"theta": [0.0]},
        start=1.0,
        horizon=3.0,
        step=0.25,
        times=[2.0, 3.0],
        paths=8,
        test_functions=["theta_0"],
    )
    assert result.times == pytest.approx([2.0, 3.0])
    assert result.mean["theta_0"] == pytest.approx([1.5, 4.0])  # extrapolation is exact here


# --- what runs ----------------------------------------------------------------------------------------------------


def by_hand(method, oracle, state, steps, paths, rng):
    generator = SeedTree.of(rng).generator(Purpose.ENSEMBLE, 0, 0)
    stream = oracle.stream(generator, paths)
    for k in range(steps):
        state = method.step(state, oracle.sample(oracle.at(state.theta), stream.next()), k)
    return state


@pytest.mark.parametrize("method", [RMSprop(lr=0.1, beta=0.9), Adam(lr=0.05, beta1=0.8, beta2=0.9)])
def test_simulate_starts_as_torch_starts(method):
    oracle, theta = quadratic(), torch.ones(64, 1, dtype=F64)
    result = simulate(method, oracle, theta0=[1.0], steps=10, paths=64, keep_paths=64, rng=5)
    state = by_hand(method, oracle, method.init(theta), 10, 64, 5)
    assert np.array_equal(result.paths[:, 0], state.theta.numpy())


def test_initial_overrides_what_it_names():
    method, oracle, theta = RMSprop(lr=0.1, beta=0.9), quadratic(), torch.ones(64, 1, dtype=F64)
    result = simulate(method, oracle, theta0=[1.0], initial={"u": [2.0]}, steps=10, paths=64, keep_paths=64, rng=5)
    start = method.from_point(method.Point(theta, 2 * theta), oracle.scale)
    state = by_hand(method, oracle, start, 10, 64, 5)
    assert np.array_equal(result.paths[:, 0], state.theta.numpy())
    other = simulate(method, oracle, theta0=[1.0], steps=10, paths=64, keep_paths=64, rng=5)
    assert not np.array_equal(result.paths, other.paths)


def test_multiplier_is_svag():
    method, oracle, theta = RMSprop(lr=0.1, beta=0.9), quadratic(), torch.ones(64, 1, dtype=F64)
    result = simulate(method, oracle, theta0=[1.0], steps=5, paths=64, multiplier=2, keep_paths=64, rng=5)
    finer = method.rescaled(1 / 4)
    state = by_hand(finer, Amplified(oracle, 4), finer.init(theta), 20, 64, 5)
    assert np.array_equal(result.paths[:, 0], state.theta.numpy())
    assert result.times == pytest.approx([5 * method.time_step])


class SamplingOnly(Oracle):
    """Declares nothing: draws and samples."""

    dim, noise_dim, scale = 2, 0, 1.0

    def stream(self, generator, paths):
        return NoiseStream(Gaussian(), generator, paths, 2)

    def sample(self, local, draw):
        return local.theta + draw

    def to(self, device, dtype):
        return self


def test_a_chain_needs_to_sample_and_no_more():
    result = simulate(SGD(0.1), SamplingOnly(), theta0=[1.0, 0.0], steps=10, paths=4000)
    assert abs(z(result.final["theta_0"], 0.9**10)) < 4
    assert "loss" not in result.final
    with pytest.raises(NotDeclared, match="does not declare `loss`"):
        simulate(SGD(0.1), SamplingOnly(), theta0=[1.0, 0.0], steps=10, test_functions=["loss"])


def test_an_optimizer_of_torch():
    make = from_torch(lambda p: torch.optim.SGD(p, lr=0.1), time_step=0.1)
    ours, theirs = (simulate(m, quadratic(), theta0=[1.0], steps=10, paths=64, rng=1) for m in (SGD(0.1), make))
    assert ours.final["theta_0"].mean == pytest.approx(theirs.final["theta_0"].mean, rel=1e-14)


# --- chunks, times, kept paths ------------------------------------------------------------------------------------


def run_either(kind, **options):
    if kind == "simulate":
        return simulate(SGD(0.1), quadratic(), theta0=[[1.0], [-2.0]], steps=12, **options)
    return solve(SGD(0.1).sde(quadratic()), initial={"theta": [[1.0], [-2.0]]}, horizon=1.2, step=0.1, **options)


@pytest.mark.parametrize("kind", ["simulate", "solve"])
def test_kept_paths_are_the_paths_behind_the_means(kind):
    solver = {} if kind == "simulate" else {"solver": "euler"}
    result = run_either(kind, paths=150, keep_paths=150, times=3, test_functions=SQUARES, run=Run(chunk=64), **solver)
    assert result.paths.shape == (150, 3, 1)
    assert result.chunk == 64
    theta = result.paths[:, :, 0]
    assert result.mean["theta_0"] == pytest.approx(theta.mean(0), rel=1e-12)
    assert result.sem["theta_0"] == pytest.approx(theta.std(0, ddof=1) / math.sqrt(150), rel=1e-12)
    assert result.mean["theta_0_squared"] == pytest.approx((theta**2).mean(0), rel=1e-12)
    few = run_either(kind, paths=150, keep_paths=100, times=3, test_functions=SQUARES, run=Run(chunk=64), **solver)
    assert np.array_equal(few.paths, result.paths[:100])
    assert {len(set(np.sign(theta[:, 0])))} == {2}  # the rows of theta0 are both drawn


@pytest.mark.parametrize("kind", ["simulate", "solve"])
def test_a_path_does_not_depend_on_when_it_is_looked_at(kind):
    often, once = (run_either(kind, paths=64, times=t) for t in (6, None))
    for name, estimate in once.final.items():
        assert estimate == often.final[name]


@pytest.mark.parametrize("kind", ["simulate", "solve"])
def test_same_seed_same_bits_and_nothing_global(kind):
    torch.manual_seed(0)
    before, first = torch.random.get_rng_state(), run_either(kind, paths=64, rng=3)
    assert torch.equal(torch.random.get_rng_state(), before)
    torch.manual_seed(1)
    assert run_either(kind, paths=64, rng=3).final == first.final
    assert run_either(kind, paths=64, rng=4).final != first.final


def test_a_chain_and_its_sde_of_one_seed_are_independent():
    """The correlation of 4096 pairs is 0 ± 1/64; on shared noise it would be 1."""
    chain = simulate(SGD(0.1), quadratic(), theta0=[0.0], steps=1, paths=4096, keep_paths=4096, rng=3)
    sde = solve(SGD(0.1).sde(quadratic()), initial={"theta": [0.0]}, horizon=0.1, step=0.1, solver="euler", paths=4096,
                keep_paths=4096, rng=3)  # fmt: skip
    assert abs(np.corrcoef(chain.paths[:, 0, 0], sde.paths[:, 0, 0])[0, 1]) < 4 / 64


def test_float32_runs_in_float32():
    result = simulate(SGD(0.1), quadratic(), theta0=[1.0], steps=5, paths=64, keep_paths=4, run=Run(dtype="float32"))
    assert np.array_equal(result.paths, result.paths.astype(np.float32))
    assert not np.array_equal(
        result.paths, simulate(SGD(0.1), quadratic(), theta0=[1.0], steps=5, paths=64, keep_paths=4).paths
    )
    sde = SGD(0.1).sde(quadratic().to("cpu", torch.float32))
    arguments = {"initial": {"theta": [1.0]}, "horizon": 0.4, "step": 0.1, "paths": 64}
    assert np.isfinite(solve(sde, run=Run(dtype="float32"), **arguments).final["theta_0"].mean)
    with pytest.raises(ValueError, match=r"must take points \(paths, 1\) in torch.float32 on cpu, as `run` says; got"):
        solve(SGD(0.1).sde(quadratic()), run=Run(dtype="float32"), **arguments)
    double = ItoSDE(lambda t, x: (SGDPoint(-x.theta.double()), lambda dw: SGDPoint(dw)), 1, SGDPoint)
    with pytest.raises(ValueError, match=r"must be in torch.float32 on cpu, as `run` says; got torch.float64 on cpu"):
        solve(double, run=Run(dtype="float32"), **arguments)


def test_repr_is_the_numbers_at_the_end():
    result = simulate(SGD(0.1), quadratic(scale=0.0), theta0=[1.0], steps=2, paths=4, test_functions=["theta_0"])
    assert repr(result) == "Ensemble at t = 0.2\ntheta_0: 0.81 ± 0"


# --- divergence ---------------------------------------------------------------------------------------------------


def explosive():
    """X' = X^3 without noise: from 1 it decays or grows slowly, from 40 Euler's steps of .1 explode."""
    return ItoSDE(lambda t, x: (SGDPoint(x.theta**3 / 100), lambda dw: SGDPoint(0 * dw)), 1, SGDPoint)


class Cubic(SamplingOnly):
    """The gradient of -theta^4 / 400."""

    dim = 1

    def stream(self, generator, paths):
        return NoiseStream(Gaussian(), generator, paths, 1)

    def sample(self, local, draw):
        return -(local.theta**3) / 100


def steps_to_infinity(x):
    """Euler, or SGD, by hand: the steps after which x^2 is no longer finite."""
    x, k = np.float64(x), 0
    with np.errstate(over="ignore"):
        while np.isfinite(x * x):
            x, k = x + 0.1 * x**3 / 100, k + 1
    return k


@pytest.mark.parametrize("kind", ["simulate", "solve"])
def test_diverged_paths_are_counted_and_left_out(kind):
    rows, options = (
        [[1.0], [40.0]],
        {"paths": 200, "test_functions": ["theta_0", "theta_0_squared"], "run": Run(chunk=64)},
    )
    if kind == "simulate":
        result = simulate(SGD(0.1), Cubic(), theta0=rows, steps=20, **options)
    else:
        result = solve(explosive(), initial={"theta": rows}, horizon=2.0, step=0.1, solver="euler", **options)
    lost = result.diverged
    assert 60 < lost.count < 140
    assert lost.fraction == lost.count / 200
    assert lost.first_step == steps_to_infinity(40.0)
    assert result.final["theta_0"].n == 200 - lost.count
    assert 1.0 < result.final["theta_0"].mean < 1.1
    assert f"{lost.count} paths diverged" in repr(result)


def test_when_every_path_diverges_there_is_no_estimate():
    result = simulate(SGD(0.1), Cubic(), theta0=[40.0], steps=20, paths=64, run=Run(chunk=32))
    assert result.diverged.fraction == 1
    assert math.isnan(result.final["theta_0"].mean)
    assert math.isnan(result.final["theta_0"].sem)


def test_without_divergence_there_is_no_first_step():
    assert run_either("solve", paths=8).diverged.first_step is None


# --- the edge -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "Exactly one of `horizon`"),
        ({"steps": 5, "horizon": 0.5}, "Exactly one of `horizon`"),
        ({"horizon": 0.55}, r"`horizon` must be a whole number of base steps of 0.1 \(SDE time\); got 0.55"),
        ({"steps": 5, "times": [0.6]}, r"`times` must lie in \(0, 0.5\]; got \[0.6\]"),
        ({"steps": 5, "theta0": [1.0, 2.0]}, r"`theta0` must have shape \(1,\) or \(rows, 1\); got \(1, 2\)"),
        ({"steps": 5, "theta0": [math.nan]}, "`theta0` must be finite"),
        ({"steps": 5, "test_functions": ["lss"]}, "Did you mean 'loss'"),
        ({"steps": 5, "paths": 1}, "`paths` must be a whole number >= 2; got 1"),
        ({"steps": 5, "paths": 8, "keep_paths": 9}, "`keep_paths` must not exceed `paths` = 8; got 9"),
        ({"steps": 5, "multiplier": 0}, "`multiplier` must be a whole number >= 1; got 0"),
        ({"steps": 5, "rng": -1}, "`rng` must be a whole number"),
        ({"steps": 5, "initial": {"u": 1.0}}, "`initial` must have fields among theta; got u"),
    ],
)
def test_simulate_refuses(options, message):
    with pytest.raises(ValueError, match=message):
        simulate(SGD(0.1), quadratic(), **{"theta0": [1.0], **options})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"solver": "eulr"}, "Did you mean 'euler'"),
        ({"step": 0.0}, "`step` must be finite and positive; got 0.0"),
        ({"horizon": 0.55}, r"`horizon` must be a whole number of base steps of 0.2 \(SDE time\); got 0.55"),
        ({"horizon": 0.5}, "base steps of 0.2"),  # the coarse solution does not meet it
        ({"horizon": 0.0}, "`horizon` must exceed `start`; got 0.0 and 0.0"),
        ({"start": 0.4, "horizon": 0.2}, "`horizon - start` must be a whole number of base steps"),
        ({"times": [0.1]}, "`times` must be a whole number of base steps of 0.2"),
        ({"initial": {"u": [1.0]}}, "`initial` must have the fields theta; got u"),
        ({"initial": {"theta": 1.0}}, r"`initial` theta must have shape \(dim,\) or \(rows, dim\); got \(\)"),
        ({"initial": {"theta": [math.inf]}}, "`initial` theta must be finite"),
        ({"paths": 1}, "`paths` must be a whole number >= 2; got 1"),
    ],
)
def test_solve_refuses(options, message):
    arguments = {"initial": {"theta": [1.0]}, "horizon": 0.4, "step": 0.1, **options}
    with pytest.raises(ValueError, match=message):
        solve(SGD(0.1).sde(quadratic()), **arguments)


def test_without_an_oracle_only_the_fields_can_be_asked_for():
    sde, arguments = SGD(0.1).sde(quadratic()), {"initial": {"theta": [1.0]}, "horizon": 0.4, "step": 0.1, "paths": 8}
    with pytest.raises(NotDeclared, match=r"may use theta only; pass `oracle=`"):
        solve(sde, test_functions=["loss"], **arguments)
    assert "loss" in solve(sde, oracle=quadratic(), **arguments).final
