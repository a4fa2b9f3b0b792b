"""The field of Adam at fixed beta: against sums over every sequence of gradients; the largest step, attained."""

import itertools
import math
import re
import runpy
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import stats

from sdeadapt import SGD, Adam, FadingAdam, RMSprop
from sdeadapt.analysis.adam_field import adam_field, largest_step
from sdeadapt.oracles import FromFunctions
from sdeadapt.oracles.analytic import Quadratic
from sdeadapt.oracles.base import Oracle
from sdeadapt.oracles.noise import TwoPoint
from sdeadapt.statistics.intervals import critical_value

LAW = TwoPoint(skewness=1.5)
ORACLE = Quadratic(1.0, 1.0, 1.0, LAW)
Z = critical_value(1 - 1e-5)
METHODS = [
    RMSprop(0.1, 0.4, 0.1),
    RMSprop(0.3, 0.4, 0.1, denominator="old"),
    Adam(0.1, 0.3, 0.4, 0.1),
    Adam(0.1, 0.3, 0.4, 0.1, denominator="old"),
]


EPOCHS = FromFunctions(lambda x, y: ((x - y) ** 2).sum(), dim=1, data=torch.ones(8, 1), batch_size=2, sampling="epoch")


def exactly(method, theta, length=16):
    """Sum over all sequences of the two gradients; what is older is left out, and is 1e-6 of v."""
    z, weights = (a.numpy() for a in LAW.nodes(2))
    choice = np.array(list(itertools.product((0, 1), repeat=length)))  # newest gradient last
    g, probability = theta + z[choice], weights[choice].prod(1)
    beta2 = getattr(method, "beta2", None) or method.beta
    beta1 = getattr(method, "beta1", 0.0)
    age = np.arange(length)[::-1]
    m, v = g @ ((1 - beta1) * beta1**age), g**2 @ ((1 - beta2) * beta2**age)
    if method.denominator == "old":
        v = g[:, :-1] ** 2 @ ((1 - beta2) * beta2 ** age[1:])
    return probability @ (m / (np.sqrt(v) + method.eps))


@pytest.mark.parametrize("method", METHODS)
def test_it_is_the_sum_over_all_sequences(method):
    """False alarm 1e-5 each; the twin, without the skewness, is 10 standard errors away."""
    found = adam_field(method, ORACLE, [0.2], samples=4096, rng=1)
    exact = exactly(method, 0.2)
    assert abs(found.mean[0] - exact) < Z * found.sem[0] + found.truncation[0] + 1e-5
    even = adam_field(method, Quadratic(1.0, 1.0, 1.0, "two-point"), [0.2], samples=4096, rng=1)
    assert abs(even.mean[0] - exact) > 10 * found.sem[0]
    assert found.truncation[0] < 0.1 * found.sem[0]


def test_the_standard_error_is_the_spread_of_the_estimate():
    """Over 150 seeds, two-sided 1e-5; half of it fails."""
    method, exact = METHODS[2], exactly(METHODS[2], 0.2)
    found = [adam_field(method, ORACLE, [0.2], steps=8, samples=64, tolerance=1e-4, rng=seed) for seed in range(150)]
    total = sum(((f.mean[0] - exact) / f.sem[0]) ** 2 for f in found)
    low, high = stats.chi2.ppf([5e-6, 1 - 5e-6], 150)
    assert low < total < high
    assert 4 * total > high


def test_the_bound_on_the_truncation_holds_and_is_no_empty_one():
    """beta^n = .3 leaves an error that is seen, below the bound; a tenth of the bound is exceeded."""
    method = RMSprop(0.1, 0.9, 0.0)
    short, long = (adam_field(method, ORACLE, [1.0], steps=1, samples=1 << 15, tolerance=t, rng=2) for t in (0.3, 1e-7))
    gap, noise = abs(short.mean[0] - long.mean[0]), Z * math.hypot(short.sem[0], long.sem[0])
    assert gap + noise < short.truncation[0]
    assert gap - noise > short.truncation[0] / 10


def test_without_noise_it_is_the_sign():
    found = adam_field(Adam(0.1, 0.9, 0.99, eps=0.5), Quadratic([1.0, 4.0], [1.0, 1.0], 0.0), [1.0, -1.0], samples=8)
    np.testing.assert_allclose(found.mean, [1 / 1.5, -4 / 4.5], rtol=1e-5)
    assert (abs(found.mean - [1 / 1.5, -4 / 4.5]) <= found.truncation).all()


def test_opposite_noise_cancels_where_it_is_symmetric_only():
    method = Adam(0.1, 0.5, 0.8, 0.0)
    even = adam_field(method, Quadratic([1.0, 2.0], [1.0, 3.0], 1.0), [0.0, 0.0], samples=64)
    assert (even.mean == 0).all()
    assert (even.sem == 0).all()
    skewed = adam_field(method, Quadratic(1.0, 1.0, 1.0, "exponential"), [0.0], samples=1024)
    assert skewed.interval(1 - 1e-5)[1][0] < 0


