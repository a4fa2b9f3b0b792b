"""Averages of the weights: torch's, the SDE's extra field, and their batch-size rule."""

import pickle
from dataclasses import replace

import cloudpickle
import pytest
import torch
from torch.optim.swa_utils import AveragedModel, get_ema_avg_fn

from sdeadapt.methods import SGD, Adam, Averaged, RMSprop
from sdeadapt.oracles import Quadratic, Rippled
from sdeadapt.oracles.base import NotDeclared
from sdeadapt.testing import MethodMismatch, check_method

F64 = torch.float64
CASES = {
    "sgd": Averaged(SGD(0.1), rho=0.9),
    "sgd, uniform": Averaged(SGD(0.1), "uniform"),
    "adam": Averaged(Adam(0.1, 0.8, 0.9, 0.3), rho=0.9),
    "rmsprop, uniform": Averaged(RMSprop(0.1, 0.9, 0.3), "uniform"),
}


@pytest.mark.parametrize("name", CASES)
def test_contracts_and_the_batch_size_rule(name):
    report = check_method(CASES[name])
    assert report.skipped == ()
    assert ("linear" in {c.name for c in report.comparisons}) == CASES[name].method.linear


class KeepsRho(Averaged):
    def rescaled(self, kappa):
        return replace(self, method=self.method.rescaled(kappa))


def test_a_rho_that_does_not_follow_the_batch_is_seen():
    with pytest.raises(MethodMismatch, match=r"batch-size rule: .* the drift of average is off"):
        check_method(KeepsRho(SGD(0.1), rho=0.9))


@pytest.mark.parametrize("kind", ["exponential", "uniform"])
def test_equals_torchs_averaged_model_path_by_path(kind):
    method = Averaged(Adam(0.01), kind, rho=0.95)
    model = torch.nn.Linear(3, 1, bias=False, dtype=F64)
    state = method.init(model.weight.detach().clone())
    averaged = AveragedModel(model, avg_fn=get_ema_avg_fn(0.95) if kind == "exponential" else None)
    if kind == "exponential":
        averaged.update_parameters(model)  # torch's starts where it is first updated
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    generator = torch.Generator().manual_seed(0)
    for k in range(300):
        g = 0.3 + torch.randn(1, 3, dtype=F64, generator=generator)
        model.weight.grad = g.clone()
        optimizer.step()
        averaged.update_parameters(model)
        state = method.step(state, g, k)
    assert float((state.average - averaged.module.weight.detach()).abs().max()) < 1e-12
    assert float((state.average - state.theta).abs().max()) > 1e-3


def test_the_uniform_average_is_the_mean_of_what_came():
    method, oracle = CASES["sgd, uniform"], Rippled(scale=1.0, dim=2)
    state, seen = method.init(torch.ones(4, 2, dtype=F64)), []
    stream = oracle.stream(torch.Generator().manual_seed(0), 4)
    for k in range(50):
        state = method.step(state, oracle.sample(oracle.at(state.theta), stream.next()), k)
        seen.append(state.theta)
    torch.testing.assert_close(state.average, torch.stack(seen).mean(0), rtol=1e-14, atol=0)


@pytest.mark.parametrize("kind", ["exponential", "uniform"])
def test_the_sdes_average_is_the_chains_up_to_order_h(kind):
    """Without noise: gradient flow and its average, in closed form or by small steps."""
    oracle, gaps = Quadratic(1.0, 1.0, scale=0.0), []
    for r in (1, 2, 4):
        base = Averaged(SGD(1 / 16), kind, rho=1 - 1 / 16)
        method = base.rescaled(1 / r)
        state = method.init(torch.ones(1, 1, dtype=F64))
        for k in range(16 * r):
            state = method.step(state, oracle.at(state.theta).gradient, k)
        sde = method.sde(oracle)
        x, n = method.Point(*torch.ones(2, 1, 1, dtype=F64)), 1024
        for i in range(n):
            drift, _ = sde.at(i / n, x)
            x = type(x)(*(f + d / n for f, d in zip(x, drift, strict=True)))
        gaps.append(float((state.average - x.average).abs()))
    assert 1e-3 < gaps[0] < 0.03, gaps
    assert gaps[0] / gaps[1] == pytest.approx(2, rel=0.15)
    assert gaps[1] / gaps[2] == pytest.approx(2, rel=0.15)


def test_survives_the_way_to_a_worker():
    method = CASES["adam"]
    other, x = pickle.loads(cloudpickle.dumps((method, method.init(torch.ones(1, 2)))))
    assert other == method
    assert torch.equal(other.step(x, torch.ones(1, 2), 0).average, method.step(x, torch.ones(1, 2), 0).average)


def test_rescaled_keeps_the_memory_in_sde_time():
    method = CASES["sgd"].rescaled(1 / 64)
    assert method.one_minus_rho == (1 - 0.9) / 64
    assert method.lr == 0.1 / 64


def test_errors_name_the_rule_and_the_value():
    with pytest.raises(ValueError, match=r"`rho` must lie in \(0, 1\); got 1\.0"):
        Averaged(SGD(0.1), rho=1.0)
    with pytest.raises(ValueError, match="`kind` must be one of 'exponential', 'uniform'; got 'mean'"):
        Averaged(SGD(0.1), "mean")
    with pytest.raises(ValueError, match=r"`kappa` must be below 10 = 1 / \(1 - rho\)"):
        CASES["sgd"].rescaled(16.0)
    assert CASES["sgd, uniform"].rescaled(1000.0).rho == 0.99
    with pytest.raises(NotDeclared, match="Averaged has no SDE of order 2"):
        CASES["sgd"].sde(Rippled(1.0), order=2)
