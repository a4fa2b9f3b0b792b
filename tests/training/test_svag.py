"""SVAG: equal to Amplified iterations path by path, to the bare optimizer at 1, schedulers, checkpoints, refusals."""

import copy
import io
import math

import pytest
import torch
from torch.optim.lr_scheduler import CosineAnnealingLR, LambdaLR, LinearLR, SequentialLR

from sdeadapt.methods import SGD, Adam, RMSprop
from sdeadapt.oracles.amplified import Amplified
from sdeadapt.oracles.analytic import Quadratic
from sdeadapt.training import SVAG, stretch

F64 = torch.float64
PATHS = 4
ORACLE = Quadratic([1.0, 0.4], [1.0, 2.0], scale=2.0, noise="exponential")
START = torch.tensor([[1.5, -1.0]], dtype=F64).expand(PATHS, -1)


def gap(a, b):
    return float((a - b).abs().max() / b.abs().max())


def seeded(seed=3):
    return torch.Generator().manual_seed(seed)


def torch_run(make, multiplier, steps, schedule=None, wrapped=True):
    """An ordinary loop in which one parameter is the ensemble and each call of the closure draws anew."""
    theta = torch.nn.Parameter(START.clone())
    stream = ORACLE.stream(seeded(), PATHS)
    inner = make([theta])
    optimizer = SVAG(inner, multiplier)
    scheduler = schedule and LambdaLR(optimizer if wrapped else inner, stretch(schedule, optimizer.refinement))

    def closure():
        local = ORACLE.at(theta.detach())
        theta.grad = ORACLE.sample(local, stream.next())
        return local.loss.mean()

    for _ in range(steps):
        optimizer.step(closure)
        if scheduler:
            scheduler.step()
    return theta.detach()


def method_run(method, multiplier, steps, refinement=None):
    oracle = Amplified(ORACLE, refinement or method.refinement(multiplier))
    fine = method.rescaled(1 / method.refinement(multiplier))
    stream, state = oracle.stream(seeded(), PATHS), method.init(START.clone())
    for k in range(steps):
        state = fine.step(state, oracle.sample(oracle.at(state.theta), stream.next()), k)
    return state.theta


PAIRS = {
    "sgd": (SGD(0.1), lambda p: torch.optim.SGD(p, lr=0.1)),
    "rmsprop": (RMSprop(0.1, 0.9, 0.05), lambda p: torch.optim.RMSprop(p, lr=0.1, alpha=0.9, eps=0.05)),
    "adam": (Adam(0.1, 0.8, 0.95, 0.05), lambda p: torch.optim.Adam(p, lr=0.1, betas=(0.8, 0.95), eps=0.05)),
}


@pytest.mark.parametrize("multiplier", [1, 2, 3])
@pytest.mark.parametrize("name", PAIRS)
def test_equals_amplified_iterations_path_by_path(name, multiplier):
    method, make = PAIRS[name]
    ours = torch_run(make, multiplier, 200)
    assert gap(ours, method_run(method, multiplier, 200)) < 1e-12
    if multiplier > 1:  # the twin that must fail: the other paper's weights
        other = multiplier if name != "sgd" else multiplier**2
        assert gap(ours, method_run(method, multiplier, 200, refinement=other)) > 1e-2


@pytest.mark.parametrize("wrapped", [True, False])
@pytest.mark.parametrize("name", PAIRS)
def test_scheduler_on_wrapper_or_optimizer_is_the_methods_schedule(name, wrapped):
    method, make = PAIRS[name]
    h = method.time_step
    scheduled = type(method)(**{**fields(method), "schedule": lambda t: 1 / (1 + t / h)})
    ours = torch_run(make, 2, 100, lambda k: 1 / (1 + k), wrapped)
    assert gap(ours, method_run(scheduled, 2, 100)) < 1e-12
    assert gap(ours, method_run(method, 2, 100)) > 1e-2


