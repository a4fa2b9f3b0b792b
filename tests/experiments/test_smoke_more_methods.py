"""The experiments on Adagrad and on sign descent run; what they are made of is what they say."""

import math

import matplotlib.image
import pytest
import torch

from sdeadapt import load
from sdeadapt.methods import SignSGD
from sdeadapt.methods.sign_sgd import SignSGDPoint
from sdeadapt.oracles import Amplified, Rippled
from sdeadapt.oracles.noise import StudentT


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "figures", "studies"), [("adagrad_needs_no_rescaling", 2, 7), ("sign_descent_sde", 1, 10)]
)
def test_smoke(experiment, tmp_path, capsys, name, figures, studies):
    assert experiment(name).main(["--out", str(tmp_path), "--smoke"]) == 0
    assert "Cost:" in capsys.readouterr().out
    pictures = list(tmp_path.glob("*.png"))
    assert len(pictures) == figures
    assert all(matplotlib.image.imread(path)[..., :3].std() > 0.05 for path in pictures)  # none is blank
    runs = [path for path in tmp_path.iterdir() if path.is_dir()]
    assert len(runs) == studies
    assert all(load(path).verdict for path in runs)


def test_the_equation_for_gaussian_noise_is_the_methods_own(experiment):
    method, oracle = SignSGD(1 / 16, "fixed-noise"), Rippled(1.0, noise="gaussian")
    theta, dw = torch.linspace(-2, 2, 9, dtype=torch.float64)[:, None], torch.ones(9, 1, dtype=torch.float64)
    own, written = method.sde(oracle), experiment("sign_descent_sde").ERF(method, oracle)
    for a, b in zip(own.at(0.0, SignSGDPoint(theta)), written.at(0.0, SignSGDPoint(theta)), strict=True):
        first, second = (x.theta if isinstance(x, SignSGDPoint) else x(dw).theta for x in (a, b))
        torch.testing.assert_close(first, second, rtol=1e-12, atol=0)


def test_the_density_under_svag_is_that_of_its_draws(experiment):
    """Draws within .05 of 0, 2^21 of them: a standard error of .3 %; a draw alone is the twin."""
    oracle, generator = Rippled(1.0, noise=StudentT(3.0)), torch.Generator().manual_seed(0)
    local, near = oracle.at(torch.zeros(1 << 21, 1, dtype=torch.float64)), []
    for one in (oracle, Amplified(oracle, 4)):
        g = one.sample(local, one.stream(generator, 1 << 21).next())
        near.append(float((((g - local.gradient) / one.scale).abs() < 0.05).double().mean()))
    ratio = experiment("sign_descent_sde").density_under_svag(4)
    assert near[1] / near[0] == pytest.approx(ratio, rel=0.015)
    assert abs(ratio - 1) > 0.05
    assert near[0] / 0.1 == pytest.approx(2 / math.pi, rel=0.015)
