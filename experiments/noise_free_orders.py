r"""Weak orders to .01 without a random number: SGD in both of its families, RMSprop and Adam on a rippled problem.

SGD on Li, Tai and E's quadratic, by exact moments: against closed forms of E f; with fixed noise the SDE has order 1,
the one of second order 2, and the ODE 1 too; with a fixed SDE (SVAG) the ODE leaves a plateau and the second-order SDE
has order 1 only. RMSprop and Adam (new and old v, Adam with bias correction from t0 = 1) by quadrature, on a loss that
is not quadratic with a covariance that depends on theta.

    python experiments/noise_free_orders.py --out results/noise_free_orders
"""

import math
import sys

import numpy as np
from noise_free import Study, orders, panels, parse, run, scaled

from sdeadapt import SGD, Adam, ItoSDE, RMSprop
from sdeadapt.methods.sgd import SGDPoint
from sdeadapt.oracles.analytic import Rippled, constant_noise

EIGENVALUES, THETA0, HORIZON = (0.5, 1.0, 2.0), (1.0, -2.0, 1.5), 2.0
FUNCTIONS = ["theta_0", "theta_0_squared", "loss", "gradient_norm_squared"]


def ode(method, oracle):
    """SGD without its noise."""
    return ItoSDE(
        lambda t, x: (SGDPoint(-oracle.at(x.theta).gradient), lambda dw: SGDPoint(None)), oracle.noise_dim, SGDPoint
    )


class Halved(Adam):
    """Adam whose multipliers divide h."""

    def refinement(self, multiplier):
        return multiplier


def adam(h, v):
    """Constants in SDE time: c1 = .5, c2 = .25, eps0 = 1."""
    return Halved(math.sqrt(h), 1 - 0.5 * h, 1 - 0.25 * h, 1 / math.sqrt(h), denominator=v)


def second(method, oracle):
    return method.sde(oracle, 2)


def studies():
    sgd, problem = SGD(1 / 16), constant_noise(EIGENVALUES)
    plain = {"theta0": THETA0, "horizon": HORIZON, "multipliers": (1, 4, 16, 64, 256, 1024),
             "test_functions": [*FUNCTIONS, "projection_0_squared"]}  # fmt: skip
    step, svag = plain | {"refine": "step"}, plain | {"refine": "svag"}
    h = 1 / 16
    rms = {"theta0": [1.0], "steps": 16, "refine": "noise", "initial": {"u": [1.3]},
           "test_functions": [*FUNCTIONS, "noise_trace", "mean_u"]}  # fmt: skip
    new, old = (RMSprop(math.sqrt(h), 1 - 0.3 * h, 0.3 / math.sqrt(h), denominator=v) for v in ("new", "old"))
    rippled = Rippled(1 / math.sqrt(h), noise="gaussian")
    corrected = {"theta0": [1.0], "start": 1.0, "horizon": 2.0, "refine": "noise", "multipliers": (1, 2, 4, 8, 16),
                 "initial": {"m": [0.7], "u": [0.7]},
                 "test_functions": [*FUNCTIONS, "noise_trace", "mean_u", "m_norm_squared"]}  # fmt: skip
    return {
        "SGD, step": Study(sgd, problem, step),
        "SGD, step, order 2": Study(sgd, problem, step | {"order": 2}),
        "SGD, step, ODE": Study(sgd, problem, step | {"sde": ode}),
        "SGD, svag": Study(sgd, problem, svag),
        "SGD, svag, ODE": Study(sgd, problem, svag | {"sde": ode}, "REFUTED"),
        "SGD, svag, second-order SDE": Study(sgd, problem, svag | {"sde": second}),
        "RMSprop, new v": Study(new, rippled, rms),
        "RMSprop, old v": Study(old, rippled, rms),
        "Adam, new v": Study(adam(1 / 8, "new"), Rippled(math.sqrt(8), noise="gaussian"), corrected),
        "Adam, old v": Study(adam(1 / 8, "old"), Rippled(math.sqrt(8), noise="gaussian"), corrected),
    }


def closed_forms(reports):
    """The largest difference of E f to the closed forms: SGD's, its SDE's, and its second-order SDE's."""
    lam, x0 = np.array(EIGENVALUES)[:, None], np.array(THETA0)[:, None]
    worst = 0.0
    for name in ("SGD, step", "SGD, step, order 2"):
        if name not in reports:
            continue
        report = reports[name]
        eta, j = report.h, report.names.index("loss")
        keep = (1 - eta * lam) ** (2 * np.round(HORIZON / eta))
        sgd = (lam * x0**2 * keep + eta * lam**2 / (2 - eta * lam) * (1 - keep)).sum(0) / 2
        rate = 2 * lam + (eta * lam**2 if name.endswith("2") else 0)
        decay = np.exp(-rate * HORIZON)
        sde = (lam * x0**2 * decay + eta * lam**3 / rate * (1 - decay)).sum(0) / 2
        worst = max(worst, np.abs(report.chain[j] - sgd).max(), np.abs(report.sde[j] - sde).max())
    return worst


def draw(reports):
    figure, axes = panels(2, len(reports), (3.4 * len(reports), 6.6))
    for (name, report), (top, bottom) in zip(reports.items(), axes.T, strict=True):
        order = report.config["order"]
        scaled(top, report, order)
        orders(bottom, report, (order,))
        top.set_title(f"{name}\n{report.verdict.value}, {report.estimator}", fontsize=10)
        bottom.set(ylim=(order - 0.3, order + 0.3), xlabel="time step h")
        bottom.legend(frameon=False, fontsize=7)
    axes[0, 0].set_ylabel("e(h) / h^p, as a share of its finest value")
    axes[1, 0].set_ylabel("local order")
    return figure


def main(argv=None):
    claim = __doc__.split("\n")[0]
    options = parse(claim, argv)
    reports, good = run(claim, studies(), options)
    worst = closed_forms(reports)
    print(f"E f of SGD and its two SDEs: {worst:.1e} off the closed forms at most")
    both = [reports.get(name) for name in ("SGD, svag", "SGD, svag, second-order SDE")]
    if None not in both:
        j = both[0].names.index("loss")
        ratio = abs(both[1].error[j, -1] / both[0].error[j, -1])
        print(f"Under SVAG the second-order SDE is {ratio:.1f} times as far off as the first-order one, in E f")
    shown = ("SGD, step", "SGD, step, order 2", "RMSprop, new v", "Adam, new v", "Adam, old v")
    drawn = {name: reports[name] for name in shown if name in reports}
    draw(drawn or reports).savefig(options.out / "noise_free_orders.png", dpi=130)
    return 0 if options.smoke or (good and worst < 1e-10) else 1


if __name__ == "__main__":
    sys.exit(main())
