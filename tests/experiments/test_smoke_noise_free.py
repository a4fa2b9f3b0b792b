"""The experiments without random numbers run; their problem's derivatives are right; a wrong claim fails."""

import matplotlib.image
import pytest
import torch

from sdeadapt import SGD, load
from sdeadapt.oracles.analytic import constant_noise


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "only", "studies"),
    [
        ("noise_free_orders", ["SGD", "RMSprop", "Adam"], 10),
        ("second_order_sdes", ["RMSprop", "Adam", "quadratic", "not"], 8),
        ("skewness_breaks_order_one", ["skewness"], 3),
    ],
)
def test_smoke(experiment, tmp_path, capsys, name, only, studies):
    assert experiment(name).main(["--out", str(tmp_path), "--smoke", "--only", *only]) == 0
    assert "Cost:" in capsys.readouterr().out
    assert matplotlib.image.imread(tmp_path / f"{name}.png")[..., :3].std() > 0.05  # not blank
    runs = [load(path) for path in tmp_path.iterdir() if path.is_dir()]
    assert len(runs) == studies
    assert all(report.noise_free for report in runs)


def test_the_derivatives_of_the_bent_problem(experiment):
    oracle = experiment("noise_free").Bent(1.0, 0.7)
    theta = torch.tensor([[0.3], [-1.2], [2.5]], dtype=torch.float64, requires_grad=True)
    here, one = oracle.at(theta), torch.ones_like(theta)
    derivative = here.loss
    for found in (here.gradient, here.hessian_product(one), here.third_contraction(one)):
        (derivative,) = torch.autograd.grad(derivative.sum(), theta, create_graph=True)
        torch.testing.assert_close(found, derivative, rtol=1e-13, atol=1e-14)


def test_sgd_meets_its_closed_forms_and_a_wrong_claim_fails(experiment, tmp_path, capsys):
    script = experiment("noise_free_orders")
    assert script.main(["--out", str(tmp_path / "right"), "--only", "SGD"]) == 0
    shared = experiment("noise_free")
    study, step = script.studies()["SGD, svag, ODE"], script.studies()["SGD, step"].options
    wrong = {"SGD, step": shared.Study(SGD(1 / 16), constant_noise([0.5, 1.0, 3.0]), step),
             "SGD, svag, ODE": study._replace(expected="CONFIRMED")}  # fmt: skip
    reports, good = shared.run("", wrong, shared.parse("", ["--out", str(tmp_path / "wrong")]))
    assert not good
    assert script.closed_forms(reports) > 1e-3
