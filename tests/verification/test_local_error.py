"""Local error: each kind of mistake in an SDE is found, named by moment and power, with the coefficient of theory."""

import dataclasses
import json
import math
from typing import NamedTuple

import numpy as np
import pytest
import torch

import sdeadapt
from sdeadapt.__main__ import main
from sdeadapt.methods import SGD, Adam, RMSprop
from sdeadapt.methods.base import ItoSDE, Method
from sdeadapt.methods.rmsprop import RMSpropPoint
from sdeadapt.methods.sgd import SGDPoint
from sdeadapt.oracles.analytic import Quadratic, Rippled
from sdeadapt.oracles.base import NotDeclared, Oracle
from sdeadapt.oracles.noise import TwoPoint
from sdeadapt.verification.decision import Decision, Verdict
from sdeadapt.verification.local_error import explain, local_error
from sdeadapt.verification.local_error_report import judge
from sdeadapt.verification.one_step import chain_moments, monomials, sde_moments
from sdeadapt.verification.study import Study

SGD_16, SIGMA0 = SGD(lr=1 / 16), 0.5  # with scale 2: sigma0 = scale * sqrt(lr)
RMS = RMSprop(lr=0.25, beta=0.9375, eps=0.4)  # h = 1/16, c = 1; with scale 4: sigma0 = 1, eps0 = .1
OLD = dataclasses.replace(RMS, denominator="old")
ADAM = Adam(lr=0.25, beta1=0.9375, beta2=0.96875, eps=0.4)
THETA, U, DRAWS = 1.0, 1.3, 4.0


def tensor(*values):
    return torch.tensor([values], dtype=torch.float64)


def wavy(noise="gaussian", scale=DRAWS):
    """Return f = theta^2/2 + .25 sin(1.5 theta) with Sigma = 1."""
    return Rippled(scale=scale, modulation=0.0, noise=noise)


def derivatives(theta):
    """Return f', f'', f''' of `wavy`."""
    return (theta + 0.375 * math.cos(1.5 * theta), 1 - 0.5625 * math.sin(1.5 * theta), -0.84375 * math.cos(1.5 * theta))


def with_noise(change):
    """Return a recipe: the method's own SDE with dW changed."""

    def recipe(method, oracle):
        sde = method.sde(oracle)

        def at(t, x):
            drift, diffuse = sde.at(t, x)
            return drift, lambda dw: diffuse(change(dw))

        return dataclasses.replace(sde, at=at)

    return recipe


# --- moments of one step


class Line(NamedTuple):
    theta: torch.Tensor


def test_moments_of_an_sde_are_exact_to_the_power_promised():
    rate, size, x = 1.5, 0.7, 2.0

    def exact(h):  # Ornstein–Uhlenbeck
        mean = x * math.expm1(-rate * h)
        variance = -(size**2) * math.expm1(-2 * rate * h) / (2 * rate)
        return np.array([mean, mean**2 + variance, mean**3 + 3 * mean * variance])

    sde = ItoSDE(lambda t, p: (Line(-rate * p.theta), lambda dw: Line(size * dw)), 1, Line)
    for power in (2, 3, 4):
        error = []
        for h in (0.02, 0.01):
            found = sde_moments(sde, 0.0, Line(tensor(x)), h, [0], 3, power)
            error.append(np.abs([found[index] for index in monomials(1, 3)] - exact(h)))
        assert (np.log2(error[0] / error[1]) > power + 0.9).all()
        assert (error[0] > 1e-13).all()  # not rounding


def test_an_sde_may_depend_on_time_in_any_way_and_have_no_noise():
    sde = ItoSDE(lambda t, p: (Line(p.theta * 0 + math.cos(t)), lambda dw: Line(None)), 0, Line)
    found = sde_moments(sde, 0.3, Line(tensor(1.0)), 0.01, [0], 1, 4)
    assert found[0,] == pytest.approx(math.sin(0.31) - math.sin(0.3), abs=1e-12)


def test_moments_of_a_chain_are_sums_over_the_rule():
    oracle = Quadratic(1.5, 1.0, scale=0.5, noise=TwoPoint(skewness=1.0))
    found = chain_moments(SGD(lr=0.1), oracle, SGDPoint(tensor(2.0)), 0, oracle.rule(2), [0], 3)
    mean, deviation = -0.1 * 3.0, 0.1 * 0.5
    expected = [mean, mean**2 + deviation**2, mean**3 + 3 * mean * deviation**2 - deviation**3]
    assert [found[index] for index in monomials(1, 3)] == pytest.approx(expected, rel=1e-13)


