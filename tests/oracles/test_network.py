"""Networks as oracles: against loops over single examples, against closed forms, and against their own samples."""

import functools
import math
import pickle
from dataclasses import replace
from inspect import unwrap

import cloudpickle
import pytest
import torch
from torch import nn
from torch.func import functional_call
from torch.nn.functional import cross_entropy

from sdeadapt.methods import RMSprop
from sdeadapt.oracles import Amplified, LogisticRegression, Penalised, network, network_checks, network_passes
from sdeadapt.oracles.network import Network
from sdeadapt.oracles.probe import signs
from sdeadapt.problems import digits_small
from sdeadapt.simulation.solvers import draw_increments, euler
from sdeadapt.testing import OracleMismatch, check_oracle

F64 = torch.float64
LOSS = functools.partial(cross_entropy, reduction="none")


def gen(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def built(*layers: nn.Module) -> nn.Sequential:
    """A module with weights that are the same every time."""
    module = nn.Sequential(*layers).double()
    for i, p in enumerate(module.parameters()):
        nn.init.normal_(p, std=0.5, generator=gen(i))
    return module


class Shared(nn.Module):
    """One layer twice, a parameter of its own, a frozen one and a buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.out = nn.Linear(4, 4), nn.Linear(4, 3)
        self.tied = self.layer
        self.gain = nn.Parameter(torch.tensor(1.5))
        self.out.bias.requires_grad_(False)
        self.register_buffer("shift", torch.linspace(-1, 1, 4))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.out(self.gain * torch.tanh(self.tied(torch.tanh(self.layer(x - self.shift)))))


class Twice(nn.Module):
    """A linear layer whose weight is used behind its back."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.tanh(self.layer(x)) + x @ self.layer.weight.T


class Hidden(nn.Module):
    """A weight used twice, and examples mixed if asked, behind a layer that starts at 0 and hides both."""

    def __init__(self, *, twice: bool = True, mixing: bool = False) -> None:
        super().__init__()
        self.layer, self.out, self.twice, self.mixing = nn.Linear(4, 4), nn.Linear(4, 3), twice, mixing

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = self.layer(input=x)
        h = torch.tanh(h) @ self.layer.weight if self.twice else h
        return self.out(torch.tanh(h - h.mean(0) if self.mixing else h))


def hiding(**options) -> nn.Module:
    module = built(Hidden(**options))
    nn.init.zeros_(module[0].out.weight)
    return module


MODULES = {
    "mlp": lambda: built(nn.Linear(4, 3), nn.Tanh(), nn.Linear(3, 3)),
    "convolution": lambda: built(
        nn.Unflatten(1, (1, 4)), nn.Conv1d(1, 2, 3, padding=1), nn.GroupNorm(1, 2), nn.GELU(), nn.Flatten(),
        nn.Linear(8, 3),
    ),
    "shared": lambda: built(Shared()),
    "twice": lambda: built(Twice()),
    "twice, hidden": hiding,
    "by keyword": lambda: built(Hidden(twice=False)),
    "one layer, no bias": lambda: built(nn.Linear(4, 3, bias=False)),
    "frozen batch norm": lambda: built(nn.Linear(4, 3), nn.BatchNorm1d(3), nn.Dropout(), nn.Tanh()).eval(),
}  # fmt: skip


def make(module: str = "mlp", examples: int = 9, batch_size: int = 2, **options) -> Network:
    x = torch.randn(examples, 4, generator=gen(10), dtype=F64)
    y = torch.randint(3, (examples,), generator=gen(11))
    return Network(MODULES[module](), LOSS, (x, y), batch_size, **options)


def near(oracle: Network, paths: int = 3) -> torch.Tensor:
    return oracle.theta0 + 0.3 * torch.randn(paths, oracle.dim, generator=gen(12), dtype=F64)


def one_by_one(oracle: Network, theta: torch.Tensor) -> torch.Tensor:
    """Every example's gradient by ordinary autograd, a path and an example at a time: (paths, examples, dim)."""
    x, y = oracle.data
    rows = []
    for path in theta:
        parameters = {k: v.clone().requires_grad_() for k, v in oracle.parameters(path).items()}
        for i in range(len(x)):
            out = functional_call(oracle.module, parameters, (x[i : i + 1],))
            gradients = torch.autograd.grad(cross_entropy(out, y[i : i + 1]), list(parameters.values()))
            rows.append(torch.cat([g.flatten() for g in gradients]))
    return torch.stack(rows).unflatten(0, (len(theta), len(x)))


def close(a: torch.Tensor, b: torch.Tensor, tolerance: float = 1e-10) -> None:
    torch.testing.assert_close(a, b, rtol=0, atol=tolerance)


@pytest.mark.parametrize("blocks", [False, True])
@pytest.mark.parametrize("module", MODULES)
def test_everything_declared_is_that_of_a_loop_over_examples(module, blocks, monkeypatch):
    oracle = make(module)
    if blocks:  # two examples at a time, forward passes not kept
        monkeypatch.setattr(network, "_LEAST_ROOM", 2 * 3 * oracle.saved)
        monkeypatch.setattr(network_passes, "_GRADIENTS", 2 * 3 * oracle.dim)
    theta = near(oracle)
    each, here = one_by_one(oracle, theta), oracle.at(theta)
    mean, variance = each.mean(1), each.var(1, unbiased=False)
    assert variance.max() > 1e-3
    close(here.gradient, mean)
    close(here.covariance_diagonal, variance)
    close(here.noise_trace, variance.sum(-1))
    xi = torch.randn(3, 9, generator=gen(13), dtype=F64)
    close(here.diffuse(xi), torch.einsum("pn,pnd->pd", xi, each - mean[:, None]) / 3)
    close(oracle.at(theta[:1]).diffuse(xi)[0], here.diffuse(xi)[0])
    draw = oracle.stream(gen(14), 3).next()
    batches = torch.stack([g[i].mean(0) for g, i in zip(each, draw, strict=True)])
    close(oracle.sample(here, draw), batches)
    x, y = oracle.data
    losses = torch.stack([LOSS(functional_call(oracle.module, oracle.parameters(t), (x,)), y) for t in theta])
    close(here.loss, losses.mean(1))
    close(LOSS(oracle.predict(theta, x).mT, y.expand(3, -1)), losses)


def test_sums_are_matrix_products_where_all_layers_are_linear_and_only_there():
    by_layers = {name for name in MODULES if make(name).layers is not None}
    assert by_layers == {"mlp", "one layer, no bias", "by keyword"}


def test_a_linear_module_is_multinomial_regression():
    mine = make(examples=20)
    x, y = mine.data
    mine = replace(mine, module=nn.Linear(4, 3, bias=False).double())
    theirs = LogisticRegression(x, y, 2)
    theta, xi = near(mine), torch.randn(3, 20, generator=gen(1), dtype=F64)
    here, there = mine.at(theta), replace(theirs, root="samples").at(theta)
    for name in ("loss", "gradient", "covariance_diagonal", "noise_trace"):
        close(getattr(here, name), getattr(there, name), 1e-13)
    close(here.diffuse(xi), there.diffuse(xi), 1e-13)
    close(here.hessian_product(theta), there.hessian_product(theta), 1e-12)
    draw = mine.stream(gen(2), 3).next()
    close(mine.sample_derivative(here, draw, theta), theirs.sample_derivative(there, draw, theta), 1e-12)


@pytest.mark.parametrize("sampling", ["replacement", "batch", "epoch"])
def test_a_tiny_network_agrees_with_its_samples(sampling):
    oracle = make(examples=5, sampling=sampling)
    assert check_oracle(oracle, near(oracle, 1), draws=4000).comparisons


def test_wrong_noise_disagrees_with_its_samples():
    oracle = make(examples=5)
    object.__setattr__(oracle, "scale", 1.2 * oracle.scale)
    with pytest.raises(OracleMismatch, match="scale"):
        check_oracle(oracle, near(oracle, 1), draws=4000)


@pytest.mark.parametrize("sampling", ["replacement", "batch"])
def test_the_covariance_over_all_batches_has_the_finite_population_factor(sampling):
    oracle = make(examples=6, batch_size=3, sampling=sampling)
    theta = near(oracle, 1)
    batches, weights = oracle.rule(0)
    g = oracle.sample(oracle.at(theta), batches) - oracle.at(theta).gradient
    each = one_by_one(oracle, theta)[0]
    close(g.T @ (weights[:, None] * g), oracle.scale**2 * torch.cov(each.T, correction=0))
    assert oracle.scale**2 == pytest.approx(1 / 3 if sampling == "replacement" else (6 - 3) / (6 - 1) / 3)


# -- the probe ---------------------------------------------------------------------------------------------------------


def probes(oracle: Network, paths: int) -> torch.Tensor:
    """Estimates at points so close together that their mean is that of one."""
    noise = torch.randn(paths, oracle.dim, generator=gen(3), dtype=F64)
    return oracle.at(near(oracle, 1) + 1e-9 * noise).diagonal_estimate


def z_values(samples: torch.Tensor, mean: torch.Tensor) -> torch.Tensor:
    return (samples.mean(0) - mean) / (samples.std(0) / math.sqrt(len(samples)))


def test_the_probe_is_unbiased_and_everything_else_exact():
    oracle = make(diagonal="probe")
    want = oracle.at(near(oracle, 1)).covariance_diagonal[0]
    close(want, one_by_one(oracle, near(oracle, 1))[0].var(0, unbiased=False))
    found = probes(oracle, 4096)
    spread = found.std(0) / want
    assert (spread > 0.5).all()  # it is an estimate
    assert (z_values(found, want).abs() < 5).all()
    assert (z_values(found, 1.1 * want).abs() > 5).any()  # and a tenth would be seen


def test_the_probe_is_a_function_of_theta():
    oracle = make(diagonal="probe")
    theta = near(oracle)
    first = oracle.at(theta).diagonal_estimate
    assert torch.equal(first, replace(oracle, batch_size=4).at(theta).diagonal_estimate)
    close(first[1:], oracle.at(theta[1:]).diagonal_estimate)
    assert not torch.allclose(first, oracle.at(theta + 1e-12).diagonal_estimate)
    exact = make().at(theta)
    assert exact.diagonal_estimate is exact.covariance_diagonal


def test_only_the_drift_of_u_meets_the_probe():
    method = RMSprop(0.1, 0.9, 0.1)
    oracle = make(diagonal="probe")
    here = oracle.at(near(oracle))
    point = method.initial(here)
    close(point.u, here.covariance_diagonal)
    drift, _ = method.sde(oracle).at(0.0, point)
    close(drift.u, 10.0 * (here.diagonal_estimate - point.u))
    wrapped = Penalised(Amplified(oracle, 2), 0.1)
    close(wrapped.at(near(oracle)).diagonal_estimate, here.diagonal_estimate)


@pytest.mark.parametrize("dtype", [torch.float32, F64])
def test_signs_are_balanced_and_unrelated(dtype):
    n, rows = 70, 20_000
    theta = 1 + 1e-4 * torch.randn(rows, 2, generator=gen(), dtype=dtype)
    s = signs(theta, n).to(F64)
    assert set(s.unique().tolist()) == {-1.0, 1.0}
    products = torch.stack([s.mean(0).abs().max(), (s.T @ s / rows).triu(1).abs().max()])
    lagged = (s[1:].T @ s[:-1]).abs().max() / rows
    assert (products * rows**0.5 < 6).all()  # 2,485 and 4,900 normal numbers, each 2e-9 on either side
    assert lagged * rows**0.5 < 6
    planted = torch.cat(
        [s[:, :1], (s[:, 0] * torch.where(torch.rand(rows, generator=gen()) < 0.53, 1, -1))[:, None]], 1
    )
    assert (planted.prod(1).mean() * rows**0.5).abs() > 6


# -- what it leaves alone, and where it goes ---------------------------------------------------------------------------


def test_module_and_global_randomness_are_left_alone():
    module, data = MODULES["frozen batch norm"](), make().data
    before, state = {k: v.clone() for k, v in module.state_dict().items()}, torch.get_rng_state()
    oracle = Network(module, LOSS, data, 2)
    single = oracle.to("cpu", torch.float32)
    oracle.at(near(oracle)).gradient, oracle.sample(oracle.at(near(oracle)), oracle.stream(gen(), 3).next())
    assert torch.equal(state, torch.get_rng_state())
    assert all(torch.equal(v, before[k]) for k, v in module.state_dict().items())
    assert all(p.requires_grad and p.grad is None for p in module.parameters())
    nn.init.zeros_(module[0].weight)
    assert oracle.theta0.abs().min() > 0
    assert (single.dtype, single.theta0.dtype, single.data[0].dtype, single.data[1].dtype) == (
        torch.float32, torch.float32, torch.float32, torch.int64,
    )  # fmt: skip


def test_pickled_copies_are_the_same_oracle():
    oracle = replace(make(), loss=lambda out, y: LOSS(out, y) ** 2)
    theta = near(oracle)
    copy = pickle.loads(cloudpickle.dumps(oracle))
    assert torch.equal(copy.at(theta).gradient, oracle.at(theta).gradient)
    assert copy.describe() == oracle.describe()
    assert oracle.describe() != make().describe()


def test_descriptions_tell_data_modules_and_constants_apart():
    oracle = make("frozen batch norm")
    shifted = MODULES["frozen batch norm"]()
    shifted[1].running_mean.add_(1)
    x, y = oracle.data
    others = [
        replace(oracle, module=shifted),
        replace(oracle, data=(2 * x, y)),
        make("mlp"),
        replace(oracle, batch_size=3),
    ]
    assert all(other.describe() != oracle.describe() for other in others)
    assert oracle.describe()["loss"] == ["cross_entropy", {"reduction": "none"}]
    assert replace(oracle).describe() == oracle.describe()


def test_a_loss_with_weights_moves_and_is_told_apart():
    weights = torch.tensor([1.0, 2.0, 3.0])
    oracle = make().to("cpu", torch.float32)
    plain, weighted = (replace(oracle, loss=nn.CrossEntropyLoss(w, reduction="none")) for w in (None, weights))
    assert weighted.describe() != plain.describe()
    assert replace(weighted).describe() == weighted.describe()
    theta = near(make())
    x, y = make().data
    losses = weights.double()[y] * torch.stack([LOSS(out, y) for out in weighted.to("cpu", F64).predict(theta, x)])
    close(weighted.to("cpu", F64).at(theta).loss, losses.mean(1), 1e-6)  # rounded to float32 on the way


def test_scratch_memory_grows_with_what_is_saved_and_is_bounded():
    small, large = make(examples=100).bytes_per_path, make(examples=200).bytes_per_path
    assert 1.5 * small < large < 2.5 * small


class Noisy(nn.Module):
    def forward(self, x):
        return x + torch.rand_like(x)


class Counting(nn.BatchNorm1d):
    def forward(self, x):
        self.running_mean += 1
        return x


class Centred(nn.Module):
    def forward(self, x):
        return x - x.mean(0)


class Branching(nn.Module):
    def forward(self, x):
        return x if x.sum().item() < 1e9 else -x


X, Y = make().data
LAYER = nn.Linear(4, 3).double()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"module": nn.Sequential(LAYER, nn.Dropout(0.1))}, r"not draw random.*got Dropout at '1' in training mode"),
        ({"module": nn.Sequential(LAYER, nn.BatchNorm1d(3))}, r"without running stat.*got BatchNorm1d at '1'"),
        ({"module": nn.Sequential(nn.Tanh())}, r"`module` must have parameters with requires_grad=True; got none"),
        ({"module": nn.Sequential(LAYER, nn.Linear(3, 3))}, r"of one type on one device; got torch.float32 on cpu, "),
        ({"module": nn.Sequential(LAYER, Noisy())}, r"the same losses twice; they draw random numbers"),
        ({"module": nn.Sequential(LAYER, Counting(3).double()).eval()}, r"not change its buffers.*'1.running_mean'"),
        ({"module": nn.Sequential(LAYER, Centred())}, r"must treat examples separately; the loss of one differs by \d"),
        ({"module": hiding(mixing=True)}, r"must treat examples separately; the loss of one differs by \d"),
        ({"module": nn.Sequential(LAYER, Branching())}, r"must run under torch.func.vmap; it says"),
        ({"loss": cross_entropy}, r"one real number per example, \(8,\) for 8 of them; got \(\)\. Use torch"),
        ({"loss": lambda out, y: LOSS(out, y) / 0}, r"`loss` must be finite at the module's own parameters; got \[inf"),
        ({"data": (X,)}, r"`data` must be tensors \(inputs, …, targets\); got 1 of them"),
        ({"data": (X, Y[:3])}, r"tensors of one length; got the lengths \[9, 3\]"),
        ({"data": (X / 0, Y)}, r"`data` must be finite; got 36 values that are not, in part 0"),
        ({"diagonal": "prob"}, r"`diagonal` must be one of 'exact', 'probe'; got 'prob'. Did you mean 'probe'\?"),
        ({"batch_size": 9, "sampling": "batch"}, r"`batch_size` must be below the 9 examples"),
        ({"batch_size": 0}, r"`batch_size` must be a whole number >= 1; got 0"),
    ],
)  # fmt: skip
def test_what_is_not_a_mean_over_examples_is_refused(change, message):
    with pytest.raises(ValueError, match=message):
        replace(make(), **change)


