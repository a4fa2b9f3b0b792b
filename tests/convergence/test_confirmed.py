"""True SDEs are CONFIRMED, with order 1 measured at the finest pair of steps; the same studies refute wrong ones.

The slow tests are the claims in full (multipliers 1, 2, 4, 8 or 1, 4, 16, 64, under a minute of one core each, machine
not shared); the quick ones stop a level earlier. Every problem is in its asymptotic range, relative changes per
iteration at most 1/8.
"""

import math
from dataclasses import replace
from typing import Any, NamedTuple

import pytest

from sdeadapt.methods import SGD, Adam, RMSprop
from sdeadapt.oracles.analytic import MultiplicativeNoise, Quadratic, Rippled
from sdeadapt.simulation.run import Run
from sdeadapt.verification.planning import Budget
from sdeadapt.verification.weak_error import verify

HESSIAN, COVARIANCE = [[0.8, 0.3], [0.3, 0.4]], [[1.0, -0.4], [-0.4, 0.7]]  # they do not commute
ROTATION = [[math.cos(0.5), -math.sin(0.5)], [math.sin(0.5), math.cos(0.5)]]
PLANE = ("theta_0", "theta_0_squared", "theta_1", "theta_1_squared", "projection_0_squared", "loss")
LINE = ("theta_0", "theta_0_squared", "loss")
QUICK = Run(chunk=1024)


class Case(NamedTuple):
    """A study: `sigma0` is the scale in SDE time, sigma sqrt(h); paths are per level, of the full study."""

    method: Any
    oracle: Any
    sigma0: float
    theta0: list[float]
    steps: int
    paths: int
    functions: tuple[str, ...]
    initial: Any = None

    def verify(self, **options):
        oracle = self.oracle(self.sigma0 / math.sqrt(self.method.time_step))
        fields = self.method.Point._fields
        extra = [n for n, field in (("mean_u", "u"), ("m_norm_squared", "m")) if field in fields]
        return verify(
            self.method, oracle, theta0=self.theta0, steps=self.steps, initial=self.initial,
            test_functions=[*self.functions, *extra], budget=Budget(paths=self.paths), **options,
        )  # fmt: skip

    def quickly(self, **options):
        """Three levels, a few paths, no choice of estimator."""
        method = self.method
        return self._replace(paths=QUICK.chunk).verify(
            multipliers=(1, 4, 16) if isinstance(method, SGD) else (1, 2, 4),
            estimator="coupled" if isinstance(method, Adam) else "independent",
            run=QUICK,
            **options,
        )


def rmsprop(h, eps0, c2, **options):
    return RMSprop(lr=math.sqrt(h), beta=1 - c2 * h, eps=eps0 / math.sqrt(h), **options)


def adam(h, eps0, c1, c2, **options):
    return Adam(lr=math.sqrt(h), beta1=1 - c1 * h, beta2=1 - c2 * h, eps=eps0 / math.sqrt(h), **options)


def quadratic(scale):
    return Quadratic(HESSIAN, COVARIANCE, scale)


def multiplicative(scale):
    return MultiplicativeNoise([0.9, 0.3], ROTATION, scale)


def rippled(scale):
    return Rippled(scale, dim=1)  # exponential noise: skewness 2


START, U0 = [1.5, 0.8], {"u": [2.0, 0.35]}
CASES = {
    "SGD quadratic": Case(SGD(1 / 8), quadratic, 0.3, START, 8, 4096, PLANE),
    "RMSprop quadratic": Case(rmsprop(1 / 8, 0.7, 0.5), quadratic, 0.3, START, 8, 16384, PLANE, U0),
    "RMSprop old v quadratic": Case(
        rmsprop(1 / 8, 0.7, 0.5, denominator="old"), quadratic, 0.3, START, 8, 16384, PLANE, U0
    ),
    "Adam quadratic": Case(adam(1 / 8, 0.7, 1.0, 0.5), quadratic, 0.3, START, 16, 16384, PLANE),
    "Adam old v quadratic": Case(
        adam(1 / 8, 0.7, 1.0, 0.5, denominator="old"), quadratic, 0.3, START, 16, 16384, PLANE
    ),
    "SGD multiplicative": Case(SGD(1 / 16), multiplicative, 0.2, START, 8, 4096, PLANE),
    # chosen after c2 = .5 with 8,192 paths was INCONCLUSIVE at seed 0 (CONFIRMED at 1 to 5);
    # this one is CONFIRMED at seeds 0 to 5
    "RMSprop multiplicative": Case(rmsprop(1 / 16, 0.7, 0.25), multiplicative, 0.2, START, 8, 16384, PLANE),
    "Adam multiplicative": Case(adam(1 / 16, 0.7, 1.0, 0.5), multiplicative, 0.2, START, 16, 4096, PLANE),
    "SGD rippled": Case(SGD(1 / 16), rippled, 0.1, [1.5], 8, 8192, LINE),
    "RMSprop rippled": Case(rmsprop(1 / 8, 0.7, 0.5), rippled, 0.1, [1.5], 8, 4096, LINE),
    "Adam rippled": Case(adam(1 / 8, 1.5, 1.0, 1.0), rippled, 0.1, [1.5], 16, 2048, LINE),
}


def check_confirmed(report):
    """CONFIRMED, nothing violated, and the study itself sound."""
    assert report.verdict.value == "CONFIRMED", report.message
    assert not [t.label for t in report.tests if t.status == "violated"]
    assert report.diagnostics["diverged"] == 0
    assert report.diagnostics["control_z"] < 5  # of some 300 controls of mean zero
    assert max(rate for name, rate in report.diagnostics.items() if name.startswith("rate_")) <= 1 / 8 + 1e-9


def check_order(report, names, width):
    """Order 1 ± .1 at the finest pair, known within `width`."""
    for test in report.tests:
        if test.name in names:
            low, high = test.order_interval
            assert abs(test.order - 1) <= 0.1, (test.label, test.order)
            assert high - low <= width, (test.label, test.order_interval)


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_confirmed(name):
    report = CASES[name].verify()
    check_confirmed(report)
    if "quadratic" in name:
        check_order(report, ("theta_0", "theta_0_squared", "mean_u"), 0.2)


@pytest.mark.parametrize("name", ["SGD quadratic", "RMSprop quadratic", "Adam old v quadratic"])
def test_confirmed_quickly(name):
    check_confirmed(CASES[name].quickly())


def louder(method, oracle):
    """The method's SDE with a tenth more noise, in the diffusion and in what v averages."""
    return method.sde(oracle.rescaled(1 / 1.21))


def slower(method, oracle):
    """The method's SDE with an average of squares that is a tenth too slow."""
    name = "beta" if hasattr(method, "beta") else "beta2"
    return replace(method, **{name: 1 - 0.9 * (1 - getattr(method, name))}).sde(oracle)


@pytest.mark.parametrize(
    ("name", "wrong"),
    [("SGD quadratic", louder), ("RMSprop quadratic", louder), ("Adam old v quadratic", slower)],
)
def test_the_same_studies_refute_wrong_sdes(name, wrong):
    report = CASES[name].quickly(sde=wrong)
    assert report.verdict.value == "REFUTED", report.message
