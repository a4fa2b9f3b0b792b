r"""Where noise has too few moments the weak order of RMSprop's SDE falls, and for bounded test functions too.

Definition 2.7 of Malladi et al. 2022 asks for all moments of z. Student's law with nu degrees of freedom, of variance
1, has those below nu only. RMSprop's u is an average of z², with E z⁴ infinite for nu <= 4, and tends to its mean as a
sum of heavy-tailed terms does: E exp(−s u) errs by h^(nu/2 − 1) instead of h.

Without random numbers: where the gradient is 0, u_k is a sum, and E exp(−s u_k) a product of Laplace transforms of z²,
E exp(−q z²) = E sqrt(W / (W + 2 q (nu − 2))) with W chi-square of nu degrees of freedom. At nu = 3/2, where the
variance is infinite too (the scale is then Student's own), there is no SDE: E exp(−u) tends to 0. With a gradient, the
whole of RMSprop is put to `verify`, on bounded test functions.

    python experiments/bounded_moments.py --out results/bounded_moments
"""

import math
import sys
import time
from functools import cache

import numpy as np
import torch
from claims import Claim, arguments, conclude
from claims import decide as within
from matplotlib.figure import Figure
from scipy import stats

import sdeadapt as sa
from sdeadapt.oracles.analytic import Quadratic
from sdeadapt.oracles.noise import StudentT
from sdeadapt.verification.decision import decide

CLAIM = __doc__.split("\n")[0]
LAWS = {"Gaussian": math.inf, "Student, ν = 6": 6.0, "Student, ν = 3": 3.0, "Student, ν = 2.5": 2.5}
RATE, HORIZON, START, SCALES = 1.0, 2.0, 2.0, (0.5, 2.0)  # du = c (1 − u) dt, over two units of time, from u = 2
NODES = 1000  # of the law of W


@cache
def transform(nu):
    """Return q -> E exp(−q z²) for Student's z, of variance 1 where it has one."""
    if math.isinf(nu):
        return lambda q: 1 / np.sqrt(1 + 2 * q)
    factor = nu - 2 if nu > 2 else nu
    x, weights = np.polynomial.legendre.leggauss(NODES)
    top = stats.chi(nu).isf(1e-17)
    w, weights = (x + 1) * top / 2, weights * top / 2 * stats.chi(nu).pdf((x + 1) * top / 2)
    weights /= weights.sum()
    return lambda q: 1 - weights @ (1 - w[:, None] / np.sqrt(w[:, None] ** 2 + 2 * factor * np.atleast_1d(q)))


def laplace_of_u(nu, h, s):
    """E exp(−s u) of the chain at the horizon, with u from START and the gradient 0."""
    steps, keep = round(HORIZON / h), 1 - RATE * h
    value, factors = transform(nu), s * RATE * h * keep ** np.arange(steps)
    logs = [np.log(value(part)).sum() for part in np.array_split(factors, math.ceil(steps / 512))]
    return math.exp(sum(logs) - s * keep**steps * START)


def exact(s):
    """E exp(−s u) of the SDE, whose u is not random."""
    return math.exp(-s * (1 + (START - 1) * math.exp(-RATE * HORIZON)))


def order_one(errors, h):
    """What the rule of `verify` says of order 1; the errors are exact to 1e-9."""
    covariance = np.stack([np.diag((1e-9 + 0 * row) ** 2) for row in errors])
    return decide(h, errors, covariance, scale=[exact(s) for s in SCALES])


def whole(nu, options):
    """RMSprop on a parabola beside its SDE: quadrature for a Gaussian, Monte Carlo for Student's law."""
    h, gaussian = 1 / 8, math.isinf(nu)
    oracle = Quadratic(1.0, 1.0, 1 / math.sqrt(h), "gaussian" if gaussian else StudentT(nu))
    return sa.verify(
        sa.RMSprop(math.sqrt(h), 1 - RATE * h, 0.3 / math.sqrt(h)), oracle, theta0=[1.0], steps=16, refine="noise",
        initial={"u": [START]}, multipliers=(1, 2, 4) if gaussian else (1, 2, 4, 8),
        test_functions={"exp(-u)": lambda x: torch.exp(-x.u[:, 0]), "cos theta": lambda x: torch.cos(x.theta[:, 0])},
        estimator="quadrature" if gaussian else "independent", rng=7,
        budget=sa.Budget() if gaussian else sa.Budget(paths=512 if options.smoke else 1 << 17),
    )  # fmt: skip