@pytest.mark.parametrize("data", [(X.numpy(), Y.numpy()), torch.utils.data.TensorDataset(X, Y)])
def test_data_that_are_no_tensors_are_refused(data):
    """Without the suite's own check of types, which speaks first."""
    with pytest.raises(ValueError, match=r"must be a tuple of tensors .*; got .*\. Use torch.as_tensor"):
        unwrap(network_checks.check_data)(data, torch.zeros(1))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("module", MODULES)
def test_on_a_gpu_it_is_the_same(module):
    here = make(module, diagonal="probe")
    there, theta = here.to("cuda", F64), near(here)
    one, other = here.at(theta), there.at(theta.cuda())
    for name in ("loss", "gradient", "covariance_diagonal", "diagonal_estimate"):
        close(getattr(one, name), getattr(other, name).cpu())


@pytest.mark.slow
def test_compiled_gradients_are_the_same_and_stay_behind_when_pickled():
    plain, fused = make(), make(compiled=True)
    theta, draw = near(plain), plain.stream(gen(), 3).next()
    close(fused.sample(fused.at(theta), draw), plain.sample(plain.at(theta), draw))
    close(
        fused.sample_derivative(fused.at(theta), draw, theta), plain.sample_derivative(plain.at(theta), draw, theta)
    )  # fmt: skip
    assert "_gradients" in fused.__dict__
    assert "_gradients" not in pickle.loads(cloudpickle.dumps(fused)).__dict__


