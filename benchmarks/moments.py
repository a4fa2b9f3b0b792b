"""Seconds that exact moments take at d = 200, level by level: constant covariance, and regression on 1,000 examples.

python benchmarks/moments.py
"""

import time

import torch

from sdeadapt.methods import SGD, Momentum
from sdeadapt.oracles.analytic import Quadratic
from sdeadapt.oracles.finite_sum import LinearRegression
from sdeadapt.simulation.run import Run
from sdeadapt.verification.exact_moments import moment_means, moments_apply
from sdeadapt.verification.study import Study

DIM, EXAMPLES = 200, 1000


def problems() -> dict:
    generator = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    a, b, x = normal(DIM, DIM), normal(DIM, DIM), normal(EXAMPLES, DIM)
    quadratic = Quadratic(a @ a.T / DIM, b @ b.T / DIM, 1.0)
    regression = LinearRegression(x, x @ normal(DIM) / DIM**0.5 + normal(EXAMPLES), batch_size=16)
    langevin = Momentum(2.0**-8, 1 - 2.0**-4, friction="langevin")
    return {
        "SGD, constant covariance": (SGD(2.0**-4), quadratic),
        "SGD, regression": (SGD(2.0**-4), regression),
        "Langevin momentum, constant covariance": (langevin, quadratic),
    }


def main() -> None:
    torch.set_num_threads(1)
    for name, (method, oracle) in problems().items():
        study = Study.build(
            method, oracle, theta0=[1.0] * DIM, horizon=2.0, steps=None, sde=None, multipliers=None, refine="svag",
            order=1, initial=None, start=None, times=None, test_functions=None, solver="extrapolated", substeps=4,
            run=Run(),
        )  # fmt: skip
        begin = time.perf_counter()
        assert moments_apply(study.levels, True) == ""
        print(f"{name}: recognised in {time.perf_counter() - begin:.2f} s")
        for level in study.levels:
            begin = time.perf_counter()
            means = moment_means(level, True)
            seconds, bound = time.perf_counter() - begin, sum(means.parts.values()).max()
            error = (means.chain - means.sde)[1]
            print(f"  {level.records[-1]:5} steps {seconds:6.2f} s   e(theta_0^2) = {error:+.6e}   bound {bound:.0e}")


if __name__ == "__main__":
    main()