class Silent(Oracle):
    """Another oracle's draws, and nothing declared."""

    couples = True

    def __init__(self, oracle):
        self.oracle, self.dim, self.noise_dim, self.scale = oracle, oracle.dim, oracle.noise_dim, oracle.scale

    def stream(self, generator, paths):
        return self.oracle.stream(generator, paths)

    def sample(self, local, draw):
        return self.oracle.sample(self.oracle.at(local.theta), draw)

    def to(self, device, dtype):
        return self


def test_the_known_mean_of_m_lowers_the_variance_and_not_the_mean():
    """The same draws where the gradient is not declared: the same mean, false alarm 1e-5, without the gain."""
    method, oracle = Adam(0.1, 0.5, 0.9, 0.0), Quadratic(1.0, 1.0, 1.0)
    open_, silent = (adam_field(method, o, [0.2], samples=2048, rng=3) for o in (oracle, Silent(oracle)))
    assert silent.gain[0] == 1
    assert open_.gain[0] > 5
    assert open_.sem[0] == pytest.approx(silent.sem[0] / math.sqrt(open_.gain[0]), rel=1e-9)
    assert 0 < abs(open_.mean[0] - silent.mean[0]) < Z * silent.sem[0]


@pytest.mark.parametrize(("beta1", "beta2"), [(0.0, 0.9), (0.5, 0.8), (0.9, 0.99), (0.9, 0.9), (0.95, 0.92)])
def test_the_largest_step_is_attained_and_never_exceeded(beta1, beta2):
    """By Adam itself on the worst sequence; 10,000 random ones, half of them sparse, stay below."""
    length = 2000
    age = torch.arange(length, dtype=torch.float64).flip(0)
    weight = (beta1 or 1e-300) / beta2
    worst = weight**age if weight < 1 else weight ** (age - length + 1)
    method = Adam(1.0, beta1 or 1e-300, beta2, 0.0, bias_correction=False)

    def step(g):
        state = method.init(torch.zeros(g.shape[1], 1, dtype=torch.float64))
        for k, row in enumerate(g):
            state = method.step(state._replace(theta=torch.zeros_like(state.theta)), row[:, None], k)
        return state.theta.abs().nan_to_num(0.0).max().item()

    generator = torch.Generator().manual_seed(0)
    random = torch.randn(100, 10_000, generator=generator, dtype=torch.float64)
    random[:, ::2] *= torch.rand(100, 5_000, generator=generator) < 0.05
    bound = largest_step(beta1, beta2)
    assert step(worst[:, None]) == pytest.approx(bound, rel=1e-6)
    assert step(random) < bound * (1 + 1e-9)


def test_kingma_and_bas_bounds_are_exceeded():
    """(1 − beta1)/sqrt(1 − beta2) at their defaults, and 1 in their second case."""
    assert largest_step(0.9, 0.999) > 2.2 * 0.1 / math.sqrt(0.001)
    assert largest_step(0.9, 0.99) > 2.3
    assert largest_step(0.9, 0.9) == pytest.approx(1, rel=1e-12)


def test_the_example_of_the_documentation(capsys):
    """It prints what the page says, to .001: last digits depend on the machine."""
    docs = Path(__file__).parents[2] / "docs"
    runpy.run_path(str(docs / "examples" / "fixed_beta.py"))
    printed, page = capsys.readouterr().out, (docs / "fixed_beta.md").read_text("utf-8")
    values, written = (np.array(re.findall(r": F = (\S+) ±", text), dtype=float) for text in (printed, page))
    assert len(values) == 4
    np.testing.assert_allclose(values, written, atol=1e-3)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((SGD(0.1), ORACLE, [0.0]), "`method` must be an Adam or an RMSprop; got SGD"),
        ((FadingAdam(0.1), ORACLE, [0.0]), "got FadingAdam"),
        ((Adam(0.1, 0.9, 0.8), ORACLE, [0.0]), "`beta1` must be below the root of `beta2`"),
        ((Adam(0.1), ORACLE, [0.0, 1.0]), r"`theta` must be finite, of shape \(1,\)"),
        ((Adam(0.1), EPOCHS, [0.0]), "`oracle` must draw independently"),
        ((RMSprop(0.1, 0.5, 0.0), Quadratic(1.0, 1.0, 0.0), [0.0]), "a finite gradient other than 0"),
    ],
)
def test_it_refuses(arguments, message):
    with pytest.raises(ValueError, match=message):
        adam_field(*arguments)


def test_betas_are_checked():
    with pytest.raises(ValueError, match=r"`beta2` must lie in \(0, 1\); got 1.2"):
        largest_step(0.9, 1.2)
    with pytest.raises(ValueError, match=r"`beta1` must lie in \(0, 1\); got -0.1"):
        largest_step(-0.1, 0.9)
    assert math.isinf(largest_step(0.9, 0.81))
