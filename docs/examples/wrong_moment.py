"""Which one-step moment of an SDE is wrong, and at which power of h."""

import dataclasses

import sdeadapt as sa
from sdeadapt.verification.local_error import local_error

method = sa.RMSprop(lr=1 / 4, beta=15 / 16, eps=0.4)
problem = sa.oracles.Quadratic(1.0, 1.0, scale=4.0)


def too_slow(method, oracle):
    """RMSprop's SDE with half the drift in u."""
    sde = method.sde(oracle)

    def at(t, x):
        drift, diffuse = sde.at(t, x)
        return drift._replace(u=drift.u / 2), diffuse

    return dataclasses.replace(sde, at=at)


right = local_error(method, problem, theta=[1.5])
wrong = local_error(method, problem, too_slow, theta=[1.5])
second = local_error(method, problem, theta=[1.5], order=2, refine="noise")
for report in (right, wrong, second):
    print(f"{report.verdict.value}: {report.message}")
