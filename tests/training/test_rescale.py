"""rescale_: equal to Method.rescaled path by path, its inverse, its invariants, and what it refuses."""

import copy
import math
import warnings

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sdeadapt.methods import SGD, Adam, RMSprop
from sdeadapt.training import rescale_, stretch

F64 = torch.float64
PATHS, DIM, SCALE = 4, 3, 2.0


def gradients(steps, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return 0.3 + SCALE * torch.randn(steps, PATHS, DIM, dtype=F64, generator=generator)


def parameter(seed=1):
    return torch.nn.Parameter(torch.randn(PATHS, DIM, dtype=F64, generator=torch.Generator().manual_seed(seed)))


def feed(optimizer, theta, gs):
    for g in gs:
        theta.grad = g.clone()
        optimizer.step()


def gap(a, b):
    return float((a - b).abs().max() / b.abs().max())


PAIRS = {
    "sgd": (SGD(0.01), lambda p: torch.optim.SGD(p, lr=0.01)),
    "rmsprop": (RMSprop(0.01, 0.95, 0.05), lambda p: torch.optim.RMSprop(p, lr=0.01, alpha=0.95, eps=0.05)),
    "adam": (Adam(0.01, 0.8, 0.95, 0.05), lambda p: torch.optim.Adam(p, lr=0.01, betas=(0.8, 0.95), eps=0.05)),
}


@pytest.mark.parametrize("kappa", [4.0, 0.25])
@pytest.mark.parametrize("name", PAIRS)
def test_fresh_optimizer_equals_the_rescaled_method_path_by_path(name, kappa):
    method, make = PAIRS[name]
    theta = parameter()
    state, gs = method.init(theta.detach().clone()), gradients(200)
    optimizer = make([theta])
    rescale_(optimizer, kappa)
    feed(optimizer, theta, gs)
    for k, g in enumerate(gs):
        state = method.rescaled(kappa).step(state, g, k)
    assert gap(theta.detach(), state.theta) < 1e-12


@pytest.mark.parametrize("kappa", [4.0, 0.25])
@pytest.mark.parametrize("name", PAIRS)
def test_in_mid_run_equals_the_method_at_the_same_point_of_the_sde(name, kappa):
    method, make = PAIRS[name]
    theta = parameter()
    state, before, after = method.init(theta.detach().clone()), gradients(40), gradients(200, seed=2)
    optimizer = make([theta])
    feed(optimizer, theta, before)
    forgetful, copied = copy_of(optimizer, theta)
    rescale_(optimizer, kappa)
    feed(optimizer, theta, after)
    for k, g in enumerate(before):
        state = method.step(state, g, k)
    new = method.rescaled(kappa)
    state = new.from_point(method.to_point(state, SCALE), SCALE / math.sqrt(kappa))  # the same theta, m, u
    for k, g in enumerate(after):
        state = new.step(state, g, int(40 / kappa) + k)
    assert gap(theta.detach(), state.theta) < 1e-12

    if name != "sgd":  # the twin that must fail: the state is not rescaled
        slots = copy.deepcopy(forgetful.state[copied])
        rescale_(forgetful, kappa)
        forgetful.state[copied] = slots
        feed(forgetful, copied, after)
        assert gap(copied.detach(), state.theta) > 1e-4


def copy_of(optimizer, theta):
    copied = torch.nn.Parameter(theta.detach().clone())
    twin = type(optimizer)([copied], lr=1.0)
    twin.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    return twin, copied


def plain_adamw(theta, gs, lr, b1, b2, eps, decay, m, v, k):
    for g in gs:
        k += 1
        theta = theta - lr * decay * theta
        m, v = b1 * m + (1 - b1) * g, b2 * v + (1 - b2) * g * g
        theta = theta - lr * (m / (1 - b1**k)) / ((v / (1 - b2**k)).sqrt() + eps)
    return theta, m, v, k


def test_adamw_in_mid_run_equals_a_plain_loop():
    theta, zero = parameter(), torch.zeros(PATHS, DIM, dtype=F64)
    before, after = gradients(40), gradients(200, seed=2)
    end, m, v, k = plain_adamw(theta.detach(), before, 0.01, 0.8, 0.95, 0.05, 0.3, zero, zero, 0)
    right = plain_adamw(end, after, 0.02, 0.2, 0.8, 0.025, 0.6, m, v / 4, k / 4)[0]
    wrong = plain_adamw(end, after, 0.02, 0.2, 0.8, 0.025, 0.3, m, v / 4, k / 4)[0]  # decay not rescaled
    optimizer = torch.optim.AdamW([theta], lr=0.01, betas=(0.8, 0.95), eps=0.05, weight_decay=0.3)
    feed(optimizer, theta, before)
    rescale_(optimizer, 4)
    feed(optimizer, theta, after)
    assert gap(theta.detach(), right) < 1e-12
    assert gap(theta.detach(), wrong) > 1e-2


def plain_adagrad(theta, gs, lr, eps, lr_decay, total, k):
    for g in gs:
        total = total + g * g
        theta = theta - lr / (1 + k * lr_decay) * g / (total.sqrt() + eps)
        k += 1
    return theta, total, k


def test_adagrad_in_mid_run_equals_a_plain_loop():
    theta = parameter()
    before, after = gradients(40), gradients(200, seed=2)
    end, total, k = plain_adagrad(theta.detach(), before, 0.1, 0.5, 0.01, torch.full_like(theta.detach(), 0.2), 0)
    right = plain_adagrad(end, after, 0.1, 0.125, 0.04, total / 16, k / 4)[0]
    wrong = plain_adagrad(end, after, 0.1, 0.125, 0.04, total / 4, k / 4)[0]
    optimizer = torch.optim.Adagrad([theta], lr=0.1, eps=0.5, lr_decay=0.01, initial_accumulator_value=0.2)
    feed(optimizer, theta, before)
    rescale_(optimizer, 4)
    feed(optimizer, theta, after)
    assert gap(theta.detach(), right) < 1e-12
    assert gap(theta.detach(), wrong) > 1e-2
    assert optimizer.param_groups[0]["initial_accumulator_value"] == 0.2 / 16


def mean_square(group, sigma, steps):
    """E theta² after `steps` on f = theta²/2 with noise sigma: exact moments of torch's linear chain."""
    lr, mu, one_minus, nesterov = group["lr"], group["momentum"], 1 - group["dampening"], group["nesterov"]
    direct, through = (
        (1.0, mu) if nesterov else (0.0, 1.0)
    )  # theta −= lr (direct g + through buf), buf = mu buf + (1−d) g
    a, b = np.array([[0.0, 0.0], [one_minus, mu]]), np.array([0.0, one_minus])
    a[0] = [1 - lr * (direct + through * one_minus), -lr * through * mu]
    b[0] = -lr * (direct + through * one_minus)
    second, noise = np.diag([1.0, 0.0]), sigma**2 * np.outer(b, b)
    for _ in range(steps):
        second = a @ second @ a.T + noise
    return second[0, 0]


@pytest.mark.parametrize("options", [{"dampening": 0.5}, {"nesterov": True}, {"dampening": 0.0}])
def test_momentum_keeps_its_sde_under_the_linear_rule(options):
    """kappa = 2 at a fixed momentum: the difference in E theta² falls like the step; under the square root it stays."""

    def difference(h, rule):
        optimizer = torch.optim.SGD([parameter()], lr=h, momentum=0.5, **options)
        base = mean_square(optimizer.param_groups[0], sigma := 1 / math.sqrt(h), round(1 / h))
        rule(optimizer)
        return mean_square(optimizer.param_groups[0], sigma / math.sqrt(2), round(1 / h) // 2) - base

    def root(optimizer):
        optimizer.param_groups[0]["lr"] *= math.sqrt(2)

    steps = [1 / 64, 1 / 256, 1 / 1024]
    own = [abs(difference(h, lambda o: rescale_(o, 2))) for h in steps]
    assert own[1] / own[0] == pytest.approx(1 / 4, rel=0.15)
    assert own[2] / own[1] == pytest.approx(1 / 4, rel=0.05)
    wrong = [abs(difference(h, root)) for h in steps]
    assert wrong[2] > 0.5 * wrong[0] > 10 * own[2]


def full(kind, beta, lr=0.03, eps=1e-3, decay=0.2):
    """An optimizer of that kind in mid-run."""
    theta = parameter()
    options = {
        "SGD": {"momentum": 0.9, "nesterov": True, "weight_decay": decay},
        "RMSprop": {"alpha": beta, "eps": eps, "centered": True, "momentum": 0.5, "weight_decay": decay},
        "Adam": {"betas": (beta, beta), "eps": eps, "amsgrad": True, "weight_decay": decay},
        "AdamW": {"betas": (0.0, beta), "eps": eps, "weight_decay": decay, "maximize": True},
        "Adagrad": {"eps": eps, "lr_decay": 0.1, "initial_accumulator_value": 0.5},
    }[kind]
    optimizer = getattr(torch.optim, kind)([theta], lr=lr, **options)
    feed(optimizer, theta, gradients(5))
    return optimizer, theta


def numbers(optimizer):
    """Every number of the groups and of the state, by name."""
    found = {}
    for where, values in [("group", optimizer.param_groups[0]), ("state", *optimizer.state.values())]:
        for name, value in values.items():
            if isinstance(value, torch.Tensor):
                found[where, name] = value.double().flatten().tolist()
            elif isinstance(value, tuple | float | int) and not isinstance(value, bool):
                found[where, name] = list(value) if isinstance(value, tuple) else [value]
    return found


KINDS = ["SGD", "RMSprop", "Adam", "AdamW", "Adagrad"]
LONG = {"kappa": st.floats(1e-3, 50.0), "weight": st.floats(1e-5, 0.01), "kind": st.sampled_from(KINDS)}


@settings(max_examples=60, deadline=None)
@given(**LONG)
def test_kappa_and_back_restores_everything(kappa, weight, kind):
    optimizer, _ = full(kind, 1 - weight)
    before = numbers(optimizer)
    rescale_(optimizer, kappa)
    rescale_(optimizer, 1 / kappa)
    after = numbers(optimizer)
    assert after.keys() == before.keys()
    for name, values in before.items():
        if name[1] in ("alpha", "betas"):  # beta holds 1 − beta to 1e-16 only, and 1 / kappa magnifies that
            assert after[name] == pytest.approx(values, rel=0, abs=4e-16 * max(1, 1 / kappa)), name
        else:
            assert after[name] == pytest.approx(values, rel=1e-6 if name[1] == "step" else 1e-14, abs=0), name


@settings(max_examples=60, deadline=None)
@given(**LONG)
def test_invariants_of_the_sde(kappa, weight, kind):
    """eps·lr, (1 − beta)/h, v/sigma², step·h, lr·decay/h stay, where h grows by kappa and sigma² falls by it."""
    optimizer, _ = full(kind, 1 - weight)
    old = numbers(optimizer)
    rescale_(optimizer, kappa)
    new = numbers(optimizer)

    def grown(where, name, index=0):
        return new[where, name][index] / old[where, name][index]

    def same(value):
        assert value == pytest.approx(1.0, rel=1e-6)

    h = kappa
    if kind == "SGD":
        same(grown("group", "lr") / h)
        same(grown("group", "momentum"))
        same(grown("state", "momentum_buffer"))
        same(grown("group", "weight_decay"))
        return
    same(grown("state", "step") * h)
    if kind == "Adagrad":
        same(grown("group", "lr"))
        same(grown("group", "eps") * h)
        same(grown("state", "sum") * h**2)  # w = h S / sigma²
        same(new["group", "lr_decay"][0] * new["state", "step"][0] / (old["group", "lr_decay"][0] * 5))
        return
    same(grown("group", "lr") ** 2 / h)
    same(grown("group", "eps") * grown("group", "lr"))
    name, second, first = {
        "RMSprop": ("alpha", "square_avg", "grad_avg"),
        "Adam": ("betas", "exp_avg_sq", "exp_avg"),
        "AdamW": ("betas", "exp_avg_sq", "exp_avg"),
    }[kind]
    same((1 - new["group", name][-1]) / (1 - old["group", name][-1]) / h)
    same(grown("state", second, 3) * kappa)
    same(grown("state", first, 3))
    if kind == "Adam":
        same(grown("state", "max_exp_avg_sq", 3) * kappa)
        same((1 - new["group", name][0]) / (1 - old["group", name][0]) / h)
    if kind == "AdamW":
        assert new["group", name][0] == 0  # no average of gradients stays none
    same(grown("group", "weight_decay") * (grown("group", "lr") / h if kind == "AdamW" else 1.0))


def test_kappa_one_changes_no_bit():
    optimizer, _ = full("Adam", 0.95)
    before = numbers(optimizer)
    rescale_(optimizer, 1)
    assert numbers(optimizer) == before


def test_tensor_learning_rate_shared_by_groups_is_written_once_and_in_place():
    lr = torch.tensor(0.25, dtype=F64)
    groups = [{"params": [parameter()]}, {"params": [parameter()], "weight_decay": 0.5}]
    optimizer = torch.optim.AdamW(groups, lr=lr, weight_decay=0.1)
    rescale_(optimizer, 4)
    assert all(group["lr"] is lr for group in optimizer.param_groups)
    assert float(lr) == 0.5
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0.2, 1.0]


def test_scheduler_built_afterwards_starts_from_the_new_rate_and_one_built_before_warns():
    theta = parameter()
    optimizer = torch.optim.Adam([theta], lr=0.1)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 / (1 + step))
    for _ in range(8):
        feed(optimizer, theta, gradients(1))
        schedule.step()
    with pytest.warns(UserWarning, match="scheduler was built on this optimizer before `rescale_`.*Build a new one"):
        rescale_(optimizer, 4)
    half = stretch(lambda step: 1 / (1 + step), 1 / 4)
    torch.optim.lr_scheduler.LambdaLR(optimizer, half, last_epoch=1)  # 8 steps are 2 now
    assert optimizer.param_groups[0]["lr"] == pytest.approx(0.2 / 9, rel=1e-14)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        rescale_(torch.optim.Adam([theta], lr=0.1), 4)


