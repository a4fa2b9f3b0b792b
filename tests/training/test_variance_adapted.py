"""The torch classes of SVAG and M-SVAG: the published pseudo-code, and the methods path by path."""

import copy

import numpy as np
import pytest
import torch

from sdeadapt import methods
from sdeadapt.methods import from_torch
from sdeadapt.training import MomentumVarianceAdapted, VarianceAdapted

F64 = torch.float64
PAIRS = {
    MomentumVarianceAdapted: methods.MomentumVarianceAdapted(0.05, 0.8),
    VarianceAdapted: methods.VarianceAdapted(0.05, 0.8),
}


def gradients(steps=1000):
    g = 0.3 + torch.randn(steps, 4, 3, dtype=F64, generator=torch.Generator().manual_seed(0))
    g[:5, 0] = 0  # 0/0 at first
    return g


def train(optimizer, parameter, gs):
    for g in gs:
        parameter.grad = g.clone()
        optimizer.step()
    return parameter.detach()


def published(theta, gs, alpha, beta, momentum):
    x, m, v = theta.numpy().copy(), 0.0, 0.0
    for t, g in enumerate(gs.numpy()):
        m, v = beta * m + (1 - beta) * g, beta * v + (1 - beta) * g**2
        mhat, vhat = m / (1 - beta ** (t + 1)), v / (1 - beta ** (t + 1))
        rho = min((1 - beta) * (1 + beta ** (t + 1)) / (1 + beta) / (1 - beta ** (t + 1)), 0.9999)
        s = (vhat - mhat**2) / (1 - rho)
        with np.errstate(invalid="ignore"):
            gamma = np.clip(np.nan_to_num(mhat**2 / (mhat**2 + (rho * s if momentum else s)), nan=0.0), 0, 1)
        x = x - alpha * gamma * (mhat if momentum else g)
    return torch.from_numpy(x)


@pytest.mark.parametrize("cls", PAIRS)
def test_equals_the_published_pseudo_code_and_the_method_over_a_thousand_steps(cls):
    theta, gs = torch.randn(4, 3, dtype=F64, generator=torch.Generator().manual_seed(1)), gradients()
    parameter = torch.nn.Parameter(theta.clone())
    end = train(cls([parameter], lr=0.05, beta=0.8), parameter, gs)
    assert float((end - published(theta, gs, 0.05, 0.8, cls is MomentumVarianceAdapted)).abs().max()) < 1e-12
    assert float((end - published(theta, gs, 0.05, 0.8, cls is VarianceAdapted)).abs().max()) > 0.1  # the twin
    method = PAIRS[cls]
    state = method.init(theta)
    wrapped = from_torch(lambda p: cls(p, lr=0.05, beta=0.8), time_step=method.time_step)  # elementwise
    other = wrapped.init(theta)
    for k, g in enumerate(gs):
        state, other = method.step(state, g, k), wrapped.step(other, g, k)
    assert float((end - state.theta).abs().max()) < 1e-12
    assert torch.equal(end, other.theta)


@pytest.mark.parametrize("cls", PAIRS)
def test_resumes_from_its_state_dict(cls):
    gs = gradients(20)
    whole, parts = (torch.nn.Parameter(torch.ones(4, 3, dtype=F64)) for _ in range(2))
    end = train(cls([whole], 0.1), whole, gs)
    first = cls([parts], 0.1)
    train(first, parts, gs[:7])
    second = cls([parts], 0.5, beta=0.5)
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    assert torch.equal(train(second, parts, gs[7:]), end)


@pytest.mark.parametrize("cls", PAIRS)
def test_closures_groups_and_parameters_without_gradients(cls):
    weight, idle = (torch.nn.Parameter(torch.ones(2)) for _ in range(2))
    optimizer = cls([{"params": [weight], "lr": 0.25}, {"params": [idle]}])

    def closure():
        optimizer.zero_grad()
        loss = weight.square().sum()
        loss.backward()
        return loss

    assert float(optimizer.step(closure).detach()) == 2.0
    torch.testing.assert_close(weight.detach(), torch.full((2,), 0.5), rtol=1e-2, atol=0)  # the first step is SGD's
    assert torch.equal(idle.detach(), torch.ones(2))
    assert optimizer.step() is None


@pytest.mark.parametrize("cls", PAIRS)
def test_errors_name_the_rule_and_the_value(cls):
    weight = torch.nn.Parameter(torch.ones(2))
    with pytest.raises(ValueError, match="`lr` must be finite and positive"):
        cls([weight], lr=0.0)
    with pytest.raises(ValueError, match=r"`beta` must lie in \(0, 1\); got 1\.0"):
        cls([weight], beta=1.0)
    weight.grad = torch.sparse_coo_tensor([[0]], [1.0], (2,), check_invariants=True)
    with pytest.raises(ValueError, match=r"Gradients must be dense; got a sparse one of shape \(2,\)"):
        cls([weight]).step()
