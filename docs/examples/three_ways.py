"""One weak error, measured with and without random numbers."""

from sdeadapt import Budget, RMSprop, verify
from sdeadapt.oracles.analytic import Quadratic
from sdeadapt.verification.resolution import Resolution

method = RMSprop(lr=1 / 4, beta=63 / 64, eps=0.8, denominator="old")
problem = Quadratic(1.0, 1.0, scale=4.0)
grid, paths = Budget(resolution=Resolution(points=(16, 8), nodes=10, euler=4)), Budget(paths=8192)
reports = {}
for estimator, budget in (("quadrature", grid), ("coupled", paths), ("independent", paths)):
    report = verify(method, problem, theta0=[1.0], steps=16, initial={"u": [1.3]}, multipliers=(1, 2, 4),
                    test_functions=["theta_0_squared"], estimator=estimator, budget=budget)  # fmt: skip
    reports[estimator] = report
    print(f"{estimator:12} {report.error[0, -1]:.4e} ± {report.sem[0, -1]:.0e}, {report.verdict.value}, "
          f"{report.seconds:.1f} s")  # fmt: skip
