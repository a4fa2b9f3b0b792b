"""What the library says about Lion: contracts, one-step moments, weak order, SVAG, batch-size rule, its row."""

import dataclasses
import math

import numpy as np
import torch
from lion import Lion, Point

import sdeadapt as sa

method = Lion(lr=0.5, beta1=0.75, beta2=0.75)  # h = 1/4
problem = sa.oracles.Quadratic(hessian=1.0, covariance=1.0, scale=0.5)
sa.testing.check_method(method)


# One-step moments. The rule of quadrature has an edge where the sign changes, at this point of (theta, m).
class WithEdge(sa.oracles.Quadratic):
    def rule(self, n):
        edge = -(1.0 + method.beta1 / (1 - method.beta1) * 0.5) / self.scale
        nodes, weights = np.polynomial.legendre.leggauss(n)
        ends = ((edge - 9, edge), (edge, max(edge, 0) + 9))
        z = np.concatenate([(a + b) / 2 + (b - a) / 2 * nodes for a, b in ends])
        weights = np.concatenate([(b - a) / 2 * weights for a, b in ends]) * np.exp(-z * z / 2) / math.sqrt(2 * math.pi)
        return torch.tensor(z)[:, None], torch.tensor(weights)


def independent(method, oracle):  # a wrong SDE: theta and m have Brownian motions of their own
    own = method.sde(oracle)

    def at(t, x):
        drift, diffuse = own.at(t, x)
        return drift, lambda dw: Point(diffuse(dw[:, [0, 1]]).theta, diffuse(dw[:, [2, 1]]).m)

    return sa.ItoSDE(at, 3, Point)


def forgetful(method, oracle):  # a wrong SDE: the drift of sign descent, without m
    own = method.sde(oracle)

    def at(t, x):
        drift, diffuse = own.at(t, x)
        without, _ = own.at(t, Point(x.theta, 0 * x.m))
        return Point(without.theta, drift.m), diffuse

    return dataclasses.replace(own, at=at)


at_point = {"theta": [1.0], "initial": {"m": [0.5]}, "refine": "noise"}
edged = WithEdge(hessian=1.0, covariance=1.0, scale=0.5)
local = sa.local_error(method, edged, **at_point)
local_wrong = sa.local_error(method, edged, independent, **at_point)
print(local.message, local_wrong.message, sep="\n")

# Weak order, in the family of the theorem and under SVAG.
options = {"theta0": [0.75], "steps": 3, "multipliers": (1, 2, 4)}
many, few = {"budget": sa.Budget(paths=65536)}, {"budget": sa.Budget(paths=8192)}
right = sa.verify(method, problem, refine="noise", **options, **many)
svag = sa.verify(method, problem, **options, **many)
wrong = [sa.verify(method, problem, sde=sde, refine="noise", **options, **few) for sde in (independent, forgetful)]
print(right.message, svag.message, *(report.message for report in wrong), sep="\n")

# SVAG mixes two draws, which changes the density at 0 unless the noise is Gaussian.
try:
    sa.verify(method, sa.oracles.Quadratic(1.0, 1.0, scale=0.5, noise="laplace"), sde=Lion.sde, **options)
except ValueError as error:
    refusal = str(error)
    print(refusal)


def linear(method, kappa):  # a wrong rule
    return dataclasses.replace(method.rescaled(kappa), lr=kappa * method.lr)


# The batch-size rule where noise dominates, and the wrong one beside it.
small = Lion(lr=1 / 32, beta1=0.5, beta2=1 - 1 / 128)
noisy = sa.oracles.Quadratic(hessian=1.0, covariance=1.0, scale=16.0)
scaling = [
    sa.verify_scaling(small, noisy, theta0=[1.01], steps=256, kappas=(4,), rule=rule, runs=4096)
    for rule in (sa.rules.own, linear)
]
print(*(report.message for report in scaling), sep="\n")

row = sa.methods.methods_table([method])
print(row)