def fields(method):
    names = {"SGD": ["lr"], "RMSprop": ["lr", "beta", "eps"], "Adam": ["lr", "beta1", "beta2", "eps"]}
    return {name: getattr(method, name) for name in names[type(method).__name__]}


def amplified_pairs(steps, refinement, seed=5):
    generator = seeded(seed)
    pairs = 0.3 + 2 * torch.randn(steps, 2, PATHS, 2, dtype=F64, generator=generator)
    root = math.sqrt(2 * refinement - 1)
    return pairs, (1 + root) / 2 * pairs[:, 0] + (1 - root) / 2 * pairs[:, 1]


def fed(make, multiplier, pairs):
    theta = torch.nn.Parameter(START.clone())
    optimizer, calls = SVAG(make([theta]), multiplier), iter(pairs.flatten(0, 1))

    def closure():
        theta.grad = next(calls).clone()
        return torch.zeros(())

    for _ in pairs:
        optimizer.step(closure)
    return theta.detach()


def test_adamw_equals_a_plain_loop():
    pairs, mixed = amplified_pairs(200, refinement=4)
    ours = fed(lambda p: torch.optim.AdamW(p, 0.1, (0.8, 0.95), 0.05, weight_decay=0.3), 2, pairs)

    def loop(decay):
        theta, m, v = START, torch.zeros_like(START), torch.zeros_like(START)
        for k, g in enumerate(mixed, 1):
            theta = theta * (1 - 0.05 * decay)
            m, v = 0.95 * m + 0.05 * g, (1 - 0.0125) * v + 0.0125 * g * g
            theta = theta - 0.05 * (m / (1 - 0.95**k)) / ((v / (1 - 0.9875**k)).sqrt() + 0.1)
        return theta

    assert gap(ours, loop(0.15)) < 1e-12
    assert gap(ours, loop(0.3)) > 1e-2


def test_adagrad_equals_a_plain_loop():
    pairs, mixed = amplified_pairs(200, refinement=4)
    make = lambda p: torch.optim.Adagrad(p, 0.5, eps=0.05, initial_accumulator_value=2.0)  # noqa: E731
    theta, total = START, torch.full_like(START, 2.0 * 16)
    for g in mixed:
        total = total + g * g
        theta = theta - 0.5 * g / (total.sqrt() + 0.2)
    assert gap(fed(make, 2, pairs), theta) < 1e-12
    assert gap(fed(make, 3, pairs), theta) > 1e-2


def test_momentum_equals_a_plain_loop():
    pairs, mixed = amplified_pairs(200, refinement=3)
    theta, buffer = START, torch.zeros_like(START)
    for g in mixed:
        buffer = 0.9 * buffer + g
        theta = theta - 0.1 / 3 * buffer
    assert gap(fed(lambda p: torch.optim.SGD(p, 0.1, momentum=0.9), 3, pairs), theta) < 1e-12


def net(seed=0):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return torch.nn.Sequential(torch.nn.Linear(5, 8), torch.nn.Tanh(), torch.nn.Linear(8, 2))


class Run:
    """A small training run in float32, with everything a checkpoint must hold."""

    def __init__(self, multiplier=2, wrap=True, make=torch.optim.AdamW, seed=0):
        self.model, self.generator = net(seed), seeded(seed)
        inner = make(self.model.parameters(), lr=0.02)
        self.optimizer = SVAG(inner, multiplier) if wrap else inner
        warm_up = LinearLR(self.optimizer, 0.1, total_iters=20)
        cosine = CosineAnnealingLR(self.optimizer, T_max=100)
        self.scheduler = SequentialLR(self.optimizer, [warm_up, cosine], milestones=[20])

    def closure(self):
        x = torch.randn(6, 5, generator=self.generator)
        self.optimizer.zero_grad()
        loss = (self.model(x) - x[:, :2]).square().mean()
        loss.backward()
        return loss

    def go(self, steps):
        for _ in range(steps):
            self.last = self.optimizer.step(self.closure)
            self.scheduler.step()
        return [p.detach().clone() for p in self.model.parameters()]

    def save(self):
        parts = {"model": self.model, "optimizer": self.optimizer, "scheduler": self.scheduler}
        file = io.BytesIO()
        torch.save({name: x.state_dict() for name, x in parts.items()} | {"rng": self.generator.get_state()}, file)
        return file.getvalue()

    def load(self, saved, parts=("model", "optimizer", "scheduler")):
        state = torch.load(io.BytesIO(saved))
        for name in parts:
            getattr(self, name).load_state_dict(state[name])
        self.generator.set_state(state["rng"])


