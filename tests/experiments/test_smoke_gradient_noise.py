"""The experiments on the gradient noise of networks run, and their controls can fail."""

from types import SimpleNamespace

import matplotlib.image
import numpy as np
import pytest


@pytest.mark.slow
@pytest.mark.parametrize("name", ["noise_to_signal", "svag_on_a_network"])
def test_smoke(experiment, tmp_path, capsys, name):
    assert experiment(name).main(["--out", str(tmp_path), "--smoke"]) == 0
    assert "Cost:" in capsys.readouterr().out
    assert matplotlib.image.imread(tmp_path / f"{name}.png")[..., :3].std() > 0.05
    assert (tmp_path / "claims.json").exists()


def ensemble(**mean):
    """What is read of an ensemble: these means at one time, each with a standard error of 1 %."""
    mean = {name: np.array([value]) for name, value in mean.items()}
    return SimpleNamespace(mean=mean, sem={name: value / 100 for name, value in mean.items()})


def chain(factor=1.0, accuracy=0.5):
    names = ("loss", "theta_norm_squared", "gradient_norm_squared", "noise_trace")
    return ensemble(**dict.fromkeys(names, 2.0) | {"noise_trace": 2.0 * factor, "test_accuracy": accuracy})


@pytest.mark.parametrize(("factor", "verdict"), [(1.2, "CONFIRMED"), (1.4, "INCONCLUSIVE"), (1.7, "REFUTED")])
def test_closeness_is_lost_in_one_metric(experiment, factor, verdict):
    svag = experiment("svag_on_a_network")
    assert svag.close(chain(), chain(factor), 10)[0] == verdict
    assert "Tr Σ" in svag.close(chain(factor), chain(), 10)[1]


@pytest.mark.parametrize(("accuracy", "verdict"), [(0.51, "CONFIRMED"), (0.55, "INCONCLUSIVE"), (0.6, "REFUTED")])
def test_accuracies(experiment, accuracy, verdict):
    assert experiment("svag_on_a_network").accurate(chain(), chain(accuracy=accuracy), 10)[0] == verdict


@pytest.mark.parametrize(("at_four", "verdict"), [(1.05, "CONFIRMED"), (1.9, "REFUTED")])
def test_convergence(experiment, at_four, verdict):
    chains = {m: ensemble(loss=x, theta_norm_squared=x) for m, x in {1: 2.0, 4: at_four, 8: 1.0}.items()}
    assert experiment("svag_on_a_network").converging(chains, 2)[0] == verdict


def test_the_ratio_of_means_is_covered_by_its_interval(experiment):
    ratios = experiment("noise_to_signal").ratios
    rng = np.random.default_rng(0)
    missed = 0
    for _ in range(400):  # 20 misses expected; 41 or more are a false alarm in 1e-5
        sums = np.stack([rng.normal(3.0, 0.3, (1, 8)), rng.normal(1.0, 0.1, (1, 8))], -1)
        low, high = ratios(SimpleNamespace(sums=sums), 1)[0, 1:]
        missed += not low <= 3.0 <= high
    assert missed <= 41
