"""One level: the chain is the plain loop, the SDE takes over where it should, divergence is found."""

import math

import pytest
import torch

from sdeadapt.methods import SGD, Adam, RMSprop
from sdeadapt.oracles.amplified import Amplified
from sdeadapt.oracles.analytic import Quadratic
from sdeadapt.simulation.observables import Named, Snapshot
from sdeadapt.simulation.paths import Level, first_divergence, run_paths
from sdeadapt.simulation.solvers import draw_increments, euler_step


def quadratic(noise="gaussian", scale=4.0):
    return Quadratic([[1.0, 0.3], [0.3, 0.5]], [[1.0, -0.4], [-0.4, 0.7]], scale=scale, noise=noise)


def make_level(
    method, oracle, base, *, start=0, records=(4, 8), functions=("theta_0", "theta_norm_squared"), theta=None
):
    theta = torch.tensor([[1.5, -1.0]], dtype=torch.float64) if theta is None else theta
    x0 = method.initial(base.at(theta))
    x0 = type(x0)(*(field.expand_as(theta).contiguous() for field in x0))
    named = {name: Named(name) for name in functions}
    return Level(method, oracle, base, method.sde(oracle), x0, start, records, named, substeps=2)


def test_chain_is_the_plain_loop():
    base = quadratic("exponential")
    method, oracle = RMSprop(0.25, 0.9375, 0.4).rescaled(1 / 4), Amplified(base, 4)
    level = make_level(method, oracle, base)
    got = run_paths(level, "chain", torch.Generator().manual_seed(5), 16)
    generator = torch.Generator().manual_seed(5)
    state = method.from_point(level.draw_initial(generator, 16), oracle.scale)
    stream = oracle.stream(generator, 16)
    for k in range(8):
        state = method.step(state, oracle.sample(oracle.at(state.theta), stream.next()), k)
    assert torch.equal(got.chain[:, 2], state.theta[:, 0])
    assert got.sde is None
    assert got.bias is None


def test_sde_is_the_extrapolated_pair():
    base = quadratic()
    method = RMSprop(0.25, 0.9375, 0.4)
    level = make_level(method, base, base, records=(3,))
    got = run_paths(level, "sde", torch.Generator().manual_seed(5), 16)
    generator = torch.Generator().manual_seed(5)
    fine = coarse = level.draw_initial(generator, 16)
    h = method.time_step
    for k in range(3):
        dw = draw_increments(generator, 2, h / 2, 16, 2, torch.float64).dw
        for j in range(2):
            fine = euler_step(level.sde, k * h + j * h / 2, fine, h / 2, dw[j])
        coarse = euler_step(level.sde, k * h, coarse, h, dw.sum(0))
    expected = 2 * level.evaluate(fine) - level.evaluate(coarse)
    assert torch.allclose(got.sde, expected, rtol=0, atol=1e-14)
    assert torch.allclose(got.bias, level.evaluate(fine) - level.evaluate(coarse), rtol=0, atol=1e-14)


def test_coupling_brings_chain_and_sde_together():
    """Path differences are O(sqrt h) where coupled and O(1) where not: the negative control is the same, apart."""
    base = quadratic()
    method, oracle = RMSprop(0.25, 0.9375, 0.4).rescaled(1 / 16), Amplified(base, 16)
    level = make_level(method, oracle, base, records=(64,))
    together = run_paths(level, "coupled", torch.Generator().manual_seed(1), 512)
    apart = run_paths(level, "sde", torch.Generator().manual_seed(2), 512)
    assert float((together.chain - together.sde).std(0)[0]) < 0.1 * float((together.chain - apart.sde).std(0)[0])


def test_adam_hands_its_paths_over():
    """Right after the start, SDE and chain differ by one step's error per path, although both are random by then."""
    base = quadratic()
    method = Adam(0.125, 0.98, 0.99, 0.4)
    level = make_level(method, base, base, start=8, records=(9,))
    got = run_paths(level, "coupled", torch.Generator().manual_seed(1), 512)
    assert float((got.chain - got.sde).std(0)[0]) < 0.1 * float(got.chain.std(0)[0])


def test_random_start_draws_rows():
    base = quadratic()
    theta = torch.tensor([[1.0, 0.0], [3.0, 0.0]], dtype=torch.float64)
    level = make_level(RMSprop(0.25, 0.9375, 0.4), base, base, theta=theta)
    x = level.draw_initial(torch.Generator().manual_seed(0), 4000).theta[:, 0]
    assert set(x.tolist()) == {1.0, 3.0}
    assert abs(float(x.mean()) - 2.0) < 4.5 / math.sqrt(4000)


@pytest.mark.parametrize("seed", [0, 1])
def test_first_divergence_is_the_iteration_at_which_a_path_is_lost(seed):
    """SGD far beyond its stable step overflows; the first iteration found by bisection is that of a plain loop."""
    base = quadratic(scale=1.0)
    method = SGD(1e30)
    theta = torch.tensor([[1.5, -1.0]], dtype=torch.float64)
    level = Level(method, base, base, None, method.Point(theta), 0, (40,), {"theta_0": Named("theta_0")})
    found = first_divergence(level, "chain", torch.Generator().manual_seed(seed), 8)
    generator = torch.Generator().manual_seed(seed)
    state, stream = method.init(theta.expand(8, -1)), base.stream(generator, 8)
    for k in range(40):
        state = method.step(state, base.sample(base.at(state.theta), stream.next()), k)
        if not bool(state.theta[:, 0].isfinite().all()):
            break
    assert found == k + 1


def test_snapshot_shares_one_look():
    base = quadratic()
    point = SGD(0.1).Point(torch.ones(3, 2, dtype=torch.float64))
    x = Snapshot(point, base)
    assert x.local is x.local
    assert x.loss is x.local.loss
