"""The page "A new method is one file": its code runs as it stands, and says what the text around it says."""

import math
import runpy
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from sdeadapt.oracles import NotDeclared, Quadratic
from sdeadapt.verification.decision import Verdict

EXAMPLES = Path(__file__).parents[1] / "docs" / "examples"


@pytest.fixture
def lion(monkeypatch):
    """The file of the page, as a script finds its neighbours."""
    monkeypatch.syspath_prepend(str(EXAMPLES))
    import lion

    yield lion
    sys.modules.pop("lion", None)


def test_the_page(lion, capsys):
    found = runpy.run_path(str(EXAMPLES / "new_method.py"))
    assert found["local"].verdict is Verdict.CONFIRMED
    first = found["local_wrong"].offending[0]
    assert (first.moment, round(first.power, 1)) == ("E[dtheta dm]", 1.0)
    assert found["right"].verdict is found["svag"].verdict is Verdict.CONFIRMED
    assert [report.verdict for report in found["wrong"]] == [Verdict.REFUTED] * 2
    assert "unless the noise is Gaussian" in found["refusal"]
    assert [report.verdict for report in found["scaling"]] == [Verdict.CONFIRMED, Verdict.REFUTED]
    assert "lr sqrt(kappa), 1 - beta2 kappa" in found["row"]
    assert len(capsys.readouterr().out.splitlines()) == 11


def test_the_file_is_short():
    assert len([line for line in (EXAMPLES / "lion.py").read_text().splitlines() if line.strip()]) <= 60


def test_correlated_noise(lion):
    """The joint covariance of both noises is that of (sign z, z), by 2 * 10^6 draws: standard errors below .001."""
    sigma, h = torch.tensor([[1.0, -0.9], [-0.9, 2.0]], dtype=torch.float64), 0.25
    method, oracle = lion.Lion(math.sqrt(h), 0.5, 1 - 2 * h), Quadratic([1.0, 1.0], sigma, scale=3.0)
    sde = method.sde(oracle)
    assert sde.noise_dim == 4
    x = lion.Point(*torch.zeros(2, 4, 2, dtype=torch.float64))
    columns = torch.cat(sde.at(0.0, x)[1](torch.eye(4, dtype=torch.float64)), 1)
    found = (columns.T @ columns).numpy()
    z = np.random.default_rng(0).standard_normal((2_000_000, 2)) @ np.linalg.cholesky(sigma.numpy()).T
    gain = 2 * 3.0 * math.sqrt(h)  # c sigma_0
    expected = np.cov(np.concatenate([-np.sign(z), gain * z], 1).T)
    sem = np.sqrt(2 / len(z)) * np.sqrt(np.outer(np.diag(expected), np.diag(expected)))
    assert np.all(np.abs(found - expected) < 4 * sem)
    found[:2, 2:] *= 0.99  # the twin: one part in a hundred would be seen
    assert not np.all(np.abs(found - expected) < 4 * sem)


def test_refusals(lion):
    with pytest.raises(NotDeclared, match="Gaussian noise of constant covariance"):
        lion.Lion(0.1).sde(Quadratic(1.0, 1.0, scale=1.0, noise="laplace"))
    with pytest.raises(ValueError, match=r"`beta2` must lie in \(0, 1\); got Lion\("):
        lion.Lion(0.1).rescaled(100.0)
