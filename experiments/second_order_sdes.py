r"""Second-order SDEs of RMSprop and Adam: order 2 with fixed noise; with noise that grows, for some functions only.

With fixed noise (ballistic scaling, `refine="step"`) every test function shows order 2. In the scaling of the
batch-size rule (`refine="noise"`) the one-step moment E[dtheta^2 du] is O(h^2) in the iteration, and no Ito equation
with Gaussian increments has it: u, and theta where the gradient is linear, keep order 2, the rest is of order 1. The
control freezes v (1 - beta = 1e-6 h), with which that moment vanishes: order 2 returns on the same problem. Last, the
control of the coefficient: one study as in tests/convergence/test_second_order_claims.py, from h = 2^-6 to 2^-11, where
E theta is refuted too although its error changes sign near 2^-6. Adam loses it to E[dm^2 du] in the same way: m and
theta keep order 2 where the gradient is linear.

    python experiments/second_order_sdes.py --out results/second_order_sdes
"""

import math
import sys

from noise_free import Bent, Study, orders, panels, parse, run, scaled

from sdeadapt import Adam, RMSprop
from sdeadapt.verification.resolution import Resolution

C, EPS0, U0 = 1.0, 0.3, 1.3
MIXED = {"cos theta sqrt u": lambda x: (x.theta.cos() * x.u.clamp_min(0).sqrt())[:, 0]}
PLAIN = {name: name for name in ("theta_0", "theta_0_squared", "mean_u")}
MEMORY = {"m": lambda x: x.m[:, 0], "m^2": lambda x: x.m[:, 0].square()}


class Halved(RMSprop):
    """RMSprop whose multipliers divide h."""

    def refinement(self, multiplier):
        return multiplier


class HalvedAdam(Adam):
    """The same of Adam."""

    def refinement(self, multiplier):
        return multiplier


def rmsprop(h, kind=RMSprop, c=C):
    """The old v, as in the theorem; constants in SDE time."""
    return kind(math.sqrt(h), 1 - c * h, EPS0 / math.sqrt(h), denominator="old")


def studies():
    coarse, fine = 1 / 8, 1 / 32
    ballistic = RMSprop(coarse, 1 - 0.3 * coarse, EPS0, denominator="old", scaling="ballistic")
    adam = Adam(1 / 16, 1 - 1 / 16, 1 - 0.5 / 16, 0.5, scaling="ballistic")
    growing = HalvedAdam(
        math.sqrt(coarse), 1 - coarse, 1 - 0.3 * coarse, EPS0 / math.sqrt(coarse), denominator="old",
        bias_correction=False,
    )  # fmt: skip
    common = {"theta0": [1.0], "order": 2, "initial": {"u": [U0]}}
    with_m = {"refine": "noise", "steps": 8, "multipliers": (1, 2, 4), "initial": {"m": [0.5], "u": [U0]}}
    every = PLAIN | MIXED
    return {
        "RMSprop, ballistic": Study(
            ballistic, Bent(1.0),
            common | {"refine": "step", "steps": 8, "multipliers": (1, 2, 4), "test_functions": every},
        ),
        "Adam, ballistic": Study(
            adam, Bent(1.0),
            common | {"refine": "step", "start": 1.0, "horizon": 2.0, "multipliers": (1, 2, 4, 8),
                      "initial": {"m": [0.5], "u": [U0]}, "test_functions": every | MEMORY},
        ),
        "quadratic, u and theta": Study(
            rmsprop(coarse, Halved, 0.3), Bent(1 / math.sqrt(coarse), 0.0),
            common | {"refine": "noise", "steps": 8, "multipliers": (1, 2, 4),
                      "test_functions": {"theta_0": "theta_0", "mean_u": "mean_u"}},
        ),
        "not quadratic, every function": Study(
            rmsprop(fine), Bent(1 / math.sqrt(fine)),
            common | {"refine": "noise", "steps": 32, "multipliers": (1, 2, 4), "test_functions": every}, "REFUTED",
        ),
        "not quadratic, to 2^-11": Study(
            Halved(1 / 8, 1 - 0.3 / 64, 0.8, denominator="old"), Bent(8.0),
            common | {"refine": "noise", "steps": 64, "multipliers": (1, 2, 4, 8, 16, 32), "test_functions": every},
            "REFUTED", Resolution((14, 7), nodes=8, euler=32),
        ),
        "not quadratic, v frozen": Study(
            rmsprop(coarse, Halved, 1e-6), Bent(1 / math.sqrt(coarse)),
            common | {"refine": "noise", "steps": 8, "multipliers": (1, 2, 4),
                      "test_functions": ["theta_0", "theta_0_squared"]},
        ),
        "Adam, quadratic, theta and m": Study(
            growing, Bent(1 / math.sqrt(coarse), 0.0),
            common | with_m | {"test_functions": {"theta_0": "theta_0", "m": MEMORY["m"]}},
        ),
        "Adam, not quadratic, every function": Study(
            growing, Bent(1 / math.sqrt(coarse)), common | with_m | {"test_functions": every | MEMORY}, "REFUTED",
        ),
    }  # fmt: skip


def draw(reports):
    columns = min(4, len(reports))
    rows = math.ceil(len(reports) / columns)
    figure, axes = panels(2 * rows, columns, (3.4 * columns, 5.2 * rows))
    for empty in range(len(reports), rows * columns):
        for axis in axes[2 * (empty // columns) : 2 * (empty // columns) + 2, empty % columns]:
            axis.set_axis_off()
    for k, (name, report) in enumerate(reports.items()):
        row, column = divmod(k, columns)
        top, bottom = axes[2 * row : 2 * row + 2, column]
        scaled(top, report, 2)
        orders(bottom, report, (1, 2))
        top.set_title(f"{name}\n{report.verdict.value}", fontsize=10)
        top.set_ylim(bottom=min(0.0, top.get_ylim()[0]))
        bottom.set(ylim=(0.5, 2.6), xlabel="time step h")
        top.legend(frameon=False, fontsize=7)
        if column == 0:
            top.set_ylabel("e(h) / h², as a share\nof its finest value")
            bottom.set_ylabel("local order")
    return figure


def main(argv=None):
    claim = __doc__.split("\n")[0]
    options = parse(claim, argv)
    reports, good = run(claim, studies(), options)
    for name, report in reports.items():
        if report.local is not None:
            print(f"\nWhich moment, {name}: {report.local.message}")
    draw(reports).savefig(options.out / "second_order_sdes.png", dpi=130)
    return 0 if options.smoke or good else 1


if __name__ == "__main__":
    sys.exit(main())
