"""SGD in its two families: what the same three equations are worth in each."""

from sdeadapt import SGD, ItoSDE, verify
from sdeadapt.methods.sgd import SGDPoint
from sdeadapt.oracles.analytic import constant_noise

problem = constant_noise([0.5, 1.0, 2.0])


def ode(method, oracle):  # the SDE without its noise
    def at(t, x):
        return SGDPoint(-oracle.at(x.theta).gradient), lambda dw: SGDPoint(None)

    return ItoSDE(at, oracle.noise_dim, SGDPoint)


def second(method, oracle):
    return method.sde(oracle, order=2)


reports = {}
for refine in ("step", "svag"):
    for name, sde in (("ODE", ode), ("SDE", None), ("second-order SDE", second)):
        report = verify(SGD(1 / 16), problem, theta0=[1.0, -2.0, 1.5], horizon=2.0, sde=sde, refine=refine,
                        multipliers=(1, 8, 64, 512), test_functions=["theta_0_squared", "loss"])  # fmt: skip
        reports[refine, name] = report
        orders = ", ".join(f"{test.order:.2f}" for test in report.tests)
        print(f"{refine}, {name}: {report.verdict.value}, local orders {orders}")
