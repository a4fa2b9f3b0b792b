"""Updates of networks: by plain torch loops, and the report's decisions on updates whose law is known."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from sdeadapt import load
from sdeadapt.analysis.updates import update_law, var_abs
from sdeadapt.analysis.updates_architectures import NETWORKS, mlp, on_digits, starts
from sdeadapt.analysis.updates_networks import network_updates
from sdeadapt.analysis.updates_report import UpdateReport
from sdeadapt.simulation.randomness import Purpose, SeedTree
from sdeadapt.verification.decision import Verdict


@pytest.mark.parametrize("name", NETWORKS)
def test_copies_are_initialised_as_torch_does_and_have_their_own_gradients(name):
    theta = starts(NETWORKS[name], [1, 2, 3]).double()
    oracle = on_digits(NETWORKS[name], 4, torch.float64, "cpu")
    draw = torch.arange(12).view(3, 4)
    found = oracle.sample(oracle.at(theta), draw)
    images, labels = oracle.data
    for k in range(3):
        with torch.random.fork_rng():
            torch.manual_seed(k + 1)
            network = NETWORKS[name]().double()
        assert torch.equal(nn.utils.parameters_to_vector(network.parameters()), theta[k])
        loss = nn.functional.cross_entropy(network(images[draw[k]]), labels[draw[k]])
        alone = torch.cat([g.flatten() for g in torch.autograd.grad(loss, list(network.parameters()))])
        torch.testing.assert_close(found[k], alone, rtol=1e-9, atol=1e-14)


def plain_loop(seed, copies, looks, beta, lr, batch_size):
    """The updates of perceptrons with torch.optim.Adam, which at beta1 = 0 is the iteration meant."""
    tree, (images, labels) = SeedTree.of(seed), on_digits(mlp, 1, torch.float64, "cpu").data
    generator = tree.generator(Purpose.ENSEMBLE, 16, 0)
    batches = [torch.randint(len(labels), (copies, batch_size), generator=generator) for _ in range(looks[-1])]
    for k in range(copies):
        with torch.random.fork_rng():
            torch.manual_seed(tree.seed(Purpose.ENSEMBLE, 0, k) & (1 << 63) - 1)
            network = mlp(nn.Tanh).double()
        moving = np.zeros(1, dtype=bool)
        optimizer = torch.optim.Adam(network.parameters(), lr, betas=(0.0, beta), eps=1e-200)
        for m, rows in enumerate(batches, 1):
            before = nn.utils.parameters_to_vector(network.parameters()).detach()
            optimizer.zero_grad()
            nn.functional.cross_entropy(network(images[rows[k]]), labels[rows[k]]).backward()
            optimizer.step()
            gradient = torch.cat([p.grad.flatten() for p in network.parameters()]).numpy()
            moving = moving | (gradient != 0)
            if m in looks:
                moved = nn.utils.parameters_to_vector(network.parameters()).detach()
                yield m, ((before - moved) / lr).numpy(), gradient, moving


def test_the_report_is_that_of_a_plain_loop_with_torch_adam():
    looks, copies = (1, 3), 8
    given = {"looks": looks, "copies": copies, "beta": 0.9, "lr": 0.01, "batch_size": 8, "rng": 5}
    before = torch.random.get_rng_state()
    report = network_updates({"tanh": lambda: mlp(nn.Tanh)}, **given)
    assert torch.equal(torch.random.get_rng_state(), before)  # the caller's randomness is left alone
    cdf, variance, zeros, silent = (np.zeros(2) for _ in range(4))
    for m, x, g, moving in plain_loop(5, copies, looks, 0.9, 0.01, 8):
        j = looks.index(m)
        cdf[j] += (x[moving] <= report.edges[j, 20] + 1e-9).mean() / copies
        variance[j] += (x[moving] ** 2).mean() / copies
        zeros[j] += (g[moving] == 0).mean() / copies
        silent[j] += (1 - moving.mean()) / copies
    assert report.parameters.tolist() == [64 * 64 * 2 + 64 * 2 + 64 * 10 + 10]
    np.testing.assert_allclose(report.variance[0], variance, rtol=2e-3)
    np.testing.assert_allclose((report.difference + report.law_cdf)[0, :, 20], cdf, atol=1e-3)
    np.testing.assert_allclose(report.zeros[0], zeros, atol=1e-3)
    np.testing.assert_allclose(report.silent[0], silent, atol=1e-12)


def known(shift=0.0, copies=64, effect=0.0, looks=(1, 2, 10), seed=0, tolerance=0.05, coordinates=4000):
    """A report on updates that are drawn: from the law, moved by `shift`, with a random move of each copy's."""
    rng, inner = np.random.default_rng(seed), np.arange(1, 64) / 64
    edges = np.array([update_law(m).ppf(inner) if m > 1 else 2 * inner - 1 for m in looks])
    share, var = np.zeros((copies, len(looks), 64)), np.zeros((copies, len(looks)))
    for k in range(copies):
        for j, m in enumerate(looks):
            x = update_law(m).rvs(coordinates, random_state=rng) + shift + effect * rng.standard_normal()
            share[k, j] = np.bincount(np.searchsorted(edges[j], x), minlength=64) / coordinates
            var[k, j] = np.abs(x).var()
    sem = [v.std(0, ddof=1)[None] / copies**0.5 for v in (share, share.cumsum(-1)[..., :-1], var)]
    zero = np.zeros((1, len(looks)))
    config = {"copies": copies, "confidence": 0.95, "tolerance": tolerance, "beta": None, "lr": 0.0, "batch_size": 1}
    return UpdateReport(
        config, 0.0, ("known",), np.array([coordinates]), np.array(looks), edges,
        np.array([update_law(m).cdf(e) for m, e in zip(looks, edges, strict=True)]), var_abs(np.array(looks)),
        share.mean(0)[None], sem[0], sem[1], var.mean(0)[None], sem[2], zero + 1, zero, zero, zero,
    )  # fmt: skip