@pytest.mark.slow
def test_the_probes_bias_is_of_the_order_of_the_substep_and_extrapolated_away():
    problem = digits_small(examples=30)
    method = RMSprop(**problem.suggested["rmsprop"].options)
    oracle, paths = problem.oracle, 1024
    start = method.initial(oracle.at(problem.theta0[None]))
    start = type(start)(*(x.expand(paths, -1) for x in start))
    sdes = [method.sde(replace(oracle, diagonal=kind)) for kind in ("exact", "probe")]

    def bias(substeps):
        """Probe less exact in mean u on the same Brownian paths, of the fine and the extrapolated solution."""
        generator, h, solved = gen(), method.time_step, [[start, start] for _ in sdes]
        with torch.no_grad():
            for k in range(8):
                fine = draw_increments(generator, substeps, h / substeps, paths, oracle.noise_dim, F64)
                for sde, pair in zip(sdes, solved, strict=True):
                    pair[:] = [euler(sde, k * h, x, dw) for x, dw in zip(pair, (fine, fine.halved()), strict=True)]
        exact, probe = ([x.u.mean(1) for x in pair] for pair in solved)
        return probe[0] - exact[0], 2 * (probe[0] - exact[0]) - (probe[1] - exact[1])

    def z(difference):
        return float(difference.mean() / (difference.std() / math.sqrt(paths)))

    (two, corrected), (four, _) = bias(2), bias(4)
    assert z(two) < -8  # it is there, and halves
    assert 0.35 < float(four.mean() / two.mean()) < 0.65
    assert abs(z(corrected)) < 4.5
