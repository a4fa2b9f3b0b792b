r"""Sign descent sees the law of the noise, not its covariance: its SDE is right with that law and wrong without it.

The mean of a sign is erf of the ratio Y = grad f / (sqrt(2) sigma s) under Gaussian noise, and another function under
Student's. Every law is computed without random numbers: a step sees the sign alone, whose law is known. On a rippled
loss in one dimension,

* at fixed noise (`refine="step"`): erf for Gaussian noise, Student's distribution function for Student's;
* where noise dominates (`refine="noise"`): twice the density at 0 times the gradient, sqrt(2/pi) for a Gaussian.

The three phases of Compagnoni et al. 2024 (arXiv 2411.15958), Section 3 (the sign for |Y| > 3/2, a linear drift for
|Y| < 1), are approximations of erf: the plateau that each leaves is measured. SVAG mixes two draws, which changes the
density at 0 of any noise but the Gaussian; it is refused, and done by hand here to show why.

    python experiments/sign_descent_sde.py --out results/sign_descent_sde
"""

import argparse
import math
import sys
import time
from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure
from scipy import integrate, stats

import sdeadapt as sa
from sdeadapt.methods import SignSGD
from sdeadapt.methods.sign_sgd import SignSGDPoint
from sdeadapt.oracles import Amplified, Quadratic, Rippled
from sdeadapt.oracles.noise import StudentT
from sdeadapt.report.figures import VERDICT_COLOURS
from sdeadapt.text import duration, short, table
from sdeadapt.verification.resolution import Resolution

STUDENT = StudentT(3.0)
DENSITY = stats.t(3, scale=math.sqrt(1 / 3)).pdf  # of variance 1
FIXED, LIMIT = SignSGD(1 / 16, "fixed-noise"), SignSGD(1 / 4)
STEP = {"theta0": [1.2], "horizon": 1.0, "refine": "step", "multipliers": (1, 2, 4, 8)}
NOISE = {"theta0": [1.2], "horizon": 1.0, "refine": "noise", "multipliers": (1, 2, 4, 8)}


def equation(drift, spread):
    """The recipe of dtheta = -speed · drift(ratio) dt - size · spread(ratio) dW with ratio = grad f / (sigma s)."""

    def recipe(method, oracle):
        def at(t, x):
            here = oracle.at(x.theta)
            ratio = here.gradient / (oracle.scale * here.covariance_diagonal.sqrt())
            size = method.lr / math.sqrt(method.time_step)
            kick = -size * spread(ratio)
            speed = method.lr / method.time_step
            return SignSGDPoint(-speed * drift(ratio)), lambda dw: SignSGDPoint(kick * dw)

        return sa.ItoSDE(at, oracle.noise_dim, SignSGDPoint)

    return recipe


def slope(value):
    """Drift `value` times the ratio, and noise of variance 1: where noise dominates."""
    return equation(lambda ratio: value * ratio, torch.ones_like)


ERF = equation(
    lambda ratio: torch.erf(ratio / math.sqrt(2)), lambda ratio: (1 - torch.erf(ratio / math.sqrt(2)) ** 2).sqrt()
)
FIRST = equation(torch.sign, torch.zeros_like)
THIRD = equation(
    lambda ratio: math.sqrt(2 / math.pi) * ratio, lambda ratio: (1 - 2 / math.pi * ratio**2).clamp_min(0).sqrt()
)


def svag(method, oracle, r):
    return method.rescaled(1 / r), Amplified(oracle, r)


def studies():
    """{name: (method, oracle, sde, verdict claimed, options)}."""
    gaussian, student = Rippled(1.0, noise="gaussian"), Rippled(1.0, noise=STUDENT)
    loud, loud_student = Rippled(4.0, noise="gaussian"), Rippled(4.0, noise=STUDENT)
    bowl = Quadratic(1.0, 1.0, 1.0)  # Y = theta / sqrt(2)
    own_slope = slope(2 * float(DENSITY(0)))
    by_hand = NOISE | {"refine": svag, "multipliers": (1, 2, 4), "budget": sa.Budget(paths=65536)}
    return {
        "fixed noise, Gaussian": (FIXED, gaussian, None, "CONFIRMED", STEP),
        "fixed noise, Student": (FIXED, student, None, "CONFIRMED", STEP),
        "fixed noise, Student, erf": (FIXED, student, ERF, "REFUTED", STEP),
        "noise dominates, Gaussian": (LIMIT, loud, None, "CONFIRMED", NOISE),
        "noise dominates, Gaussian, no sqrt(2/pi)": (LIMIT, loud, slope(1.0), "REFUTED", NOISE),
        "noise dominates, Student, density": (LIMIT, loud_student, own_slope, "CONFIRMED", NOISE),
        "noise dominates, Student, covariance": (LIMIT, loud_student, slope(math.sqrt(2 / math.pi)), "REFUTED", NOISE),
        "first phase, Y from 2.8 to 1.8": (FIXED, bowl, FIRST, "REFUTED", STEP | {"theta0": [4.0], "horizon": 1.5}),
        "third phase, Y from .85": (FIXED, bowl, THIRD, "REFUTED", STEP),
        "SVAG by hand, Student, density": (LIMIT, loud_student, own_slope, "REFUTED", by_hand),
    }