def test_every_monomial_comes_once():
    assert monomials(2, 2) == [(0,), (1,), (0, 0), (0, 1), (1, 1)]
    assert len(set(monomials(3, 5))) == math.comb(8, 5) - 1


# --- SDEs that are right


@pytest.mark.parametrize("refine", ["svag", "noise", "step"])
def test_sgd(refine):
    report = local_error(SGD_16, wavy(), theta=[THETA], refine=refine)
    assert report.verdict is Verdict.CONFIRMED
    assert report.power == pytest.approx([2, 3, 4] if refine == "step" else [2, 2, 3], abs=0.02)


@pytest.mark.parametrize("refine", ["svag", "noise"])
@pytest.mark.parametrize("method", [RMS, OLD, ADAM, dataclasses.replace(ADAM, bias_correction=False)])
def test_adaptive_methods(method, refine):
    report = local_error(method, wavy(), theta=[THETA], refine=refine)
    assert report.verdict is Verdict.CONFIRMED
    assert set(report.status) == {"ok"}
    measured = report.power
    assert np.abs(measured - np.round(measured)).max() < 0.06  # whole powers: no skewness
    assert measured.min() == pytest.approx(2, abs=0.02)


def test_skewed_noise_of_state_dependent_correlated_components():
    report = local_error(RMS, Rippled(scale=DRAWS, dim=2), theta=[1.0, -0.5], components=[0, 1])
    assert report.verdict is Verdict.CONFIRMED
    assert "E[dtheta_0 dtheta_1 du_1]" in report.moments
    assert len(report.moments) == math.comb(7, 3) - 1
    one = local_error(RMS, Rippled(scale=DRAWS, dim=2), theta=[1.0, -0.5], components=[1])
    both = dict(zip(report.moments, report.chain, strict=True))
    assert all(np.allclose(both[name], row, rtol=1e-9) for name, row in zip(one.moments, one.chain, strict=True))


def test_adam_without_its_bias_correction_in_the_sde():
    def uncorrected(method, oracle):
        return dataclasses.replace(method, bias_correction=False).sde(oracle)

    first = local_error(ADAM, wavy(), uncorrected, theta=[THETA]).offending[0]
    assert (first.moment, first.power) == ("E[dtheta]", 1.0)


def test_what_does_not_move_is_zero():
    oracle = Quadratic([1.0, 0.0], [1.0, 0.0], scale=2.0)
    report = local_error(SGD_16, oracle, theta=[1.0, 3.0])
    assert report.verdict is Verdict.CONFIRMED
    still = [s for name, s in zip(report.moments, report.status, strict=True) if "_1" in name]
    assert set(still) == {"zero"}
    assert len(still) == 6


class Flat(Rippled):
    """Declares that Sigma is constant, as it is without modulation."""

    additive = True


@pytest.mark.parametrize("kind", [SGD, RMSprop, Adam])
def test_second_order_under_fixed_noise(kind):
    chosen = {} if kind is SGD else {"eps": 0.4, "scaling": "ballistic"}
    chosen |= {SGD: {}, RMSprop: {"beta": 0.96875}, Adam: {"beta1": 0.9375, "beta2": 0.96875}}[kind]
    method, oracle = kind(lr=1 / 16, **chosen), Flat(scale=0.8, modulation=0.0, noise="gaussian")
    report = local_error(method, oracle, theta=[THETA], order=2, refine="step")
    assert report.verdict is Verdict.CONFIRMED
    assert max(report.degree) == 5
    first = local_error(method, oracle, method.sde(oracle), theta=[THETA], order=2, refine="step")
    assert first.verdict is Verdict.REFUTED


# --- SDEs that are wrong


