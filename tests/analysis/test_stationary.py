"""Stationary laws: closed forms against Lyapunov equations of the SDEs, exact recursions of chains, and long runs."""

import importlib
import math
from dataclasses import replace
from pathlib import Path

import matplotlib.image
import numpy as np
import pytest
import torch
from scipy.linalg import solve_continuous_lyapunov, solve_discrete_lyapunov
from scipy.special import erf

from sdeadapt import SGD, Adam, RMSprop, load
from sdeadapt.analysis.long_run import long_run
from sdeadapt.analysis.long_run_report import CHAIN, FINE, SDE
from sdeadapt.analysis.stationary import stationary
from sdeadapt.methods.adagrad import Adagrad
from sdeadapt.methods.adamw import AdamW, RMSpropW
from sdeadapt.methods.sign_sgd import SignSGD
from sdeadapt.oracles.analytic import MultiplicativeNoise, Quadratic, Rippled
from sdeadapt.oracles.base import NotDeclared
from sdeadapt.oracles.penalised import Penalised
from sdeadapt.verification.decision import Verdict

HESSIAN, SIGMA = [[2.0, 0.7], [0.7, 1.0]], [[1.0, 0.6], [0.6, 4.0]]
TILTED = Quadratic(HESSIAN, SIGMA, scale=3.0, minimum=[1.0, -0.5])  # nothing commutes
ONE = Quadratic(2.0, 2.25, scale=4.0)  # h = 2, s = 1.5
METHODS = [
    SGD(0.1),
    RMSprop(0.1, eps=0.3),
    RMSpropW(0.1, eps=0.3, weight_decay=0.5),
    Adam(0.1, eps=0.3),
    Adam(0.1, 0.995, 0.99, bias_correction=False),
    AdamW(0.1, 0.99, weight_decay=0.5),
    AdamW(0.1, 0.99, eps=0.1, weight_decay=0.05, decay="independent"),
    SignSGD(0.1),
]


def linearised(method, oracle):
    """Drift matrix, drift at 0 and diffusion of the SDE as it is declared, with u at rest; theta comes first."""
    sde, dim = method.sde(oracle), oracle.dim
    free = [name for name in sde.point._fields if name != "u"]
    late = 1e6 if method.bias_correction else 0.0

    def at(x):
        blocks = dict(zip(free, x.split(dim, 1), strict=True))
        return sde.at(late, sde.point(**blocks, **({"u": rest.expand(len(x), -1)} if "u" in sde.point._fields else {})))

    def flat(point):
        parts = (getattr(point, name) for name in free)
        return torch.cat([torch.zeros(rows, dim) if part is None else part.expand(rows, -1) for part in parts], 1)

    rest, rows = oracle.at(torch.zeros(1, dim, dtype=torch.float64)).covariance_diagonal, 1 + dim * len(free)
    x = torch.cat([torch.zeros(1, rows - 1), torch.eye(rows - 1)]).double()
    values = flat(at(x)[0]).numpy()
    columns = []
    for k in range(sde.noise_dim):
        dw = torch.zeros(rows, sde.noise_dim, dtype=torch.float64)
        dw[:, k] = 1
        columns.append(flat(at(x)[1](dw))[0].numpy())
    return (values[1:] - values[0]).T, values[0], np.stack(columns, 1)


def lyapunov(method, oracle):
    """Mean and covariance of theta in the stationary law of the linearised SDE."""
    a, b, n = linearised(method, oracle)
    return np.linalg.solve(a, -b)[: oracle.dim], solve_continuous_lyapunov(a, -n @ n.T)[: oracle.dim, : oracle.dim]


@pytest.mark.parametrize("method", METHODS, ids=lambda m: type(m).__name__)
@pytest.mark.parametrize("oracle", [TILTED, Penalised(TILTED, 0.4)], ids=["quadratic", "penalised"])
def test_the_closed_forms_solve_the_lyapunov_equation(method, oracle):
    law, (mean, covariance) = stationary(method, oracle), lyapunov(method, oracle)
    np.testing.assert_allclose(law.mean, mean, rtol=1e-12, atol=1e-14)
    np.testing.assert_allclose(law.covariance, covariance, rtol=1e-12)
    hessian = oracle.hessian(torch.zeros(1, 2, dtype=torch.float64)).numpy()
    loss = float(oracle.at(torch.as_tensor(mean)[None]).loss) + np.trace(hessian @ covariance) / 2
    assert math.isclose(law.loss, loss, rel_tol=1e-12)
    gradient = oracle.at(torch.as_tensor(mean)[None]).gradient[0].numpy()
    square = np.trace(hessian @ covariance @ hessian) + gradient @ gradient
    expected = {
        "loss": loss,
        "theta_1": mean[1],
        "theta_1_squared": mean[1] ** 2 + covariance[1, 1],
        "theta_norm_squared": mean @ mean + np.trace(covariance),
        "gradient_norm_squared": square,
    }
    for name, value in expected.items():
        assert math.isclose(law.expectation(name), value, rel_tol=1e-12), name


