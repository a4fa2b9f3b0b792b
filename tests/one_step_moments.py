"""An SDE against one iteration, without Monte Carlo; and weak errors by Monte Carlo with a control of known mean."""

import math

import numpy as np
import torch
from scipy.integrate import solve_ivp

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


def weak_errors(method, scale, start, horizon, paths, seed, change=lambda sde: sde):
    """E theta and E theta^2 of a method less those of its SDE on f = theta^2 / 2, Sigma = 1, with standard errors.

    There every coordinate but theta is deterministic in the SDE, and theta is linear: its moments solve ODEs. The chain
    is compared with the SDE's Euler scheme on the same draws, whose moments are a recursion: a control variate.
    """
    problem = Quadratic(1.0, 1.0, scale=scale)
    sde, h = change(method.sde(problem)), method.time_step
    steps = round(horizon / h)

    def at(t, others):
        x = method.Point(*(torch.full((1, 1), float(v), dtype=torch.float64) for v in (1.0, *others)))
        drift, diffuse = sde.at(t, x)
        return [float(f) for f in drift], float(diffuse(torch.ones(1, 1, dtype=torch.float64)).theta)

    def rates(t, y):
        (rate, *others), kick = at(t, y[2:])
        return [rate * y[0], 2 * rate * y[1] + kick**2, *others]

    times = h * np.arange(steps + 1)
    solution = solve_ivp(
        rates, (0, horizon), [start[0], start[0] ** 2, *start[1:]], t_eval=np.minimum(times, horizon),
        method="DOP853", rtol=1e-11, atol=1e-12,
    ).y  # fmt: skip
    state = method.from_point(method.Point(*(torch.full((paths, 1), v, dtype=torch.float64) for v in start)), scale)
    linear, moments = state.theta, solution[:2, 0].copy()
    stream = problem.stream(torch.Generator().manual_seed(seed), paths)
    for k in range(steps):
        (rate, *_), kick = at(times[k], solution[2:, k])
        xi = stream.next()
        state = method.step(state, problem.sample(problem.at(state.theta), xi), k)
        linear = (1 + h * rate) * linear + math.sqrt(h) * kick * xi
        moments = np.array([(1 + h * rate) * moments[0], (1 + h * rate) ** 2 * moments[1] + h * kick**2])
    gaps = torch.cat([state.theta - linear, state.theta**2 - linear**2], 1).numpy()
    return gaps.mean(0) + moments - solution[:2, -1], gaps.std(0) / math.sqrt(paths)
