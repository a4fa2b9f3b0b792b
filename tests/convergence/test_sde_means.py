"""E phi of SDEs and chains against moments that are known without Monte Carlo."""

import importlib.util
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from sdeadapt.methods import SGD, Adam, RMSprop
from sdeadapt.methods.base import ItoSDE
from sdeadapt.oracles.analytic import Quadratic
from sdeadapt.simulation.randomness import Purpose, SeedTree
from sdeadapt.simulation.run import Run
from sdeadapt.verification.estimators import LevelJob, make_expansion, run_pilot
from sdeadapt.verification.study import Study


def load(path):
    """The module at `path` beside this file: test folders are no packages."""
    spec = importlib.util.spec_from_file_location(Path(path).stem, Path(__file__).parent / path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


reference, exact_sequences = load("reference_moments.py"), load("../verification/exact_sequences.py")

SHARE = 0.02  # standard errors are at most this share of the weak error at the step in question

MOMENTS = {"theta": lambda x: x.theta[:, 0], "theta^2": lambda x: x.theta[:, 0] ** 2}
ADAM_MOMENTS = MOMENTS | {
    "m": lambda x: x.m[:, 0],
    "theta m": lambda x: x.theta[:, 0] * x.m[:, 0],
    "m^2": lambda x: x.m[:, 0] ** 2,
}


def adam_values(moments):
    mean, second = moments
    return np.array([mean[0], second[0, 0], mean[1], second[0, 1], second[1, 1]])


def build(method, oracle, theta0, steps, functions, *, substeps=16, sde=None, initial=None):
    """The level at the user's own step."""
    study = Study.build(
        method, oracle, theta0=theta0, horizon=None, steps=steps, sde=sde, multipliers=(1, 2, 4), refine="svag",
        order=1, initial=initial, start=None, times=None, test_functions=functions, solver="extrapolated",
        substeps=substeps, run=Run(),
    )  # fmt: skip
    return study.levels[0]


def estimate(level, mode, paths, chunks=1):
    """Controlled mean, its standard error, and for the SDE the bound on the solver's bias, (J,) each."""
    expansion, seeds = make_expansion(level), SeedTree.of(0)
    pilot = run_pilot(level, mode, expansion, seeds, 0, 2048)
    purpose = {"sde": Purpose.SDE, "chain": Purpose.CHAIN}[mode]
    job = LevelJob(level, mode, expansion, seeds, purpose, 0, paths, pilot.coefficients)
    found = job(0)
    for chunk in range(1, chunks):
        found = found.merge(job(chunk))
    residual, bias = found.moments["residual"], found.moments.get("bias")
    sem = np.sqrt(np.diagonal(residual.covariance) / residual.n)
    return residual.mean, sem, 0 if bias is None else np.abs(bias.mean)


def agrees(found, expected):
    """Within four standard errors plus the bias, in every component."""
    mean, sem, bias = found
    return np.abs(mean - expected) <= 4 * sem + bias


def rmsprop(h, sigma0=1.0, eps0=0.1, c2=1.0, **options):
    lr = math.sqrt(h)
    return RMSprop(lr=lr, beta=1 - c2 * h, eps=eps0 / lr, **options), sigma0 / lr


def test_sgd_sde_and_chain_with_h_and_sigma_that_do_not_commute():
    hessian, covariance = [[0.8, 0.3], [0.3, 0.4]], [[1.0, -0.4], [-0.4, 0.7]]
    sigma0, theta0, h = 0.4, [1.5, -0.8], 1 / 8
    functions = {"theta": lambda x: x.theta[:, 0], "squared": lambda x: x.theta[:, 1] ** 2,
                 "product": lambda x: x.theta[:, 0] * x.theta[:, 1]}  # fmt: skip
    level = build(SGD(lr=h), Quadratic(hessian, covariance, sigma0 / math.sqrt(h)), theta0, 8, functions)

    def values(moments):
        mean, second = moments
        return np.array([mean[0], second[1, 1], second[0, 1]])

    sde = values(reference.sgd(hessian, covariance, sigma0, theta0, 1.0))
    chain = values(reference.sgd_chain(hessian, covariance, sigma0, theta0, h, 8))
    wrong = values(reference.sgd(hessian, np.diag([1.0, 0.7]), sigma0, theta0, 1.0))
    for mode, expected in (("sde", sde), ("chain", chain)):
        found = estimate(level, mode, 2048)
        assert agrees(found, expected).all()
        assert (found[1] <= SHARE * np.abs(chain - sde)).all()
        assert not agrees(found, sde if mode == "chain" else chain).any()  # sees the weak error itself
    assert not agrees(estimate(level, "sde", 2048), wrong)[2]  # E theta_0 theta_1 sees the off-diagonal of Sigma


@pytest.mark.parametrize("new", [True, False])
def test_rmsprop_sde(new):
    # theory: the quadratic of the exact sequences, at h = 1/16
    setting = exact_sequences.Setting("normal", new, 1.0, 0.1, 1 / 4)
    index = exact_sequences.SETTINGS.index(setting)
    weak = exact_sequences.load()[1][index, :2, 1]
    method, scale = rmsprop(1 / 16, denominator="new" if new else "old")
    level = build(method, Quadratic(1.0, 1.0, scale), [1.5], 16, MOMENTS, initial={"u": [2.0]})
    found = estimate(level, "sde", 4096)
    mean, second = reference.rmsprop(1.0, 1.0, 0.1, 1.0, 1.5, 2.0, 1.0)
    assert agrees(found, [mean[0], second[0, 0]]).all()
    assert (found[1] <= SHARE * np.abs(weak)).all()
    mean, second = reference.rmsprop(1.0, 1.0, 0.1, 1.1, 1.5, 2.0, 1.0)  # c2 off by 10 %
    assert not agrees(found, [mean[0], second[0, 0]]).any()


@pytest.mark.parametrize(("law", "new"), [("normal", True), ("normal", False), ("exponential", False)])
def test_rmsprop_chain(law, new):
    # chain minus closed-form SDE against the exact weak error at the user's own step, h = 1/4
    setting = exact_sequences.Setting(law, new, 1.0, 0.1, 1 / 4)
    weak = exact_sequences.load()[1][exact_sequences.SETTINGS.index(setting), :2, 0]
    method, scale = rmsprop(1 / 4, denominator="new" if new else "old")
    noise = {"normal": "gaussian"}.get(law, law)
    level = build(method, Quadratic(1.0, 1.0, scale, noise=noise), [1.5], 4, MOMENTS, initial={"u": [2.0]})
    mean, second = reference.rmsprop(1.0, 1.0, 0.1, 1.0, 1.5, 2.0, 1.0)
    sde = np.array([mean[0], second[0, 0]])
    found = estimate(level, "chain", 32768, chunks=8)
    assert agrees(found, sde + weak).all()
    assert found[1][1] <= SHARE * abs(weak[1])
    assert not agrees(found, sde)[1]
    other = exact_sequences.load()[1][exact_sequences.SETTINGS.index(setting._replace(new_v=not new)), :2, 0]
    assert not agrees(found, sde + other)[1]  # the other index of v


ADAM = {"hessian": 1.0, "sigma0": 0.5, "eps0": 0.2, "c1": 1.0, "c2": 1.0}
H = 1 / 8


def adam(h=H, bias_correction=False):
    lr, beta1, beta2 = math.sqrt(h), 1 - ADAM["c1"] * h, 1 - ADAM["c2"] * h
    method = Adam(lr=lr, beta1=beta1, beta2=beta2, eps=ADAM["eps0"] / lr, bias_correction=bias_correction)
    return method, ADAM["sigma0"] / lr


def test_adam_sde_without_bias_correction():
    method, scale = adam()
    level = build(
        method, Quadratic(1.0, 1.0, scale), [1.5], 8, ADAM_MOMENTS, initial={"m": [0.3], "u": [2.0]}, substeps=32
    )
    found, chain = estimate(level, "sde", 16384), estimate(level, "chain", 4096)
    exact = adam_values(reference.adam(**ADAM, x0=[1.5, 0.3], u0=2.0, end=1.0, bias_correction=False))
    assert agrees(found, exact).all()
    assert (found[1] <= SHARE * np.abs(chain[0] - exact)).all()
    wrong = adam_values(reference.adam(**ADAM | {"c1": 1.1}, x0=[1.5, 0.3], u0=2.0, end=1.0, bias_correction=False))
    assert not agrees(found, wrong).any()


def test_adam_sde_with_bias_correction_from_a_point():
    # its SDE from a point at t0: closed; handed to the level as the SDE of a run that begins there
    method, scale = adam()
    oracle, t0 = Quadratic(1.0, 1.0, scale), 8 * H
    sde = replace(method, bias_correction=True).sde(oracle)
    later = ItoSDE(lambda t, x: sde.at(t0 + t, x), sde.noise_dim, sde.point)
    start = {"m": [0.4], "u": [0.6]}
    level = build(method, oracle, [1.5], 8, ADAM_MOMENTS, initial=start, substeps=32, sde=later)
    found = estimate(level, "sde", 4096)
    given = {"x0": [1.5, 0.4], "u0": 0.6, "start": t0, "end": 2 * t0}
    assert agrees(found, adam_values(reference.adam(**ADAM, **given, bias_correction=True))).all()
    assert not agrees(found, adam_values(reference.adam(**ADAM, **given, bias_correction=False))).any()


def test_adam_from_t0_handed_over_path_by_path():
    # f = 0 and two-point noise: u of the chain is not random, and everything is known up to t0 and beyond
    method, scale = adam(bias_correction=True)
    level = build(method, Quadratic(0.0, 1.0, scale, noise="two-point"), [1.5], 16, ADAM_MOMENTS, substeps=32)
    start, end = (
        reference.adam_chain_without_gradient(ADAM["sigma0"], ADAM["eps0"], ADAM["c1"], 1.5, H, k) for k in (8, 16)
    )
    given = {"u0": 1 - (1 - ADAM["c2"] * H) ** 8, "start": 8 * H, "end": 16 * H}
    given |= {"x0": start[0], "second": start[1]}
    exact = adam_values(reference.adam(**ADAM | {"hessian": 0.0}, **given, bias_correction=True))
    found, chain = estimate(level, "sde", 16384, chunks=2), estimate(level, "chain", 16384)
    assert agrees(found, exact).all()
    assert agrees(chain, adam_values(end)).all()
    second = [1, 3, 4]  # E theta and E m stay where they are
    assert (found[1][second] <= SHARE * np.abs(adam_values(end) - exact)[second]).all()
    wrong = adam_values(reference.adam(**ADAM | {"hessian": 0.0}, **given, bias_correction=False))
    assert not agrees(found, wrong)[[1, 3]].any()
