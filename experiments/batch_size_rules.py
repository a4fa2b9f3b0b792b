"""What the experiments on batch-size rules share: late digits, rules run and judged beside what is claimed of them."""

import argparse
import time
from pathlib import Path

from sdeadapt import rules, verify_scaling
from sdeadapt.problems import digits
from sdeadapt.report.scaling import scaling_figure
from sdeadapt.text import duration, short, table
from sdeadapt.verification.decision import Verdict

LINEAR, SQUARE_ROOT = rules.learning_rate(1.0), rules.learning_rate(0.5)
START = (-1.2, -0.2, 0.1, 0.2)  # 0.2 from the minimum in every component: late in training, where noise dominates
HEADER = ["study", "kappa", "verdict", "worst", "at time", "|D| / margin, bounds", "N/S first", "N/S last"]


def late_digits():
    """Logistic regression of 3 against 8 on four principal components, one example a step, from START."""
    return digits(components=4, batch_size=1, l2=0.1).oracle


def options(claim, argv):
    """--out and --smoke."""
    parser = argparse.ArgumentParser(description=claim)
    parser.add_argument("--out", type=Path, required=True, help="new directory: a run directory per study, figures")
    parser.add_argument("--smoke", action="store_true", help="64 runs, the first kappa: some seconds, no claim")
    return parser.parse_args(argv)


def study(name, method, rule, given, *, kappas=(2, 4, 8), **kwargs):
    """Verify one rule on late digits and save the report."""
    fixed = {"oracle": late_digits(), "theta0": START, "steps": 256, "times": 8, "runs": 1024} | kwargs
    if given.smoke:
        fixed["runs"] = 64
    report = verify_scaling(method, rule=rule, kappas=kappas[:1] if given.smoke else kappas, **fixed)
    report.save(given.out / name.replace(",", "").replace(" ", "_"))
    return report


def lines(name, report):
    """The rows of a report for the table."""
    for k, kappa in enumerate(report.kappas):
        t, m = report.worst(k)
        bounds = f"{report.low[k, t, m]:.2g} to {report.high[k, t, m]:.2g}"
        ratios = [short(report.noise_to_signal[k + 1, t]) for t in (0, -1)]
        yield [name, str(kappa), report.verdicts[k].value, report.metrics[m], short(report.times[t]), bounds, *ratios]


def first_refuted(report):
    """The first kappa that is REFUTED, or None."""
    return next((int(k) for k, v in zip(report.kappas, report.verdicts, strict=True) if v is Verdict.REFUTED), None)


def main(claim, studies, figures, argv=None):
    """Run {name: (method, rule, verdict claimed, further arguments)}, print the table, draw {file: names}.

    Returns 1 if a verdict is not the one claimed.
    """
    given, began = options(claim, argv), time.perf_counter()
    print(claim)
    reports = {name: study(name, method, rule, given, **more) for name, (method, rule, _, more) in studies.items()}
    print("\n" + table(HEADER, [row for name, report in reports.items() for row in lines(name, report)], left=4))
    for file, names in figures.items():
        scaling_figure([reports[name] for name in names]).savefig(given.out / file, dpi=110)
    rows = [
        [
            name,
            studies[name][2],
            report.verdict.value,
            str(report.largest_kappa or "-"),
            str(first_refuted(report) or "-"),
        ]
        for name, report in reports.items()
    ]
    print("\n" + table(["study", "claimed", "found", "holds to kappa", "REFUTED from"], rows, left=3))
    print(f"\nCost: {duration(time.perf_counter() - began)} of wall time, one process.")
    return 0 if given.smoke or all(row[1] == row[2] for row in rows) else 1