def same_bits(a, b):
    return all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


@pytest.mark.parametrize("make", [torch.optim.AdamW, torch.optim.RMSprop, torch.optim.SGD])
def test_multiplier_one_is_the_bare_optimizer_bit_for_bit(make):
    svag, bare = Run(1, make=make), Run(wrap=False, make=make)
    assert same_bits(svag.go(60), bare.go(60))
    assert torch.equal(svag.last, bare.last)
    assert not same_bits(svag.go(1), Run(2, make=make).go(61))


@pytest.mark.parametrize("multiplier", [1, 3])
def test_resuming_from_a_checkpoint_in_mid_run_gives_the_same_bits(multiplier):
    straight = Run(multiplier)
    straight.go(30)
    saved = straight.save()
    end = straight.go(40)
    resumed = Run(multiplier, seed=7)
    resumed.load(saved)
    assert same_bits(resumed.go(40), end)
    without = Run(multiplier, seed=7)
    without.load(saved, parts=("model", "scheduler"))  # the twin that must fail
    assert not same_bits(without.go(40), end)


def test_copies_go_their_own_way():
    run = Run()
    run.go(10)
    twin = copy.deepcopy(run)
    assert twin.optimizer.param_groups[0]["params"][0] is twin.model[0].weight
    assert same_bits(twin.go(10), run.go(10))


def test_hyper_parameters_and_state_in_mid_run():
    theta = torch.nn.Parameter(START.clone())
    inner = torch.optim.AdamW([theta], lr=0.4, betas=(0.8, 0.96), eps=0.05, weight_decay=0.2)
    theta.grad = torch.full_like(START, 5.0)
    inner.step()
    svag = SVAG(inner, 2)
    group = svag.param_groups[0]
    assert (group["lr"], group["eps"], group["weight_decay"]) == (0.2, 0.1, 0.1)
    assert group["betas"] == pytest.approx((0.95, 0.99), rel=1e-15)
    assert float(svag.state[theta]["step"]) == 4  # one step of the original takes four
    torch.testing.assert_close(svag.state[theta]["exp_avg_sq"], torch.full_like(START, 4 * 0.04 * 25))
    assert svag.refinement == 4


def test_returns_the_mean_loss_and_holds_one_more_set_of_gradients():
    theta = torch.nn.Parameter(START.clone())
    values, made = iter([2.0, 5.0]), []

    def closure():
        value = next(values)
        theta.grad = torch.full_like(START, value)
        made.append(theta.grad)
        return theta.sum() * 0 + value

    optimizer = SVAG(torch.optim.SGD([theta], lr=1.0), 5)
    loss = optimizer.step(closure)
    assert float(loss) == 3.5
    assert not loss.requires_grad
    assert theta.grad is made[0]  # mixed in place: 2 · 2 − 1 · 5
    torch.testing.assert_close(theta.grad, torch.full_like(START, -1.0))


def test_parameters_with_a_gradient_in_one_batch_only():
    a, b, c = (torch.nn.Parameter(torch.zeros(1, dtype=F64)) for _ in range(3))
    optimizer = SVAG(torch.optim.SGD([a, b, c], lr=5.0), 5)
    calls = iter([a, b])

    def closure():
        (loss := next(calls).sum()).backward()
        return loss

    optimizer.step(closure)
    assert [float(x.detach()) for x in (a, b, c)] == pytest.approx([-2.0, 1.0, 0.0])
    assert c.grad is None


