"""The iterations: equal to torch and to the papers' formulas; pure; rescaled without losing digits."""

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sdeadapt.methods import SGD, Adam, RMSprop, from_torch
from sdeadapt.oracles.analytic import Quadratic

F64 = torch.float64
PATHS, DIM, STEPS = 5, 3, 1000


def gradients(steps=STEPS, seed=0):
    generator = torch.Generator().manual_seed(seed)
    drift = torch.tensor([0.3, -0.1, 0.0], dtype=F64)
    return drift + torch.randn(steps, PATHS, DIM, dtype=F64, generator=generator)


def start(seed=1):
    return torch.randn(PATHS, DIM, dtype=F64, generator=torch.Generator().manual_seed(seed))


def run(method, gs):
    state = method.init(start())
    for k, g in enumerate(gs):
        state = method.step(state, g, k)
    return state


def run_torch(make, gs, schedule=None):
    """One optimizer and one parameter per path, as a user would run them."""
    ends = []
    for i, theta in enumerate(start()):
        parameter = torch.nn.Parameter(theta.clone())
        optimizer = make([parameter])
        lr = optimizer.param_groups[0]["lr"]
        for k, g in enumerate(gs[:, i]):
            if schedule is not None:
                optimizer.param_groups[0]["lr"] = lr * schedule(k)
            parameter.grad = g.clone()
            optimizer.step()
        ends.append(parameter.detach())
    return torch.stack(ends)


def gap(a, b):
    return float((a - b).abs().max() / b.abs().max())


PAIRS = {
    "sgd": (SGD(0.01), lambda p: torch.optim.SGD(p, lr=0.01)),
    "rmsprop": (RMSprop(0.01), lambda p: torch.optim.RMSprop(p, lr=0.01)),
    "rmsprop-eps": (RMSprop(0.01, 0.9, 0.1), lambda p: torch.optim.RMSprop(p, lr=0.01, alpha=0.9, eps=0.1)),
    "adam": (Adam(0.01), lambda p: torch.optim.Adam(p, lr=0.01)),
    "adam-eps": (Adam(0.01, 0.8, 0.99, 0.1), lambda p: torch.optim.Adam(p, lr=0.01, betas=(0.8, 0.99), eps=0.1)),
}


@pytest.mark.parametrize("name", PAIRS)
def test_equals_torch_path_by_path_over_a_thousand_steps(name):
    method, make = PAIRS[name]
    gs = gradients()
    ours, torchs = run(method, gs).theta, run_torch(make, gs)
    assert gap(ours, torchs) < 1e-12
    assert gap(run(from_torch(make, time_step=method.time_step), gs).theta, torchs) == 0
    changed = replace(method, lr=method.lr * (1 + 1e-9))  # the twin that must fail
    assert gap(run(changed, gs).theta, torchs) > 1e-12


@pytest.mark.parametrize("name", ["rmsprop-eps", "adam-eps"])
def test_old_denominator_and_eps_are_seen(name):
    method, make = PAIRS[name]
    torchs = run_torch(make, gradients(50))
    for wrong in (replace(method, denominator="old", eps=0.1), replace(method, eps=0.1001)):
        assert gap(run(wrong, gradients(50)).theta, torchs) > 1e-6


@pytest.mark.parametrize("name", ["sgd", "rmsprop", "adam"])
def test_schedule_in_sde_time_equals_torch_with_that_lr(name):
    method, make = PAIRS[name]
    method = replace(method, schedule=lambda t: 1 / (1 + t / method.time_step))
    gs = gradients(100)
    assert gap(run(method, gs).theta, run_torch(make, gs, lambda k: 1 / (1 + k))) < 1e-12
    assert gap(run(method, gs).theta, run_torch(make, gs, lambda k: 1 / (2 + k))) > 1e-3


def paper_rmsprop(theta, gs, lr, beta, eps, old):
    v = 0.3  # old v divides by it at once
    for g in gs:
        new = beta * v + (1 - beta) * g**2
        theta -= lr * g / (math.sqrt(v if old else new) + eps)
        v = new
    return theta


def paper_adam(theta, gs, lr, beta1, beta2, eps, old, corrected):
    m, v = (0.0, 0.0) if corrected else (0.0, 0.3)
    for k, g in enumerate(gs):
        m = beta1 * m + (1 - beta1) * g
        new = beta2 * v + (1 - beta2) * g**2
        used, power = (v, k) if old else (new, k + 1)
        v = new
        if not corrected:
            theta -= lr * m / (math.sqrt(used) + eps)
        elif power > 0:
            theta -= lr * (1 / (1 - beta1 ** (k + 1))) * m / (eps + ((1 / (1 - beta2**power)) * used) ** 0.5)
    return theta