def test_the_published_forms_in_our_units():
    lr, h, s = 0.1, 2.0, 4.0 * 1.5  # s is the root of the whole covariance, as in Compagnoni et al.
    published = {
        SGD(lr): lr / 2 * s**2 / h,
        Adam(lr, eps=0.0): lr / 2 * s / h,
        RMSpropW(lr, eps=0.0, weight_decay=0.3): lr / 2 / (h / s + 0.3),
        SignSGD(lr): lr / 2 * math.sqrt(math.pi / 2) * s / h,
        SignSGD(lr, scaling="fixed-noise"): lr / 2 / (math.sqrt(2 / math.pi) * h / s + lr / math.pi * (h / s) ** 2),
    }
    for method, covariance in published.items():
        assert math.isclose(float(stationary(method, ONE).covariance), covariance, rel_tol=1e-12), method


def test_sign_to_adam_is_the_root_of_pi_half():
    ratio = stationary(SignSGD(0.1), TILTED).loss / stationary(Adam(0.1, eps=0.0), TILTED).loss
    assert math.isclose(ratio, math.sqrt(math.pi / 2), rel_tol=1e-12)


def test_without_decay_the_loss_depends_on_no_beta():
    base, slow = stationary(Adam(0.1, 0.5, 0.9), TILTED), stationary(Adam(0.1, 0.999, 0.99), TILTED)
    assert math.isclose(base.loss, slow.loss, rel_tol=1e-12)
    assert math.isclose(base.loss, stationary(RMSprop(0.1), TILTED).loss, rel_tol=1e-12)
    assert abs(slow.covariance[0, 0] / base.covariance[0, 0] - 1) > 0.01  # the covariance does, as nothing commutes
    aligned = Quadratic([2.0, 1.0], [1.0, 4.0], scale=3.0)
    covariances = [stationary(Adam(0.1, beta, 0.99), aligned).covariance for beta in (0.5, 0.999)]
    torch.testing.assert_close(*covariances, rtol=1e-12, atol=1e-15)
    decayed = [stationary(AdamW(0.1, beta, weight_decay=0.5), aligned).loss for beta in (0.5, 0.99)]
    assert decayed[1] / decayed[0] < 0.2  # with decay, memory counts: 1 / (1 + lambda_0 / c_1)


def test_adamw_is_bounded_as_the_noise_grows():
    lr, weight_decay, hessian = 0.1, 0.2, [2.0, 1.0, 0.5]
    bound = lr / 4 * sum(hessian) / weight_decay
    scales = (1.0, 10.0, 1e2, 1e4)
    loss = {
        kind: [stationary(kind(lr, eps=0.0, **more), Quadratic(hessian, [1.0] * 3, scale)).loss for scale in scales]
        for kind, more in ((RMSpropW, {"weight_decay": weight_decay}), (RMSprop, {}))
    }
    assert loss[RMSpropW] == sorted(loss[RMSpropW])
    assert 0.999 * bound < loss[RMSpropW][-1] < bound
    np.testing.assert_allclose(np.array(loss[RMSprop]) / scales, loss[RMSprop][0], rtol=1e-12)  # without: linear


def test_sgd_chain_is_exact_and_off_by_order_h():
    """The chain's covariance C = (1 − ηH) C (1 − ηH) + η²σ²Σ tends to the closed form at order 1."""
    errors = []
    for r in (1, 2, 4, 8):
        method, oracle = SGD(0.1).rescaled(1 / r), TILTED.rescaled(1 / r)
        a = np.eye(2) - method.lr * np.array(HESSIAN)
        chain = solve_discrete_lyapunov(a, (method.lr * oracle.scale) ** 2 * np.array(SIGMA))
        law = stationary(method, oracle)
        np.testing.assert_allclose(law.covariance, stationary(SGD(0.1), TILTED).covariance, rtol=1e-12)  # invariant
        errors.append(np.abs(chain - law.covariance.numpy()).max())
    np.testing.assert_allclose(np.array(errors[:-1]) / errors[1:], 2, rtol=0.06)


def sign_chain_variance(lr, ratio):
    """E theta² of the sign chain, a walk on a lattice of spacing lr, by detailed balance; ratio is h/(sigma s)."""
    x = lr * (np.arange(-int(6 / lr), int(6 / lr) + 1) + 0.3)
    up = (1 - erf(ratio * x / math.sqrt(2))) / 2
    log = np.concatenate([[0], np.cumsum(np.log(up[:-1]) - np.log1p(-up[1:]))])
    weight = np.exp(log - log.max())
    return weight @ x**2 / weight.sum()