def draw(h, found, lost):
    figure = Figure(figsize=(13.5, 4.4), layout="constrained")
    left, middle, right = figure.subplots(1, 3)
    for (name, errors), colour in zip(found.items(), ("0.4", "#1b7837", "#c98a1b", "#b2182b"), strict=True):
        left.loglog(h, np.abs(errors[0]), "o-", ms=4, color=colour, label=name)
        orders = np.log(errors[0, :-1] / errors[0, 1:]) / np.log(h[:-1] / h[1:])
        middle.semilogx(h[1:], orders, "o-", ms=4, color=colour)
        middle.axhline(min(1.0, LAWS[name] / 2 - 1), color=colour, lw=0.8, ls=":")
    left.set(xlabel="time step h", ylabel=f"|error| of E exp(−{SCALES[0]:g} u)")
    left.legend(frameon=False, fontsize=8)
    middle.set(xlabel="time step h", ylabel="local order", title="dotted: min(1, ν/2 − 1)", ylim=(0, 1.2))
    right.semilogx(h, lost, "o-", ms=4, color="#b2182b", label="ν = 3/2, no variance")
    right.axhline(exact(1.0), color="0.4", lw=0.8, label="the SDE, variance 1")
    right.set(xlabel="time step h", ylabel="E exp(−u)", ylim=(0, None))
    right.legend(frameon=False, fontsize=8)
    for axis in (left, middle, right):
        axis.grid(alpha=0.25)
    return figure


def main(argv=None):
    options, began = arguments(CLAIM, argv), time.perf_counter()
    print(CLAIM)
    h = 2.0 ** -np.arange(3, 8 if options.smoke else 13)
    found = {
        name: np.array([[laplace_of_u(nu, step, s) - exact(s) for step in h] for s in SCALES])
        for name, nu in LAWS.items()
    }
    claims = []
    for name, errors in found.items():
        decision = order_one(errors, h)
        last = np.log(errors[0, -2] / errors[0, -1]) / math.log(2)
        expected = "CONFIRMED" if LAWS[name] > 4 else "REFUTED"
        claims.append(Claim(f"u has weak order 1 for exp(−s u), without random numbers: {name}", decision.verdict,
                            f"local order {last:.3f}. {decision.message}", expected))  # fmt: skip
    for name in ("Student, ν = 3", "Student, ν = 2.5"):
        theory, errors = LAWS[name] / 2 - 1, found[name][0]
        last = np.log(errors[-2] / errors[-1]) / math.log(2)
        claims.append(Claim(f"The order is nu/2 − 1 = {theory:g}, to .05: {name}",
                            within(last, last, (theory - 0.05, theory + 0.05)), f"{last:.3f}"))  # fmt: skip
    lost = np.array([laplace_of_u(1.5, step, 1.0) for step in h])
    claims.append(Claim("Without a variance E exp(−u) has a limit above 0: the last two steps differ by less than 1 %",
                        within(lost[-1] / lost[-2], lost[-1] / lost[-2], (0.99, 1.01)),
                        f"nu = 3/2: {lost[0]:.3f} at h = 1/8, {lost[-1]:.1e} at h = 2^-{-math.log2(h[-1]):.0f}",
                        "REFUTED"))  # fmt: skip
    for name in ("Gaussian", "Student, ν = 3"):
        report = whole(LAWS[name], options)
        report.save(options.out / ("gaussian" if name == "Gaussian" else "student_3"))
        expected = "CONFIRMED" if name == "Gaussian" else "REFUTED"
        claims.append(Claim(f"RMSprop has weak order 1 for exp(−u) and cos theta, with a gradient: {name}",
                            report.verdict, report.message, expected))  # fmt: skip
    draw(h, found, lost).savefig(options.out / "bounded_moments.png", dpi=130)
    return conclude(claims, options, began)


if __name__ == "__main__":
    sys.exit(main())