def test_a_missing_half_in_the_second_order_drift():
    def recipe(share):
        def sde(method, oracle):
            first, eta = method.sde(oracle), method.lr

            def at(t, x):
                here = oracle.at(x.theta)
                bend = here.hessian_product(here.gradient)
                return SGDPoint(-here.gradient - share * eta * bend), first.at(t, x)[1]

            return dataclasses.replace(first, at=at)

        return sde

    given = {"theta": [THETA], "order": 2, "refine": "step"}
    assert local_error(SGD_16, wavy(), recipe(0.5), **given).verdict is Verdict.CONFIRMED
    report = local_error(SGD_16, wavy(), recipe(1.0), **given)
    (wrong,) = report.offending
    slope, bend, _ = derivatives(THETA)
    assert (wrong.moment, wrong.power, wrong.needed) == ("E[dtheta]", 2.0, 3.0)
    assert wrong.coefficient == pytest.approx(slope * bend / 2, rel=1e-3)
    assert local_error(SGD_16, wavy(), recipe(1.0), theta=[THETA], refine="step").verdict is Verdict.CONFIRMED


def test_a_wrong_sign_in_the_covariance():
    oracle = Quadratic([1.0, 2.0], [[1.0, 0.6], [0.6, 1.0]], scale=2.0)
    mirror = Quadratic([1.0, 2.0], [[1.0, -0.6], [-0.6, 1.0]], scale=2.0)
    report = local_error(SGD_16, oracle, lambda m, o: m.sde(mirror.rescaled((2.0 / o.scale) ** 2)), theta=[1.0, -0.5])
    first = report.offending[0]
    assert (first.moment, first.power) == ("E[dtheta_0 dtheta_1]", 1.0)
    assert first.coefficient == pytest.approx(2 * 0.6 * SIGMA0**2, rel=1e-3)
    assert [row.moment for row in report.offending if row.power < 1.5] == ["E[dtheta_0 dtheta_1]"]


@pytest.mark.parametrize(("method", "moment"), [(RMS, "E[dtheta^2]"), (ADAM, "E[dm^2]")])
def test_a_wrong_constant_in_the_diffusion(method, moment):
    report = local_error(method, wavy(), with_noise(lambda dw: 1.1 * dw), theta=[THETA])
    first = report.offending[0]
    assert (first.moment, first.power) == (moment, 1.0)
    assert first.coefficient < 0
    assert "is wrong at h^1: chain" in report.message
    assert moment in report.message


def second_order(hessian_factor=1.0, third=-0.5):
    """Return RMSprop's batch-equivalent SDE of order 2 in one dimension, Gaussian noise and Sigma = s^2 = 1, in v = u.

    sigma0 = 1. `hessian_factor` multiplies the Hessian's part of the diffusion, `third` is the coefficient of f'''.
    """

    def recipe(method, oracle):
        tau, c, eps0 = method.time_step, method.one_minus_beta / method.time_step, method.eps * method.lr
        assert math.isclose(oracle.scale * method.lr, 1.0)

        def at(t, x):
            theta, v = x
            f1, f2 = theta + 0.375 * torch.cos(1.5 * theta), 1 - 0.5625 * torch.sin(1.5 * theta)
            f3, root, gap = -0.84375 * torch.cos(1.5 * theta), v.sqrt(), 1 - v
            d = 1 / (root + eps0)
            slow = -(d**2 * f1 * f2 + c * gap * f1 * d**2 / (2 * root) + third * d**3 * f3) / 2
            drift = RMSpropPoint(-d * f1 + tau * slow, c * gap + tau * (c * f1**2 + c**2 * gap / 2))
            m11 = d + tau * (hessian_factor * d**2 * f2 / 2 + c * gap * d**2 / (4 * root))

            def diffuse(dw):
                first, second = dw[:, :1], dw[:, 1:]
                return RMSpropPoint(-m11 * first, 2 * tau * c * f1 * first + c * math.sqrt(2 * tau) * second)

            return drift, diffuse

        return ItoSDE(at, 2, RMSpropPoint)

    return recipe


C2 = 0.5
SECOND = {"theta": [THETA], "initial": {"u": [U]}, "refine": "noise"}
OLD_2 = dataclasses.replace(OLD, beta=1 - C2 / 16)  # c = 1/2


def found_at_order_2(**changes):
    return local_error(OLD_2, wavy(), second_order(**changes), order=2, **SECOND)


