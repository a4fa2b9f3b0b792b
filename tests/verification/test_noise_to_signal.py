"""N and G from samples alone, against their declared values."""

import numpy as np
import pytest

from sdeadapt.methods import SGD
from sdeadapt.oracles.analytic import Quadratic
from sdeadapt.problems import problem
from sdeadapt.simulation.observables import Named
from sdeadapt.simulation.paths import Level
from sdeadapt.simulation.randomness import SeedTree
from sdeadapt.simulation.start import make_initial
from sdeadapt.verification.noise_to_signal import NoiseProbe, noise_to_signal


@pytest.mark.parametrize(
    "oracle",
    [
        Quadratic([[1.0, 0.2], [0.2, 0.5]], [[1.0, -0.3], [-0.3, 2.0]], 2.0),
        problem("digits", sampling="epoch", batch_size=100).oracle,
        problem("digits", sampling="batch", batch_size=100).oracle,
    ],
)
def test_unbiased_at_a_point(oracle):
    method = SGD(lr=1e-12)  # stays where it starts
    x0 = make_initial(method, oracle, [1.0, -1.0], None)
    level = Level(method, oracle, oracle, None, x0, 0, (1, 2), {"theta_0": Named("theta_0")})
    noise, signal = NoiseProbe((level,), SeedTree.of(0), paths=2000)(0)
    here = oracle.at(x0.theta)
    exact = float(here.noise_trace) * oracle.scale**2, float(here.gradient.square().sum())
    assert noise.shape == (2000, 2)
    for found, value in zip((noise, signal), exact, strict=True):
        sem = found.std(0, ddof=1) / np.sqrt(2000)
        assert (np.abs(found.mean(0) - value) < 4 * sem).all()
        assert (sem < 0.05 * value).all()
        assert (np.abs(found.mean(0) - 1.3 * value) > 4 * sem).all()  # the twin: 30 % off is seen


def test_a_ratio_without_signal_is_infinite():
    ratio, sem = noise_to_signal(np.ones((4, 1)), np.array([[-1.0], [1.0], [-1.0], [1.0]]))
    assert np.isinf(ratio[0])
    assert np.isnan(sem[0])
