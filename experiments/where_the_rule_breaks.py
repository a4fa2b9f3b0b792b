r"""A batch-size rule breaks where noise ceases to dominate: those of RMSprop and Adam at kappa near the smallest N/G.

kappa is swept from 2 to 128 on digits logistic regression, from two starts: near the minimum, and farther away, where
the gradient is larger. Predicted from the base run alone, its start included: for the adaptive methods kappa = min N/G,
where the noise-to-signal ratio at batch kappa B falls to 1; for SGD, whose linear rule is right without noise too while
the step is small, the necessary condition kappa <= 2 (1 + N/G) of Li, Malladi and Arora (2021, arXiv 2102.12470), with
N/G at the end. Measured: the largest kappa that holds, the first that is REFUTED, and the first beyond C-closeness,
where |theta|², |grad f|² or Tr Sigma differs from the base by a factor of sqrt(2) and two standard errors.

    python experiments/where_the_rule_breaks.py --out results/where_the_rule_breaks
"""

import math
import sys
import time

import numpy as np
import torch
from batch_size_rules import HEADER, START, first_refuted, late_digits, lines, options, study
from matplotlib.figure import Figure

from sdeadapt import SGD, Adam, RMSprop, rules
from sdeadapt.report.figures import VERDICT_COLOURS
from sdeadapt.text import duration, short, table

FAR = tuple(round(x + 0.8, 1) for x in START)
KAPPAS = (2, 4, 8, 16, 32, 64, 128)
COLOURS, STYLES = {"SGD": "0.6", "RMSprop": "#4c72b0", "Adam": "black"}, {"near": "-", "far": "--"}
COMMON = {"kappas": KAPPAS, "steps": 512, "times": 4}


def studies():
    """{name: (method, start, further arguments)}."""
    methods = {
        "SGD": (SGD(1 / 16), {}),
        "RMSprop": (RMSprop(1 / 64, 1 - 1 / 256, 0.2), {"initial": {"u": 1.0}}),
        "Adam": (Adam(1 / 64, 1 - 1 / 256, 1 - 1 / 512, 0.2), {}),
    }
    return {
        f"{name} {where}": (method, start, more | COMMON)
        for name, (method, more) in methods.items()
        for where, start in {"near": START, "far": FAR}.items()
    }


def smallest_ratio(report, start):
    """The smallest noise-to-signal ratio along every chain, the start included, (K + 1,)."""
    oracle = late_digits()
    here = oracle.at(torch.tensor([start], dtype=oracle.dtype))
    ratio = float(oracle.scale**2 * here.noise_trace / here.gradient.square().sum())
    return np.minimum(report.noise_to_signal.min(1), ratio / np.array([1, *report.kappas]))


def first_beyond_closeness(report):
    """The first kappa at which a metric of C-closeness is, by two standard errors, beyond a factor sqrt(2); or None."""
    shown = [report.metrics.index(m) for m in ("theta_norm_squared", "gradient_norm_squared", "noise_trace")]
    mean = report.mean[..., shown]
    relative = report.sd[..., shown] / np.sqrt(report.runs)[:, None, None] / mean
    error = np.hypot(relative[1:], relative[0])
    beyond = (np.abs(np.log(mean[1:] / mean[0])) - 2 * error > math.log(2) / 2).any((1, 2))
    return next((int(kappa) for kappa, b in zip(report.kappas, beyond, strict=True) if b), None)


def draw(reports, ratios):
    """The worst difference in margins, over kappa and over the ratio at that batch."""
    figure = Figure(figsize=(10.5, 4.8), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True)
    for name, report in reports.items():
        method, where = name.split()
        worst = [report.worst(k) for k in range(len(report.kappas))]
        size = [abs(report.difference[k, t, m]) / report.margin[t, m] for k, (t, m) in enumerate(worst)]
        colours = [VERDICT_COLOURS[v.value] for v in report.verdicts]
        for axis, x in ((left, report.kappas), (right, ratios[name][1:])):
            axis.loglog(x, size, STYLES[where], color=COLOURS[method], lw=1.4, label=name, zorder=1)
            axis.scatter(x, size, c=colours, s=24, zorder=2)
    for axis, label in ((left, "κ"), (right, "smallest noise-to-signal ratio at batch κB (reversed)")):
        axis.axhline(1, color="0.5", lw=0.8)
        axis.set_xlabel(label)
        axis.grid(alpha=0.3)
    right.invert_xaxis()
    right.axvline(1, color="0.5", lw=0.8, ls=":")
    left.set_ylabel("worst difference / margin")
    left.set_xticks(KAPPAS, [str(k) for k in KAPPAS])
    left.minorticks_off()
    left.legend(frameon=False)
    figure.suptitle("Own rules; dots: green CONFIRMED, ochre INCONCLUSIVE, red REFUTED", fontsize=10)
    return figure


def main(argv=None):
    claim = __doc__.split("\n")[0]
    given, began = options(claim, argv), time.perf_counter()
    print(claim)
    reports, ratios = {}, {}
    for name, (method, start, more) in studies().items():
        reports[name] = study(name, method, rules.own, given, theta0=start, **more)
        ratios[name] = smallest_ratio(reports[name], start)
    print("\n" + table(HEADER, [row for name, report in reports.items() for row in lines(name, report)], left=4))
    draw(reports, ratios).savefig(given.out / "where_the_rule_breaks.png", dpi=130)
    rows, surprises = [], 0
    for name, report in reports.items():
        held, refuted = report.largest_kappa or 1, first_refuted(report)
        if report.linear:
            predicted = f"<= {report.linear_rule_limit!r}"
            met = refuted is not None and refuted <= report.linear_rule_limit.mean
        else:
            predicted = short(ratios[name][0])
            met = refuted is not None and held / 2 <= ratios[name][0] <= 2 * refuted
        surprises += not met
        rows.append(
            [name, predicted, str(held), str(refuted), str(first_beyond_closeness(report)), "yes" if met else "no"]
        )
    header = ["study", "predicted", "holds to", "REFUTED from", "not C-close from", "as claimed"]
    print("\n" + table(header, rows))
    print("As claimed: SGD breaks below its bound, the others within a factor of 2 of the prediction.")
    print(f"\nCost: {duration(time.perf_counter() - began)} of wall time, one process.")
    return 0 if given.smoke or not surprises else 1


if __name__ == "__main__":
    sys.exit(main())
