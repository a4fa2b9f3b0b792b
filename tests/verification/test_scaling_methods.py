"""Batch-size rules of Adagrad, AdamW and SignSGD: their own rules hold where noise dominates, others do not.

Two coordinates, sigma² = 256 against a gradient of order 1, h = 1/256, to t = 1. With 1,024 runs the own rules' largest
differences are known within .3 of a margin, and the wrong rules change a metric by 1.5 margins or more at kappa = 8.
"""

import math
from dataclasses import replace

import pytest

from sdeadapt import rules, verify_scaling
from sdeadapt.methods import Adagrad, AdamW, SignSGD
from sdeadapt.oracles.analytic import Quadratic

LR, H, SIGMA = 1 / 16, 1 / 256, 16.0
ORACLE = Quadratic([1.0, 0.5], [1.0, 1.5], scale=SIGMA)
START = [1.03, -0.96]  # off the lattice on which sign descent would meet the minimum, where log f is not finite


def verdicts(method, rule=rules.own, **options):
    report = verify_scaling(
        method, ORACLE, **({"theta0": START, "steps": 256, "kappas": (2, 4, 8), "times": 2, "runs": 1024} | options),
        rule=rule,
    )  # fmt: skip
    return [v.value for v in report.verdicts]


def accumulated(**options):
    """Adagrad that has seen the noise of one unit of SDE time."""
    return Adagrad(1.0, eps=1e-3, time_step=H, **({"initial_accumulator_value": SIGMA**2 / H} | options))


def decayed(decay):
    """AdamW with a decay of rate 1 in SDE time, as fast as the loss's own pull."""
    return AdamW(LR, 1 - 4 * H, 1 - 2 * H, 0.1, weight_decay=LR if decay == "torch" else H, decay=decay)


def lr_times_root(method, kappa):
    return replace(method.rescaled(kappa), lr=method.lr * math.sqrt(kappa))


def decay_as_it_is(method, kappa):
    return replace(method.rescaled(kappa), weight_decay=method.weight_decay)


def test_adagrad_keeps_its_lr():
    assert verdicts(accumulated()) == ["CONFIRMED"] * 3
    given = verdicts(accumulated(initial_accumulator_value=0.0), initial={"u": [1.0, 1.0]})
    assert given == ["CONFIRMED"] * 3  # the same start in SDE coordinates
    assert verdicts(accumulated(), lr_times_root)[1:] == ["REFUTED"] * 2


def test_adagrads_rule_needs_squares_to_start_from():
    """From torch's S = 0 every first step has the size of lr, whatever the batch: an early look shows it."""
    early = {"steps": 32, "times": 4}
    assert verdicts(accumulated(), **early) == ["CONFIRMED"] * 3
    assert verdicts(accumulated(initial_accumulator_value=0.0), **early)[-1] == "REFUTED"


@pytest.mark.parametrize("decay", ["torch", "independent"])
def test_adamw_scales_its_decay(decay):
    assert verdicts(decayed(decay)) == ["CONFIRMED"] * 3
    assert verdicts(decayed(decay), decay_as_it_is)[-1] == "REFUTED"


def test_a_decay_too_small_to_matter_need_not_be_scaled():
    small = replace(decayed("torch"), weight_decay=LR / 64)
    assert verdicts(small, decay_as_it_is) == ["CONFIRMED"] * 3


def test_sign_descent_takes_the_root():
    far = {"theta0": [2.03, -1.96]}  # so that drift is seen beside diffusion
    assert verdicts(SignSGD(LR), **far) == ["CONFIRMED"] * 3
    assert verdicts(SignSGD(LR), rules.learning_rate(1.0), **far)[-1] == "REFUTED"
    assert verdicts(SignSGD(LR), rules.none, **far)[-1] == "REFUTED"
