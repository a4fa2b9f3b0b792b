"""check_method: silent on every method of the registry, and each planted fault is called by its name."""

import math
from dataclasses import dataclass, replace
from typing import ClassVar

import pytest
import torch

from sdeadapt.methods import METHODS, SGD, Adam, AdamW, ItoSDE, Momentum, RMSprop, SignSGD, from_torch, method
from sdeadapt.methods.rmsprop import RMSpropPoint, RMSpropState
from sdeadapt.methods.sgd import SGDState
from sdeadapt.testing import MethodMismatch, check_method

WITH_EPS = {"eps": 0.3}  # an eps that a wrong rule for it cannot hide behind


@pytest.mark.parametrize("name", METHODS)
def test_every_method_of_the_registry(name):
    known = METHODS[name].__dataclass_fields__
    options = {option: value for option, value in WITH_EPS.items() if option in known}
    report = check_method(method(name, lr=0.1, **options))
    assert {"purity", "paths", "inverse", "time", "refinement"} <= {c.name for c in report.comparisons}


OTHERS = {
    "sgd, schedule": SGD(0.1, schedule=lambda t: 1 + t),
    "rmsprop, old": RMSprop(0.1, 0.9, 0.3, denominator="old"),
    "rmsprop, schedule": RMSprop(0.1, 0.9, 0.3, schedule=lambda t: 1 + t),
    "adam, old": Adam(0.1, 0.8, 0.9, 0.3, denominator="old"),
    "adam, plain": Adam(0.1, 0.8, 0.9, 0.3, bias_correction=False),
    "momentum, langevin": Momentum(0.1, friction="langevin", nesterov=True),
    "torch": from_torch(lambda p: torch.optim.Adagrad(p, lr=0.1), time_step=0.01),
}


@pytest.mark.parametrize("name", OTHERS)
def test_other_settings(name):
    report = check_method(OTHERS[name])
    rule = [c for c in report.comparisons if c.name == "batch-size rule"]
    assert len(rule) == (0 if name == "torch" else 6)
    assert len(report.skipped) == (2 if name == "torch" else 0)


OTHER_SCALINGS = {
    "rmsprop": RMSprop(0.1, 0.9, 0.3, scaling="ballistic"),
    "adam": Adam(0.1, 0.8, 0.9, 0.3, scaling="ballistic"),
    "adamw": AdamW(0.1, 0.8, 0.9, 0.3, scaling="ballistic", weight_decay=0.5),
    "signsgd": SignSGD(0.1, scaling="fixed-noise"),
}


@pytest.mark.parametrize("name", OTHER_SCALINGS)
def test_other_scalings_have_another_sde_at_another_batch_size(name):
    report = check_method(OTHER_SCALINGS[name])
    assert {"scaling", "sde"} <= {c.name for c in report.comparisons}
    assert "batch-size rule" not in {c.name for c in report.comparisons}


TORCH = {
    "sgd": (SGD(0.1), lambda p: torch.optim.SGD(p, lr=0.1)),
    "rmsprop": (RMSprop(0.1, 0.9, 0.3), lambda p: torch.optim.RMSprop(p, lr=0.1, alpha=0.9, eps=0.3)),
    "adam": (Adam(0.1), lambda p: torch.optim.Adam(p, lr=0.1)),
}


@pytest.mark.parametrize("name", TORCH)
def test_torch_parity_and_its_negative_control(name):
    ours, torchs = TORCH[name]
    assert check_method(ours, torch=torchs, steps=200).comparisons[-1].name == "torch"
    with pytest.raises(MethodMismatch, match=r"torch: .* must be equal path by path; theta is off"):
        check_method(replace(ours, lr=0.1 * (1 + 1e-7)), torch=torchs, steps=200)


class WritesIntoItsState(RMSprop):
    def step(self, state, g, k):
        state.v.mul_(self.beta).add_(g * g * self.one_minus_beta)
        return RMSpropState(state.theta - self.lr * g / (state.v.sqrt() + self.eps), state.v.clone())


class WritesIntoTheGradient(SGD):
    def step(self, state, g, k):
        return SGDState(state.theta - g.mul_(self.lr))


class Remembers(SGD):
    calls: ClassVar = []

    def step(self, state, g, k):
        self.calls.append(k)
        return SGDState(state.theta - self.lr * g * (1 + 1e-12 * len(self.calls)))


class DrawsGlobally(SGD):
    def step(self, state, g, k):
        torch.rand(1)
        return SGDState(state.theta - self.lr * g)


class ReusesItsBuffer(SGD):
    buffer: ClassVar = {}

    def step(self, state, g, k):
        kept = self.buffer.setdefault((g.shape, g.dtype), torch.empty_like(g))
        return SGDState(torch.sub(state.theta, g, alpha=self.lr, out=kept))


class MixesPaths(SGD):
    def step(self, state, g, k):
        return SGDState(state.theta - self.lr * g / (1 + g.norm()))


class MixesComponents(SGD):
    linear = False

    def step(self, state, g, k):
        return SGDState(state.theta - self.lr * g / (1 + g.norm(dim=1, keepdim=True)))


class WidensTheDtype(SGD):
    def step(self, state, g, k):
        return SGDState(state.theta.double() - self.lr * g.double())


class ReturnsAPoint(RMSprop):
    def step(self, state, g, k):
        return RMSpropPoint(*super().step(state, g, k))


class StartsElsewhere(SGD):
    def init(self, theta):
        return SGDState(torch.zeros_like(theta))


