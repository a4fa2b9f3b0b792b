r"""SVAG's runs of Adam and RMSprop have weak order 1 to their SDE, though the noise is skewed (Malladi et al., 6.3).

Without random numbers, on a rippled loss with a covariance that depends on theta and two-point noise of skewness 1,
which `refine="noise"` would keep. Controls: the same families without SVAG; SVAG's weights for SGD, (1 ± sqrt(2l −
1))/2 with l in place of l², as the first of the two papers has them; and eps left alone.

    python experiments/svag_theorem.py --out results/svag_theorem
"""

import math
import sys
from dataclasses import replace

import numpy as np
from noise_free import Study, panels, parse, run, steps

import sdeadapt as sa
from sdeadapt.oracles import Amplified, Rippled
from sdeadapt.oracles.noise import TwoPoint
from sdeadapt.report.figures import VERDICT_COLOURS
from sdeadapt.verification.resolution import Resolution

LAW, H = TwoPoint(1.0), 1 / 8
ADAM = sa.Adam(math.sqrt(H), 1 - 1.5 * H, 1 - 0.6 * H, eps=0.5, bias_correction=False)
RMSPROP = sa.RMSprop(math.sqrt(H), 1 - 0.6 * H, eps=0.5)
FUNCTIONS = ["theta_0", "theta_0_squared", "loss", "mean_u"]


def weights_of_sgd(method, oracle, r):
    """Adam's clock, and noise amplified as for SGD: by sqrt(l) where l is due."""
    return method.rescaled(1 / r), Amplified(oracle, round(math.sqrt(r)))


def eps_alone(method, oracle, r):
    """SVAG without its eps times l."""
    return replace(method.rescaled(1 / r), eps=method.eps), Amplified(oracle, r)


def studies():
    """Every family is to tend to the SDE of its base step."""
    oracle = Rippled(H**-0.5, noise=LAW)
    common = {"theta0": [1.0], "steps": 8, "multipliers": (1, 2, 3, 4)}
    adam = common | {"initial": {"m": [0.9]}, "sde": ADAM.sde(oracle)}
    rms = common | {"test_functions": FUNCTIONS, "sde": RMSPROP.sde(oracle)}
    return {
        name: Study(method, oracle, options | {"refine": refine}, expected, Resolution())
        for name, method, options, refine, expected in (
            ("Adam, SVAG", ADAM, adam, "svag", "CONFIRMED"),
            ("Adam, no SVAG", ADAM, adam, "noise", "REFUTED"),
            ("RMSprop, SVAG", RMSPROP, rms, "svag", "CONFIRMED"),
            ("RMSprop, no SVAG", RMSPROP, rms, "noise", "REFUTED"),
            ("RMSprop, weights of SGD", RMSPROP, rms, weights_of_sgd, "REFUTED"),
            ("RMSprop, eps alone", RMSPROP, rms, eps_alone, "REFUTED"),
        )
    }


def draw(reports):
    figure, (axes,) = panels(1, 2, (11.0, 4.6))
    for axis, target, label in zip(axes, ("theta_0_squared", "mean_u"), ("E θ²", "E u"), strict=True):
        for (name, report), style in zip(reports.items(), ("o-", "P--", "s-", "^--", "v--", "D--"), strict=False):
            size = np.abs(report.error[report.names.index(target)])
            colour = VERDICT_COLOURS[report.verdict.value]
            axis.loglog(
                report.h, size / size[0], style, color=colour, ms=5, lw=1, label=f"{name}: {report.verdict.value}"
            )
        steps(axis, report.h)
        axis.plot(report.h, report.h / report.h[0], ":", color="0.4", label="order 1")
        axis.set(xlabel="time step h", ylabel=f"|error of {label}| / at the base step")
    axes[0].legend(frameon=False, fontsize=8)
    return figure


def main(argv=None):
    claim = __doc__.split("\n")[0]
    options = parse(claim, argv)
    reports, good = run(claim, studies(), options)
    draw(reports).savefig(options.out / "svag_theorem.png", dpi=130)
    return 0 if options.smoke or good else 1


if __name__ == "__main__":
    sys.exit(main())