def stepped(closure, multiplier=2, theta=None):
    theta = torch.nn.Parameter(START.clone()) if theta is None else theta
    optimizer = SVAG(torch.optim.Adam([theta], lr=0.1), multiplier)
    return optimizer.step(closure(theta) if closure else None)


def constant(value):
    def with_theta(theta):
        def closure():
            theta.grad = torch.full_like(theta, value)
            return torch.zeros(())

        return closure

    return with_theta


def test_the_same_batch_twice_is_refused_before_anything_moves():
    batch = torch.randn(8, 2, dtype=F64, generator=seeded())
    theta = torch.nn.Parameter(START.clone())

    def fixed(theta):
        def closure():
            loss = (theta - batch.mean(0)).square().mean()
            loss.backward()
            return loss

        return closure

    with pytest.raises(ValueError, match="must draw a fresh batch with every call; got the same gradients 32 times"):
        stepped(fixed, theta=theta)
    assert torch.equal(theta.detach(), START)
    stepped(fixed, multiplier=1, theta=theta)  # one batch is all that is needed


def test_the_same_example_by_chance_and_zero_gradients_are_not_refused():
    theta = torch.nn.Parameter(torch.zeros(1, dtype=F64))
    generator, moved = seeded(), []

    def closure():  # two examples: every second pair is the same
        theta.grad = torch.randint(2, (1,), generator=generator).to(F64) + 1
        return torch.zeros(())

    optimizer = SVAG(torch.optim.SGD([theta], lr=0.2), 2)
    for _ in range(200):
        optimizer.step(closure)
        moved.append(float(theta.detach()))
    assert moved[-1] == pytest.approx(-200 * 0.1 * 1.5, abs=5 * 0.1 * math.sqrt(200 * 2 * 0.25))  # 5 standard errors
    stepped(constant(0.0))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: stepped(None), "`closure` must draw a fresh batch, call backward and return the loss.*got None"),
        (lambda: stepped(lambda theta: lambda: None), "`closure` must return its loss; got None"),
        (
            lambda: stepped(constant(math.nan)),
            r"must be finite; got nan or inf in that of parameter 0, of shape \(4, 2\)",
        ),
        (lambda: stepped(constant(math.inf), 1), "Gradients must be finite"),
        (
            lambda: SVAG(torch.optim.Adam([torch.nn.Parameter(START)]), 0),
            "`multiplier` must be a whole number >= 1; got 0",
        ),
        (lambda: SVAG(torch.optim.Adamax([torch.nn.Parameter(START)]), 2), "must be one of torch.optim's SGD, RMSprop"),
        (lambda: Run(2).optimizer.load_state_dict(Run(3).optimizer.state_dict()), "with multiplier 2; got 3"),
        (
            lambda: Run(2).optimizer.load_state_dict(Run(wrap=False).optimizer.state_dict()),
            "got that of a bare optimizer",
        ),
        (
            lambda: Run(2).optimizer.add_param_group({"params": []}),
            r"must be added before `SVAG\(optimizer, multiplier\)`",
        ),
        (lambda: SVAG(Run(wrap=False).optimizer, 2), "must have no learning-rate scheduler yet"),
    ],
)
def test_refusals(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_sparse_gradients_are_refused():
    table = torch.nn.Embedding(4, 2, sparse=True)
    optimizer = SVAG(torch.optim.SGD(table.parameters(), lr=0.1), 2)

    def closure():
        (loss := table(torch.tensor([1])).sum()).backward()
        return loss

    with pytest.raises(ValueError, match="Gradients must be dense; got a sparse one for parameter 0"):
        optimizer.step(closure)
