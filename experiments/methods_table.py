"""Every method that has an SDE, verified on one small problem: verdict, order, estimator and cost, a row each.

The problem is `Rippled` in one dimension with Gaussian noise: not quadratic, its covariance depends on theta. The base
step is h = 1/16 (1/8 where said), and the estimator "auto": no random number is drawn. Momentum has a problem with a
linear gradient and a covariance quadratic in theta, so that its moments close: a fixed momentum remembers more than its
SDE, and has no law on a grid. The first steps with bias correction are left out: Adam runs without it, and the
variance-adapted methods start at t = 1.

    python experiments/methods_table.py --out results/methods_table
"""

import argparse
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import sdeadapt as sa
from sdeadapt.methods import METHODS, card
from sdeadapt.oracles import MultiplicativeNoise, Rippled
from sdeadapt.text import duration, short, table
from sdeadapt.verification.decision import Verdict
from sdeadapt.verification.resolution import Resolution

SMOKE = 8  # points a coordinate, nodes


class Study(NamedTuple):
    """A method, sigma of its problem, what differs from the other studies, the problem without sigma, and the grid."""

    method: sa.Method
    scale: float
    options: dict[str, Any] = {}  # noqa: RUF012 (never written to)
    steps: int = 16
    problem: Any = partial(Rippled, noise="gaussian")
    grid: Resolution = Resolution()


def studies():
    """Return every study by name; constants in SDE time are of order 1."""
    betas = {"beta1": 7 / 8, "beta2": 15 / 16}
    held = {"start": 1.0, "multipliers": (1, 2, 4), "initial": {"m": [0.5], "u": [0.7]}}
    plain = {"lr": 1 / 4, "eps": 0.2, "bias_correction": False}
    driven, fed = ({"multipliers": (1, 2, 4), "initial": start} for start in ({"m": [0.9]}, {"q": [0.5]}))
    step = {"refine": "step", "multipliers": (1, 2, 4, 8)}
    return {
        "sgd": Study(sa.SGD(1 / 16), 2.0),
        "momentum": Study(sa.Momentum(1 / 32, 0.5), 2.0, problem=partial(MultiplicativeNoise, 0.8)),
        "momentum, langevin": Study(
            sa.Momentum(1 / 256, 15 / 16, friction="langevin"), 2.0, problem=partial(MultiplicativeNoise, 0.8)
        ),
        "rmsprop": Study(sa.RMSprop(1 / 4, 15 / 16, 0.2), 4.0),
        "rmsprop, ballistic": Study(sa.RMSprop(1 / 16, 15 / 16, 0.5, scaling="ballistic"), 1.0, step),
        "rmspropw": Study(sa.RMSpropW(1 / 4, 15 / 16, 0.2, weight_decay=0.1), 4.0),
        "adam": Study(sa.Adam(**plain, **betas), 4.0, driven),
        "adam, ballistic": Study(
            sa.Adam(1 / 16, eps=0.5, bias_correction=False, scaling="ballistic", **betas), 1.0, step
        ),
        "adamw": Study(sa.AdamW(**plain, **betas, weight_decay=0.1), 4.0, driven),
        "adagrad": Study(sa.Adagrad(0.5, eps=0.1, time_step=1 / 16), 4.0),
        "adadelta": Study(sa.Adadelta(1 / 4, 15 / 16, 0.2), 4.0, fed),
        "signsgd": Study(sa.SignSGD(1 / 4), 0.5, {"multipliers": (1, 2, 4, 8)}),
        "signsgd, fixed noise": Study(sa.SignSGD(1 / 8, "fixed-noise"), 1.0, step, steps=8),
        "momentumvarianceadapted": Study(sa.MomentumVarianceAdapted(1 / 16, 15 / 16), 2.0, held, steps=32),
        # its factor of m bends sharply: more points in theta do not converge
        "varianceadapted": Study(
            sa.VarianceAdapted(0.1, 15 / 16, time_step=1 / 16),
            2.0,
            held | {"initial": {"m": [0.9], "u": [1.2]}},
            steps=24,
            grid=Resolution((10, 12, 7)),
        ),
    }


def without_sde():
    """Return the methods that say why they have none."""
    return {
        name: found for name, found in ((n, card(sa.methods.method(n, lr=0.1))) for n in METHODS) if not found.orders
    }


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=Path, required=True, help="new directory: a run directory per study")
    parser.add_argument("--smoke", action="store_true", help="coarse grids, three levels: some seconds, no claim")
    parser.add_argument("--only", nargs="+", choices=list(studies()), help="these studies")
    given = parser.parse_args(argv)
    began, rows, verdicts = time.perf_counter(), [], []
    for name, study in studies().items():
        if given.only and name not in given.only:
            continue
        fields = len(study.method.Point._fields)
        grid = Resolution((SMOKE,) * fields, SMOKE, euler=2) if given.smoke else study.grid
        options = study.options | ({"multipliers": (1, 2, 4)} if given.smoke else {})
        report = sa.verify(
            study.method, study.problem(scale=study.scale), theta0=[1.0], steps=study.steps,
            budget=sa.Budget(resolution=grid), **options,
        )  # fmt: skip
        report.save(given.out / name.replace(",", "").replace(" ", "_"))
        verdicts.append(report.verdict)
        rows.append([
            name, report.config["refine"], report.verdict.value, short(report.order),
            "{:.2f} to {:.2f}".format(*report.order_interval), report.estimator, duration(report.seconds),
        ])  # fmt: skip
        print(f"{name}: {report.message}", flush=True)
    header = ["method", "refine", "verdict", "order", "95 % interval", "estimator", "cost"]
    print("\n" + table(header, rows, left=3) + "\n")
    for name, found in without_sde().items():
        print(f"{name}: {found.sde}")
    print(f"\nCost: {duration(time.perf_counter() - began)} of wall time, one process.")
    return 0 if given.smoke or Verdict.REFUTED not in verdicts else 1


if __name__ == "__main__":
    sys.exit(main())
