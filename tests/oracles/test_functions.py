"""Oracles from the user's functions: against closed forms of the same problem."""

import math
from functools import partial

import pytest
import torch
from torch.nn.functional import softplus

from sdeadapt.oracles import functions
from sdeadapt.oracles.analytic import MultiplicativeNoise, Quadratic
from sdeadapt.oracles.base import NotDeclared
from sdeadapt.oracles.finite_sum import LogisticRegression
from sdeadapt.oracles.functions import FromFunctions

F64 = torch.float64
H = torch.tensor([[2.0, 0.5], [0.5, 1.0]], dtype=F64)
SIGMA = torch.tensor([[1.0, -0.6], [-0.6, 2.0]], dtype=F64)


def gen(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def close(a: torch.Tensor, b: torch.Tensor) -> None:
    torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-13)


def bowl(theta: torch.Tensor) -> torch.Tensor:
    return theta @ H.to(theta) @ theta / 2


@pytest.mark.parametrize("noise", ["gaussian", "exponential"])
@pytest.mark.parametrize("declared", ["matrix", "function", "diffuse"])
def test_a_quadratic_in_three_ways(declared, noise):
    want = Quadratic(H, SIGMA, 0.3, noise)
    ways = {
        "matrix": {"covariance": SIGMA},
        "function": {"covariance": lambda theta: SIGMA + 0 * theta.sum()},
        "diffuse": {"diffuse": lambda theta, xi: want.root @ xi},
    }
    got = FromFunctions(bowl, dim=2, scale=0.3, noise=noise, **ways[declared])
    theta, xi = torch.randn(5, 2, generator=gen(), dtype=F64), torch.randn(5, 2, generator=gen(1), dtype=F64)
    here, there = got.at(theta), want.at(theta)
    for name in "loss", "gradient", "covariance_diagonal":
        close(getattr(here, name), getattr(there, name))
    close(here.diffuse(xi), there.diffuse(xi))
    for x in None, xi:
        draw, same = got.stream(gen(2), 5).next(x), want.stream(gen(2), 5).next(x)
        close(got.sample(here, draw), want.sample(there, same))
        close(got.sample(got.at(theta[:1]), draw), want.sample(want.at(theta[:1]), same))
    close(got.hessian(theta[:1]), H)
    close(got.sample_derivative(here, draw, xi), xi @ H)
    assert (got.gaussian, got.couples, got.additive) == (noise == "gaussian", True, declared == "matrix")
    assert got.rescaled(4.0).scale == pytest.approx(0.15)


def test_noise_that_depends_on_theta():
    want = MultiplicativeNoise([1.0, 3.0], scale=0.2)
    got = FromFunctions(
        lambda x: (x[0] ** 2 + 3 * x[1] ** 2) / 2, dim=2, covariance=lambda x: torch.diag(x.square()), scale=0.2
    )
    theta = torch.tensor([[1.0, 2.0], [0.5, 0.0]], dtype=F64)
    xi = torch.tensor([[1.0, -1.0], [2.0, 1.0]], dtype=F64)
    close(got.at(theta).covariance_diagonal, want.at(theta).covariance_diagonal)
    close(got.at(theta).diffuse(xi), want.at(theta).diffuse(xi))
    close(got.sample_derivative(got.at(theta[:1]), xi, xi), want.sample_derivative(want.at(theta[:1]), xi, xi))


def test_more_noise_than_dimensions_and_the_rule_of_one():
    wide = FromFunctions(bowl, dim=2, noise_dim=3, diffuse=lambda x, xi: torch.stack([xi[0] + xi[2], x[0] * xi[1]]))
    close(wide.at(torch.tensor([[3.0, 1.0]], dtype=F64)).covariance_diagonal, torch.tensor([[2.0, 9.0]], dtype=F64))
    with pytest.raises(NotDeclared, match="noise_dim = 1 only; got 3"):
        wide.rule(3)
    thin = FromFunctions(bowl, dim=2, noise_dim=1, diffuse=lambda x, xi: x * xi)
    nodes, weights = thin.rule(3)
    assert nodes.shape == (3, 1)
    assert float(weights @ nodes[:, 0] ** 4) == pytest.approx(3)
    many = FromFunctions(bowl, dim=2, noise_dim=65, diffuse=lambda x, xi: xi[:2] + xi.sum())
    with pytest.raises(NotDeclared, match="`covariance_diagonal` is read off `diffuse` up to noise_dim = 64; got 65"):
        _ = many.at(torch.zeros(1, 2, dtype=F64)).covariance_diagonal


# -- example losses ----------------------------------------------------------------------------------------------------