@pytest.mark.parametrize("old", [True, False])
def test_rmsprop_follows_the_papers_formula(old):
    gs, theta = gradients(60), start()
    method = RMSprop(0.1, 0.9, 0.05, denominator="old" if old else "new")
    state = RMSprop.State(theta, torch.full_like(theta, 0.3))
    for k, g in enumerate(gs):
        state = method.step(state, g, k)
    for other in (old, not old):
        expected = paper_rmsprop(float(theta[1, 2]), gs[:, 1, 2].tolist(), 0.1, 0.9, 0.05, other)
        assert (abs(float(state.theta[1, 2]) - expected) < 1e-12) == (other == old)


@pytest.mark.parametrize("corrected", [True, False])
@pytest.mark.parametrize("old", [True, False])
def test_adam_follows_the_papers_formula(old, corrected):
    gs, theta = gradients(60), start()
    method = Adam(0.1, 0.8, 0.9, 0.05, denominator="old" if old else "new", bias_correction=corrected)
    v = torch.full_like(theta, 0.0 if corrected else 0.3)
    state = Adam.State(theta, torch.zeros_like(theta), v)
    for k, g in enumerate(gs):
        state = method.step(state, g, k)
        if k == 0:
            assert torch.equal(state.theta, theta) == (old and corrected)  # the paper's code skips this update
    for other in (old, not old):
        expected = paper_adam(float(theta[1, 2]), gs[:, 1, 2].tolist(), 0.1, 0.8, 0.9, 0.05, other, corrected)
        assert (abs(float(state.theta[1, 2]) - expected) < 1e-12) == (other == old)


METHODS = [
    SGD(0.1),
    RMSprop(0.1, 0.95, 1e-3),
    RMSprop(0.1, 0.95, 1e-3, denominator="old"),
    Adam(0.1, 0.8, 0.95, 1e-3),
    Adam(0.1, 0.8, 0.95, 1e-3, bias_correction=False),
]


@pytest.mark.parametrize("dtype", [torch.float32, F64])
@pytest.mark.parametrize("method", METHODS)
def test_step_is_pure_keeps_the_dtype_and_takes_expanded_rows(method, dtype):
    row = torch.tensor([[0.5, -1.0, 2.0]], dtype=dtype)
    g = torch.tensor([[1.0, 0.25, -3.0]], dtype=dtype)
    fields = method.State._fields
    single = method.State(*(row.abs() for _ in fields))
    state = method.State(*(field.expand(4, -1) for field in single))
    before = [field.clone() for field in state]
    after = method.step(state, g.expand(4, -1), 3)
    for field, copy, row_after in zip(state, before, method.step(single, g, 3), strict=True):
        assert torch.equal(field, copy)
        assert row_after.dtype == dtype
    for field, row_after in zip(after, method.step(single, g, 3), strict=True):
        assert torch.equal(field, row_after.expand(4, -1))


@settings(max_examples=50, deadline=None)
@given(one_minus=st.floats(1e-6, 0.4), kappa=st.floats(1e-4, 2.0), other=st.floats(1e-3, 1.0), lr=st.floats(1e-4, 1.0))
def test_rescaled_composes_and_inverts(one_minus, kappa, other, lr):
    method = Adam(lr, 1 - one_minus, 1 - one_minus / 3, 1e-6)
    back = method.rescaled(kappa).rescaled(1 / kappa)
    once, twice = method.rescaled(kappa * other), method.rescaled(kappa).rescaled(other)
    for name in ("lr", "eps", "one_minus_beta1", "one_minus_beta2", "time_step"):
        assert getattr(back, name) == pytest.approx(getattr(method, name), rel=4e-15, abs=0)
        assert getattr(twice, name) == pytest.approx(getattr(once, name), rel=4e-15, abs=0)
    step = SGD(lr).rescaled(kappa).rescaled(1 / kappa).lr
    assert step == pytest.approx(lr, rel=1e-15, abs=0)


def test_one_minus_beta_keeps_digits_that_beta_has_lost():
    method = RMSprop(0.1, 0.999).rescaled(1 / 4096.0)
    assert method.one_minus_beta == (1 - 0.999) / 4096
    assert abs((1 - method.beta) / method.one_minus_beta - 1) > 1e-11  # stored as beta it would be this wrong
    assert replace(method, beta=0.5).one_minus_beta == 0.5  # a new beta wins
    assert method.rescaled(4096.0) == RMSprop(0.1, 0.999)


def test_rescaled_is_the_square_root_rule():
    method = Adam(0.1, 0.9, 0.999, 1e-3).rescaled(4.0)
    assert method.lr == 0.2
    assert (method.one_minus_beta1, method.one_minus_beta2) == (4 * (1 - 0.9), 4 * (1 - 0.999))
    assert method.eps == 5e-4
    assert SGD(0.1).rescaled(4.0).lr == 0.4


