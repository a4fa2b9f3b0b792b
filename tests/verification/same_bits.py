"""A study in this process and on spawned workers: prints whether the bits agree. Run by test_weak_error.py.

Apart from the suite, because its type-checking hook wraps every closure in objects that cannot be pickled.
"""

import sys
from dataclasses import replace

import numpy as np
import torch

from sdeadapt.methods import RMSprop
from sdeadapt.oracles.analytic import Quadratic
from sdeadapt.simulation.run import Run, workers
from sdeadapt.verification.planning import Budget
from sdeadapt.verification.weak_error import verify


def main(counts: list[int]) -> None:
    torch.set_num_threads(1)
    factor = 1.0

    def recipe(method, oracle):
        own = method.sde(oracle)
        return replace(own, at=lambda t, x: (own.at(t, x)[0], lambda dw: own.at(t, x)[1](factor * dw)))

    def study(**options):
        return verify(
            RMSprop(0.25, 0.9375, 0.4),
            Quadratic(1.0, 1.0, scale=4.0),
            theta0=[1.5],
            steps=8,
            initial={"u": [2.0]},
            multipliers=(1, 2, 4),
            budget=Budget(paths=1200),
            sde=recipe,
            test_functions={"third": lambda x: x.theta[:, 0] ** 3, "loss": "loss"},
            **options,
        )

    here = study(run=Run(chunk=256))
    for n in counts:
        with workers(n) as executor:
            there = study(run=Run(chunk=256, executor=executor))
        same = np.array_equal(here.error, there.error) and np.array_equal(here.sem, there.sem)
        print(n, "same" if same else "different")
    other = study(run=Run(chunk=256), rng=1)
    print("another seed", "same" if np.array_equal(here.error, other.error) else "different")


if __name__ == "__main__":
    main([int(n) for n in sys.argv[1:]])