def test_sign_chain_and_its_two_closed_forms():
    """Both are its limit; at finite lr the chain is above them by ratio² Cov / 2, phase 3 below."""
    for lr, rest in ((0.02, 2e-5), (0.04, 8e-5)):
        problem = Quadratic(1.0, 1.0, scale=1.0)
        small = float(stationary(SignSGD(lr), problem).covariance)
        phase = float(stationary(SignSGD(lr, scaling="fixed-noise"), problem).covariance)
        chain = sign_chain_variance(lr, 1.0)
        assert abs(chain / small - 1 - small / 2) < rest
        assert abs(phase / small - 1 + 2 / math.pi * small) < 2 * small**2
        assert abs(chain - small) < abs(chain - phase) < lr * small * 2


@pytest.mark.parametrize("method", [AdamW(0.1, 0.9, 0.98, weight_decay=0.5), SignSGD(0.1)], ids=["adamw", "signsgd"])
def test_long_run_holds_the_closed_form_and_refutes_a_wrong_one(method, tmp_path):
    """Intervals reach less than 12 %; the wrong laws are 25 % off (pi/2), or more (no decay): power 1."""
    problem = Quadratic([2.0, 1.0], [1.0, 0.25], scale=5.0)
    arguments = {
        "theta0": [0.0, 0.0],
        "burn_in": 120,
        "steps": 320,
        "paths": 1024,
        "margin": 0.12,
        "substeps": 2,
        "confidence": 0.999,
    }
    wrong = stationary(Adam(0.1, eps=0.0), problem)
    report = long_run(method, problem, test_functions=["theta_0_squared", "loss"], **arguments)
    assert report.half_width < 0.12
    assert report.verdict is Verdict.CONFIRMED, report.summary()
    control = replace(report, expected=np.array([wrong.expectation(name) for name in report.names]))
    assert control.verdict is Verdict.REFUTED
    assert control.z("sde")[-1] ** 2 > 36 < control.z("chain")[-1] ** 2
    assert load(report.save(tmp_path / "run")) == report
    assert "CONFIRMED" in report.summary()


def test_long_run_separates_what_h_adds():
    """SGD: each level agrees with its own exact recursion, and the extrapolated average with the closed form."""
    problem, run = Quadratic(1.0, 1.0, scale=2.0), {"theta0": [0.5], "test_functions": ["loss"]}
    report = long_run(SGD(0.2), problem, burn_in=50, steps=400, paths=1024, confidence=0.999, margin=0.06, **run)
    exact = {CHAIN: 0.2 * 4 / (2 - 0.2), FINE: 0.1 * 8 / (2 - 0.1)}  # C = eta sigma² / (2 − eta); loss C / 2
    for row, variance in exact.items():
        assert abs(report.mean[row, 0] - variance / 2) < 3.5 * report.sem[row, 0]
        assert abs(report.mean[row, 0] - report.expected[0]) > 5 * report.sem[row, 0]  # both see their own h
    assert report.verdict is Verdict.CONFIRMED
    assert report.discretisation[0] == pytest.approx(exact[CHAIN] - exact[FINE], abs=0.008)
    assert -0.02 < report.solver_bias[0] < -0.002  # Euler's law is too wide as well
    assert abs(report.mean[SDE, 0] - 0.2) < 3.5 * report.sem[SDE, 0]
    coarse = long_run(SGD(0.4), problem, burn_in=24, steps=200, paths=8192, **run)  # power 1 at 7 standard errors
    assert coarse.verdict is Verdict.REFUTED  # 2 / 2.25 − .5 = .389: what is of order h² counts against it
    assert "chain's loss" in coarse.message


def test_batch_means_see_autocorrelation():
    """Paths remember 1 / (lr h) = 10 steps: the standard error is that of so many fewer samples."""
    report = long_run(SGD(0.1), ONE, theta0=[0.0], burn_in=100, steps=400, paths=512, test_functions=["theta_0"])
    rho = 1 - 0.1 * 2
    variance = 0.1**2 * 16 * 2.25 / (1 - rho**2)
    predicted = math.sqrt(variance * (1 + rho) / (1 - rho) / (400 * 512))
    assert abs(report.sem[CHAIN, 0] / predicted - 1) < 0.12  # 512 paths know it to 3 %
    assert abs(report.batch_correlation[CHAIN, 0]) < 0.2
    rarely = long_run(
        SGD(0.1), ONE, theta0=[0.0], burn_in=100, steps=400, paths=512, test_functions=["theta_0"], every=10
    )
    thinned = math.sqrt(variance * (1 + rho**10) / (1 - rho**10) / (40 * 512))
    assert abs(rarely.sem[CHAIN, 0] / thinned - 1) < 0.12