class Subclass(torch.optim.Adam):
    pass


@pytest.mark.parametrize(
    ("make", "kappa", "message"),
    [
        (lambda p: torch.optim.Adamax(p), 2, "one of torch.optim's SGD, RMSprop, Adam, AdamW, Adagrad.*got .*Adamax"),
        (lambda p: Subclass(p), 2, r"must be one of torch.optim's.*got .*Subclass"),
        (lambda p: torch.optim.Adam(p), 0, "`kappa` must be finite and positive; got 0"),
        (lambda p: torch.optim.Adam(p), math.inf, "`kappa` must be finite and positive; got inf"),
        (lambda p: torch.optim.Adam(p), 10, r"`kappa` must be below 10 = 1 / \(1 - beta1\).*got 10"),
        (lambda p: torch.optim.Adam(p, betas=(0.0, 0.75)), 4.5, r"below 4 = 1 / \(1 - beta2\).*got 4\.5"),
        (lambda p: torch.optim.RMSprop(p, alpha=0.5), 2, r"`kappa` must be below 2 = 1 / \(1 - alpha\)"),
        (lambda p: torch.optim.Adam(p, betas=(0.9, 0.0)), 2, r"`beta2` must lie in \(0, 1\).*got 0\.0"),
    ],
)
def test_refusals_leave_the_optimizer_untouched(make, kappa, message):
    theta = parameter()
    fine = {"params": [parameter(3)], "lr": 0.5}
    if make([theta]).defaults.get("betas"):
        fine["betas"] = (0.99, 0.99)  # a group that could be rewritten, before the one that cannot
    optimizer = make([fine, {"params": [theta]}])
    feed(optimizer, theta, gradients(3))
    before = copy.deepcopy(optimizer.state_dict())
    with pytest.raises(ValueError, match=message):
        rescale_(optimizer, kappa)
    after = optimizer.state_dict()
    assert after["param_groups"] == before["param_groups"]
    for key, slots in before["state"].items():
        assert all(torch.equal(after["state"][key][name], value) for name, value in slots.items())


def test_cycled_betas_are_refused():
    optimizer = torch.optim.Adam([parameter()], lr=0.1)
    torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=0.1, total_steps=10)
    with pytest.raises(ValueError, match=r"must keep its betas.*cycle_momentum=False"):
        rescale_(optimizer, 2)


def test_stretch():
    assert [stretch(lambda step: 2.0 * step, 4)(k) for k in (0, 2, 4)] == [0.0, 1.0, 2.0]
    assert stretch(lambda step: step, 1 / 4)(3) == 12
    with pytest.raises(ValueError, match="`factor` must be finite and positive; got 0"):
        stretch(lambda step: 1.0, 0)
