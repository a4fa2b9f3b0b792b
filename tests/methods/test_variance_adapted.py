"""SVAG and M-SVAG: the published pseudo-code, its corner cases, the SDEs and their batch-size rules."""

from dataclasses import replace
from itertools import pairwise

import pytest
import torch

from sdeadapt.methods import MomentumVarianceAdapted, VarianceAdapted
from sdeadapt.methods.averages import averages, with_averages
from sdeadapt.methods.variance_adapted import average_variance, shrinkage
from sdeadapt.oracles import Quadratic
from sdeadapt.oracles.base import NotDeclared
from sdeadapt.testing import MethodMismatch, check_method

F64 = torch.float64
BOTH = [MomentumVarianceAdapted, VarianceAdapted]


def published(theta, gradients, alpha, beta, momentum):
    """The pseudo-code, one number after another."""
    end = []
    for column in range(theta.shape[0]):
        x, m, v = float(theta[column]), 0.0, 0.0
        for t, g in enumerate(gradients[:, column].tolist()):
            m = beta * m + (1 - beta) * g
            v = beta * v + (1 - beta) * g * g
            mhat, vhat = m / (1 - beta ** (t + 1)), v / (1 - beta ** (t + 1))
            rho = min((1 - beta) * (1 + beta ** (t + 1)) / ((1 + beta) * (1 - beta ** (t + 1))), 0.9999)
            s = (vhat - mhat**2) / (1 - rho)
            denominator = mhat**2 + (rho if momentum else 1) * s
            gamma = min(max(mhat**2 / denominator, 0.0), 1.0) if denominator != 0 else 0.0
            x -= alpha * gamma * (mhat if momentum else g)
        end.append(x)
    return torch.tensor(end, dtype=F64)


def gradients(steps=1000):
    g = 0.3 + torch.randn(steps, 4, 3, dtype=F64, generator=torch.Generator().manual_seed(0))
    g[:5, 0] = 0  # 0/0 at first
    return g


@pytest.mark.parametrize("cls", BOTH)
@pytest.mark.parametrize("beta", [0.9, 0.99])
def test_equals_the_published_pseudo_code_over_a_thousand_steps(cls, beta):
    theta, gs = torch.randn(4, 3, dtype=F64, generator=torch.Generator().manual_seed(1)), gradients()
    method = cls(0.01, beta)
    state = method.init(theta)
    for k, g in enumerate(gs):
        state = method.step(state, g, k)
    expected = published(theta.flatten(), gs.flatten(1), 0.01, beta, cls is MomentumVarianceAdapted)
    assert float((state.theta.flatten() - expected).abs().max()) < 1e-12
    other = published(theta.flatten(), gs.flatten(1), 0.01, beta, cls is VarianceAdapted)  # the twin that must fail
    assert float((state.theta.flatten() - other).abs().max()) > 0.1


def test_rho_is_the_sum_of_squared_weights():
    for beta in (0.5, 0.9, 0.999):
        for n in (1, 2, 30):
            weights = [(1 - beta) * beta**i / (1 - beta**n) for i in range(n)]
            assert average_variance(1 - beta, n) == pytest.approx(sum(w * w for w in weights), rel=1e-12)


def test_corner_cases_of_the_factor():
    m, v = torch.tensor([[0.0, 0.2, 0.2, 0.0]], dtype=F64), torch.tensor([[0.0, 0.4, 0.4 - 1e-15, 0.5]], dtype=F64)
    factor, mean = shrinkage(m, v, 0.1, 1, momentum=True)
    assert factor[0, 0] == 0  # 0/0
    assert factor[0, 1] == pytest.approx(1, abs=1e-11)  # the first step is that of the gradient
    assert factor[0, 2] == 1  # v < m^2, by rounding only: clipped
    assert factor[0, 3] == 0
    torch.testing.assert_close(mean, m / 0.1)


@pytest.mark.parametrize("cls", BOTH)
def test_contracts_and_the_batch_size_rule(cls):
    report = check_method(cls(0.1, 0.8, schedule=lambda t: 1 + t))
    assert report.skipped == ()
    assert sum(c.name == "batch-size rule" for c in report.comparisons) == 6


class KeepsBeta(MomentumVarianceAdapted):
    def rescaled(self, kappa):
        return replace(self, lr=self.lr * kappa)


class ScalesLr(VarianceAdapted):
    def rescaled(self, kappa):
        new = super().rescaled(kappa)
        return with_averages(new, averages(new), 1.0, lr=self.lr * kappa)


