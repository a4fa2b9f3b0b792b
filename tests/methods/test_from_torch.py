"""Torch optimizers as methods: equal to torch path by path to the last bit, pure, and refused where paths would mix."""

import math

import cloudpickle
import pytest
import torch

from sdeadapt.methods import Adam, from_torch
from sdeadapt.methods.adam import AdamPoint
from sdeadapt.methods.torch_optimizer import TorchPoint, TorchState
from sdeadapt.oracles.analytic import Quadratic
from sdeadapt.oracles.base import NotDeclared

F64 = torch.float64
PATHS, DIM, STEPS = 4, 5, 60
optim = torch.optim
ORACLE = Quadratic([1.0] * DIM, [1.0] * DIM, scale=2.0)

ELEMENTWISE = {
    "SGD": lambda p: optim.SGD(p, lr=0.1),
    "SGD-nesterov": lambda p: optim.SGD(p, lr=0.1, momentum=0.9, nesterov=True, weight_decay=0.01),
    "SGD-dampening": lambda p: optim.SGD(p, lr=0.1, momentum=0.9, dampening=0.5),
    "Adam": lambda p: optim.Adam(p, lr=0.1),
    "Adam-amsgrad": lambda p: optim.Adam(p, lr=0.1, amsgrad=True, weight_decay=0.1),
    "AdamW": lambda p: optim.AdamW(p, lr=0.1, weight_decay=0.1),
    "RMSprop": lambda p: optim.RMSprop(p, lr=0.1),
    "RMSprop-centered": lambda p: optim.RMSprop(p, lr=0.1, centered=True, momentum=0.5),
    "Adagrad": lambda p: optim.Adagrad(p, lr=0.1, lr_decay=0.01, initial_accumulator_value=0.1),
    "Adadelta": lambda p: optim.Adadelta(p),
    "Adamax": lambda p: optim.Adamax(p, lr=0.1),
    "NAdam": lambda p: optim.NAdam(p, lr=0.1),
    "RAdam": lambda p: optim.RAdam(p, lr=0.1),
    "Rprop": lambda p: optim.Rprop(p, lr=0.1),
    "ASGD": lambda p: optim.ASGD(p, lr=0.1, t0=5),
}


def start():
    return torch.randn(PATHS, DIM, dtype=F64, generator=torch.Generator().manual_seed(3))


def gradients():
    return torch.randn(STEPS, PATHS, DIM, dtype=F64, generator=torch.Generator().manual_seed(4))


def run(method, gs):
    state = method.init(start())
    for k, g in enumerate(gs):
        state = method.step(state, g, k)
    return state


def run_per_path(make, gs):
    """One optimizer per path, kept all along."""
    ends = []
    for i, theta in enumerate(start()):
        parameter = torch.nn.Parameter(theta.clone())
        optimizer = make([parameter])
        for g in gs[:, i]:
            parameter.grad = g.clone()
            optimizer.step()
        ends.append(parameter.detach())
    return torch.stack(ends)


@pytest.mark.parametrize("name", ELEMENTWISE)
def test_difference_to_per_path_runs_is_exactly_zero(name):
    make, gs = ELEMENTWISE[name], gradients()
    method = from_torch(make, time_step=0.01)
    end, torchs = run(method, gs).theta, run_per_path(make, gs)
    assert torch.equal(end, torchs)
    again = cloudpickle.loads(cloudpickle.dumps(method))
    assert torch.equal(run(again, gs).theta, end)
    gs[0, 0, 0] += 1e-3  # the twin that must fail, on one path only (twice for those that see signs alone)
    gs[1, 0, 0] *= -1
    moved = run(method, gs).theta != end
    assert bool(moved[0, 0])
    assert int(moved.sum()) == 1


@pytest.mark.parametrize("name", ["SGD-nesterov", "Adam", "NAdam", "Rprop", "Adagrad"])
def test_step_is_pure(name):
    method, gs = from_torch(ELEMENTWISE[name], time_step=0.01), gradients()
    state = method.step(method.init(start()), gs[0], 0)
    copies = {k: torch.as_tensor(v).clone() for k, v in state.slots.items()}
    theta, g = state.theta.clone(), gs[1].clone()
    first, second = method.step(state, gs[1], 1), method.step(state, gs[1], 1)
    assert torch.equal(first.theta, second.theta)
    assert not torch.equal(first.theta, theta)
    assert torch.equal(state.theta, theta)
    assert torch.equal(gs[1], g)
    assert all(torch.equal(torch.as_tensor(state.slots[k]), v) for k, v in copies.items())
    row = method.init(start()[:1].expand(3, -1))
    assert torch.equal(method.step(row, gs[0, :1].expand(3, -1), 0).theta[2], method.step(row, gs[0, :3], 0).theta[0])


def adam_as_points():
    def make(kappa):
        betas = (1 - kappa * (1 - 0.8), 1 - kappa * (1 - 0.9))
        return lambda p: optim.Adam(p, lr=0.1 * kappa**0.5, betas=betas, eps=0.05 / kappa**0.5)

    return from_torch(
        make(1.0),
        time_step=0.1**2,
        rescaled=make,
        point=AdamPoint,
        to_point=lambda s, scale: AdamPoint(s.theta, s.slots["exp_avg"], s.slots["exp_avg_sq"] / scale**2),
        from_point=lambda x, scale: TorchState(x.theta, {"exp_avg": x.m, "exp_avg_sq": x.u * scale**2}),
        initial=lambda local: AdamPoint(local.theta, 0 * local.theta, 0 * local.theta),
        bias_correction=True,
    )


