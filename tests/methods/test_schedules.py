"""The schedules of Adam's convergence proof."""

import math

import pytest
import torch

from sdeadapt.methods import Adam, FadingAdam, inverse_root
from sdeadapt.oracles import Rippled
from sdeadapt.oracles.base import NotDeclared
from sdeadapt.testing import check_method

F64 = torch.float64


def test_inverse_root_is_alpha_over_the_root_of_the_iteration():
    method = Adam(lr=0.3, schedule=inverse_root(0.09))
    for k in (0, 1, 10, 999):
        assert method.lr * method.factor(method.time(k)) == pytest.approx(0.3 / math.sqrt(k + 1), rel=1e-14)
    finer = method.rescaled(1 / 9)
    assert finer.factor(finer.time(90)) == pytest.approx(method.factor(method.time(10)), rel=1e-14)
    assert check_method(Adam(0.3, 0.8, 0.9, 0.1, schedule=inverse_root(0.09))).skipped == ()
    with pytest.raises(ValueError, match="`unit` must be finite and positive"):
        inverse_root(0.0)


def published(gs, theta, lr, beta1, beta2, eps, fading, corrected):
    """The pseudo-code with beta1 lambda^(t-1), one number after another; m's weights are summed as they come."""
    m = v = weights = 0.0
    for t, g in enumerate(gs, start=1):
        b = beta1 * fading ** (t - 1)
        m, v, weights = b * m + (1 - b) * g, beta2 * v + (1 - beta2) * g * g, b * weights + (1 - b)
        mhat, vhat = (m / weights, v / (1 - beta2**t)) if corrected else (m, v)
        theta -= lr / math.sqrt(t) * mhat / (math.sqrt(vhat) + eps)
    return theta


@pytest.mark.parametrize("corrected", [True, False])
def test_fading_adam_equals_the_pseudo_code(corrected):
    """Up to where beta1 has faded below 1e-16."""
    method = FadingAdam(0.1, 0.9, 0.99, 1e-3, bias_correction=corrected, schedule=inverse_root(0.1**2), fading=0.98)
    gs = 0.3 + torch.randn(2000, 1, 1, dtype=F64, generator=torch.Generator().manual_seed(0))
    state = method.init(torch.ones(1, 1, dtype=F64))
    for k, g in enumerate(gs):
        state = method.step(state, g, k)
    numbers = gs.flatten().tolist()
    assert float(state.theta) == pytest.approx(
        published(numbers, 1.0, 0.1, 0.9, 0.99, 1e-3, 0.98, corrected), abs=1e-12
    )
    steady = published(numbers, 1.0, 0.1, 0.9, 0.99, 1e-3, 1.0, corrected)  # the twin that must fail
    assert abs(float(state.theta) - steady) > 1e-3


def test_fading_adam_is_an_iteration_only():
    report = check_method(FadingAdam(0.1))
    assert len(report.skipped) == 2
    with pytest.raises(NotDeclared, match="FadingAdam has no SDE: beta1 fades in a fixed number of iterations"):
        FadingAdam(0.1).sde(Rippled(1.0))
    with pytest.raises(NotDeclared, match="FadingAdam has no batch-size rule"):
        FadingAdam(0.1).rescaled(2.0)
    with pytest.raises(ValueError, match=r"`fading` must lie in \(0, 1\); got 1\.0"):
        FadingAdam(0.1, fading=1.0)
