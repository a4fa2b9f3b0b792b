"""Named test functions, snapshots, and what is said when something is not there."""

from typing import NamedTuple

import pytest
import torch
from torch import Tensor

from sdeadapt.methods import Momentum
from sdeadapt.oracles.analytic import Quadratic
from sdeadapt.oracles.base import NotDeclared
from sdeadapt.simulation.observables import Named, Snapshot, default_test_functions, resolve_test_functions


class Point(NamedTuple):
    theta: Tensor
    m: Tensor
    u: Tensor


THETA = torch.tensor([[3.0, 4.0], [1.0, -2.0]], dtype=torch.float64)
X = Point(THETA, 2 * THETA, THETA.square())
ORACLE = Quadratic([[2.0, 0.0], [0.0, 1.0]], [[1.0, 0.5], [0.5, 2.0]], scale=1.0)

EXPECTED = {
    "theta_1": [4.0, -2.0],
    "theta_1_squared": [16.0, 4.0],
    "theta_norm_squared": [25.0, 5.0],
    "loss": [17.0, 3.0],
    "gradient_norm_squared": [52.0, 8.0],
    "noise_trace": [3.0, 3.0],
    "mean_u": [12.5, 2.5],
    "m_norm_squared": [50.0, 10.0],
}


@pytest.mark.parametrize("name", EXPECTED)
def test_values(name):
    assert Named(name)(Snapshot(X, ORACLE)).tolist() == pytest.approx(EXPECTED[name])
    assert Named(name.replace("_", "-"))(Snapshot(X, ORACLE)).tolist() == pytest.approx(EXPECTED[name])


def test_projections_see_off_diagonal_covariance():
    """A rotation that keeps every coordinate's variance changes a projection's; coordinates are blind to it."""
    generator = torch.Generator().manual_seed(0)
    z = torch.randn(20000, 2, generator=generator, dtype=torch.float64)
    plus, minus = (
        z @ torch.linalg.cholesky(torch.tensor([[1.0, s], [s, 1.0]], dtype=torch.float64)).T for s in (0.8, -0.8)
    )
    for name, seen in (("projection_0_squared", True), ("theta_0_squared", False), ("theta_1_squared", False)):
        a, b = (Named(name)(Snapshot(Point(t, t, t), None)) for t in (plus, minus))
        z_score = abs(float(a.mean() - b.mean())) / float((a.var() / len(a) + b.var() / len(b)).sqrt())
        assert (z_score > 20) is seen


def test_defaults_depend_on_what_is_declared():
    assert default_test_functions(ORACLE, Point._fields, 2) == [
        "theta_0", "theta_0_squared", "projection_0_squared", "loss", "mean_u", "m_norm_squared",
    ]  # fmt: skip
    assert default_test_functions(None, ("theta",), 1) == ["theta_0", "theta_0_squared"]
    momentum = ("theta", "velocity")
    assert default_test_functions(None, momentum, 1) == ["theta_0", "theta_0_squared", "velocity_norm_squared"]


def test_the_velocity_has_a_test_function():
    x = Momentum(0.01, friction="langevin").Point(THETA, 2 * THETA)
    assert Named("velocity_norm_squared")(Snapshot(x, ORACLE)).tolist() == pytest.approx([50.0, 10.0])


def test_callables_and_names_mix():
    found = resolve_test_functions({"mine": lambda x: x.loss * 2, "norm": "theta_norm_squared"}, X, ORACLE)
    assert found["mine"](Snapshot(X, ORACLE)).tolist() == pytest.approx([34.0, 6.0])


@pytest.mark.parametrize(
    ("functions", "message"),
    [
        (["los"], "must be one of .*; got 'los'. Did you mean 'loss'"),
        ([], "must not be empty"),
        (["theta_7"], "needs a coordinate below 2, the dimension; got 7"),
        ({"a": lambda x: x.theta}, r"must return one real number per path, \(paths,\); got \(2, 2\)"),
        ({"a": lambda x: x.theta[:, 0] > 0}, r"one real number per path, \(paths,\); got \(2,\) of torch.bool"),
        ({"a": lambda x: 1.0}, r"must return one real number per path, \(paths,\); got float"),
        ({"a": lambda x: x.nothing}, "A snapshot has theta, m, u, loss, .*; got 'nothing'"),
    ],
)
def test_bad_functions_fail_before_any_work(functions, message):
    with pytest.raises(ValueError, match=message):
        resolve_test_functions(functions, X, ORACLE)


def test_without_an_oracle_only_fields_can_be_used():
    with pytest.raises(NotDeclared, match="may use theta, m, u only; pass `oracle=`"):
        resolve_test_functions(["loss"], X, None)
