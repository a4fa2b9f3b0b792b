"""A scaling study in this process and on spawned workers: prints whether the bits agree. Run by test_scaling_rule.py.

Apart from the suite, because its type-checking hook wraps every closure in objects that cannot be pickled.
"""

import sys

import numpy as np
import torch

import sdeadapt as sa


def main(counts: list[int]) -> None:
    torch.set_num_threads(1)

    def study(**options):
        oracle = sa.oracles.Quadratic([[1.0]], [[1.0]], scale=4.0)
        return sa.verify_scaling(
            sa.SGD(0.02),
            oracle,
            theta0=[1.5],
            steps=16,
            rule=lambda method, kappa: method.rescaled(kappa),
            test_functions={"third": lambda x: x.theta[:, 0] ** 3},
            **options,
        )

    here = study(run=sa.Run(chunk=64))
    for n in counts:
        with sa.workers(n) as executor:
            there = study(run=sa.Run(chunk=64, executor=executor))
        print(n, "same" if np.array_equal(here.mean, there.mean) and np.array_equal(here.high, there.high) else "other")
    print("another seed", "same" if np.array_equal(here.mean, study(run=sa.Run(chunk=64), rng=1).mean) else "other")


if __name__ == "__main__":
    main([int(n) for n in sys.argv[1:]])