class DividesByScaleOnce(RMSprop):
    def from_point(self, point, scale):
        return RMSpropState(point.theta, point.u * scale)


class LosesDigits(RMSprop):
    def to_point(self, state, scale):
        return RMSpropPoint(state.theta, (state.v / scale**2 if scale else state.v).float().double())


class KeepsEps(RMSprop):
    def rescaled(self, kappa):
        return replace(super().rescaled(kappa), eps=self.eps)


class KeepsBeta(RMSprop):
    def rescaled(self, kappa):
        return replace(super().rescaled(kappa), beta=self.beta)


class RoundsBeta(RMSprop):
    def rescaled(self, kappa):
        return replace(super().rescaled(kappa), beta=round(1 - kappa * self.one_minus_beta, 6))


class LinearRuleForAdam(Adam):
    def rescaled(self, kappa):
        return replace(super().rescaled(kappa), lr=self.lr * kappa)


class RefinesByOne(RMSprop):
    def refinement(self, multiplier):
        return 1


class RefinesByAFraction(RMSprop):
    def refinement(self, multiplier):
        return multiplier**1.5


class LosesTime(SGD):
    def time(self, steps):
        return (steps - 1) * self.time_step


class StartsWithTheStepSize(RMSprop):
    def initial(self, local):
        return RMSpropPoint(local.theta, local.covariance_diagonal / self.lr)


class SaysBallistic(SGD):
    scaling = "ballistic"


class SaysBatchEquivalent(SGD):
    """With the noise of one lr, whatever the lr: the SDE of another family."""

    def sde(self, oracle, order=1):
        right = SGD.sde(self, oracle)

        def at(t, x):
            drift, diffuse = right.at(t, x)
            return drift, lambda dw: self.Point(diffuse(dw).theta / math.sqrt(self.lr))

        return ItoSDE(at, right.noise_dim, right.point)


class WritesIntoThePoint(RMSprop):
    def sde(self, oracle, order=1):
        right = RMSprop.sde(self, oracle)

        def at(t, x):
            x.u.clamp_(min=1.0)
            return right.at(t, x)

        return ItoSDE(at, right.noise_dim, right.point)


class NotLinear(SGD):
    linear = True

    def step(self, state, g, k):
        return SGDState(state.theta - self.lr * g.tanh())


@dataclass(frozen=True)
class OneType(SGD):
    Point = SGDState

    def initial(self, local):
        return SGDState(local.theta)


BROKEN = {
    WritesIntoItsState: "purity: `step` must leave its state as it was; v is off",
    WritesIntoTheGradient: "purity: `step` must leave the gradient as it was",
    Remembers: "purity: `step` must return the same for the same arguments",
    DrawsGlobally: "purity: `step` must draw no global random numbers",
    ReusesItsBuffer: "purity: `step` must",
    MixesPaths: "paths: paths together must move as each does alone.*theta is off",
    MixesComponents: "elementwise: a component must not see another one's gradient",
    WidensTheDtype: r"step, torch.float32: it must be a SGDState of tensors \(5, 2\) in torch.float32; got theta",
    ReturnsAPoint: "step: it must be a RMSpropState.*got a RMSpropPoint",
    StartsElsewhere: "init, theta: it must start at theta",
    DividesByScaleOnce: r"inverse: `to_point` must undo `from_point` \(scale 3\); u is off by a relative 0.67",
    LosesDigits: "inverse: `from_point` must undo `to_point`.*v is off",
    KeepsEps: "batch-size rule: with 0.25 times the batch .Quadratic. the SDE must be the same; the drift of theta",
    KeepsBeta: "batch-size rule: .* the drift of u is off by a relative .*Correct `rescaled`, `sde` or `scaling`",
    RoundsBeta: "batch-size rule: .*Rippled.* the drift of u is off",
    LinearRuleForAdam: r"rescaled: `rescaled\(0.25\)` must have 0.25 time steps: 0.0025; got 0.000625",
    RefinesByOne: r"refinement: `refinement\(2\)` must be a whole number above 1; got 1",
    RefinesByAFraction: r"refinement: `refinement\(2\)` must be a whole number above 1; got 2\.8",
    LosesTime: r"time: `time\(7\)` must be 7 time steps: 0.7; got 0.6",
    StartsWithTheStepSize: "initial: it must be the same at every step size; u is off",
    SaysBallistic: "`scaling` is 'ballistic', but the SDE is the same at every batch size: declare it \"batch-eq",
    SaysBatchEquivalent: "batch-size rule: .* the noise of theta is off",
    WritesIntoThePoint: "sde: it must leave the point as it was; u is off",
    NotLinear: "linear: `step` must be linear in state and gradient; theta is off",
    OneType: "State and Point: they must be two types",
}


@pytest.mark.parametrize("broken", BROKEN, ids=lambda cls: cls.__name__)
def test_broken_methods_are_caught(broken):
    options = {"eps": 0.3} if issubclass(broken, RMSprop | Adam) else {}
    with pytest.raises(MethodMismatch, match=f"{broken.__name__} must keep the contracts(.|\n)*{BROKEN[broken]}"):
        check_method(broken(lr=0.1, **options))


def test_the_global_state_and_the_methods_stay_as_they_are():
    before = torch.get_rng_state()
    assert check_method(SGD(0.1), rng=1).comparisons == check_method(SGD(0.1), rng=1).comparisons
    assert torch.equal(before, torch.get_rng_state())


def test_steps_are_checked():
    with pytest.raises(ValueError, match="`steps` must be a whole number >= 1; got 0"):
        check_method(SGD(0.1), steps=0)
