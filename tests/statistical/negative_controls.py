r"""Wrong SDEs that a verdict must refute, as data: problem, what is wrong, the error it leaves at h = 0.

One dimension, f = theta^2/2, Sigma = 1, sigma0 = 1, theta0 = 1.5, so that the moments of chain and SDE at T solve small
linear equations and every plateau is known exactly: (true SDE) - (wrong SDE). RMSprop: base h = 1/4, eps0 = .1, c2 = 1,
u0 = 2, T = 1. Adam: base h = 1/16, eps0 = .3, c1 = 2, c2 = 1, from t0 = 8 base steps to T = 1.5. The multiplicative
problems have Sigma = theta^2.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import torch
from scipy.integrate import solve_ivp

from sdeadapt.methods import SGD, Adam, RMSprop
from sdeadapt.oracles.amplified import Amplified
from sdeadapt.oracles.analytic import MultiplicativeNoise, Quadratic
from sdeadapt.simulation.run import Run
from sdeadapt.verification.planning import Budget
from sdeadapt.verification.report import WeakErrorReport
from sdeadapt.verification.weak_error import verify

ADAM, LINEAR = Adam(0.25, 0.875, 0.9375, 1.2), Quadratic(1.0, 1.0, scale=4.0)
PROBLEMS: Mapping[str, Mapping[str, Any]] = {
    "rmsprop": {"method": RMSprop(0.5, 0.75, 0.2), "oracle": Quadratic(1.0, 1.0, scale=2.0), "steps": 4,
                "initial": {"u": [2.0]}, "estimator": "independent"},
    "rmsprop, skewed": {"method": RMSprop(0.5, 0.75, 0.2, denominator="old"), "steps": 4, "initial": {"u": [2.0]},
                        "oracle": Quadratic(1.0, 1.0, scale=2.0, noise="exponential"), "estimator": "independent"},
    "rmsprop, multiplicative": {"method": RMSprop(0.5, 0.75, 0.2), "oracle": MultiplicativeNoise(1.0, scale=2.0),
                                "steps": 4, "initial": {"u": [2.0]}, "estimator": "coupled"},
    "sgd, multiplicative": {"method": SGD(0.25), "oracle": MultiplicativeNoise(1.0, scale=1.0), "steps": 4,
                            "estimator": "coupled"},
    "adam": {"method": ADAM, "oracle": LINEAR, "steps": 24, "estimator": "coupled"},
}  # fmt: skip


def scaled_noise(factor, method, oracle):
    own = method.sde(oracle)

    def at(t, x):
        drift, diffuse = own.at(t, x)
        return drift, lambda dw: diffuse(factor * dw)

    return replace(own, at=at)


def without_eps(method, oracle):
    return replace(method, eps=0.0).sde(oracle)


def slower_average(method, oracle):
    """c2 is 10 % too small."""
    return replace(method, beta=1 - 0.9 * method.one_minus_beta).sde(oracle)


def without_c1(method, oracle):
    return scaled_noise(method.time_step / method.one_minus_beta1, method, oracle)


def without_root_gamma2(method, oracle):
    """P = sigma0 sqrt(u) + eps0."""
    own = method.sde(oracle)
    sigma0, eps0, c2 = oracle.scale * method.lr, method.eps * method.lr, method.one_minus_beta2 / method.time_step

    def at(t, x):
        drift, diffuse = own.at(t, x)
        root = sigma0 * x.u.clamp_min(0).sqrt()
        p = root + eps0 * math.sqrt(-math.expm1(-c2 * t))
        return drift._replace(theta=drift.theta * p / (root + eps0)), diffuse

    return replace(own, at=at)


def stratonovich(method, oracle):
    """The noise b(theta) = c theta read in the sense of Stratonovich: the drift gains b b'/2 = b^2 / (2 theta)."""
    own = method.sde(oracle)

    def at(t, x):
        drift, diffuse = own.at(t, x)
        b = diffuse(torch.ones_like(x.theta)).theta
        return drift._replace(theta=drift.theta + b * b / (2 * x.theta)), diffuse

    return replace(own, at=at)


def sgd_weights(method, oracle, r):
    """SVAG with l where the adaptive methods need r = l^2."""
    return method.rescaled(1 / r), Amplified(oracle, math.isqrt(r))


def rmsprop_moments(eps0=0.1, c2=1.0, noise=1.0):
    """E theta, E theta^2 and E u of the SDE at T = 1 (u is deterministic)."""

    def u(t):
        return 1 + math.exp(-c2 * t)

    def rates(t, y):
        p = math.sqrt(u(t)) + eps0
        return [-y[0] / p, -2 * y[1] / p + (noise / p) ** 2]

    mean, second = solve_ivp(rates, (0, 1), [1.5, 1.5**2], rtol=1e-11, atol=1e-13).y[:, -1]
    return {"theta_0": mean, "theta_0_squared": second, "mean_u": u(1)}


