"""What the experiments without random numbers share: studies, their table, their figure, the verdicts expected."""

import argparse
import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, NullLocator

from sdeadapt import Budget, Method, Oracle, verify
from sdeadapt.oracles.analytic import Quadratic
from sdeadapt.oracles.base import Local
from sdeadapt.text import duration, short, table
from sdeadapt.verification.resolution import Resolution

COARSE = {1: (16,), 2: (10, 6), 3: (6, 6, 4)}


class Study(NamedTuple):
    """A method on a problem, the rest of `verify`'s arguments, the verdict expected, and what is said of it."""

    method: Method
    oracle: Oracle
    options: Mapping[str, Any]
    expected: str = "CONFIRMED"
    resolution: Resolution = Resolution()


@dataclass(frozen=True, eq=False, init=False)
class Bent(Quadratic):
    r"""One dimension, gradient $\theta + \tfrac b2\sin 2\theta$, covariance 1; quadratic where b = 0."""

    bend: float
    linear = False

    def __init__(self, scale, bend=1.0, noise="gaussian"):
        super().__init__(1.0, 1.0, scale, noise)
        self._set(bend=bend)

    def at(self, theta):
        return _LocalBent(self, theta)


class _LocalBent(Local):
    oracle: Bent

    @cached_property
    def loss(self):
        return ((self.theta.square() + self.oracle.bend * self.theta.sin().square()) / 2).sum(-1)

    @cached_property
    def gradient(self):
        return self.theta + self.oracle.bend / 2 * torch.sin(2 * self.theta)

    @cached_property
    def covariance_diagonal(self):
        return torch.ones_like(self.theta)

    def diffuse(self, xi):
        return xi

    def hessian_product(self, v):
        return v * (1 + self.oracle.bend * torch.cos(2 * self.theta))

    def third_contraction(self, weights):
        return -2 * self.oracle.bend * torch.sin(2 * self.theta) * weights


def parse(claim, argv):
    parser = argparse.ArgumentParser(description=claim)
    parser.add_argument("--out", type=Path, required=True, help="new directory: a run directory per study, a figure")
    parser.add_argument("--smoke", action="store_true", help="few points, three levels: some seconds, no claim")
    parser.add_argument("--only", nargs="+", help="studies whose names begin so")
    return parser.parse_args(argv)


def run(claim, studies, options):
    """Verify every study, save it, print the table; return the reports and whether every verdict is as expected."""
    print(claim, flush=True)
    began, reports, rows, good = time.perf_counter(), {}, [], True
    for name, study in studies.items():
        if options.only and not name.startswith(tuple(options.only)):
            continue
        more, resolution = dict(study.options), study.resolution
        if options.smoke:
            size = len(study.method.Point._fields)
            more["multipliers"] = tuple(more.get("multipliers", (1, 2, 4)))[:3]
            resolution = Resolution(points=COARSE[size], nodes=5, euler=2)
        report = verify(study.method, study.oracle, budget=Budget(resolution=resolution), **more)
        report.save(options.out / name.replace(",", "").replace(" ", "_"))
        reports[name] = report
        good &= report.verdict.value == study.expected
        print(f"\n{name}: {report.verdict.value} ({study.expected} expected). {report.message}", flush=True)
        for label, j in unique(report):
            test = report.tests[j]
            rows.append([
                name, label, test.status, *(f"{order:.3f}" for order in local_orders(report, j)[-2:]),
                f"{report.error[j, -1]:.3g}", f"{2 * report.sem[j, -1]:.0e}", short(test.plateau / report.error[j, -1]),
            ])  # fmt: skip
        rows.append([name, f"{report.verdict.value}, {report.estimator}, {duration(report.seconds)}", *[""] * 6])
    header = ["study", "test function", "status", "local orders", "finest", "finest error", "bound", "plateau / error"]
    print("\n" + table(header, rows, left=3))
    print(f"\nCost: {duration(time.perf_counter() - began)} of wall time, one process.")
    return reports, good


def unique(report):
    """Return (label, j) of every target that varies."""
    return [
        (report.names[j] if len(set(report.times)) == 1 else test.label, j)
        for j, test in enumerate(report.tests)
        if test.status != "dropped"
    ]


def local_orders(report, j):
    """The exponent between every two neighbouring steps; NaN where the sign changes."""
    with np.errstate(invalid="ignore"):
        return np.log(report.error[j, :-1] / report.error[j, 1:]) / np.log(report.h[:-1] / report.h[1:])


def scaled(axis, report, order, names=None):
    """Draw e(h) / h^order over h as a share of its finest value, with bounds: flat where that is the order."""
    for k, (label, j) in enumerate(unique(report)):
        if names is None or label in names:
            unit = report.error[j, -1] / report.h[-1] ** order
            y, bar = report.error[j] / report.h**order / unit, 2 * report.sem[j] / report.h**order / abs(unit)
            axis.errorbar(report.h, y, bar, fmt="osD^vPX*"[k % 8] + "-", ms=4, lw=1, capsize=2, label=label)
    steps(axis, report.h)
    axis.axhline(1, color="0.6", lw=0.8, zorder=0)


def orders(axis, report, band=(), names=None):
    """Draw the local orders, at the finer of the two steps, with what the bounds leave open."""
    for k, (label, j) in enumerate(unique(report)):
        if names is None or label in names:
            share = 2 * report.sem[j] / np.abs(report.error[j])
            open_ = (share[:-1] + share[1:]) / np.log(report.h[:-1] / report.h[1:])
            axis.errorbar(report.h[1:], local_orders(report, j), np.minimum(open_, 9), fmt="osD^vPX*"[k % 8] + "-",
                          ms=4, lw=1, capsize=2, label=label)  # fmt: skip
    steps(axis, report.h)
    for at in band:
        axis.axhspan(at - 0.02, at + 0.02, color="#1b7837", alpha=0.15, lw=0)
        axis.axhline(at, color="#1b7837", lw=0.8)


def steps(axis, h):
    axis.set_xscale("log")
    axis.xaxis.set_major_locator(FixedLocator(h.tolist()[:: max(1, len(h) // 6)]))
    axis.xaxis.set_minor_locator(NullLocator())
    axis.xaxis.set_major_formatter(lambda x, _: f"$2^{{{np.log2(x):.0f}}}$")
    axis.grid(alpha=0.25)


def panels(rows, columns, size=(13.0, 6.6)):
    figure = Figure(figsize=size, layout="constrained")
    return figure, figure.subplots(rows, columns, squeeze=False)