def test_own_coordinates_counter_and_rescaling_equal_our_adam():
    ours, torchs = Adam(0.1, 0.8, 0.9, 0.05), adam_as_points()
    x = AdamPoint(start(), 0.1 * start(), start().square())
    g = gradients()[0]
    for kappa in (1.0, 0.25, 2.0):
        a, b = ours.rescaled(kappa), torchs.rescaled(kappa)
        assert (b.lr, b.time_step) == pytest.approx((a.lr, a.time_step))
        for k in (0, 1, 20):
            expected, got = (m.to_point(m.step(m.from_point(x, 2.0), g, k), 2.0) for m in (a, b))
            for left, right in zip(got, expected, strict=True):
                torch.testing.assert_close(left, right, rtol=1e-12, atol=1e-12)
        wrong = ours.step(ours.from_point(x, 2.0), g, 19)  # the counter matters
        assert not torch.allclose(torchs.step(torchs.from_point(x, 2.0), g, 20).theta, wrong.theta, rtol=1e-6)
    assert torchs.rescaled(2.0).rescaled(0.5).time_step == torchs.time_step
    assert torchs.Point is AdamPoint
    assert torchs.bias_correction
    assert not torchs.initial(ORACLE.at(start())).m.any()
    fresh = torchs.to_point(torchs.init(start()), 2.0)
    assert torch.equal(fresh.theta, start())
    assert not torch.cat([fresh.m, fresh.u]).any()


def test_defaults_are_theta_alone_and_what_is_not_declared_is_refused():
    method = from_torch(lambda p: optim.Adagrad(p, lr=0.5), time_step=0.25, time_power=1)
    state = run(method, gradients()[:2])
    assert type(method.to_point(state, 2.0)) is TorchPoint is method.Point
    assert not method.from_point(TorchPoint(state.theta), 2.0).slots  # a fresh optimizer
    assert torch.equal(method.initial(ORACLE.at(start())).theta, start())
    assert (method.lr, method.time_step, method.refinement(4)) == (0.5, 0.25, 4)
    assert from_torch(ELEMENTWISE["Adam"], time_step=0.01).refinement(4) == 16
    assert method.rescaled(1.0) == method
    with pytest.raises(NotDeclared, match="Adagrad does not declare `rescaled`; pass it to `from_torch`"):
        method.rescaled(2.0)
    with pytest.raises(NotDeclared, match="TorchOptimizer has no SDE of order 1; pass one as `sde=`"):
        method.sde(ORACLE)


def test_describe_tells_optimizers_apart():
    a, b = (from_torch(lambda p, lr=lr: optim.Adam(p, lr=lr), time_step=0.01).describe() for lr in (0.1, 0.2))
    assert (a["name"], a["settings"]["lr"]) == ("Adam", 0.1)
    assert a != b


class Remembers(optim.Optimizer):
    """Counts in its group, which a rebuilt optimizer has forgotten."""

    def __init__(self, params):
        super().__init__(params, {"lr": 0.1})

    @torch.no_grad()
    def step(self):
        for group in self.param_groups:
            group["n"] = group.get("n", 0) + 1
            for p in group["params"]:
                p -= group["lr"] / group["n"] * p.grad


class Clips(Remembers):
    """Divides by the norm of the whole gradient."""

    @torch.no_grad()
    def step(self):
        for p in self.param_groups[0]["params"]:
            p -= 0.1 * p.grad / p.grad.norm()


class Langevin(Remembers):
    """Draws from the global generator."""

    @torch.no_grad()
    def step(self):
        for p in self.param_groups[0]["params"]:
            p -= 0.1 * (p.grad + torch.randn_like(p))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda p: optim.Muon(p, lr=0.1), "must be elementwise.*Muon moves other components"),
        (lambda p: optim.Adafactor(p, lr=0.1), "must be elementwise.*Adafactor moves other components"),
        (Clips, "must be elementwise.*Clips moves other components"),
        (lambda p: optim.LBFGS(p), "without a closure; LBFGS raised"),
        (lambda p: optim.SparseAdam(p), "dense gradients.*SparseAdam raised"),
        (Remembers, r"must keep its memory in `optimizer.state\[parameter\]`.*Remembers"),
        (Langevin, "draw no random numbers; Langevin"),
    ],
)
def test_optimizers_that_would_mix_or_forget_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        from_torch(make, time_step=0.01)


def test_the_refused_would_indeed_mix_paths():
    gs, p = gradients(), torch.nn.Parameter(start())
    optimizer = optim.Muon([p], lr=0.1)
    for g in gs:
        p.grad = g.clone()
        optimizer.step()
    single = torch.nn.Parameter(start()[:1])
    optimizer = optim.Muon([single], lr=0.1)
    for g in gs:
        single.grad = g[:1].clone()
        optimizer.step()
    assert float((p[:1] - single).abs().max().detach()) > 1e-3


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"time_step": -1.0}, r"`time_step` must be finite and positive; got -1\.0"),
        ({"time_step": math.inf}, "`time_step` must be finite and positive"),
        ({"time_step": 0.01, "time_power": 0}, "`time_power` must be a whole number >= 1"),
        ({"time_step": 0.01, "point": AdamPoint}, "must be given all or none"),
        ({"time_step": 0.01, "to_point": lambda s, scale: TorchPoint(s.theta)}, "must be given all or none"),
        (
            {"time_step": 0.01, "rescaled": lambda kappa: lambda p: optim.Adam(p, lr=0.2 * kappa**0.5)},
            r"`rescaled\(1\)` must be that of `make`, .*0\.1.*got .*0\.2",
        ),
    ],
)
def test_errors_name_the_rule_and_the_value(options, message):
    with pytest.raises(ValueError, match=message):
        from_torch(ELEMENTWISE["Adam"], **options)