def test_the_third_cumulant_that_no_diffusion_has():
    report = found_at_order_2()
    (wrong,) = report.offending  # every first and second moment agrees
    d = 1 / (math.sqrt(U) + 0.1)
    assert (wrong.moment, wrong.power) == ("E[dtheta^2 du]", 2.0)
    assert wrong.coefficient == pytest.approx(2 * C2 * d**2, rel=1e-3)  # (kurtosis - 1) c d^2 s^4
    assert local_error(OLD_2, wavy(), second_order(), order=1, **SECOND).verdict is Verdict.CONFIRMED


def test_an_extra_factor_c_in_the_diffusion():
    first = found_at_order_2(hessian_factor=C2).offending[0]
    d, (_, bend, _) = 1 / (math.sqrt(U) + 0.1), derivatives(THETA)
    assert (first.moment, first.power) == ("E[dtheta^2]", 2.0)
    assert first.coefficient == pytest.approx((1 - C2) * d**3 * bend, rel=1e-3)


def test_a_wrong_coefficient_of_the_third_derivative():
    first = found_at_order_2(third=2.0).offending[0]
    d, (_, _, third) = 1 / (math.sqrt(U) + 0.1), derivatives(THETA)
    assert (first.moment, first.power) == ("E[dtheta]", 2.0)
    assert first.coefficient == pytest.approx(1.25 * d**3 * third, rel=1e-3)


def test_fixed_skewness_costs_half_an_order_and_svag_restores_it():
    skewed = wavy(TwoPoint(skewness=2.0))
    found = {row.moment: row for row in local_error(OLD, skewed, **SECOND).rows}
    cross = found["E[dtheta du]"]
    assert (cross.power, cross.status) == (1.5, "too low")
    assert cross.coefficient == pytest.approx(-2.0 / (math.sqrt(U) + 0.1), rel=5e-3)  # -c mu3 / (sqrt(u) + eps0/sigma0)
    assert found["E[dtheta]"].status == found["E[dtheta^2]"].status == "ok"
    assert local_error(OLD, skewed, **{**SECOND, "refine": "svag"}).verdict is Verdict.CONFIRMED


# --- what cannot be settled

STEPS = 0.25 ** np.arange(1, 5)


@pytest.mark.parametrize(
    ("difference", "status", "power"),
    [
        (3 * STEPS**2, "ok", 2),
        (3 * STEPS**1.5, "too low", 1.5),
        (STEPS**2 + 0.5 * STEPS**2.5, "ok", 2),
        (STEPS**1.5 - 0.2 * STEPS**2, "too low", 1.5),
        (0.4 * STEPS**2 - 9 * STEPS**3, "ok", 1.7),  # changes its sign before the last pair
        (0.06 * STEPS**1.5 - STEPS**2, "unclear", 5.4),  # will change it, at too low a power
        (0.3 * STEPS**1.5 - STEPS**2, "unclear", 1.96),  # changed it, at too low a power
        (0.006 * STEPS**2 - STEPS**3, "unclear", math.nan),  # within the last pair
        (1e-14 * STEPS**0, "zero", math.inf),
        (np.array([1, 1e-5, 1e-9, 1e-13]) * 1e-5, "ok", 8.3),  # the last is rounding
        (np.array([0, 0, 0, 1e-6]), "unclear", math.nan),
    ],
)
def test_the_rule(difference, status, power):
    zero, chain = np.zeros((1, 4)), difference[None]
    found = judge(STEPS, chain, zero, np.full((1, 4), 1e-15), zero, 1)
    assert found["status"] == (status,)
    assert found["power"][0] == pytest.approx(power, abs=0.1, nan_ok=True)


def test_the_rule_on_nodes():
    difference, zero, rounding = 1e-3 * STEPS[None], np.zeros((1, 4)), np.full((1, 4), 1e-15)
    assert judge(STEPS, difference, zero, rounding, zero, 1)["status"] == ("too low",)
    assert judge(STEPS, difference, zero, rounding, difference, 1)["status"] == ("unclear",)
    assert judge(STEPS, difference, zero, rounding, 1e-3 * STEPS[None] ** 2, 1)["status"] == ("too low",)
    assert judge(STEPS, zero, zero, rounding, 1e-3 * STEPS[None] ** 2, 1)["status"] == ("zero",)


class SignPoint(NamedTuple):
    theta: torch.Tensor


