"""What the experiments on batch-size rules share: late digits, rules run and judged beside what is claimed of them."""

import argparse
import time
from pathlib import Path

from sdeadapt import rules, verify_scaling
from sdeadapt.problems import digits
from sdeadapt.report.scaling import scaling_figure
from sdeadapt.text import duration, short, table

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
    parser.add_argument("--smoke", action="store_true", help="64 runs, kappa = 2: some seconds, no claim")
    return parser.parse_args(argv)


def study(name, method, rule, given, *, kappas=(2, 4, 8), **kwargs):
    """Verify one rule on late digits and save the report; runs are planned, 64 at least."""
    fixed = {"oracle": late_digits(), "theta0": START, "steps": 256, "times": 8, "runs": 1024} | kwargs
    if given.smoke:
        fixed["runs"] = 64
    report = verify_scaling(method, rule=rule, kappas=kappas[:1] if given.smoke else kappas, **fixed)
    report.save(given.out / name.replace(" ", "_"))
    return report


def lines(name, report):
    """The rows of a report for the table."""
    for k, kappa in enumerate(report.kappas):
        t, m = report.worst(k)
        bounds = "{:.2g} to {:.2g}".format(report.low[k, t, m], report.high[k, t, m])
        ratios = [short(report.noise_to_signal[k + 1, t]) for t in (0, -1)]
        yield [name, str(kappa), report.verdicts[k].value, report.metrics[m], short(report.times[t]), bounds, *ratios]


def draw(path, reports):
    """Rules side by side."""
    scaling_figure(reports).savefig(path, dpi=110)


def main(claim, studies, figures, argv=None):
    """Run {name: (method, rule, verdict claimed, further arguments)}, print the table, draw {file: names}.

    Returns 1 if a verdict is not the one claimed.
    """
    given, began = options(claim, argv), time.perf_counter()
    print(claim)
    reports = {name: study(name, method, rule, given, **more) for name, (method, rule, _, more) in studies.items()}
    print("\n" + table(HEADER, [row for name, report in reports.items() for row in lines(name, report)], left=4))
    for file, names in figures.items():
        draw(given.out / file, [reports[name] for name in names])
    rows, surprises = [], 0
    for name, report in reports.items():
        claimed = studies[name][2]
        surprises += report.verdict.value != claimed
        wanted = f"{report.runs[0]} of {short(report.wanted, 4)}"
        rows.append([name, report.rule, claimed, report.verdict.value, str(report.largest_kappa or "-"), wanted])
    print("\n" + table(["study", "rule", "claimed", "found", "holds to kappa", "runs of wanted"], rows, left=4))
    print(f"\nCost: {duration(time.perf_counter() - began)} of wall time, one process.")
    return 0 if given.smoke or not surprises else 1


