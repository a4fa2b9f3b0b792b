"""Closed-form problems: derivatives, covariances and streams against independent computations."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sdeadapt.oracles.analytic import MultiplicativeNoise, Quadratic, Rippled, constant_noise
from sdeadapt.oracles.base import NotDeclared
from sdeadapt.oracles.noise import ShiftedExponential, StudentT, TwoPoint

F64 = torch.float64
H = torch.tensor([[2.0, 0.7, 0.0], [0.7, 1.0, -0.3], [0.0, -0.3, 0.5]], dtype=F64)
SIGMA = torch.tensor([[1.0, -0.5, 0.2], [-0.5, 2.0, 0.0], [0.2, 0.0, 0.3]], dtype=F64)
Q = torch.linalg.qr(torch.tensor([[1.0, 2.0, 0.0], [0.5, -1.0, 1.0], [0.0, 1.0, 3.0]], dtype=F64))[0]

ORACLES = {
    "quadratic": Quadratic(H, SIGMA, scale=0.3, minimum=[0.5, -1.0, 2.0]),
    "quadratic-skewed": Quadratic(H, SIGMA, scale=0.3, noise=TwoPoint(skewness=1.5)),
    "quadratic-1d": Quadratic(2.0, 3.0, scale=0.5, noise="laplace"),
    "constant": constant_noise(H, scale=0.5),
    "multiplicative": MultiplicativeNoise([0.5, 1.0, 2.0], Q, scale=0.4, noise="uniform"),
    "multiplicative-1d": MultiplicativeNoise(1.5),
    "rippled-1d": Rippled(scale=0.2),
    "rippled-2d": Rippled(scale=0.2, dim=2),
    "rippled-4d": Rippled(scale=0.2, dim=4, ripple=0.4, modulation=-0.6, correlation=-0.3, noise="laplace"),
}
every_oracle = pytest.mark.parametrize("oracle", ORACLES.values(), ids=ORACLES)


def points(oracle, paths=5, seed=0, dtype=F64):
    return torch.randn(paths, oracle.dim, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def covariance(oracle, theta):
    """S S^T per path, (paths, dim, dim), from `diffuse` of the unit vectors."""
    here = oracle.at(theta)
    columns = [here.diffuse(unit.expand(len(theta), -1)) for unit in torch.eye(oracle.noise_dim, dtype=theta.dtype)]
    root = torch.stack(columns, -1)
    return root @ root.mT


@every_oracle
def test_gradient_is_the_derivative_of_the_loss(oracle):
    theta = points(oracle).requires_grad_()
    (gradient,) = torch.autograd.grad(oracle.at(theta).loss.sum(), theta)
    torch.testing.assert_close(oracle.at(theta.detach()).gradient, gradient, rtol=1e-12, atol=1e-12)


@every_oracle
def test_hessian_is_the_derivative_of_the_gradient(oracle):
    theta = points(oracle, paths=1)
    jacobian = torch.func.jacrev(lambda x: oracle.at(x[None]).gradient[0])(theta[0])
    torch.testing.assert_close(oracle.hessian(theta), jacobian, rtol=1e-12, atol=1e-12)


@every_oracle
def test_covariance_diagonal_and_trace_are_those_of_diffuse(oracle):
    theta = points(oracle)
    diagonal = covariance(oracle, theta).diagonal(dim1=-2, dim2=-1)
    torch.testing.assert_close(oracle.at(theta).covariance_diagonal, diagonal, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(oracle.at(theta).noise_trace, diagonal.sum(-1), rtol=1e-12, atol=1e-12)


@every_oracle
def test_rule_gives_the_mean_and_the_covariance_of_the_gradient(oracle):
    theta = points(oracle, paths=1, seed=3)
    draws, weights = oracle.rule(4)
    g = oracle.sample(oracle.at(theta), draws)
    assert g.shape == (len(weights), oracle.dim)
    mean = weights @ g
    torch.testing.assert_close(mean, oracle.at(theta).gradient[0], rtol=1e-10, atol=1e-10)
    found = (g - mean).mT @ (weights[:, None] * (g - mean))
    torch.testing.assert_close(found, oracle.scale**2 * covariance(oracle, theta)[0], rtol=1e-9, atol=1e-10)


def test_the_quadratics_matrices_do_not_commute_and_the_root_is_the_covariances():
    oracle = ORACLES["quadratic"]
    assert (H @ SIGMA - SIGMA @ H).abs().max() > 0.1
    torch.testing.assert_close(covariance(oracle, points(oracle))[0], SIGMA)
    # The control: the root of the transposed order, S^T S, is another matrix.
    assert (oracle.root.T @ oracle.root - SIGMA).abs().max() > 0.1


def test_a_singular_covariance_has_the_symmetric_root():
    low_rank = torch.tensor([[1.0, 2.0], [2.0, 4.0]], dtype=F64)
    oracle = Quadratic(torch.eye(2, dtype=F64), low_rank, scale=1.0)
    torch.testing.assert_close(oracle.root @ oracle.root.T, low_rank)
    torch.testing.assert_close(oracle.root, oracle.root.T)
    assert Quadratic(1.0, 0.0, scale=1.0).root.item() == 0.0


def test_constant_noise_is_the_gradient_noise_of_li_tai_e():
    oracle, g = ORACLES["constant"], points(ORACLES["constant"], seed=5)
    x = points(oracle, seed=6).requires_grad_()
    loss = 0.5 * ((x - g) * ((x - g) @ H)).sum(-1) - 0.5 * H.trace()
    (noisy,) = torch.autograd.grad(loss.sum(), x)
    torch.testing.assert_close((noisy - x @ H).detach(), -g @ H)
    torch.testing.assert_close(oracle.covariance, H @ H)


def test_multiplicative_noise_is_the_gradient_noise_of_li_tai_e():
    oracle, g = ORACLES["multiplicative"], points(ORACLES["multiplicative"], seed=5)
    x = points(oracle, seed=6).requires_grad_()
    y = x @ Q
    (noisy,) = torch.autograd.grad((0.5 * y.square() * (oracle.eigenvalues + oracle.scale * g)).sum(), x)
    here = oracle.at(x.detach())
    torch.testing.assert_close(oracle.sample(here, g), noisy, rtol=1e-12, atol=1e-12)
    expected = Q @ torch.diag_embed((x.detach() @ Q).square()) @ Q.T
    torch.testing.assert_close(covariance(oracle, x.detach()), expected)


def test_rippled_is_asymmetric_skewed_and_correlated_and_its_covariance_moves():
    oracle = ORACLES["rippled-2d"]
    theta = torch.tensor([[0.7, -0.2]], dtype=F64)
    here, mirrored = oracle.at(theta), oracle.at(-theta)
    assert (here.loss - mirrored.loss).abs() > 0.05
    first, second = covariance(oracle, theta)[0], covariance(oracle, -theta)[0]
    assert first[0, 1].abs() > 0.1
    assert (first - second).abs().max() > 0.1
    size = 1 + 0.5 * torch.sin(theta + theta.flip(-1) / 2)[0]
    torch.testing.assert_close(first, size.outer(size) * torch.tensor([[1.0, 0.5], [0.5, 1.0]], dtype=F64))
    draws, weights = oracle.rule(4)
    third = weights @ (oracle.sample(here, draws) - here.gradient) ** 3 / oracle.scale**3
    assert third[0] == pytest.approx(float(2 * size[0] ** 3))  # the first row of the root is (1, 0): E z^3 = 2


@every_oracle
def test_one_row_serves_many_draws_and_agrees_with_many_rows(oracle):
    theta = points(oracle, paths=1)
    draw = oracle.stream(torch.Generator().manual_seed(4), 7).next()
    one = oracle.sample(oracle.at(theta), draw)
    many = oracle.sample(oracle.at(theta.expand(7, -1)), draw)
    assert one.shape == (7, oracle.dim)
    torch.testing.assert_close(one, many, rtol=1e-13, atol=1e-13)


@every_oracle
def test_sample_derivative_against_differences(oracle):
    theta, direction = points(oracle), points(oracle, seed=1)
    draw = oracle.stream(torch.Generator().manual_seed(4), 5).next()
    step = 1e-5
    up, down = (oracle.sample(oracle.at(theta + s * direction), draw) for s in (step, -step))
    found = oracle.sample_derivative(oracle.at(theta), draw, direction)
    torch.testing.assert_close(found, (up - down) / (2 * step), rtol=1e-8, atol=1e-8)


def test_sample_derivative_of_one_row_for_many_draws():
    oracle = ORACLES["rippled-2d"]
    theta, direction = points(oracle, paths=1), points(oracle, seed=1)
    draw = oracle.stream(torch.Generator().manual_seed(4), 5).next()
    one, many = (oracle.sample_derivative(oracle.at(t), draw, direction) for t in (theta, theta.repeat(5, 1)))
    assert torch.equal(one, many)


@every_oracle
def test_coupled_and_free_draws(oracle):
    xi = points(oracle, paths=6, seed=8)
    stream = oracle.stream(torch.Generator().manual_seed(1), 6)
    assert torch.equal(stream.next(xi), oracle.noise.map(xi))
    assert stream.next().shape == (6, oracle.noise_dim)
    theta = points(oracle, paths=6)
    if oracle.gaussian:
        here = oracle.at(theta)
        expected = here.gradient + oracle.scale * here.diffuse(xi)
        assert torch.equal(oracle.sample(here, stream.next(xi)), expected)


@every_oracle
def test_float32(oracle):
    single = oracle.to("cpu", torch.float32)
    assert single.dtype == torch.float32
    assert oracle.dtype == F64
    theta = points(oracle)
    draw = single.stream(torch.Generator().manual_seed(1), 5).next()
    g = single.sample(single.at(theta.float()), draw)
    assert g.dtype == torch.float32
    torch.testing.assert_close(g.double(), oracle.sample(oracle.at(theta), draw.double()), rtol=1e-4, atol=1e-5)
    assert single.rule(2)[0].dtype == torch.float32


@every_oracle
def test_rescaled_divides_the_variance_and_nothing_else(oracle):
    wide = oracle.rescaled(4.0)
    assert wide.scale == oracle.scale / 2
    assert type(wide) is type(oracle)
    theta = points(oracle)
    draw = oracle.stream(torch.Generator().manual_seed(1), 5).next()
    noise = oracle.sample(oracle.at(theta), draw) - oracle.at(theta).gradient
    torch.testing.assert_close(wide.sample(wide.at(theta), draw), wide.at(theta).gradient + noise / 2)
    assert {**oracle.describe(), "scale": wide.scale} == wide.describe()


def test_describe_names_the_inputs():
    names = Rippled(scale=0.1, dim=2, noise=StudentT(df=6.0)).describe()
    assert names["class"] == "Rippled"
    assert names["dim"] == 2
    assert names["noise"] == {"class": "StudentT", "df": 6.0}
    assert Quadratic(H, SIGMA, scale=1.0).describe() == Quadratic(H.tolist(), SIGMA.tolist(), scale=1.0).describe()
    assert Quadratic(H, SIGMA, scale=1.0).describe() != Quadratic(H, H @ H, scale=1.0).describe()
    assert MultiplicativeNoise([1.0, 2.0, 3.0], Q).describe() != MultiplicativeNoise([1.0, 2.0, 3.0]).describe()


def test_flags():
    gaussian, skewed, rippled = ORACLES["quadratic"], ORACLES["quadratic-skewed"], ORACLES["rippled-2d"]
    assert gaussian.couples
    assert gaussian.gaussian
    assert gaussian.additive
    assert not skewed.gaussian
    assert skewed.additive
    assert not rippled.additive
    assert not MultiplicativeNoise(1.0).additive
    assert Quadratic(1.0, 1.0, scale=1.0, noise="student-t").heavy
    assert not gaussian.heavy


def test_it_keeps_its_own_copy_of_the_matrices():
    matrix = torch.eye(2, dtype=F64)
    oracle = Quadratic(matrix, matrix, scale=1.0)
    matrix.zero_()
    assert torch.equal(oracle.curvature, torch.eye(2, dtype=F64))


def test_the_dtype_is_the_hessians_and_the_default_dtype_plays_no_part():
    assert Quadratic([1.0, 2.0], [1.0, 1.0], scale=1.0).dtype == F64
    assert Quadratic(H.float(), SIGMA, scale=1.0).dtype == torch.float32
    assert Quadratic(torch.eye(2, dtype=torch.int64), [1.0, 1.0], scale=1.0).dtype == F64


@settings(derandomize=True, deadline=None, max_examples=40)
@given(st.integers(1, 6), st.integers(0, 2**31), st.integers(1, 6))
def test_any_covariance_has_a_root_and_noise_of_that_covariance(dim, seed, rank):
    factor = torch.randn(dim, min(rank, dim), generator=torch.Generator().manual_seed(seed), dtype=F64)
    sigma = factor @ factor.T
    oracle = Quadratic(torch.eye(dim, dtype=F64), sigma, scale=1.0)
    torch.testing.assert_close(oracle.root @ oracle.root.T, sigma, rtol=1e-9, atol=1e-9)
    single = Quadratic(torch.eye(dim), sigma.float(), scale=1.0)
    torch.testing.assert_close(single.root @ single.root.T, sigma.float(), rtol=1e-4, atol=1e-4)


def test_sample_covariance_of_a_run():
    """5 standard errors at 200,000 draws: an off-diagonal wrong by 0.02 would fail; so would S^T S, the control."""
    oracle, n = Quadratic(H, SIGMA, scale=1.0, noise=ShiftedExponential()), 200_000
    theta = torch.zeros(1, 3, dtype=F64)
    g = oracle.sample(oracle.at(theta), oracle.stream(torch.Generator().manual_seed(7), n).next())
    products = g[:, :, None] * g[:, None, :]
    sem = products.std(0) / math.sqrt(n)
    assert sem.max() < 0.03
    assert ((products.mean(0) - SIGMA).abs() < 5 * sem).all()
    assert ((products.mean(0) - oracle.root.T @ oracle.root).abs() > 5 * sem).any()


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: Quadratic(torch.ones(2, 3), 1.0, scale=1.0), r"`hessian` must be a square matrix.*got \(2, 3\)"),
        (
            lambda: Quadratic([[1.0, 2.0], [0.0, 1.0]], [1.0, 1.0], scale=1.0),
            r"`hessian` must be symmetric.*differ by 2",
        ),
        (lambda: Quadratic([1.0, 2.0], [1.0, 1.0, 1.0], scale=1.0), r"`covariance` must be 2 x 2.*got \(3, 3\)"),
        (lambda: Quadratic([1.0, 1.0], [1.0, -0.5], scale=1.0), r"`covariance` must be positive semi-definite.*-0\.5"),
        (lambda: Quadratic(1.0, 1.0, scale=-1.0), r"`scale` must be finite and not negative; got -1\.0"),
        (lambda: Quadratic(1.0, 1.0, scale=1.0, minimum=[1.0, 2.0]), r"`minimum` must have 1 entries.*got 2"),
        (lambda: Quadratic(math.nan, 1.0, scale=1.0), r"`hessian` must be finite; got nan"),
        (lambda: MultiplicativeNoise([1.0, 2.0], torch.ones(2, 2)), r"`rotation` must be orthogonal.*torch.linalg.qr"),
        (
            lambda: MultiplicativeNoise([1.0, 2.0], torch.eye(3)),
            r"`rotation` must have the shape \(2, 2\); got \(3, 3\)",
        ),
        (lambda: Rippled(scale=1.0, modulation=1.0), r"`modulation` must lie in \(-1, 1\); got 1\.0"),
        (lambda: Rippled(scale=1.0, correlation=-1.5), r"`correlation` must lie in \(-1, 1\); got -1\.5"),
        (lambda: Rippled(scale=1.0, ripple=math.inf), r"`ripple` must be finite; got inf"),
        (lambda: Rippled(scale=1.0, dim=0), r"`dim` must be a whole number >= 1; got 0"),
        (lambda: Rippled(scale=1.0).rescaled(0.0), r"`kappa` must be finite and positive; got 0\.0"),
    ],
)
def test_errors_say_the_rule_and_the_value(build, message):
    with pytest.raises(ValueError, match=message):
        build()


def test_a_rule_too_large_is_not_declared():
    oracle = Rippled(scale=1.0, dim=10)
    with pytest.raises(NotDeclared, match=r"at most 100,000 nodes; got 8 to the power noise_dim = 10. Lower `n`"):
        oracle.rule(8)
