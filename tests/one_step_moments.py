"""One iteration against an SDE, without Monte Carlo: mean, covariance and covariance with the coupled noise."""

import math

import numpy as np
import torch

from sdeadapt.oracles.analytic import Quadratic

HESSIAN = [[1.0, 0.4], [0.4, 2.0]]
COVARIANCE = [[2.0, -0.7], [-0.7, 0.5]]  # does not commute with the Hessian


def oracle(scale):
    return Quadratic(HESSIAN, COVARIANCE, scale=scale)


def coefficients(sde, t, x):
    """Drift (D,) and diffusion matrix (D, noise_dim), the fields one after another; None is zero."""
    drift, _ = sde.at(t, x)
    eye = torch.eye(sde.noise_dim, dtype=x.theta.dtype)
    _, diffuse = sde.at(t, type(x)(*(f.expand(sde.noise_dim, -1) for f in x)))
    zero = torch.zeros(sde.noise_dim, x.theta.shape[1], dtype=x.theta.dtype)
    return torch.cat(tuple(drift), 1)[0], torch.cat([zero if f is None else f for f in diffuse(eye)], 1).T


def one_step(method, problem, k, x):
    """The three moments of iteration k from x, per unit of SDE time, exact for polynomials of degree 23."""
    draws, weights = problem.rule(12)
    rows = type(x)(*(field.expand(len(weights), -1) for field in x))
    g = problem.sample(problem.at(rows.theta), draws)
    after = method.to_point(method.step(method.from_point(rows, problem.scale), g, k), problem.scale)
    delta, h = torch.cat(tuple(after), 1) - torch.cat(tuple(rows), 1), method.time_step
    weighted = weights[:, None] * delta
    return weighted.sum(0) / h, weighted.T @ delta / h, weighted.T @ draws / math.sqrt(h)


def one_step_errors(method, sde, scale, x, t=0.5):
    """Relative differences of the three at h = 2^-8, 2^-10, 2^-12, where the chain is at time t: (3, 3)."""
    errors = []
    drift, matrix = coefficients(sde, t, x)
    for j in (8, 10, 12):
        kappa = 2.0**-j / method.time_step
        chain, problem = method.rescaled(kappa), oracle(scale).rescaled(kappa)
        found = one_step(chain, problem, round(t * 2**j), x)
        pairs = zip(found, (drift, matrix @ matrix.T, matrix), strict=True)
        errors.append([float((a - b).abs().max() / b.abs().max()) for a, b in pairs])
    return np.array(errors)
