"""Regressions on data: against loops over examples, enumerations of all batches, and torch.func."""

import copy
import math
from collections import Counter
from dataclasses import replace

import pytest
import torch
from scipy import stats
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy

from sdeadapt.oracles.amplified import Amplified
from sdeadapt.oracles.base import NotDeclared, Oracle
from sdeadapt.oracles.finite_sum import LinearRegression, LogisticRegression
from sdeadapt.oracles.roots import cholesky_root
from sdeadapt.oracles.sampling import Shuffle

F64 = torch.float64
KINDS = ("linear", "binary", "multinomial")
L2 = 0.3


def gen(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def make(kind: str, n: int = 9, batch_size: int = 4, features: int = 2, **options):
    x = torch.randn(n, features, generator=gen(1), dtype=F64)
    options = {"l2": L2, **options}
    if kind == "linear":
        return LinearRegression(x, x.square().sum(1), batch_size, **options)
    labels = torch.arange(n) % (2 if kind == "binary" else 3)
    return LogisticRegression(x, labels, batch_size, **options)


def points(oracle: Oracle, paths: int = 5) -> torch.Tensor:
    return torch.randn(paths, oracle.dim, generator=gen(2), dtype=F64)


def example_loss(kind: str, oracle, theta: torch.Tensor, i: int) -> torch.Tensor:
    """The loss of one example by torch's own functions."""
    x, penalty = oracle.features[i], L2 / 2 * theta @ theta
    if kind == "linear":
        return (x @ theta - oracle.targets[i]) ** 2 / 2 + penalty
    if kind == "binary":
        return binary_cross_entropy_with_logits(x @ theta, oracle.labels[i].to(F64)) + penalty
    return cross_entropy((theta.reshape(3, -1) @ x)[None], oracle.labels[i : i + 1]) + penalty


def by_loop(kind: str, oracle, theta: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Losses (n,) and gradients (n, dim) of all examples at one theta (dim,)."""
    theta = theta.clone().requires_grad_()
    losses = [example_loss(kind, oracle, theta, i) for i in range(len(oracle.features))]
    return torch.stack(losses).detach(), torch.stack([torch.autograd.grad(loss, theta)[0] for loss in losses])


def sigma(gradients: torch.Tensor) -> torch.Tensor:
    centred = gradients - gradients.mean(0)
    return centred.T @ centred / len(gradients)


@pytest.mark.parametrize("root", ["cholesky", "samples"])
@pytest.mark.parametrize("kind", KINDS)
def test_local_equals_loop_over_examples(kind, root):
    oracle = make(kind, root=root)
    here = oracle.at(points(oracle))
    roots = torch.stack([here.diffuse(xi.expand(5, -1)) for xi in torch.eye(oracle.noise_dim, dtype=F64)], 2)
    assert oracle.noise_dim == (oracle.dim if root == "cholesky" else 9)
    for p, theta in enumerate(points(oracle)):
        losses, gradients = by_loop(kind, oracle, theta)
        torch.testing.assert_close(here.loss[p], losses.mean(), rtol=1e-12, atol=0)
        torch.testing.assert_close(here.gradient[p], gradients.mean(0), rtol=1e-12, atol=1e-13)
        torch.testing.assert_close(here.covariance_diagonal[p], sigma(gradients).diagonal(), rtol=1e-12, atol=1e-13)
        torch.testing.assert_close(here.covariance[p], sigma(gradients), rtol=1e-12, atol=1e-13)
        torch.testing.assert_close(roots[p] @ roots[p].T, sigma(gradients), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("kind", KINDS)
def test_sample_is_the_mean_over_the_batch_at_the_cost_of_the_batch(kind):
    oracle = make(kind)
    here = oracle.at(points(oracle))
    draw = oracle.stream(gen(), 5).next()
    g = oracle.sample(here, draw)
    assert set(here.__dict__) == {"oracle", "theta"}  # nothing was computed over all the data
    for p, theta in enumerate(points(oracle)):
        torch.testing.assert_close(g[p], by_loop(kind, oracle, theta)[1][draw[p]].mean(0), rtol=1e-12, atol=1e-13)
    one = oracle.at(points(oracle)[:1])
    torch.testing.assert_close(oracle.sample(one, draw)[0], g[0], rtol=1e-13, atol=1e-14)
    assert oracle.sample(one, draw).shape == g.shape


@pytest.mark.parametrize("kind", KINDS)
def test_overridden_derivatives_equal_those_of_torch(kind):
    oracle = make(kind)
    here, one = oracle.at(points(oracle)), oracle.at(points(oracle)[:1])
    draw, direction = oracle.stream(gen(), 5).next(), torch.randn(5, oracle.dim, generator=gen(3), dtype=F64)
    for local in here, one:
        got = oracle.sample_derivative(local, draw, direction)
        torch.testing.assert_close(
            got, Oracle.sample_derivative(oracle, local, draw, direction), rtol=1e-12, atol=1e-13
        )
    got = oracle.hessian(one.theta)
    torch.testing.assert_close(got, Oracle.hessian(oracle, one.theta), rtol=1e-12, atol=1e-13)
    torch.testing.assert_close(got, got.T, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("root", ["cholesky", "samples"])
@pytest.mark.parametrize("kind", KINDS)
def test_jvp_goes_through_a_local(kind, root):
    """Against central differences of step 1e-5, whose error is below 1e-8 here."""
    oracle = make(kind, root=root)
    theta, direction = points(oracle), torch.randn(5, oracle.dim, generator=gen(3), dtype=F64)
    xi = torch.randn(5, oracle.noise_dim, generator=gen(4), dtype=F64)
    if kind == "multinomial" and root == "cholesky":
        xi[:, 4:] = 0  # residuals add up to zero over classes: the last columns are zero up to rounding
    looks = {
        "gradient": lambda x: oracle.at(x).gradient,
        "covariance_diagonal": lambda x: oracle.at(x).covariance_diagonal,
        "diffuse": lambda x: oracle.at(x).diffuse(xi),
    }
    for name, look in looks.items():
        got = torch.func.jvp(look, (theta,), (direction,))[1]
        want = (look(theta + 1e-5 * direction) - look(theta - 1e-5 * direction)) / 2e-5
        torch.testing.assert_close(got, want, rtol=1e-7, atol=1e-7, msg=lambda m, name=name: f"{name}: {m}")


def test_cholesky_root_of_singular_matrices():
    basis = torch.randn(4, 3, 2, generator=gen(), dtype=F64)
    matrices = torch.cat([basis @ basis.mT, torch.zeros(1, 3, 3, dtype=F64)])  # rank 2 and 0 of 3
    root = cholesky_root(matrices)
    torch.testing.assert_close(root @ root.mT, matrices, rtol=1e-12, atol=1e-12)
    assert (root == root.tril()).all()
    regular = matrices + torch.eye(3, dtype=F64)
    torch.testing.assert_close(cholesky_root(regular), torch.linalg.cholesky(regular), rtol=1e-13, atol=1e-14)


def test_interpolated_data_have_no_noise():
    x = torch.randn(9, 2, generator=gen(), dtype=F64)
    weights = torch.tensor([1.0, -2.0], dtype=F64)
    for root in "cholesky", "samples":
        oracle = LinearRegression(x, x @ weights, 3, root=root)
        here = oracle.at(weights[None])
        assert here.diffuse(torch.ones(1, oracle.noise_dim, dtype=F64)).abs().max() < 1e-14


# -- sampling --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sampling", ["replacement", "batch"])
@pytest.mark.parametrize("batch_size", [1, 2, 3])
def test_scale_by_enumeration_of_all_batches(sampling, batch_size):
    """Variance 1/B, times (n - B)/(n - 1) without replacement, exactly; the factors of the two are told apart."""
    n = 6
    oracle = make("binary", n=n, batch_size=batch_size, sampling=sampling)
    theta = points(oracle)[:1]
    gradients = by_loop("binary", oracle, theta[0])[1]
    draws, weights = oracle.rule(2)
    assert len(draws) == (
        math.comb(n, batch_size) if sampling == "batch" else math.comb(n + batch_size - 1, batch_size)
    )
    g = oracle.sample(oracle.at(theta), draws) - gradients.mean(0)
    torch.testing.assert_close(weights @ g, torch.zeros(2, dtype=F64), rtol=0, atol=1e-15)
    torch.testing.assert_close(g.T @ (g * weights[:, None]), oracle.scale**2 * sigma(gradients), rtol=1e-12, atol=1e-15)
    factor = (n - batch_size) / (n - 1) if sampling == "batch" else 1
    assert oracle.scale == pytest.approx(math.sqrt(factor / batch_size), rel=1e-15)


def chi_square(draws: torch.Tensor, cells: int) -> float:
    """p-value of equal frequencies of the rows."""
    counts = list(Counter(map(tuple, draws.tolist())).values())
    return float(stats.chisquare(counts + [0] * (cells - len(counts))).pvalue)


@pytest.mark.parametrize("epoch", [False, True])
def test_shuffle_deals_every_ordered_batch_equally_often(epoch):
    """Steps 1-3 of 12,000 paths, 20 ordered pairs of 5: frequencies off by +-10 % would be seen with power > .999.

    The control sorts the pairs, and must fail.
    """
    stream = Shuffle(gen(5), 12_000, 5, 2, epoch=epoch)
    for _ in range(3):  # over an epoch the third batch is the first of the next
        draws = stream.next()
        assert (draws[:, 0] != draws[:, 1]).all()
        assert chi_square(draws, 20) > 1e-4
        assert chi_square(draws.sort(1).values, 20) < 1e-12


def test_batches_of_different_steps_are_independent_unless_an_epoch_joins_them():
    for epoch in False, True:
        stream = Shuffle(gen(6), 12_000, 5, 2, epoch=epoch)
        pairs = torch.cat([stream.next()[:, :1], stream.next()[:, :1]], 1)  # 25 pairs, 20 of them distinct
        assert (chi_square(pairs, 25) > 1e-4) != epoch
        assert (pairs[:, 0] != pairs[:, 1]).all() == epoch


def test_an_epoch_meets_every_example_once_and_sums_to_the_full_gradient():
    oracle = make("binary", n=12, batch_size=4, sampling="epoch")
    assert not oracle.independent
    stream, here = oracle.stream(gen(), 5), oracle.at(points(oracle))
    for _ in range(3):
        draws = [stream.next() for _ in range(3)]
        assert (torch.cat(draws, 1).sort(1).values == torch.arange(12)).all()
        mean = torch.stack([oracle.sample(here, draw) for draw in draws]).mean(0)
        torch.testing.assert_close(mean, here.gradient, rtol=1e-13, atol=1e-14)
    with pytest.raises(ValueError, match="independent"):
        Amplified(oracle, 4)


def test_an_incomplete_batch_is_dropped():
    stream = Shuffle(gen(), 50, 7, 3, epoch=True)
    draws = torch.stack([stream.next() for _ in range(8)])  # 4 epochs of 2 batches
    for epoch in draws.reshape(4, 2, 50, 3).transpose(1, 2).reshape(-1, 6):
        assert len(set(epoch.tolist())) == 6
    assert len({tuple(sorted(e)) for e in draws[:2].transpose(0, 1).reshape(50, 6).tolist()}) == 7  # any may be left


@pytest.mark.parametrize("sampling", ["replacement", "batch", "epoch"])
def test_streams_are_reproducible_and_do_not_share_memory(sampling):
    oracle = make("linear", sampling=sampling)
    state = torch.get_rng_state()
    first = oracle.stream(gen(7), 6)
    draws = [first.next() for _ in range(5)]
    kept = [draw.clone() for draw in draws]
    again = oracle.stream(gen(7), 6)
    for draw, copied in zip(draws, kept, strict=True):
        assert draw.shape == (6, 4)
        assert torch.equal(draw, copied)
        assert torch.equal(draw, again.next())
    assert torch.equal(state, torch.get_rng_state())


# -- rescaling, types, descriptions ------------------------------------------------------------------------------------


@pytest.mark.parametrize("sampling", ["replacement", "batch"])
def test_rescaled_divides_the_noise_variance(sampling):
    """n = 9, B = 3, kappa = 2: 6 with replacement, and 2 * 3 * 9/(9 + 3) = 4.5 without, which no batch has."""
    oracle = make("linear", batch_size=3, sampling=sampling)
    kappa = 2.0 if sampling == "replacement" else 4.0  # without: 4 * 3 * 9/18 = 6
    larger = oracle.rescaled(kappa)
    assert (larger.batch_size, larger.sampling) == (6, sampling)
    assert larger.scale**2 * kappa == pytest.approx(oracle.scale**2, rel=1e-14)
    assert larger.rescaled(1 / kappa).batch_size == 3
    with pytest.raises(NotDeclared, match=r"`rescaled` must lead to a whole number of examples.*Amplified"):
        oracle.rescaled(1.5 if sampling == "replacement" else 2.0)
    with pytest.raises(NotDeclared, match="whole number"):
        oracle.rescaled(0.1)
    assert oracle.with_batch(6).scale == larger.scale


def test_single_precision_and_other_arguments_survive_to():
    for kind in KINDS:
        oracle = make(kind, sampling="epoch", root="samples")
        single = oracle.to("cpu", torch.float32)
        assert (single.dtype, single.sampling, single.l2, single.root) == (torch.float32, "epoch", L2, "samples")
        here, exact = single.at(points(oracle).float()), oracle.at(points(oracle))
        for name in "loss", "gradient", "covariance_diagonal":
            torch.testing.assert_close(getattr(here, name), getattr(exact, name).float(), rtol=1e-5, atol=1e-5)
        draw = oracle.stream(gen(), 5).next()
        torch.testing.assert_close(single.sample(here, draw), oracle.sample(exact, draw).float(), rtol=1e-5, atol=1e-5)


def test_classes_may_be_more_than_the_labels_show():
    x = torch.randn(6, 2, generator=gen(), dtype=F64)
    assert LogisticRegression(x, torch.zeros(6, dtype=torch.long), 2).dim == 2
    assert LogisticRegression(x, torch.arange(6) % 2, 2, classes=4).dim == 8
    assert LogisticRegression(x, (torch.arange(6) % 2).bool(), 2).classes == 2


def test_descriptions_tell_data_apart_and_copies_do_not():
    oracle = make("binary")
    assert oracle.describe() == copy.copy(oracle).describe()
    flipped = replace(oracle, labels=1 - oracle.labels)
    assert flipped.describe() != oracle.describe()


def test_root_is_chosen_by_size():
    assert make("linear", n=40, features=16).noise_dim == 16
    assert make("linear", n=40, features=17).noise_dim == 40
    assert make("linear", n=6, features=8).noise_dim == 6


X = torch.ones(4, 2, dtype=F64)
Y = torch.zeros(4, dtype=F64)


@pytest.mark.parametrize(
    ("make_it", "message"),
    [
        (lambda: LinearRegression(X[0], Y, 2), r"`features` must be a float32 or float64 tensor .* got \(2,\)"),
        (lambda: LinearRegression(X.long(), Y, 2), r"`features` must be a float32 .*torch.int64"),
        (lambda: LinearRegression(X / 0, Y, 2), r"`features` must be finite and not empty; got 8 that are not"),
        (lambda: LinearRegression(X, Y[:3], 2), r"`targets` must have the shape \(4,\).*got \(3,\)"),
        (lambda: LinearRegression(X, Y / 0, 2), r"`targets` must be finite; got 4"),
        (lambda: LinearRegression(X, Y, 0), r"`batch_size` must be a whole number >= 1; got 0"),
        (
            lambda: LinearRegression(X, Y, 4, sampling="batch"),
            r"`batch_size` must be below the 4 .* got 4\. Take a smaller",
        ),
        (lambda: LinearRegression(X, Y, 5, sampling="epoch"), r"`batch_size` must be below the 4"),
        (lambda: LinearRegression(X, Y, 2, sampling="epochs"), r"`sampling` must be one of .*Did you mean 'epoch'"),
        (lambda: LinearRegression(X, Y, 2, l2=-1.0), r"`l2` must be finite and not negative; got -1.0"),
        (lambda: LinearRegression(X, Y, 2, root="exact"), r"`root` must be one of 'auto'"),
        (lambda: LinearRegression(X[:1], Y[:1], 2), r"at least 2 examples.*got 1"),
        (lambda: LogisticRegression(X, Y - 1, 2), r"`labels` must be whole numbers >= 0"),
        (lambda: LogisticRegression(X, Y + 0.5, 2), r"`labels` must be whole numbers >= 0"),
        (lambda: LogisticRegression(X, Y + 3, 2, classes=3), r"`labels` must be below `classes` = 3; got 3"),
        (lambda: LogisticRegression(X, Y, 2, classes=1), r"`classes` must be a whole number >= 2; got 1"),
        (lambda: LogisticRegression(X, Y[:3], 2), r"`labels` must have the shape \(4,\)"),
        (lambda: make("linear", n=60).rule(3), r"`rule` must have at most 100,000 nodes; 60 examples have 5.96e\+05"),
    ],
)
def test_bad_arguments_are_refused(make_it, message):
    with pytest.raises(ValueError, match=message):
        make_it()
