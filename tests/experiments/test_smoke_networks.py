"""The experiments on networks run, and their control is what they say."""

import matplotlib.image
import numpy as np
import pytest
import torch

from sdeadapt import SGD, load
from sdeadapt.methods.sgd import SGDPoint


@pytest.mark.slow
@pytest.mark.parametrize(("name", "studies"), [("adam_sde_on_a_network", 6), ("verify_a_network", 4)])
def test_smoke(experiment, tmp_path, capsys, name, studies):
    assert experiment(name).main(["--out", str(tmp_path), "--smoke"]) == 0
    assert "size: smoke" in capsys.readouterr().out
    assert matplotlib.image.imread(tmp_path / f"{name}.png")[..., :3].std() > 0.05  # not blank
    runs = [path for path in tmp_path.iterdir() if path.is_dir()]
    assert len(runs) == studies
    assert all(load(path).verdict for path in runs)


def test_diagonal_noise_differs_from_the_own_sde_off_the_diagonal_alone(experiment):
    script = experiment("verify_a_network")
    method, oracle = SGD(script.LR), script.correlated()
    x, eye = SGDPoint(torch.tensor([script.START] * 2, dtype=torch.float64)), torch.eye(2, dtype=torch.float64)
    covariances = []
    for sde in (method.sde(oracle), script.diagonal_noise(method, oracle)):
        drift, diffuse = sde.at(0.0, x)
        root = diffuse(eye).theta.T
        covariances.append((root @ root.T).numpy())
        torch.testing.assert_close(drift.theta, -oracle.at(x.theta).gradient)
    own, diagonal = covariances
    np.testing.assert_allclose(diagonal, np.diag(np.diag(own)), atol=1e-15)
    assert abs(own[0, 1]) > 0.7 * own[0, 0]


def test_the_effect_computed_beforehand_starts_as_the_noise_it_lacks(experiment, monkeypatch):
    script = experiment("verify_a_network")
    oracle = script.correlated()
    monkeypatch.setattr(script, "STEPS", 1e-4)  # a short time: C = t eta sigma^2 (Sigma - diag Sigma)
    _, missing = script.predicted(oracle)
    start = oracle.at(torch.tensor([script.START], dtype=torch.float64))
    unit = torch.eye(2, dtype=torch.float64)
    root = oracle.at(start.theta.expand(2, -1)).diffuse(unit).T.numpy()
    want = script.LR * oracle.scale**2 * (root @ root.T)[0, 1] * script.STEPS * script.LR
    np.testing.assert_allclose(missing, [[0, want], [want, 0]], rtol=1e-3, atol=1e-4 * want)
