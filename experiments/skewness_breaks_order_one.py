r"""A fixed skewness of the noise lowers the weak order from 1 to 1/2; one that falls as sqrt(h), and SVAG, restore it.

RMSprop on a quadratic, with z = Exp(1) − 1 (skewness 2). Under `refine="noise"` the law stays, so that
cov(dtheta, du) is wrong by O(h^(3/2)) per step and E theta² by O(h^(1/2)); E u does not see it. A two-point law of
skewness 2 sqrt(h) has the "low skewness" of Malladi et al. 2022, Definition 2.6, and so have the pairs that SVAG draws.

    python experiments/skewness_breaks_order_one.py --out results/skewness_breaks_order_one
"""

import math
import sys

import numpy as np
from noise_free import Study, local_orders, panels, parse, run, steps

from sdeadapt import RMSprop
from sdeadapt.oracles.analytic import Quadratic
from sdeadapt.oracles.noise import TwoPoint
from sdeadapt.verification.resolution import Resolution

H, C, EPS0 = 1 / 32, 0.5, 0.3
FUNCTIONS = ("theta_0_squared", "loss", "mean_u")
FINE = Resolution(points=(48, 28), nodes=32)


def low_skewness(method, oracle, r):
    """The two-point law whose skewness is 2 sqrt(h) at every level."""
    h = method.time_step / r
    return method.rescaled(1 / r), Quadratic(1.0, 1.0, oracle.scale * math.sqrt(r), TwoPoint(2 * math.sqrt(h)))


def studies():
    method = RMSprop(math.sqrt(H), 1 - C * H, EPS0 / math.sqrt(H), denominator="old")
    scale = 1 / math.sqrt(H)
    skewed = Quadratic(1.0, 1.0, scale, "exponential")
    common = {"theta0": [1.0], "steps": 32, "initial": {"u": [1.3]}, "test_functions": ["theta_0", *FUNCTIONS]}
    deep = common | {"multipliers": (1, 2, 4, 8, 16)}
    return {
        "skewness 2": Study(method, skewed, deep | {"refine": "noise"}, "REFUTED", FINE),
        "skewness 2 sqrt h": Study(
            method, Quadratic(1.0, 1.0, scale, TwoPoint(2 * math.sqrt(H))),
            common | {"refine": low_skewness, "multipliers": (1, 2, 4, 8)},
        ),
        "skewness 2, SVAG": Study(method, skewed, deep | {"refine": "svag"}, resolution=FINE),
    }  # fmt: skip


def shares(report, j):
    """The plateau of every three neighbouring levels, fitted by a + b h + c h², as a share of the last error."""
    found = []
    for i in range(len(report.h) - 2):
        powers = np.stack([report.h[i : i + 3] ** p for p in range(3)], 1)
        found.append(np.linalg.solve(powers, report.error[j, i : i + 3])[0] / report.error[j, i + 2])
    return np.array(found)


def draw(reports):
    figure, ((left, right),) = panels(1, 2, (11.0, 4.4))
    colours = {"skewness 2": "#b2182b", "skewness 2 sqrt h": "#4c72b0", "skewness 2, SVAG": "#1b7837"}
    for name, report in reports.items():
        j = report.names.index("theta_0_squared")
        label = f"{name}: {report.verdict.value}"
        left.plot(report.h[1:], local_orders(report, j), "o-", color=colours[name], ms=5, label=label)
        right.plot(report.h[2:], shares(report, j), "o-", color=colours[name], ms=5, label=label)
        if name == "skewness 2":
            u = report.names.index("mean_u")
            left.plot(report.h[1:], local_orders(report, u), "s:", color=colours[name], ms=5, mfc="none",
                      label="the same, E u")  # fmt: skip
    for axis in (left, right):
        steps(axis, max((report.h for report in reports.values()), key=len))
        axis.set_xlabel("time step h")
    for at in (0.5, 1):
        left.axhline(at, color="0.6", lw=0.8, zorder=0)
    right.axhline(0, color="0.6", lw=0.8, zorder=0)
    right.axhline(1 / 3, color="0.6", lw=0.8, ls="--", zorder=0)
    right.text(right.get_xlim()[1], 1 / 3, "allowed ", ha="right", va="bottom", color="0.4", fontsize=8)
    left.set(ylabel="local order", title="E θ²: the order that two neighbouring steps show", ylim=(0, 1.5))
    right.set(ylabel="plateau / finest error", title="E θ²: what is left at h = 0, of three neighbouring steps")
    left.legend(frameon=False, fontsize=8)
    return figure


def main(argv=None):
    claim = __doc__.split("\n")[0]
    options = parse(claim, argv)
    reports, good = run(claim, studies(), options)
    for name, report in reports.items():
        j = report.names.index("theta_0_squared")
        print(f"{name}, plateau share of E theta²: " + ", ".join(f"{share:.3f}" for share in shares(report, j)))
        if report.local is not None:
            print(f"  {report.local.message}")
    draw(reports).savefig(options.out / "skewness_breaks_order_one.png", dpi=130)
    return 0 if options.smoke or good else 1


if __name__ == "__main__":
    sys.exit(main())
