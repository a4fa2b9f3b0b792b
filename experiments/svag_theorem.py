r"""SVAG's runs of Adam and RMSprop have weak order 1 to their SDE, though the noise is skewed (Malladi et al., 6.3).

Without random numbers, on a rippled loss with a covariance that depends on theta and two-point noise of skewness 1,
which `refine="noise"` would keep. Three controls: the same family without SVAG; SVAG's weights for SGD, (1 ± sqrt(2l −
1))/2 with l in place of l², as the first of the two papers has them; and eps left alone.

    python experiments/svag_theorem.py --out results/svag_theorem
"""

import math
import sys
from dataclasses import replace

from noise_free import Study, orders, panels, parse, run, scaled

import sdeadapt as sa
from sdeadapt.oracles import Amplified, Rippled
from sdeadapt.oracles.noise import TwoPoint
from sdeadapt.verification.resolution import Resolution

LAW, EIGHTH, SIXTEENTH = TwoPoint(1.0), 1 / 8, 1 / 16
ADAM = sa.Adam(
    math.sqrt(EIGHTH), 1 - 1.5 * EIGHTH, 1 - 0.6 * EIGHTH, eps=0.5, bias_correction=False
)  # three coordinates: few steps, so that the grid holds
RMSPROP = sa.RMSprop(math.sqrt(SIXTEENTH), 1 - 0.6 * SIXTEENTH, eps=0.5)
FUNCTIONS = ["theta_0", "theta_0_squared", "loss", "mean_u"]


def weights_of_sgd(method, oracle, r):
    """Adam's clock, and noise amplified as for SGD: by sqrt(l) where l is due."""
    return method.rescaled(1 / r), Amplified(oracle, round(math.sqrt(r)))


def eps_alone(method, oracle, r):
    """SVAG without its eps times l."""
    return replace(method.rescaled(1 / r), eps=method.eps), Amplified(oracle, r)


def studies():
    adam = {"theta0": [1.0], "steps": 8, "multipliers": (1, 2, 3), "initial": {"m": [0.9]}}
    rms = {"theta0": [1.0], "steps": 16, "test_functions": FUNCTIONS, "multipliers": (1, 2, 4)}
    for_adam, for_rms = Rippled(EIGHTH**-0.5, noise=LAW), Rippled(SIXTEENTH**-0.5, noise=LAW)
    cube, plane = Resolution(), Resolution(points=(64, 48), nodes=32, radius=14.0)
    own = RMSPROP.sde(for_rms)  # the one that all of them are to tend to
    return {
        "Adam, SVAG": Study(ADAM, for_adam, adam | {"refine": "svag"}, resolution=cube),
        "RMSprop, SVAG": Study(RMSPROP, for_rms, rms | {"refine": "svag"}, resolution=plane),
        "RMSprop, no SVAG": Study(RMSPROP, for_rms, rms | {"refine": "noise"}, "REFUTED", plane),
        "RMSprop, weights of SGD": Study(
            RMSPROP, for_rms, rms | {"refine": weights_of_sgd, "sde": own}, "REFUTED", plane
        ),
        "RMSprop, eps alone": Study(RMSPROP, for_rms, rms | {"refine": eps_alone, "sde": own}, "REFUTED", plane),
    }


def draw(reports):
    figure, axes = panels(2, len(reports), (3.2 * len(reports), 6.4))
    for (name, report), (top, bottom) in zip(reports.items(), axes.T, strict=True):
        scaled(top, report, 1)
        orders(bottom, report, (1,))
        top.set_title(f"{name}\n{report.verdict.value}", fontsize=10)
        bottom.set(ylim=(-0.5, 1.5), xlabel="time step h")
    axes[0, 0].set_ylabel("e(h) / h, as a share of its finest value")
    axes[1, 0].set_ylabel("local order")
    axes[1, 0].legend(frameon=False, fontsize=7, loc="lower left")
    return figure


def main(argv=None):
    claim = __doc__.split("\n")[0]
    options = parse(claim, argv)
    reports, good = run(claim, studies(), options)
    draw(reports).savefig(options.out / "svag_theorem.png", dpi=130)
    return 0 if options.smoke or good else 1


if __name__ == "__main__":
    sys.exit(main())
