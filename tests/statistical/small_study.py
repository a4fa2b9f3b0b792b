r"""A study of a fifth of a second with known exact errors: what the whole instrument is calibrated on.

RMSprop with v_k in the denominator under SVAG, Gaussian noise, f = theta^2/2, Sigma = 1, sigma0 = 1, eps0 = .1, c2 = 1,
theta0 = 1.5, u0 = 2, T = 1, base h = 1/4, l = 1, 2, 4; its errors are an entry of data/exact_sequences.npz. Test
functions theta and theta^2. Here rather than in a test module, so that worker processes can import it.
"""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TypeVar

import numpy as np
from statistical.negative_controls import slower_average

from sdeadapt.methods import RMSprop
from sdeadapt.oracles.analytic import Quadratic
from sdeadapt.simulation.run import workers
from sdeadapt.verification.planning import Budget
from sdeadapt.verification.report import WeakErrorReport
from sdeadapt.verification.weak_error import verify

SDES = {"true": None, "c2 10 % too small": slower_average}
Result = TypeVar("Result")


def exact() -> np.ndarray:
    """Return e, (2, 3)."""
    with np.load(Path(__file__).parents[1] / "data" / "exact_sequences.npz") as data:
        setting = list(data["settings"]).index("normal False 1.0 0.1 0.25")
        return data["error"][setting, :2, :3]


def report(sde: str, budget: Budget, seed: int, substeps: int = 4) -> WeakErrorReport:
    return verify(
        RMSprop(0.5, 0.75, 0.2, denominator="old"),
        Quadratic(1.0, 1.0, scale=2.0),
        theta0=[1.5],
        steps=4,
        initial={"u": [2.0]},
        sde=SDES[sde],
        multipliers=(1, 2, 4),
        test_functions=["theta_0", "theta_0_squared"],
        estimator="independent",
        substeps=substeps,
        rng=seed,
        budget=budget,
    )


def over_seeds(job: Callable[[int], Result], seeds: Iterable[int]) -> list[Result]:
    """Return job(seed) for every seed, from two worker processes; `job` is importable from a module."""
    with workers(2) as executor:
        return list(executor.map(job, seeds, chunksize=5))
