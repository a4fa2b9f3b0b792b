"""The control variates have mean zero whatever is simulated, and remove most of the variance."""

import math

import numpy as np
import pytest
import torch

from sdeadapt.methods import SGD, Adam, RMSprop
from sdeadapt.oracles.analytic import Quadratic, Rippled
from sdeadapt.problems import problem
from sdeadapt.simulation.paths import run_paths
from sdeadapt.simulation.run import Run
from sdeadapt.statistics.estimate import Moments
from sdeadapt.verification.estimators import make_expansion, response, run_level, run_pilot
from sdeadapt.verification.study import Study

HESSIAN, COVARIANCE = [[1.0, 0.3], [0.3, 0.5]], [[1.0, -0.4], [-0.4, 0.7]]


def study(method, oracle, theta0, *, steps, multipliers=(1, 2, 4), **options):
    settings = {
        "horizon": None, "sde": None, "refine": "svag", "order": 1, "initial": None, "start": None, "times": None,
        "test_functions": None, "solver": "extrapolated", "substeps": 2, "run": Run(),
    }  # fmt: skip
    return Study.build(method, oracle, theta0=theta0, steps=steps, multipliers=multipliers, **{**settings, **options})


def digits():
    return problem("digits").oracle


CASES = {
    "rmsprop-quadratic-exponential": lambda: study(
        RMSprop(0.25, 0.9375, 0.4), Quadratic(HESSIAN, COVARIANCE, scale=4.0, noise="exponential"), [1.5, -1.0], steps=4
    ),
    "adam-from-t0": lambda: study(
        Adam(0.25, 0.9, 0.95, 0.4), Quadratic(HESSIAN, COVARIANCE, scale=4.0, noise="two-point"), [1.5, -1.0], steps=12
    ),
    "sgd-rippled": lambda: study(SGD(0.1), Rippled(0.5, dim=2), [1.0, -0.5], steps=5, multipliers=(1, 4, 16)),
    "rmsprop-digits": lambda: study(RMSprop(0.25, 0.9375, 0.08, "old"), digits(), [0.5, 0.5], steps=4),
    "random-start": lambda: study(
        RMSprop(0.25, 0.9375, 0.4), Rippled(4.0, dim=2), [[1.5, -1.0], [0.5, 0.3], [1.0, 0.0]], steps=4
    ),
}


def control_z(level, mode, paths, seed=0):
    """Return |mean| / sem of every control that varies."""
    values = run_paths(level, mode, torch.Generator().manual_seed(seed), paths, make_expansion(level))
    controls = values.controls.flatten(1)
    sem = controls.std(0) / math.sqrt(paths)
    moving = sem > 1e-12
    return (controls.mean(0).abs() / sem)[moving]


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("mode", ["chain", "sde"])
def test_controls_have_mean_zero(name, mode):
    """2 levels x 2 modes x 5 cases x about 25 controls at 4.8 sigma: false alarm 8e-4; a mean of .05 SD is 6 sigma."""
    for level in CASES[name]().levels[:2]:
        assert float(control_z(level, mode, 1 << 14).max()) < 4.8


@pytest.mark.slow
@pytest.mark.parametrize("name", ["rmsprop-digits", "adam-from-t0", "rmsprop-quadratic-exponential"])
def test_controls_have_mean_zero_at_many_paths(name):
    """2.6e5 paths, some 20 controls each: max |z| < 4.5; a mean of .015 SD would be 7.7 sigma."""
    level = CASES[name]().levels[1]
    expansion = make_expansion(level)
    moments = None
    for chunk in range(64):
        generator = torch.Generator().manual_seed(chunk)
        controls = run_paths(level, "chain", generator, 4096, expansion).controls.flatten(1)
        found = Moments.of(controls)
        moments = found if moments is None else moments.merge(found)
    sem = np.sqrt(np.diagonal(moments.covariance) / moments.n)
    assert moments.n == 1 << 18
    assert (np.abs(moments.mean) / np.where(sem > 1e-12, sem, np.inf)).max() < 4.5