def density_under_svag(r):
    """The density at 0 of what SVAG makes of Student's noise, at variance 1, over that of a draw."""
    a = math.sqrt(2 * r - 1)
    large, small = (1 + a) / 2, (1 - a) / 2
    value = integrate.quad(lambda z: DENSITY(z * large / small) * DENSITY(z), -np.inf, np.inf)[0]
    return value * math.sqrt(r) / abs(small) / DENSITY(0)


def draw(reports):
    figure = Figure(figsize=(13, 4.4), layout="constrained")
    left, middle, right = figure.subplots(1, 3)
    y = np.linspace(0, 3, 301)
    left.plot(y, [math.erf(v) for v in y], "k", label="erf, Gaussian noise")
    left.plot(y, 2 * stats.t(3, scale=math.sqrt(1 / 3)).cdf(math.sqrt(2) * y) - 1, color="#4c72b0", label="Student, 3")
    left.plot(y[y >= 1.5], np.ones(np.sum(y >= 1.5)), "--", color="#b2182b", label="first phase")
    left.plot(y[y <= 1], 2 / math.sqrt(math.pi) * y[y <= 1], "--", color="#c98a1b", label="third phase")
    left.set(xlabel="Y = ∇f / (√2 σ s)", ylabel="mean of a sign", ylim=(0, 1.2))
    left.legend(frameon=False, loc="lower right")
    for name, report in reports.items():
        if report.estimator == "quadrature":
            target = list(report.names).index("theta_0_squared")
            colour = VERDICT_COLOURS[report.verdict.value]
            dashed = ":" if "phase" in name else "-" if "Student" in name else "--"
            middle.loglog(report.h, np.abs(report.error[target]), dashed, marker="o", ms=4, color=colour)
    middle.set(xlabel="time step h", ylabel="|error| of E θ²")
    middle.set_title("green CONFIRMED, red REFUTED; dashed Gaussian, solid Student, dotted phases", fontsize=8)
    r = np.geomspace(1.5, 1000, 60)
    right.semilogx(r, [density_under_svag(v) for v in r], color="#4c72b0")
    right.axhline(1, color="0.5", lw=0.8)
    right.set(xlabel="r, steps per base step", ylabel="density at 0 under SVAG / of a draw, Student")
    for axis in (left, middle, right):
        axis.grid(alpha=0.3)
    return figure


def main(argv=None):
    claim = __doc__.split("\n")[0]
    parser = argparse.ArgumentParser(description=claim)
    parser.add_argument("--out", type=Path, required=True, help="new directory: a run directory per study, a figure")
    parser.add_argument("--smoke", action="store_true", help="coarse grids, three levels, few paths: no claim")
    given = parser.parse_args(argv)
    began, reports, rows = time.perf_counter(), {}, []
    print(claim)
    grid = sa.Budget(resolution=Resolution(points=(32 if given.smoke else 64,), euler=2 if given.smoke else 8))
    everything = studies()
    for name, (method, oracle, sde, claimed, options) in everything.items():
        options = {"budget": grid} | options
        if given.smoke:
            options["multipliers"] = (1, 2, 3)
            if options["budget"] is not grid:
                options["budget"] = sa.Budget(paths=256)
        report = reports[name] = sa.verify(method, oracle, sde=sde, **options)
        report.save(given.out / name.replace(",", "").replace(" ", "_").replace("/", ""))
        squared = list(report.names).index("theta_0_squared")
        rows.append([
            name, claimed, report.verdict.value, short(report.order),
            "{:.2f} to {:.2f}".format(*report.order_interval), f"{report.error[squared, -1]:.1e}", report.estimator,
            duration(report.seconds),
        ])  # fmt: skip
        print(f"{name}: {report.message}", flush=True)
    header = ["study", "claimed", "found", "order", "95 % interval", "error of E θ², finest", "estimator", "cost"]
    print("\n" + table(header, rows, left=3) + "\n")
    try:
        sa.verify(LIMIT, Rippled(4.0, noise=STUDENT), sde=slope(1.0), theta0=[1.2], steps=16)
        refused = False
    except ValueError as error:
        refused = True
        print(f"SVAG: {error}")
    print("Density at 0 over that of a draw, r = 4, 16, 64:", *(short(density_under_svag(r)) for r in (4, 16, 64)))
    draw(reports).savefig(given.out / "sign_descent_sde.png", dpi=120)
    held = refused and all(row[1] == row[2] for row in rows)
    print(f"\nEvery verdict as claimed: {'yes' if held else 'no'}. Cost: {duration(time.perf_counter() - began)}.")
    return 0 if given.smoke or held else 1


if __name__ == "__main__":
    sys.exit(main())
