"""The experiments on batch-size rules run, and one of them, at its full size, still finds what it claims."""

import matplotlib.image
import numpy as np
import pytest
import torch

from sdeadapt import SGD, Adam, load


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "figures", "studies"),
    [("linear_rule_sgd", 1, 3), ("square_root_rule", 4, 16), ("ema_rule", 2, 4), ("where_the_rule_breaks", 1, 6)],
)
def test_smoke(experiment, tmp_path, capsys, name, figures, studies):
    assert experiment(name).main(["--out", str(tmp_path), "--smoke"]) == 0
    assert "Cost:" in capsys.readouterr().out
    pictures = list(tmp_path.glob("*.png"))
    assert len(pictures) == figures
    assert all(matplotlib.image.imread(path)[..., :3].std() > 0.05 for path in pictures)  # none is blank
    runs = [load(path) for path in tmp_path.iterdir() if path.is_dir()]
    assert len(runs) == studies
    assert all(report.runs.min() == 64 for report in runs)


def test_verdicts_of_the_linear_rule_are_those_claimed(experiment, tmp_path):
    assert experiment("linear_rule_sgd").main(["--out", str(tmp_path)]) == 0


def test_a_wrong_claim_fails(experiment, tmp_path):
    shared, sgd = experiment("batch_size_rules"), SGD(1 / 32)
    studies = {"wrong": (sgd, shared.SQUARE_ROOT, "CONFIRMED", {"runs": 256, "kappas": (8,)})}
    assert shared.main("claim", studies, {}, ["--out", str(tmp_path)]) == 1


@pytest.mark.parametrize("inner", [SGD(0.1), Adam(0.1, 0.8, 0.9, 0.1)])
def test_an_averaged_method_is_the_method_and_its_average(experiment, inner):
    averaged = experiment("ema_rule").Averaged(inner, 0.9)
    rng = torch.Generator().manual_seed(0)
    theta = torch.randn(5, 2, generator=rng, dtype=torch.float64)
    state, bare, average = averaged.init(theta), inner.init(theta), theta
    for k in range(6):
        g = torch.randn(5, 2, generator=rng, dtype=torch.float64)
        state, bare = averaged.step(state, g, k), inner.step(bare, g, k)
        average = 0.9 * average + 0.1 * bare.theta
        assert all(torch.equal(a, b) for a, b in zip(state[:-1], bare, strict=True))
        torch.testing.assert_close(state.average, average, rtol=1e-14, atol=0)
    back = averaged.from_point(averaged.to_point(state, 0.5), 0.5)
    for a, b in zip(back, state, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-14, atol=0)
    assert np.isclose(averaged.rescaled(4).rho, 0.9**4, rtol=1e-14)
    assert averaged.rescaled(4).method == inner.rescaled(4)
