"""Decoupled decay: equal to torch, one term of the SDE, rescaled by its own rule; coupled decay is part of the loss."""

import math
from dataclasses import fields, replace
from itertools import pairwise

import pytest
import torch

from sdeadapt.methods import SGD, Adam, AdamW, RMSprop, RMSpropW
from sdeadapt.oracles import Penalised, Quadratic, Rippled
from sdeadapt.oracles.base import NotDeclared
from sdeadapt.testing import MethodMismatch, check_method

F64 = torch.float64
CASES = {
    "adamw": AdamW(0.25, 0.8, 0.9, 0.1, weight_decay=0.5),
    "adamw, independent": AdamW(0.25, 0.8, 0.9, 0.1, weight_decay=0.05, decay="independent"),
    "adamw, old": AdamW(0.25, 0.8, 0.9, 0.1, denominator="old", weight_decay=0.5),
    "adamw, schedule": AdamW(0.25, 0.8, 0.9, 0.1, schedule=lambda t: 0.2 + t, weight_decay=0.5),
    "rmspropw": RMSpropW(0.25, 0.9, 0.1, weight_decay=0.5),
    "rmspropw, independent": RMSpropW(
        0.25, 0.9, 0.1, schedule=lambda t: 0.2 + t, weight_decay=0.05, decay="independent"
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_contracts_and_the_batch_size_rule(name):
    assert check_method(CASES[name]).skipped == ()


class KeepsDecay(AdamW):
    def rescaled(self, kappa):
        new = super().rescaled(kappa)
        object.__setattr__(new, "weight_decay", self.weight_decay)
        return new


def test_an_unscaled_decay_is_seen():
    with pytest.raises(MethodMismatch, match=r"batch-size rule: .*the drift of theta is off"):
        check_method(KeepsDecay(0.25, weight_decay=0.5))


def test_adamw_equals_torch():
    def make(p):
        return torch.optim.AdamW(p, lr=0.01, betas=(0.8, 0.99), eps=0.1, weight_decay=0.5)

    method = AdamW(0.01, 0.8, 0.99, 0.1, weight_decay=0.5)
    check_method(method, torch=make)
    for other in (replace(method, weight_decay=0.5 + 1e-7), replace(method, decay="independent", weight_decay=0.05)):
        with pytest.raises(MethodMismatch, match="torch: AdamW must be equal"):
            check_method(other, torch=make)


COUPLED = {
    "sgd": (SGD(0.01), lambda p: torch.optim.SGD(p, lr=0.01, weight_decay=0.3)),
    "rmsprop": (RMSprop(0.01), lambda p: torch.optim.RMSprop(p, lr=0.01, weight_decay=0.3)),
    "adam": (Adam(0.01), lambda p: torch.optim.Adam(p, lr=0.01, weight_decay=0.3)),
}


@pytest.mark.parametrize("name", COUPLED)
@pytest.mark.parametrize("weight_decay", [0.3, 0.3 + 1e-7])
def test_torchs_coupled_decay_is_a_penalty(name, weight_decay):
    method, make = COUPLED[name]
    base = Rippled(scale=0.5, dim=3)
    oracle = Penalised(base, weight_decay)
    theta = torch.tensor([[0.5, -1.0, 2.0]], dtype=F64)
    parameter, state = torch.nn.Parameter(theta.clone()), method.init(theta)
    optimizer, stream = make([parameter]), base.stream(torch.Generator().manual_seed(0), 1)
    for k in range(1000):
        draw = stream.next()
        state = method.step(state, oracle.sample(oracle.at(state.theta), draw), k)
        parameter.grad = base.sample(base.at(parameter.detach()), draw)
        optimizer.step()
    gap = float((state.theta - parameter.detach()).abs().max())
    assert (gap < 1e-12) == (weight_decay == 0.3)


@pytest.mark.parametrize("name", CASES)
def test_without_decay_it_is_the_method_bit_for_bit(name):
    method = replace(CASES[name], weight_decay=0.0)
    kind = Adam if isinstance(method, Adam) else RMSprop
    plain = kind(**{f.name: getattr(method, f.name) for f in fields(kind) if f.init})
    oracle = Quadratic([[1.0, 0.4], [0.4, 2.0]], [[2.0, -0.7], [-0.7, 0.5]], scale=2.0)
    theta = torch.tensor([[0.5, -1.0]], dtype=F64)
    state, other = method.init(theta), plain.init(theta)
    stream = oracle.stream(torch.Generator().manual_seed(0), 1)
    for k in range(50):
        draw = stream.next()
        state = method.step(state, oracle.sample(oracle.at(state.theta), draw), k)
        other = plain.step(other, oracle.sample(oracle.at(other.theta), draw), k)
    assert all(torch.equal(a, b) for a, b in zip(state, other, strict=True))


def one_step_gap(method, sde, t=0.5):
    """Relative differences of one iteration's mean and second moment from the SDE's, at two step sizes."""
    oracle = Quadratic([[1.0, 0.4], [0.4, 2.0]], [[2.0, -0.7], [-0.7, 0.5]], scale=2.0)
    values = {"theta": [1.0, -2.0], "m": [0.3, 0.4], "u": [1.5, 0.7]}
    x = method.Point(*(torch.tensor([values[f]], dtype=F64) for f in method.Point._fields))
    drift, diffuse = sde(method, oracle).at(t, x)
    kick = diffuse(torch.eye(2, dtype=F64)).theta if isinstance(method, RMSprop) else None
    gaps = []
    for j in (8, 10, 12):
        kappa = 2.0**-j / method.time_step
        chain, noisy = method.rescaled(kappa), oracle.rescaled(kappa)
        draws, weights = noisy.rule(12)
        rows = type(x)(*(f.expand(len(weights), -1) for f in x))
        g = noisy.sample(noisy.at(rows.theta), draws)
        after = chain.step(chain.from_point(rows, noisy.scale), g, round(t * 2**j))
        delta, h = after.theta - rows.theta, chain.time_step
        mean = (weights[:, None] * delta).sum(0) / h
        gap = float((mean - drift.theta[0]).abs().max() / drift.theta.abs().max())
        if kick is not None:
            second = (weights[:, None] * delta).T @ delta / h
            gap = max(gap, float((second - kick.T @ kick).abs().max() / kick.square().max()))
        gaps.append(gap)
    return gaps


@pytest.mark.parametrize("name", CASES)
def test_one_iteration_has_the_sdes_moments_up_to_order_h(name):
    gaps = one_step_gap(CASES[name], lambda method, oracle: method.sde(oracle))
    assert gaps[-1] < 0.05
    assert [a / b for a, b in pairwise(gaps)] == pytest.approx([4, 4], rel=0.1)


@pytest.mark.parametrize("name", CASES)
def test_one_iteration_sees_a_missing_decay(name):
    gaps = one_step_gap(CASES[name], lambda method, oracle: replace(method, weight_decay=0.0).sde(oracle))
    assert gaps[-1] > 0.2


def test_rescaled_keeps_the_rate():
    torchs, independent = CASES["adamw"], CASES["adamw, independent"]
    assert torchs.rescaled(4.0).weight_decay == pytest.approx(1.0, rel=1e-15)
    assert independent.rescaled(4.0).weight_decay == pytest.approx(0.2, rel=1e-15)
    assert torchs.decay_rate == pytest.approx(0.5 / 0.25)
    assert independent.decay_rate == pytest.approx(0.05 / 0.25**2)
    assert torchs.rescaled(1 / 64).one_minus_beta2 == torchs.one_minus_beta2 / 64  # exact, as in Adam
    assert math.isclose(torchs.rescaled(1 / 9).decay_rate, torchs.decay_rate, rel_tol=1e-14)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: AdamW(0.1, weight_decay=-0.1), r"`weight_decay` must be finite and not negative; got -0\.1"),
        (lambda: RMSpropW(0.1, decay="l2"), "`decay` must be one of 'torch', 'independent'; got 'l2'"),
        (lambda: AdamW(0.1, 1.2), r"`beta1` must lie in \(0, 1\); got 1\.2"),
        (lambda: AdamW(0.1).rescaled(16.0), r"`kappa` must be below 10 = 1 / \(1 - beta1\)"),
        (lambda: Penalised(Rippled(1.0), -1.0), "`weight_decay` must be finite and not negative"),
    ],
)
def test_errors_name_the_rule_and_the_value(build, message):
    with pytest.raises(ValueError, match=message):
        build()


def test_order_2_is_not_declared():
    with pytest.raises(NotDeclared, match="AdamW has no SDE of order 2"):
        AdamW(0.1).sde(Rippled(1.0), order=2)