@pytest.mark.parametrize(("method", "r"), [(SGD(0.1), 3), (RMSprop(0.1), 9), (Adam(0.1), 9)])
def test_refinement_is_the_steps_that_replace_one(method, r):
    assert method.refinement(3) == r
    finer = method.rescaled(1 / r)
    assert finer.lr == pytest.approx(method.lr / 3, rel=1e-15)
    assert finer.time(r) == pytest.approx(method.time_step, rel=1e-15)


@settings(deadline=None)
@given(v=st.floats(1e-200, 1e200), scale=st.floats(1e-20, 1e20))
def test_from_point_inverts_to_point_within_one_ulp(v, scale):
    state = RMSprop.State(torch.ones(1, 1, dtype=F64), torch.full((1, 1), v, dtype=F64))
    back = RMSprop(0.1).from_point(RMSprop(0.1).to_point(state, scale), scale)
    assert torch.equal(back.theta, state.theta)
    assert abs(float(back.v) - v) <= math.ulp(v)
    adam = Adam(0.1).from_point(Adam(0.1).to_point(Adam.State(state.theta, state.theta, state.v), scale), scale)
    assert torch.equal(adam.v, back.v)
    assert torch.equal(adam.m, state.theta)


@pytest.mark.parametrize("method", METHODS)
def test_state_and_point_are_different_types_and_u_is_v_over_scale_squared(method):
    state = method.State(*(torch.full((1, 1), 8.0, dtype=F64) for _ in method.State._fields))
    point = method.to_point(state, 2.0)
    assert type(point) is method.Point is not method.State
    assert torch.equal(point.theta, state.theta)
    if "u" in point._fields:
        assert float(point.u) == 2.0
    assert type(method.from_point(point, 2.0)) is method.State
    without_noise = method.from_point(method.to_point(state, 0.0), 0.0)
    assert all(torch.equal(a, b) for a, b in zip(without_noise, state, strict=True))


def test_default_start():
    oracle = Quadratic([[1.0, 0.0], [0.0, 2.0]], [[2.0, 0.5], [0.5, 3.0]], scale=4.0)
    theta = torch.ones(2, 2, dtype=F64)
    local, sigma = oracle.at(theta), torch.tensor([2.0, 3.0], dtype=F64).expand(2, -1)
    torch.testing.assert_close(RMSprop(0.1).initial(local).u, sigma)
    plain, corrected = Adam(0.1, bias_correction=False).initial(local), Adam(0.1).initial(local)
    torch.testing.assert_close(plain.u, sigma)
    assert not plain.m.any()
    assert not corrected.m.any()
    assert not corrected.u.any()
    assert torch.equal(SGD(0.1).initial(local).theta, theta)
    for method in (RMSprop(0.1), Adam(0.1)):  # torch's start is raw
        assert not method.init(theta).v.any()


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: SGD(-0.1), r"`lr` must be finite and positive; got -0\.1"),
        (lambda: RMSprop(0.0), "`lr` must be finite and positive"),
        (lambda: Adam(math.nan), "`lr` must be finite and positive"),
        (lambda: RMSprop(0.1, 1.2), r"`beta` must lie in \(0, 1\); got 1\.2"),
        (lambda: Adam(0.1, 0.0), r"`beta1` must lie in \(0, 1\); got 0\.0"),
        (lambda: Adam(0.1, beta2=1.0), r"`beta2` must lie in \(0, 1\); got 1\.0"),
        (lambda: Adam(0.1, eps=-1e-8), "`eps` must be finite and not negative"),
        (lambda: RMSprop(0.1, denominator="newer"), "`denominator` must be one of 'new', 'old'; got 'newer'.*'new'"),
        (lambda: Adam(0.1).rescaled(16.0), r"`kappa` must be below 10 = 1 / \(1 - beta1\).*got 16"),
        (lambda: Adam(0.1).rescaled(10.0), r"`kappa` must be below 10 = 1 / \(1 - beta1\).*got 10"),
        (lambda: Adam(0.1, 0.99, 0.9).rescaled(16.0), r"`kappa` must be below 10 = 1 / \(1 - beta2\)"),
        (lambda: RMSprop(0.1, 0.75).rescaled(4.0), r"`kappa` must be below 4 "),
        (lambda: SGD(0.1).rescaled(-1.0), "`kappa` must be finite and positive"),
        (lambda: RMSprop(0.1).rescaled(0.0), "`kappa` must be finite and positive"),
        (lambda: SGD(0.1).refinement(0), "`multiplier` must be a whole number >= 1"),
    ],
)
def test_errors_name_the_rule_and_the_value(build, message):
    with pytest.raises(ValueError, match=message):
        build()


def test_just_below_the_largest_kappa_is_allowed():
    assert 0 < RMSprop(0.1, 0.75).rescaled(3.999).beta < 1e-3


def test_describe_names_the_method_and_the_exact_complement():
    about = RMSprop(0.1, 0.999).rescaled(1 / 64.0).describe()
    assert about["class"] == "RMSprop"
    assert about["one_minus_beta"] == (1 - 0.999) / 64
