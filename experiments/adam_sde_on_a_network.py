r"""SDEs of a real network, solved directly and not through SVAG: C-close at a small step, not at a large one.

A 64–32–10 network on handwritten digits, 2,410 parameters, true minibatch noise: every SDE step takes the full gradient
and Sigma^{1/2}dW. For Adam and RMSprop, without bias correction so that every chain starts where the SDE does, one SDE
is kept while batch and lr change together: lr = 2^-6 at batches of 64, 2^-7 at 16, 2^-8 at 4. SVAG's runs of the
coarse chain go the same way. C-close: E|theta|^2, E|grad f|^2, E Tr Sigma agree within sqrt 2 at all times (Li,
Malladi, Arora 2021). Adam with torch's bias correction and SGD are what `sdeadapt compare --problem digits-mlp` runs.
Control: the same test refutes an SDE whose sigma is twice the oracle's.

    python experiments/adam_sde_on_a_network.py --out results/adam_sde_on_a_network
"""

import sys
import time
from typing import Any, NamedTuple

import torch
from claims import Claim, arguments, conclude
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

import sdeadapt as sa
from sdeadapt.problems import digits_mlp
from sdeadapt.report.comparison import trajectories

CORES = 2
CHAINS = (1, 4, 16)  # steps of the coarse chain's lr^2, in batches of 64, that a chain splits one into
PANELS = {
    "loss": "train loss",
    "test_accuracy": "test accuracy",
    "theta_norm_squared": "|θ|²",
    "gradient_norm_squared": "|∇f|²",
    "noise_trace": "Tr Σ",
}


class Case(NamedTuple):
    """A comparison: its claim, and what the ledger expects of it."""

    text: str
    expected: str
    method: sa.Method
    problem: dict[str, Any]  # options of digits_mlp
    options: dict[str, Any]  # of compare


def coarse(name):
    """The method at lr = 2^-6, for batches of 64: memories of 4 steps, of 2 for m."""
    if name == "Adam":
        return sa.Adam(2**-6, 0.5, 0.75, 2.5e-4, bias_correction=False)
    return sa.RMSprop(2**-6, 0.75, 2.5e-4)


def doubled(method, oracle):
    """The SDE with twice the oracle's sigma."""
    return method.sde(oracle.rescaled(0.25))


def cases(smoke):
    found = {}
    examples, steps = (50, 10) if smoke else (500, 16)
    for name in ("Adam", "RMSprop"):
        for r in CHAINS:
            if (smoke and r > 1) or (name, r) == ("RMSprop", 4):
                continue
            method, batch = coarse(name).rescaled(1 / r), 64 // r
            paths = {1: 128, 4: 128, 16: 64}[r]
            options = {"steps": steps * r, "paths": 64 if smoke else paths, "substeps": 2 if r == 16 else 4}
            found[f"{name}, batch {batch}"] = Case(
                f"{name}, lr = {method.lr:.3g}, batches of {batch}: the chain is C-close to its SDE",
                {1: "REFUTED", 4: "INCONCLUSIVE", 16: "CONFIRMED"}[r],
                method,
                {"batch_size": batch, "examples": examples},
                options | {"multipliers": (1, 2, 4) if r == 1 else (1,)},
            )
    small = {"examples": examples, "batch_size": 4}
    default = {"steps": steps if smoke else 64, "paths": 64 if smoke else 128, "substeps": 2}
    adam = sa.Adam(2**-8, 0.875, 0.9375, 1e-3)
    found |= {
        "Adam, bias corrected": Case(
            "Adam with bias correction, lr = 2^-8, batches of 4: C-close from 8 steps on", "CONFIRMED", adam, small,
            default,
        ),
        "control": Case(
            "the same chain is C-close to the SDE with twice the sigma", "REFUTED", adam, small,
            default | {"sde": doubled, "multipliers": (1,)},
        ),
        "SGD, lr = 1/16": Case("SGD, lr = 1/16, batches of 4: C-close", "CONFIRMED", sa.SGD(1 / 16), small, default),
        "SGD, lr = 2": Case(
            "SGD, lr = 2, batches of 4: C-close", "REFUTED", sa.SGD(2.0), small,
            default | {"steps": steps, "multipliers": (1,), "substeps": 4},
        ),
    }  # fmt: skip
    return found


def run(case, executor):
    """Return the comparison of one case."""
    problem = digits_mlp(**case.problem)
    return sa.compare(
        case.method, problem.oracle, theta0=problem.theta0, times=8, test_functions=problem.test_functions,
        shown=problem.shown, run=sa.Run(executor=executor), **case.options,
    )  # fmt: skip


def evidence(report):
    low, high = report.closeness.bounds
    time, metric = report.closeness.worst
    return (
        f"factor {report.closeness.factor:.3g} in {report.metrics[metric]} at time {report.times[time]:.3g}, between "
        f"{low:.3g} and {high:.3g}; {int(report.n.min())} paths, {report.seconds:.0f} s"
    )


def draw(reports):
    """A row a comparison: what the processes look like on one clock."""
    rows = [name for name in ("Adam, batch 64", "Adam, batch 16", "Adam, batch 4") if name in reports]
    figure = Figure(figsize=(3.0 * len(PANELS), 2.5 * len(rows) + 0.7), layout="constrained")
    axes = figure.subplots(len(rows), len(PANELS), squeeze=False, sharex=True)
    for row, name in enumerate(rows):
        report = reports[name]
        for column, (quantity, label) in enumerate(PANELS.items()):
            ax = trajectories(report, quantity, axes[row, column])
            ax.set_title(label if row == 0 else "", fontsize=10)
            ax.tick_params(labelsize=8)
            ax.margins(x=0)
            ax.locator_params(axis="x", nbins=4)
            ax.ticklabel_format(axis="x", scilimits=(0, 0))
            if quantity in ("gradient_norm_squared", "noise_trace", "loss"):
                ax.set_yscale("log")
                ax.yaxis.set(
                    major_locator=LogLocator(subs=(1, 2, 5)), major_formatter=StrMethodFormatter("{x:g}"),
                    minor_formatter=NullFormatter(),
                )  # fmt: skip
            if row == len(rows) - 1:
                ax.set_xlabel("SDE time", fontsize=9)
        found = f"{report.verdict.value}: factor {report.closeness.factor:.2f}"
        axes[row, 0].set_ylabel(f"{name}, lr = {report.lr:.3g}\n{found}", fontsize=9)
    handles, labels = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(labels), fontsize=9,
                  title="mean; band and dotted lines: 90 % of the paths", title_fontsize=8)  # fmt: skip
    figure.suptitle(
        "One SDE of Adam, solved directly on a network of 2,410 parameters, and three chains that it describes",
        fontsize=11,
    )
    return figure


def main(argv=None):
    began = time.perf_counter()
    options = arguments(__doc__.split("\n")[0], argv)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    reports, claims = {}, []
    try:
        chosen = cases(options.smoke)
        with sa.workers(1 if options.smoke else CORES) as executor:
            for name, case in chosen.items():
                reports[name] = report = run(case, None if options.smoke else executor)
                report.save(options.out / name.replace(", ", "_").replace(" ", "_").replace("/", "over"))
                claims.append(Claim(case.text, report.verdict, evidence(report), case.expected))
                print(f"{name}: {report.verdict.value}: {claims[-1].evidence}", flush=True)
    finally:
        torch.set_num_threads(threads)
    draw(reports).savefig(options.out / "adam_sde_on_a_network.png", dpi=130)
    return conclude(claims, options, began)


if __name__ == "__main__":
    sys.exit(main())
