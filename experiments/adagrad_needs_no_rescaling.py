r"""Adagrad needs no rescaling of lr with the batch: its own decay by one over the root of the steps supplies the root.

Its SDE is that of RMSprop without forgetting, in a time of its own, and the rule read off it leaves lr as it is
(derived here; compare Malladi et al. 2022, arXiv 2205.10287, Definition 5.2, whose rule multiplies lr by the root of
kappa). Two questions: is the SDE of weak order 1 (without random numbers, on a rippled loss in one dimension), and
does the rule keep the trajectory (digits logistic regression, late in training). It needs squares to start from: with
torch's S = 0 the first steps have the size of lr, whatever the batch.

    python experiments/adagrad_needs_no_rescaling.py --out results/adagrad_needs_no_rescaling
"""

import math
import sys
import time
from dataclasses import replace

import batch_size_rules

import sdeadapt as sa
from sdeadapt import Adagrad
from sdeadapt.oracles import Rippled
from sdeadapt.text import duration
from sdeadapt.verification.decision import Verdict
from sdeadapt.verification.resolution import Resolution

METHOD = Adagrad(1 / 4, eps=1e-4, time_step=1 / 256)
HELD = {"initial": {"u": 1.0}}
LARGE, EARLY = replace(METHOD, lr=1 / 2), {"steps": 32, "times": 4}  # of first steps that show their size


def lr_unchanged(method, kappa):
    return method.rescaled(kappa)


def lr_times_root(method, kappa):
    return replace(method.rescaled(kappa), lr=method.lr * math.sqrt(kappa))


def lr_times_kappa(method, kappa):
    return replace(method.rescaled(kappa), lr=method.lr * kappa)


def forgetting(method, oracle):
    """The SDE with RMSprop's equation for u, at the same memory as the unit of time."""
    plain = method.sde(oracle)

    def at(t, x):
        drift, diffuse = plain.at(t, x)
        return drift._replace(u=drift.u - x.u), diffuse

    return replace(plain, at=at)


def equation(out, smoke):
    """Whether the SDE is CONFIRMED and the one with forgetting REFUTED."""
    method, held = Adagrad(0.5, eps=0.1, time_step=1 / 16), True
    grid = Resolution((24, 12), nodes=8, euler=4) if smoke else Resolution()
    for name, sde, claimed in (("SDE", None, Verdict.CONFIRMED), ("with forgetting", forgetting, Verdict.REFUTED)):
        report = sa.verify(
            method, Rippled(2.0, noise="gaussian"), theta0=[1.0], steps=8, sde=sde, multipliers=(1, 2, 4),
            budget=sa.Budget(resolution=grid),
        )  # fmt: skip
        report.save(out / name.replace(" ", "_"))
        print(f"{name}, {report.estimator}: {report.message}", flush=True)
        held &= report.verdict is claimed
    return held


def main(argv=None):
    claim = __doc__.split("\n")[0]
    given, began = batch_size_rules.options(claim, argv), time.perf_counter()
    held = equation(given.out, given.smoke)
    studies = {
        "lr unchanged": (METHOD, lr_unchanged, "CONFIRMED", HELD),
        "lr times root of kappa": (METHOD, lr_times_root, "REFUTED", HELD),
        "lr times kappa": (METHOD, lr_times_kappa, "REFUTED", HELD),
        "first steps": (LARGE, lr_unchanged, "CONFIRMED", HELD | EARLY),
        "first steps from empty sums": (LARGE, lr_unchanged, "REFUTED", EARLY),
    }
    figures = {"rules.png": list(studies)[:3], "first_steps.png": list(studies)[3:]}
    failed = batch_size_rules.main(claim, studies, figures, argv)
    print(f"The equation as claimed: {'yes' if held else 'no'}; {duration(time.perf_counter() - began)} with it.")
    return 0 if given.smoke else failed or int(not held)


if __name__ == "__main__":
    sys.exit(main())
