"""What the experiments on weak orders share: run studies, print verdicts with what is behind them, save and draw."""

import argparse
import contextlib
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from sdeadapt import Budget, Method, Oracle, Run, verify, workers
from sdeadapt.report.figures import weak_error_figure
from sdeadapt.text import duration, short, table

CHUNK, SMOKE = 1024, 128


class Study(NamedTuple):
    """One method on one problem; paths are per level."""

    method: Method
    oracle: Oracle
    theta0: Any
    steps: int
    paths: int
    initial: Mapping[str, Any] | None = None


def main(claim, studies, argv=None):
    """Verify every study under SVAG, save report and figure, print the table."""
    parser = argparse.ArgumentParser(description=claim)
    parser.add_argument("--out", type=Path, required=True, help="new directory: a run directory and a figure per study")
    parser.add_argument("--smoke", action="store_true", help="128 paths, multipliers 1, 2, 3: some seconds, no claim")
    options = parser.parse_args(argv)
    began, rows = time.perf_counter(), []
    print(claim)
    with contextlib.nullcontext() if options.smoke else workers(2) as executor:
        run = Run(executor=executor, chunk=SMOKE if options.smoke else CHUNK)
        for name, study in studies.items():
            report = verify(
                study.method, study.oracle, theta0=study.theta0, steps=study.steps, initial=study.initial,
                multipliers=(1, 2, 3) if options.smoke else (1, 2, 4, 8),
                budget=Budget(paths=SMOKE if options.smoke else study.paths), run=run,
            )  # fmt: skip
            report.save(options.out / name.replace(" ", "_"), files={"figure.png": weak_error_figure(report).savefig})
            print(f"\n{name}: {report.verdict.value}. {report.message}")
            rows += [
                [name, test.name, test.status, short(test.order), "{:.2f} to {:.2f}".format(*test.order_interval),
                 f"{error:.2e} ± {sem:.0e}", f"{test.plateau_bound:.1e}"]
                for test, error, sem in zip(report.tests, report.error[:, -1], report.sem[:, -1], strict=True)
            ]  # fmt: skip
            rows.append([name, f"{report.verdict.value}, {duration(report.seconds)}", *[""] * 5])
    header = ["problem", "test function", "status", "order", "95 % interval", "finest error", "plateau below"]
    print("\n" + table(header, rows, left=3))
    print(f"\nCost: {duration(time.perf_counter() - began)} of wall time.")
