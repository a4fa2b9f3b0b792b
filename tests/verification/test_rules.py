"""What becomes of hyper-parameters, digit by digit, and what a rule refuses."""

import math
from dataclasses import replace

import pytest
import torch

from sdeadapt import rules
from sdeadapt.methods import SGD, Adam, RMSprop, from_torch

RMS = RMSprop(lr=0.1, beta=0.98, eps=0.3)


def test_own_is_rescaled():
    assert rules.own(RMS, 4) == RMS.rescaled(4)


def test_none_leaves_everything():
    assert rules.none(RMS, 4) == RMS
    assert rules.none(SGD(0.1), 4) == SGD(0.1)


def test_the_square_root_rule_is_the_adaptive_methods_own():
    for method in (RMS, Adam(lr=0.1, beta1=0.95, beta2=0.99)):
        by_rule = rules.learning_rate(0.5)(method, 4)
        assert repr(by_rule) == repr(method.rescaled(4))  # 1 − beta to the last digit too
    assert rules.learning_rate(1.0)(SGD(0.1), 4) == SGD(0.1).rescaled(4)


def test_every_part_is_switched_by_itself():
    linear = rules.learning_rate(1.0)(RMS, 4)
    assert (linear.lr, linear.eps, linear.one_minus_beta) == (0.4, 0.15, pytest.approx(0.08, rel=1e-12))
    fixed = rules.learning_rate(1.0, betas=False, eps=False)(RMS, 4)
    assert fixed == replace(RMS, lr=0.4)
    assert fixed.one_minus_beta == RMS.one_minus_beta


def test_beta_by_its_power():
    adam = Adam(lr=0.1, beta1=0.9, beta2=0.999)
    power = rules.learning_rate(0.5, beta="power")(adam, 8)
    assert power.beta1 == pytest.approx(0.9**8, rel=1e-14)
    assert power.one_minus_beta2 == pytest.approx(-math.expm1(8 * math.log(0.999)), rel=1e-12)
    assert rules.learning_rate(0.5, beta="power")(adam, 64).beta1 > 0
    # to first order in 1 − beta both are the same, to the second they differ by kappa (kappa − 1)/2 (1 − beta)²
    linear = rules.learning_rate(0.5)(adam, 8)
    assert linear.one_minus_beta2 - power.one_minus_beta2 == pytest.approx(28e-6, rel=0.01)


def test_a_schedule_stays_where_it_is_in_examples():
    method = SGD(lr=0.125, schedule=lambda t: 1 / (1 + t))
    for rule in (rules.none, rules.learning_rate(1.0), rules.learning_rate(0.5)):
        scaled = rule(method, 4)
        for k in range(3):
            assert scaled.factor(scaled.time(k)) == pytest.approx(method.factor(method.time(4 * k)), rel=1e-12)


def test_what_has_no_rule_is_refused():
    with pytest.raises(ValueError, match=r"`kappa` must be below 10 = 1 / \(1 - beta1\).*got 16"):
        rules.learning_rate(0.5)(Adam(lr=0.1), 16)
    with pytest.raises(ValueError, match="`power` must be finite; got nan"):
        rules.learning_rate(math.nan)
    with pytest.raises(ValueError, match=r"`beta` must be one of 'linear', 'power'; got 'linar'. Did you mean"):
        rules.learning_rate(0.5, beta="linar")
    method = from_torch(lambda p: torch.optim.SGD(p, lr=0.1), time_step=0.1)
    with pytest.raises(ValueError, match=r"a field `lr`; got TorchOptimizer\. Pass your rule as a function"):
        rules.learning_rate(1.0)(method, 2)