def test_a_run_that_has_not_settled_decides_nothing():
    report = long_run(SGD(0.01), ONE, theta0=[50.0], burn_in=0, steps=80, paths=64)
    assert report.verdict is Verdict.INCONCLUSIVE
    assert "drift" in report.message
    lost = long_run(SGD(3.0), ONE, theta0=[0.0], burn_in=0, steps=600, paths=8, test_functions="loss")
    assert lost.verdict is Verdict.INCONCLUSIVE
    assert "diverged" in lost.message


def test_what_has_no_closed_form_says_why():
    for method, oracle, match in (
        (SGD(0.1), Rippled(0.1), "quadratic loss with constant covariance"),
        (SGD(0.1), MultiplicativeNoise([1.0]), "additive=False"),
        (Adagrad(0.1, time_step=0.01), ONE, "declared for SGD"),
        (Adam(0.1, scaling="ballistic"), ONE, "ODE"),
        (SGD(0.1, schedule=math.cos), ONE, "schedule"),
        (SGD(0.1), Quadratic([1.0, 0.0], [1.0, 1.0], 1.0), "flat directions"),
        (RMSprop(0.1, eps=0.0), Quadratic([1.0, 1.0], [1.0, 0.0], 1.0), "pass eps > 0"),
        (SignSGD(0.1), Quadratic(1.0, 1.0, 1.0, noise="laplace"), "density at 0"),
        (SignSGD(0.1, scaling="fixed-noise"), TILTED, "diagonal H > 0"),
    ):
        with pytest.raises(NotDeclared, match=match):
            stationary(method, oracle)
    with pytest.raises(ValueError, match="`scale` must be finite and positive"):
        stationary(SGD(0.1), Quadratic(1.0, 1.0, 0.0))
    with pytest.raises(NotDeclared, match="log_loss"):
        stationary(SGD(0.1), ONE).expectation("log_loss")
    flat = Quadratic([1.0, 0.0], [1.0, 1.0], 1.0)
    assert stationary(AdamW(0.1, weight_decay=0.1), flat).covariance[1, 1] > 0  # decay holds what is flat


def test_long_run_refuses_wrong_arguments():
    good = {"theta0": [0.0], "burn_in": 8, "steps": 16, "paths": 4}
    for change, match in (
        ({"steps": 17}, "`steps` must be a multiple of batches"),
        ({"batches": 3, "steps": 18}, "`batches` must be even"),
        ({"every": 3, "steps": 24}, "`burn_in` of every"),
        ({"paths": 1}, "`paths`"),
        ({"refinement": 1}, "`refinement`"),
        ({"substeps": 3}, "must be even"),
        ({"margin": 0.0}, "`margin`"),
        ({"test_functions": {"x": lambda x: x.loss}}, "must be names"),
    ):
        with pytest.raises(ValueError, match=match):
            long_run(SGD(0.1), ONE, **{**good, **change})
    with pytest.raises(ValueError, match="keep its SDE"):
        long_run(SignSGD(0.1, scaling="fixed-noise"), ONE, **good)


@pytest.mark.slow
def test_memory_enters_where_nothing_commutes():
    """Cov(theta_0, theta_1) is .059 at beta1 = .99 and .16 for RMSprop; the losses agree. Power 1 at 9 errors."""
    problem = Quadratic([2.0, 0.25], [[1.0, 0.9], [0.9, 1.0]], scale=4.0)
    names = ["theta_0_squared", "projection_1_squared", "loss"]
    report = long_run(
        Adam(0.1, 0.99, 0.99), problem, theta0=[0.0, 0.0], burn_in=600, steps=1600, paths=2048, test_functions=names,
        substeps=2, confidence=0.999, margin=0.12,
    )  # fmt: skip
    assert report.verdict is Verdict.CONFIRMED, report.summary()
    without = stationary(RMSprop(0.1), problem)
    control = replace(report, expected=np.array([without.expectation(name) for name in names]))
    assert control.verdict is Verdict.REFUTED
    assert abs(control.z("sde")[2]) < 3 < abs(control.z("sde")[1])


@pytest.mark.slow
def test_the_experiment_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "experiments"))
    assert importlib.import_module("stationary_laws").main(["--out", str(tmp_path), "--smoke"]) == 0
    assert "Control, AdamW without decay: REFUTED" in capsys.readouterr().out
    assert matplotlib.image.imread(tmp_path / "stationary_laws.png")[..., :3].std() > 0.05
    assert len([path for path in tmp_path.iterdir() if path.is_dir()]) == 16