def test_updates_of_the_law_are_confirmed_and_others_refuted():
    right = known()
    assert right.verdict is Verdict.CONFIRMED
    assert (right.follows("known"), right.leaves("known")) == (10, None)
    low, high = right.var_abs_interval
    assert ((low <= right.law_var_abs) & (right.law_var_abs <= high)).all()
    wrong = known(shift=0.3, looks=(2, 3, 10))
    assert wrong.verdict is Verdict.REFUTED
    assert (wrong.follows("known"), wrong.leaves("known")) == (None, 2)
    assert "known is not shown to follow the law, has left it at m = 2" in wrong.message
    late = replace(right, share=np.concatenate([right.share[:, :2], wrong.share[:, 2:]], 1))
    assert (late.follows("known"), late.leaves("known")) == (2, 10)
    noisy = known(copies=8, effect=0.5)
    assert noisy.verdict is Verdict.INCONCLUSIVE


@pytest.mark.slow
def test_bounds_cover_the_distance_when_coordinates_depend_on_each_other():
    """With a random move of every copy's the law over copies is wider; coverage at least 95 % of 200, up to chance."""
    rng, law = np.random.default_rng(1), update_law(5)
    moves = 0.4 * rng.standard_normal(40_000)
    edges = law.ppf(np.arange(1, 64) / 64)
    truth = np.abs(np.mean([law.cdf(edges - a) for a in moves[:4000]], 0) - law.cdf(edges)).max()
    assert 0.005 < truth < 0.1
    covered = certain = 0
    for seed in range(200):
        report = known(copies=32, effect=0.4, looks=(5,), seed=seed, coordinates=200)
        low, high = report.bounds
        covered += bool(low[0, 0] <= truth <= high[0, 0])
        certain += report.verdict is Verdict.CONFIRMED
    assert covered >= 183  # the 1e-3 quantile of 95 %
    assert certain == 0  # 32 copies are too few to be sure of 5 %


def test_a_report_comes_back_and_says_what_it_holds(tmp_path):
    report = network_updates(["mlp", "transformer"], looks=[1, 2], copies=8, batch_size=4, lr=0.0, layer=None)
    assert load(report.save(tmp_path / "run")) == report
    text = report.summary()
    assert text.startswith(f"{report.verdict}: mlp ")
    assert "8 networks each (8970, 18154 coordinates), batches of 4, lr = 0" in text
    assert report.distance.shape == report.states.shape == (2, 2)
    np.testing.assert_allclose(report.share.sum(-1), 1, rtol=1e-12)
    np.testing.assert_allclose(report.law_var_abs, var_abs([1, 2]))
    assert report.silent[0, 0] > 0.1  # pixels that are always 0, units that are switched off
    assert report.silent[1, 0] < 1e-3


def test_one_layer():
    report = network_updates(["mlp"], looks=[2], copies=8, batch_size=4, layer="3.weight")
    assert report.parameters.tolist() == [64 * 64]


@pytest.mark.slow
def test_the_executor_changes_no_bit():
    from sdeadapt import Run, workers

    given = {"looks": [1, 3], "copies": 40, "batch_size": 4, "beta": 0.9}
    alone = network_updates(["mlp", "cnn"], **given)
    with workers(2) as executor:
        shared = network_updates(["mlp", "cnn"], **given, run=Run(executor=executor))
    assert replace(shared, seconds=alone.seconds) == alone


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"networks": ["mpl"]}, "`networks` must be one of 'mlp', 'cnn', 'transformer'; got 'mpl'. Did you mean 'mlp'"),
        ({"networks": []}, "`networks` must name 1 to 16 different ones"),
        (
            {"networks": {"odd": lambda: nn.Sequential(nn.Flatten(), nn.Linear(64, 3))}},
            r"must map images \(batch, 1, 8, 8\) to \(batch, 10\)",
        ),
        ({"looks": [3, 2]}, r"`looks` must increase; got \[3, 2\]"),
        ({"looks": [0, 2]}, "`looks` must be a whole number >= 1; got 0"),
        ({"beta": 1.0}, r"`beta` must lie in \(0, 1\); got 1.0"),
        ({"copies": 4}, "`copies` must be a whole number >= 8; got 4"),
        ({"lr": -1.0}, "`lr` must be finite and not negative"),
        ({"layer": "9.weight"}, "`layer` must be one of '1.weight'"),
        ({"tolerance": 0.0}, "`tolerance` must be finite and positive"),
    ],
)
def test_wrong_arguments(options, message):
    with pytest.raises(ValueError, match=message):
        network_updates(**{"networks": ["mlp"]} | options)


def test_divergence_is_said():
    with pytest.raises(FloatingPointError, match="did not stay finite"):
        network_updates(["mlp"], looks=[4], copies=8, lr=1e300)