def logistic(theta: torch.Tensor, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    return softplus(x @ theta) - y * (x @ theta) + 0.15 * theta @ theta


def pair(features: int, sampling: str = "batch"):
    x = torch.randn(30, features, generator=gen(1), dtype=F64)
    y = torch.arange(30) % 2
    closed = LogisticRegression(x, y, 4, l2=0.3, sampling=sampling)
    return closed, FromFunctions(logistic, dim=features, data=(x, y), batch_size=4, sampling=sampling)


@pytest.mark.parametrize("block", [1, 17, 1 << 21])
@pytest.mark.parametrize("features", [3, 20])
def test_example_loss_equals_the_closed_form(features, block, monkeypatch):
    """features = 20 takes one column of S per example, 3 the Cholesky root; a block of 1 is one example at a time."""
    monkeypatch.setattr(functions, "_BLOCK", block * 5 * features)
    closed, ours = pair(features)
    assert (ours.noise_dim, ours.scale) == (closed.noise_dim, closed.scale)
    assert ours.noise_dim == (3 if features == 3 else 30)
    theta = torch.randn(5, features, generator=gen(2), dtype=F64)
    with torch.no_grad():  # as in a run
        here, there = ours.at(theta), closed.at(theta)
        for name in "loss", "gradient", "covariance_diagonal":
            close(getattr(here, name), getattr(there, name))
        xi = torch.randn(5, ours.noise_dim, generator=gen(3), dtype=F64)
        torch.testing.assert_close(here.diffuse(xi), there.diffuse(xi), rtol=1e-10, atol=1e-12)
        draw = ours.stream(gen(4), 5).next()
        assert torch.equal(draw, closed.stream(gen(4), 5).next())
        close(ours.sample(here, draw), closed.sample(there, draw))
        close(ours.sample(ours.at(theta[:1]), draw), closed.sample(closed.at(theta[:1]), draw))
        direction = torch.randn(5, features, generator=gen(5), dtype=F64)
        close(ours.sample_derivative(here, draw, direction), closed.sample_derivative(there, draw, direction))
        close(ours.hessian(theta[:1]), closed.hessian(theta[:1]))


@pytest.mark.parametrize("features", [3, 20])
def test_jvp_goes_through_example_losses(features):
    closed, ours = pair(features)
    theta, direction = (torch.randn(5, features, generator=gen(s), dtype=F64) for s in (2, 3))
    xi = torch.randn(5, ours.noise_dim, generator=gen(4), dtype=F64)
    for look in (lambda o, x: o.at(x).diffuse(xi), lambda o, x: o.at(x).covariance_diagonal):
        got, want = (torch.func.jvp(partial(look, o), (theta,), (direction,))[1] for o in (ours, closed))
        torch.testing.assert_close(got, want, rtol=1e-9, atol=1e-11)


def test_batches_rescale_and_precision_follows_the_data():
    _, ours = pair(3, "replacement")
    assert ours.rescaled(2.0).batch_size == 8
    single = ours.to("cpu", torch.float32)
    assert (single.dtype, single.data[1].dtype) == (torch.float32, torch.int64)
    assert single.at(torch.ones(2, 3)).gradient.dtype == torch.float32
    declared = FromFunctions(bowl, dim=2, covariance=SIGMA).to("cpu", torch.float32)
    assert declared.at(torch.ones(2, 2)).diffuse(torch.ones(2, 2)).dtype == torch.float32
    one = FromFunctions(lambda t, x: (x @ t) ** 2, dim=3, data=torch.ones(4, 3), batch_size=2)
    assert one.dtype == torch.float32
    assert math.isclose(one.scale, 0.5**0.5)


DATA = (torch.ones(4, 2, dtype=F64), torch.ones(4, dtype=F64))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, r"The noise must be declared once, as `diffuse`, `covariance` or `data`; got neither of the first two"),
        ({"covariance": SIGMA, "diffuse": lambda x, xi: xi}, r"declared once.*got both"),
        ({"batch_size": 4}, r"`batch_size` needs `data`; got 4 without"),
        ({"covariance": SIGMA, "scale": -1.0}, r"`scale` must be finite and not negative; got -1.0"),
        ({"covariance": SIGMA, "noise": "gauss"}, r"`noise` must be one of .*'gaussian'"),
        ({"covariance": SIGMA, "noise_dim": 3}, r"`noise_dim` goes with `diffuse`; with `covariance` it is dim; got 3"),
        ({"covariance": torch.eye(3)}, r"`covariance` must have the shape \(2, 2\).*got \(3, 3\)"),
        ({"covariance": torch.tensor([[1.0, 2], [2, 1]])}, r"`covariance` must be positive semi-definite; got .* -1"),
        ({"covariance": lambda x: x}, r"`covariance` must have the shape \(2, 2\) for one theta; got \(2,\)"),
        ({"diffuse": lambda x, xi: xi.sum()}, r"`diffuse` must have the shape \(2,\) for one theta; got \(\)"),
        ({"covariance": SIGMA, "loss": lambda x: x}, r"`loss` must have the shape \(\) for one theta; got \(2,\)"),
        ({"covariance": SIGMA, "dim": 0}, r"`dim` must be a whole number >= 1; got 0"),
        ({"data": DATA}, r"`batch_size` must be given with `data`"),
        ({"data": DATA, "batch_size": 2, "scale": 1.0}, r"`scale` must not be given with `data`"),
        ({"data": (DATA[0], DATA[1][:3]), "batch_size": 2}, r"`data` must hold tensors of one length; got .*\[3, 4\]"),
        ({"data": DATA, "batch_size": 2, "loss": lambda t, x, y: x}, r"`loss` must have the shape \(\).*got \(2,\)"),
    ],
)
def test_bad_arguments_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        FromFunctions(**{"loss": bowl, "dim": 2, **options})