@pytest.mark.parametrize("wrong", [KeepsBeta, ScalesLr])
def test_another_rule_changes_the_sde(wrong):
    with pytest.raises(MethodMismatch, match=r"batch-size rule: .*the SDE must be the same; the \w+ of \w+ is off"):
        check_method(wrong(0.1, 0.8))


SIGMA = 4.0
POINT = ([1.0, -2.0], [0.9, -0.6], [1.5, 0.7])


def one_step_gaps(method, change=lambda drift, noise: (drift, noise), t=0.5):
    """Relative differences of one iteration's mean, by field, and covariance from the SDE's, at three step sizes."""
    oracle = Quadratic([[1.0, 0.4], [0.4, 2.0]], [[2.0, -0.7], [-0.7, 0.5]], scale=SIGMA)
    x = method.Point(*(torch.tensor([v], dtype=F64) for v in POINT))
    drift, diffuse = method.sde(oracle).at(t, x)
    zero = torch.zeros(2, 2, dtype=F64)
    noise = torch.cat([zero if f is None else f for f in diffuse(torch.eye(2, dtype=F64))], 1)
    drift, noise = change(torch.cat(tuple(drift), 1)[0], noise)
    gaps = []
    for j in (10, 12, 14):
        kappa = 2.0**-j / method.time_step
        chain, noisy = method.rescaled(kappa), oracle.rescaled(kappa)
        draws, weights = noisy.rule(24)
        rows = type(x)(*(f.expand(len(weights), -1) for f in x))
        g = noisy.sample(noisy.at(rows.theta), draws)
        after = chain.step(chain.from_point(rows, noisy.scale), g, round(t * 2**j))
        delta = torch.cat([a - b for a, b in zip(chain.to_point(after, noisy.scale), rows, strict=True)], 1)
        weighted, h = weights[:, None] * delta, chain.time_step
        mean, covariance, expected = weighted.sum(0) / h, weighted.T @ delta / h, noise.T @ noise
        blocks = zip(mean.split(2), drift.split(2), strict=True)
        worst = [float((a - b).abs().max() / b.abs().max()) for a, b in blocks]
        gaps.append([*worst, float((covariance - expected).abs().max() / expected.abs().max())])
    return torch.tensor(gaps)


@pytest.mark.parametrize("cls", BOTH)
@pytest.mark.parametrize("schedule", [None, lambda t: 0.2 + t])
def test_one_iteration_has_the_sdes_moments_up_to_order_h(cls, schedule):
    gaps = one_step_gaps(cls(0.25, 0.9, schedule=schedule))
    assert float(gaps[-1].max()) < 0.02
    for coarse, fine in pairwise(gaps):
        assert (((coarse / fine - 4).abs() < 0.4) | (fine < 1e-11)).all()


@pytest.mark.parametrize("cls", BOTH)
def test_one_iteration_sees_a_wrong_sde(cls):
    def off(entry):
        def change(drift, noise):
            drift[entry] *= 1.1
            return drift, noise

        return change

    for entry in range(6):
        assert float(one_step_gaps(cls(0.25, 0.9), off(entry))[-1].max()) > 0.01
    assert float(one_step_gaps(cls(0.25, 0.9), lambda b, n: (b, 1.1 * n))[-1].max()) > 0.1


@pytest.mark.parametrize("cls", BOTH)
def test_the_sde_is_singular_at_zero_and_of_order_1(cls):
    oracle = Quadratic(1.0, 1.0, scale=1.0)
    x = cls.Point(*torch.ones(3, 1, 1, dtype=F64))
    with pytest.raises(ValueError, match=r"`t` must be positive.*Start after 8 steps"):
        cls(0.1).sde(oracle).at(0.0, x)
    with pytest.raises(NotDeclared, match="has no SDE of order 2"):
        cls(0.1).sde(oracle, order=2)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: VarianceAdapted(0.0), "`lr` must be finite and positive"),
        (lambda: VarianceAdapted(0.1, time_step=-1.0), "`time_step` must be finite and positive"),
        (lambda: MomentumVarianceAdapted(0.1, 1.0), r"`beta` must lie in \(0, 1\); got 1\.0"),
        (lambda: MomentumVarianceAdapted(0.1).rescaled(16.0), r"`kappa` must be below 10 = 1 / \(1 - beta\)"),
        (lambda: VarianceAdapted(0.1).rescaled(-1.0), "`kappa` must be finite and positive"),
    ],
)
def test_errors_name_the_rule_and_the_value(build, message):
    with pytest.raises(ValueError, match=message):
        build()