def test_controls_expose_a_wrong_declaration():
    """Negative control: an oracle whose covariance is declared 10 % too small does not keep the means at zero."""

    class Liar(Quadratic):
        def sample(self, local, draw):
            return local.gradient + 1.1 * self.scale * local.diffuse(draw)

    oracle = Liar(HESSIAN, COVARIANCE, scale=4.0)
    level = study(RMSprop(0.25, 0.9375, 0.4), oracle, [1.5, -1.0], steps=4, refine="step").levels[0]
    assert float(control_z(level, "chain", 1 << 14).max()) > 10


def reduction(level, mode, paths=8192):
    """Return the factor of variance that the controls remove, per target."""
    expansion = make_expansion(level)
    pilot = run_pilot(level, mode, expansion, _seeds(), 0, 2048)
    values = run_paths(level, mode, torch.Generator().manual_seed(1), paths, expansion)
    plain = response(values)
    residual = plain - (values.controls * pilot.coefficients).sum(2)
    return (plain.var(0) / residual.var(0)).numpy()


def _seeds():
    from sdeadapt.simulation.randomness import SeedTree

    return SeedTree.of(0)


def test_variance_reduction_on_the_quadratic():
    """E theta^2 at h = 2^-4: at least 100 for the chain (a prototype: 170 to 510), and for the SDE."""
    for noise in ("gaussian", "exponential", "two-point"):
        oracle = Quadratic([[1.0]], [[1.0]], scale=4.0, noise=noise)
        first = study(RMSprop(0.25, 0.9375, 0.4), oracle, [1.5], steps=16, initial={"u": [2.0]}).levels[0]
        names = list(first.functions)
        j = names.index("theta_0_squared")
        assert reduction(first, "chain")[j] > 100
        assert reduction(first, "sde")[j] > 100


def test_variance_reduction_on_minibatches():
    """At least 50 for theta under true minibatch noise (a prototype: 190 to 790)."""
    level = study(
        RMSprop(0.25, 0.9375, 0.08, "old"), digits(), [0.5, 0.5], steps=8, test_functions=["theta_0", "theta_1"]
    ).levels[1]
    assert (reduction(level, "chain") > 50).all()


def test_without_second_order_terms_less_is_removed():
    """The twin of the test above: the terms v are what makes the factor."""
    from dataclasses import replace

    level = study(
        RMSprop(0.25, 0.9375, 0.08, "old"), digits(), [0.5, 0.5], steps=8, test_functions=["theta_0", "theta_1"]
    ).levels[1]
    expansion = replace(make_expansion(level), second_order=False)
    values = run_paths(level, "chain", torch.Generator().manual_seed(1), 4096, expansion)
    assert float(values.controls[:, :, 2].abs().max()) == 0
    assert float(values.controls[:, :, 0].std()) > 0


def test_estimate_with_and_without_controls_agree():
    """Controls change the standard error, not the mean: difference within 4.5 joint standard errors."""
    s = CASES["rmsprop-quadratic-exponential"]()
    level, seeds = s.levels[0], _seeds()
    expansion = make_expansion(level)
    paths = {"chain": 1 << 15, "sde": 1 << 14}
    found = {}
    for name, chosen in (("with", expansion), ("without", None)):
        pilots = {mode: run_pilot(level, mode, chosen, seeds, 0, 1024) for mode in paths}
        found[name] = run_level(level, 0, "independent", chosen, pilots, paths, seeds, Run())
    sem = np.sqrt(np.diagonal(found["without"].covariance))
    assert (np.abs(found["with"].error - found["without"].error) < 4.5 * sem).all()
    assert (found["with"].factor[:3] > 20).all()
    assert np.allclose(found["without"].factor, 1)


def test_rates_are_those_of_the_quadratic():
    """H h / P and c2 h, at the largest: exact for constant u."""
    oracle = Quadratic([[1.0]], [[1.0]], scale=4.0)
    level = study(RMSprop(0.25, 0.9375, 0.4, "old"), oracle, [1.5], steps=4, initial={"u": [1.0]}).levels[0]
    rates = make_expansion(level).rates()
    assert rates["theta"] == pytest.approx(0.0625 / (1.0 + 0.1), rel=1e-6)
    assert rates["u"] == pytest.approx(0.0625, rel=1e-6)