@dataclasses.dataclass(frozen=True)
class Sign(Method):
    """A user's own: sign descent, one iteration is h = lr^2."""

    lr: float
    State = Point = SignPoint

    @property
    def time_step(self):
        return self.lr**2

    def refinement(self, multiplier):
        return multiplier**2

    def rescaled(self, kappa):
        return Sign(self.lr * math.sqrt(kappa))

    def init(self, theta):
        return SignPoint(theta)

    def step(self, state, g, k):
        return SignPoint(state.theta - self.lr * g.sign())

    def to_point(self, state, scale):
        return state

    def from_point(self, point, scale):
        return point

    def initial(self, local):
        return SignPoint(local.theta)


def sign_sde(method, oracle):
    slope = math.sqrt(2 / math.pi) / (oracle.scale * method.lr)
    return ItoSDE(
        lambda t, x: (SignPoint(-slope * oracle.at(x.theta).gradient), lambda dw: SignPoint(-dw)), 1, SignPoint
    )


def test_nodes_that_do_not_resolve_a_jump_are_not_taken_for_an_error():
    report = local_error(Sign(0.25), wavy(), sign_sde, theta=[THETA], refine="noise")
    status = dict(zip(report.moments, report.status, strict=True))
    assert report.verdict is Verdict.INCONCLUSIVE
    assert status["E[dtheta]"] == "unclear"
    assert status["E[dtheta^2]"] != "too low"
    assert "E[dtheta]" in report.message
    assert "differ by no clear power of h" in report.message


# --- reports


def test_it_comes_back_from_disk(tmp_path):
    report = local_error(RMS, wavy(), with_noise(lambda dw: 1.1 * dw), theta=[THETA])
    assert sdeadapt.load(report.save(tmp_path / "run")) == report


def test_the_summary_lists_wrong_moments_first_and_is_narrow():
    report = local_error(RMS, Rippled(scale=DRAWS, dim=2), with_noise(lambda dw: 1.1 * dw), theta=[1.0, -0.5])
    lines = report.summary().splitlines()
    assert lines[0].startswith("REFUTED: E[dtheta_0^2] is wrong at h^1: chain ")
    first = next(i for i, line in enumerate(lines) if line.startswith("moment"))
    assert lines[first + 1].startswith("E[dtheta_0^2]")
    assert lines[first + 1].endswith("too low")
    assert f"and {len(report.moments) - 24} more, in `report.rows`" in lines[-1]
    assert max(map(len, lines)) <= 120


class Sampler(Oracle):
    dim, noise_dim, scale = 1, 0, 1.0

    def stream(self, generator, paths):
        raise AssertionError

    def sample(self, local, draw):
        raise AssertionError

    def to(self, device, dtype):
        return self


@dataclasses.dataclass(frozen=True)
class Forgetful(SGD):
    invertible = False


MANY = Quadratic([1.0] * 13, [1.0] * 13, scale=2.0)
WIDE = ItoSDE(lambda t, x: (SGDPoint(-x.theta), lambda dw: SGDPoint(dw.sum(1, keepdim=True))), 80, SGDPoint)


@pytest.mark.parametrize(
    ("kind", "method", "oracle", "options", "message"),
    [
        (ValueError, SGD_16, wavy(), {}, "`theta` must be given"),
        (ValueError, SGD_16, wavy(), {"theta": [[1.0], [2.0]]}, "must be one point"),
        (ValueError, SGD_16, wavy(), {"theta": [1.0], "order": 0}, "`order` must be a whole number"),
        (ValueError, SGD_16, wavy(), {"theta": [1.0], "multipliers": (1, 2, 8)}, "each the same factor above 1"),
        (ValueError, SGD_16, wavy(), {"theta": [1.0], "multipliers": (8, 4, 2)}, "each the same factor above 1"),
        (ValueError, SGD_16, wavy(), {"theta": [1.0], "t": 0.01}, "`t` must be a whole number of base steps"),
        (ValueError, SGD_16, wavy(), {"theta": [1.0], "sde": WIDE}, "few Brownian columns .* got 80"),
        (ValueError, SGD_16, wavy(), {"theta": [1.0], "components": [1]}, "`components` must be among 0 … 0"),
        (ValueError, SGD_16, MANY, {"theta": [1.0] * 13}, "at most 12 coordinates; got 13"),
        (
            ValueError,
            RMS,
            wavy(),
            {"theta": [1.0], "initial": {"v": [1.0]}},
            "`initial` must have the fields theta, u; got",
        ),
        (ValueError, RMS, wavy(), {"theta": [1.0], "initial": {"u": [1.0, 2.0]}}, "`initial` u must have shape"),
        (ValueError, RMS, wavy(), {"theta": [1.0], "initial": {"theta": [2.0]}}, "`initial` theta must agree"),
        (ValueError, RMS, wavy(), {"theta": [1.0], "initial": {"u": [math.nan]}}, "`initial` u must be finite"),
        (NotDeclared, SGD_16, Sampler(), {"theta": [1.0], "sde": WIDE, "refine": "step"}, "does not declare `rule`"),
        (NotDeclared, Forgetful(0.1), wavy(), {"theta": [1.0]}, "a Point that is all the method remembers"),
    ],
)
def test_what_is_refused(kind, method, oracle, options, message):
    if oracle.noise_dim == 0:
        options = {**options, "sde": dataclasses.replace(WIDE, noise_dim=1)}
    with pytest.raises(kind, match=message):
        local_error(method, oracle, **options)


