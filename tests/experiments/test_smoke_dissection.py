"""The experiments on Balles and Hennig's claims run, and the short ones, at full size, still find what they claim."""

import json

import matplotlib.image
import numpy as np
import pytest
import torch

NAMES = [
    ("variance_adaptation_factors", 12),
    ("idealised_svag", 10),
    ("sign_or_gradient", 19),
    ("sign_and_generalisation", 10),
    ("dissecting_adam_on_digits", 24),
]


def smoke(experiment, tmp_path, name, claims):
    assert experiment(name).main(["--out", str(tmp_path), "--smoke"]) == 0
    stored = json.loads((tmp_path / "claims.json").read_text("utf-8"))
    assert stored["size"] == "smoke"
    assert len(stored["claims"]) == claims
    assert matplotlib.image.imread(tmp_path / f"{name}.png")[..., :3].std() > 0.05  # not blank


@pytest.mark.slow
@pytest.mark.parametrize(("name", "claims"), NAMES)
def test_smoke(experiment, tmp_path, name, claims):
    smoke(experiment, tmp_path, name, claims)


def test_smoke_of_the_shortest(experiment, tmp_path):
    smoke(experiment, tmp_path, *NAMES[0])


@pytest.mark.slow
@pytest.mark.parametrize("name", ["variance_adaptation_factors", "idealised_svag"])
def test_the_verdicts_are_those_of_the_ledger(experiment, tmp_path, name):
    assert experiment(name).main(["--out", str(tmp_path)]) == 0


@pytest.mark.parametrize("which", ["mean_interval", "median_interval"])
def test_intervals_cover(experiment, which):
    interval, samples = getattr(experiment("replications"), which), np.random.default_rng(0).standard_normal((4000, 20))
    for tests in (1, 5):
        ends = np.array([interval(row, tests) for row in samples])
        missed = np.mean((ends[:, 0] > 0) | (ends[:, 1] < 0))
        assert missed < 0.05 / tests + 4.5 * (0.05 / tests / len(samples)) ** 0.5
        assert missed > 0.25 * 0.05 / tests  # and not by being infinitely wide
    assert np.isinf(experiment("replications").median_interval([1.0, 2.0], 1)).all()


def test_the_network_is_one_per_seed(experiment):
    script = experiment("dissecting_adam_on_digits")
    _, weights = script.initial([5, 6])
    x, y = script.data("digits")
    rows = torch.stack([torch.arange(10), torch.arange(20, 30)])
    losses = script.loss(weights, x[rows], y[rows])
    for seed in range(2):
        a, b, c, d = weights[seed].split([64 * script.HIDDEN, script.HIDDEN, script.HIDDEN * 10, 10])
        net = torch.nn.Sequential(
            torch.nn.Linear(64, script.HIDDEN), torch.nn.ReLU(), torch.nn.Linear(script.HIDDEN, 10)
        )  # fmt: skip
        values = (a.view(64, -1).T, b, c.view(script.HIDDEN, 10).T, d)
        with torch.no_grad():
            for parameter, value in zip(net.parameters(), values, strict=True):
                parameter.copy_(value)
        alone = torch.nn.functional.cross_entropy(net(x[rows[seed]]), y[rows[seed]])
        torch.testing.assert_close(losses[seed], alone)
    assert float((losses[0] - losses[1]).abs()) > 1e-3


def test_the_example_of_wilson_is_as_the_lemma_asks(experiment):
    x, y = experiment("sign_and_generalisation").data(3)
    u = (x.mT @ y[..., None])[..., 0]
    used = x.abs().sum(1) > 0
    assert bool((u != 0)[used].all())
    torch.testing.assert_close((x @ u.sign()[..., None])[..., 0], 4 * y)
