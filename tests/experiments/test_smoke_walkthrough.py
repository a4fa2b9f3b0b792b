"""The experiments on Kingma and Ba, on Malladi et al.'s conditions and on fixed beta run; their parts are right."""

import json
import math

import matplotlib.image
import numpy as np
import pytest
import torch

from sdeadapt.oracles.noise import Gaussian, StudentT, standard_normal


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "claims"),
    [
        ("adam_limits", 10),
        ("bias_correction", 3),
        ("bounded_moments", 9),
        ("fixed_beta_limit", 10),
        ("linear_warm_up", 9),
        ("regret", 6),
        ("temporal_averaging", 7),
    ],
)
def test_smoke(experiment, tmp_path, capsys, name, claims):
    assert experiment(name).main(["--out", str(tmp_path), "--smoke"]) == 0
    assert "Cost:" in capsys.readouterr().out
    assert matplotlib.image.imread(tmp_path / f"{name}.png")[..., :3].std() > 0.05  # not blank
    assert len(json.loads((tmp_path / "claims.json").read_text("utf-8"))["claims"]) == claims


@pytest.mark.slow
def test_svag_smoke(experiment, tmp_path, capsys):
    assert experiment("svag_theorem").main(["--out", str(tmp_path), "--smoke", "--only", "RMSprop"]) == 0
    assert "Cost:" in capsys.readouterr().out
    assert matplotlib.image.imread(tmp_path / "svag_theorem.png")[..., :3].std() > 0.05


def test_adagrad_is_adams_limit(experiment):
    """To 1e-6 over 200 steps; not with a constant learning rate, nor without bias correction."""
    script = experiment("adam_limits")
    adagrad = script.path(script.sa.Adagrad(script.LR, 0.0), 200)
    assert script.apart(script.adam(1e-9), adagrad) < 1e-6
    assert script.apart(script.adam(1e-9, schedule=False), adagrad) > 0.1
    assert script.apart(script.adam(1e-9, bias_correction=False), adagrad) > 0.1


def test_the_worst_sequence_is_stationary_for_the_step(experiment):
    """What L-BFGS finds after bias correction is the supremum, and a supremum of 1 is beta1 = beta2's alone."""
    script = experiment("adam_limits")
    for pair in ((0.8, 0.99), (0.9, 0.9)):
        found, supremum = script.searched(*pair, 12, 2)
        assert found == pytest.approx(supremum, rel=1e-5)
        assert (supremum > 1 + 1e-6) == (pair[0] != pair[1])


@pytest.mark.parametrize("nu", [math.inf, 3.0])
def test_the_laplace_transform_of_u_is_that_of_its_draws(experiment, nu):
    """2^17 chains of 16 steps, false alarm 1e-5; Student's against a Gaussian's transform is the twin."""
    script, law = experiment("bounded_moments"), Gaussian() if math.isinf(nu) else StudentT(nu)
    h, generator = 1 / 8, torch.Generator().manual_seed(0)
    u = torch.full((1 << 17,), script.START, dtype=torch.float64)
    for _ in range(16):
        u = (1 - h) * u + h * law.map(standard_normal(generator, u.shape, heavy=True)).square()
    value = torch.exp(-u / 2)
    sem = float(value.std()) / math.sqrt(len(u))
    assert abs(float(value.mean()) - script.laplace_of_u(nu, h, 0.5)) < 4.5 * sem
    other = 3.0 if math.isinf(nu) else math.inf
    assert abs(float(value.mean()) - script.laplace_of_u(other, h, 0.5)) > 20 * sem


def test_the_auto_encoders_rows_are_apart_and_its_loss_is_the_evidence_bound(experiment):
    """Beside torch.distributions, one row alone."""
    script, generator = experiment("bias_correction"), torch.Generator().manual_seed(0)
    theta, shape = script.initial(3, generator).double().requires_grad_(), (3, 5)
    x = torch.rand(*shape, script.PIXELS, generator=generator, dtype=torch.float64)
    noise = torch.randn(*shape, script.LATENT, generator=generator, dtype=torch.float64)
    loss = script.loss(theta, x, noise)
    (g,) = torch.autograd.grad(loss[1], theta)
    assert (g[1] != 0).all()
    assert (g[[0, 2]] == 0).all()

    sizes = [n for fan_in, out in script.SHAPES for n in (fan_in * out, out)]
    w1, b1, w2, b2, w3, b3, w4, b4 = theta[1].detach().split(sizes)
    softplus = torch.nn.functional.softplus
    code = softplus(x[1] @ w1.reshape(script.SHAPES[0]) + b1) @ w2.reshape(script.SHAPES[1]) + b2
    mean, log_variance = code.chunk(2, 1)
    posterior = torch.distributions.Normal(mean, torch.exp(log_variance / 2))
    z = posterior.mean + posterior.stddev * noise[1]
    logits = softplus(z @ w3.reshape(script.SHAPES[2]) + b3) @ w4.reshape(script.SHAPES[3]) + b4
    fit = -(x[1] * torch.log(logits.sigmoid()) + (1 - x[1]) * torch.log(1 - logits.sigmoid())).sum(1)
    prior = torch.distributions.kl_divergence(posterior, torch.distributions.Normal(0.0, 1.0)).sum(1)
    assert float(loss[1].detach()) == pytest.approx(float((fit + prior).mean()), rel=1e-10)


def test_regrets_best_point_is_the_best(experiment):
    """The closed form of min_theta against a grid, on both kinds of losses."""
    script, generator = experiment("regret"), torch.Generator().manual_seed(0)
    for losses in (script.Quadratics(), script.Rare()):
        draws = torch.stack([losses.draw(generator, 4) for _ in range(50)])
        grid = torch.linspace(-1, 1, 2001, dtype=torch.float64)
        if losses.dim == 1:
            best = torch.stack([(x * draws).sum(0)[:, 0] for x in grid]).amin(0)
        else:  # separable
            best = (script.CURVATURE * (grid[:, None, None, None] - draws).square().sum(1).amin(0) / 2).sum(1)
        found = losses.best(50, draws.sum(0), draws.square().sum(0))
        np.testing.assert_allclose(found, best, atol=1e-3)


def test_kingmas_average_is_the_exponential_one_without_its_start(experiment):
    """From 0, bias-corrected, beside what the experiment makes of `Averaged`."""
    script = experiment("temporal_averaging")
    method, steps = script.ADAM, [1, 7, 20]
    found = script.errors(method, "gaussian", script.FAR, steps, 3, 5)
    oracle, generator = script.Quadratic(script.HESSIAN, script.COVARIANCE, 1.0), torch.Generator().manual_seed(5)
    state = method.init(torch.full((3, 3), script.FAR, dtype=torch.float64))
    stream, average, expected = oracle.stream(generator, 3), 0.0, []
    for k in range(steps[-1]):
        state = method.step(state, oracle.sample(oracle.at(state.theta), stream.next()), k)
        average = method.beta2 * average + (1 - method.beta2) * state.theta
        if k + 1 in steps:
            expected.append((average / (1 - method.beta2 ** (k + 1))).square().sum(1).numpy())
    np.testing.assert_allclose(found[:, 2], expected, rtol=1e-9)