def adam_moments(root_gamma2=True, noise=2.0, c1=2.0, c2=1.0, eps0=0.3, t0=0.5):
    """E theta, E theta^2, E m^2 and E u of the SDE at T = 1.5: true up to t0, as the chain is, then the one described.

    u = gamma_2 from u = 0, so that P = sqrt(gamma_2) (1 + eps0) if eps0 comes with its factor.
    """

    def rates(t, y, root_gamma2, noise):
        gamma1, root = -math.expm1(-c1 * t), math.sqrt(-math.expm1(-c2 * t))
        a = root / gamma1 / (root + eps0 * (root if root_gamma2 else 1))
        x, m, xx, xm, mm = y
        return [-a * m, c1 * (x - m), -2 * a * xm, c1 * (xx - xm) - a * mm, 2 * c1 * (xm - mm) + noise**2]

    y = [1.5, 0, 1.5**2, 0, 0]
    for begin, end, arguments in ((1e-12, t0, (True, c1)), (t0, 1.5, (root_gamma2, noise))):
        y = solve_ivp(rates, (begin, end), y, args=arguments, rtol=1e-11, atol=1e-13).y[:, -1]
    return {"theta_0": y[0], "theta_0_squared": y[2], "m_norm_squared": y[4], "mean_u": -math.expm1(-c2 * 1.5)}


def multiplicative_moments(correction=0.0):
    """E theta and E theta^2 at T = 1 of d theta = -(1 - correction) theta dt - theta / 2 dW."""
    return {
        "theta_0": 1.5 * math.exp(correction - 1),
        "theta_0_squared": 1.5**2 * math.exp(2 * (correction - 1) + 0.25),
    }


@dataclass(frozen=True)
class Control:
    """A wrong SDE (or a wrong family) on a problem.

    seen: test functions that are to be violated at `paths` a level; plateau: the exact error at h = 0, where known;
    wrong: what `verify` is told; quick: multipliers of the default suite, four only where three do not refute (an
    error changes sign among them); the slow suite has four always.
    """

    problem: str
    seen: tuple[str, ...]
    wrong: Mapping[str, Any]
    plateau: Mapping[str, float] = field(default_factory=dict)
    quick: tuple[int, ...] = (1, 2, 4)
    paths: int = 256


def study(problem: str, paths: int, seed: int, **options: Any) -> WeakErrorReport:
    settings = {"theta0": [1.5], "budget": Budget(paths=paths), "run": Run(chunk=paths)} | PROBLEMS[problem]
    return verify(**settings, rng=seed, **options)


def full_study(name: str, seed: int) -> WeakErrorReport:
    """Return a control's study with all four levels and four times the paths of the default suite."""
    control = CONTROLS[name]
    return study(control.problem, 4 * control.paths, seed, **control.wrong)


def difference(moments: Callable[..., dict[str, float]], **wrong: Any) -> dict[str, float]:
    true, other = moments(), moments(**wrong)
    return {name: true[name] - other[name] for name in true}


def rmsprop(seen: tuple[str, ...], sde: Any, quick: tuple[int, ...] = (1, 2, 4), **wrong: float) -> Control:
    return Control("rmsprop", seen, {"sde": sde}, difference(rmsprop_moments, **wrong), quick)


CONTROLS: Mapping[str, Control] = {
    "eps0 dropped": rmsprop(("theta_0",), without_eps, eps0=0.0),
    "diffusion halved": rmsprop(("theta_0_squared",), partial(scaled_noise, 0.5), noise=0.5),
    "diffusion 3 % too small": rmsprop(("theta_0_squared",), partial(scaled_noise, 0.97), (1, 2, 4, 8), noise=0.97),
    "gradient flow": rmsprop(("theta_0_squared",), partial(scaled_noise, 0.0), noise=0.0),
    "c2 10 % too small": rmsprop(("theta_0", "mean_u"), slower_average, (1, 2, 4, 8), c2=0.9),
    "Stratonovich, RMSprop": Control(
        "rmsprop, multiplicative", ("theta_0", "theta_0_squared"), {"sde": stratonovich}
    ),
    "Stratonovich, SGD": Control(
        "sgd, multiplicative", ("theta_0", "theta_0_squared"), {"sde": stratonovich},
        difference(multiplicative_moments, correction=0.125), (1, 4, 16),
    ),
    "fixed skewness": Control("rmsprop, skewed", ("theta_0_squared",), {"refine": "noise"}, paths=1024),
    "sqrt(gamma2) dropped": Control(
        "adam", ("theta_0",), {"sde": without_root_gamma2}, difference(adam_moments, root_gamma2=False)
    ),
    "c1 missing in the noise": Control(
        "adam", ("theta_0_squared", "m_norm_squared"), {"sde": without_c1}, difference(adam_moments, noise=1.0),
    ),
    "SGD's weights with Adam": Control(
        "adam", ("theta_0_squared",), {"refine": sgd_weights, "sde": ADAM.sde(LINEAR)}, quick=(2, 3, 4)
    ),
}  # fmt: skip