# --- from a study, and from the command line

REFUTED = Decision(Verdict.REFUTED, "", (), None, "")


def study(method, oracle, sde, theta0=(THETA,), **options):
    asked = {"horizon": None, "steps": 12, "multipliers": None, "refine": "svag", "order": 1, "initial": None,
             "start": None, "times": None, "test_functions": None, "solver": "extrapolated", "substeps": 4,
             "run": sdeadapt.Run()} | options  # fmt: skip
    return Study.build(method, oracle, theta0=theta0, sde=sde, **asked)


@pytest.mark.parametrize(("method", "moment"), [(SGD_16, "E[dtheta^2]"), (RMS, "E[dtheta^2]"), (ADAM, "E[dm^2]")])
def test_a_refuted_study_is_explained(method, moment):
    report = explain(study(method, wavy(), with_noise(lambda dw: 1.1 * dw)), REFUTED)
    assert report is not None
    assert (report.offending[0].moment, report.offending[0].power) == (moment, 1.0)
    assert report.seconds < 2


def test_what_is_not_explained():
    wrong = with_noise(lambda dw: 1.1 * dw)
    assert explain(study(RMS, wavy(), wrong), dataclasses.replace(REFUTED, verdict=Verdict.INCONCLUSIVE)) is None
    assert explain(study(RMS, wavy(), None), REFUTED) is None  # nothing is wrong in one step
    assert explain(study(RMS, Quadratic([1.0] * 4, [1.0] * 4, DRAWS), wrong, theta0=[1.0] * 4), REFUTED) is None
    assert explain(study(RMS, wavy(), wrong, multipliers=(1, 2, 5)), REFUTED) is None
    without = study(
        SGD_16, Sampler(), dataclasses.replace(WIDE, noise_dim=1), refine="step", test_functions=["theta_0"]
    )
    assert explain(without, REFUTED) is None


WRONG = """
import dataclasses
def too_noisy(method, oracle):
    sde = method.sde(oracle)
    def at(t, x):
        drift, diffuse = sde.at(t, x)
        return drift, lambda dw: diffuse(1.1 * dw)
    return dataclasses.replace(sde, at=at)
"""


def test_the_command(tmp_path, monkeypatch, capsys):
    (tmp_path / "mistaken.py").write_text(WRONG)
    monkeypatch.chdir(tmp_path)
    asked = ["verify", "--local", "--problem", "one-dimensional"]
    assert main([*asked, "--out", "right"]) == 0
    assert capsys.readouterr().out.endswith("right\nCONFIRMED\n")
    assert main([*asked, "--sde", "mistaken:too_noisy", "--out", "wrong"]) == 1
    assert "E[dtheta^2] is wrong at h^1" in capsys.readouterr().out
    assert sdeadapt.load(tmp_path / "wrong").offending[0].moment == "E[dtheta^2]"
    assert json.loads((tmp_path / "wrong" / "config.json").read_text())["local"]
    assert main(["verify", "--config", "wrong", "--out", "again"]) == 1
    assert sdeadapt.load(tmp_path / "again").status == sdeadapt.load(tmp_path / "wrong").status
    capsys.readouterr()
    assert main([*asked, "--multipliers", "1", "2", "8", "--out", "uneven"]) == 2
    assert "each the same factor above 1" in capsys.readouterr().err
