"""Exact moments of a linear chain and a linear SDE, from `Method.step` and `ItoSDE.at`: no random number."""

import numpy as np
import torch
from scipy.linalg import expm

F64 = torch.float64


def rows(kind, flat, dim):
    """A Point or a State of the rows of `flat` (n, D)."""
    return kind(*torch.as_tensor(flat, dtype=F64).split(dim, 1))


def chain_moments(method, oracle, x0, steps):
    """E x and E x xT in the Point's coordinates after `steps` iterations from x0: powers of the map of (y yT, y, 1).

    The recursion runs in the State y; the oracle is a Quadratic with minimum 0.
    """
    d, n = oracle.dim, oracle.noise_dim
    size = d * len(method.State._fields)
    y = np.concatenate([np.eye(size), np.zeros((n, size))])
    xi = np.concatenate([np.zeros((size, n)), np.eye(n)])
    state = rows(method.State, y, d)
    after = method.step(state, oracle.sample(oracle.at(state.theta), torch.as_tensor(xi)), 0)
    columns = torch.cat(tuple(after), 1).numpy().T
    a, b = columns[:, :size], columns[:, size:]
    out = torch.cat(tuple(method.to_point(rows(method.State, np.eye(size), d), oracle.scale)), 1).numpy().T
    y0 = torch.cat(tuple(method.from_point(rows(method.Point, x0[None], d), oracle.scale)), 1).numpy()[0]
    power = np.linalg.matrix_power(_closed(np.kron(a, a), a, b @ b.T), steps)
    mean, second = _split(power @ _lift(y0), size)
    return out @ mean, out @ second @ out.T


def sde_moments(sde, dim, y0, time):
    """E y and E y yT at `time` from y0, by one matrix exponential."""
    size = dim * len(sde.point._fields)
    drift, _ = sde.at(0.0, rows(sde.point, np.eye(size), dim))
    a = torch.cat(tuple(drift), 1).numpy().T
    _, diffuse = sde.at(0.0, rows(sde.point, np.zeros((sde.noise_dim, size)), dim))
    kicks = diffuse(torch.eye(sde.noise_dim, dtype=F64))
    zero = torch.zeros(sde.noise_dim, dim, dtype=F64)
    m = torch.cat([zero if f is None else f for f in kicks], 1).numpy().T
    eye = np.eye(size)
    generator = _closed(np.kron(a, eye) + np.kron(eye, a), a, m @ m.T)
    generator[-1, -1] = 0.0
    return _split(expm(time * generator) @ _lift(y0), size)


def _closed(second, first, source):
    size, n = len(first), len(second) + len(first) + 1
    matrix = np.zeros((n, n))
    matrix[: size**2, : size**2], matrix[size**2 : -1, size**2 : -1] = second, first
    matrix[: size**2, -1], matrix[-1, -1] = source.reshape(-1), 1.0
    return matrix


def _lift(y0):
    return np.concatenate([np.outer(y0, y0).reshape(-1), y0, [1.0]])


def _split(lifted, size):
    return lifted[size**2 : -1], lifted[: size**2].reshape(size, size)


def errors(method, oracle, recipe, x0, time, levels, family="step"):
    """Weak errors of all first and second moments at h = 2^-j for j in `levels`: (levels, n)."""
    found = []
    for j in levels:
        kappa = 2.0**-j / method.time_step
        m, o = method.rescaled(kappa), oracle.rescaled(kappa) if family == "noise" else oracle
        chain = chain_moments(m, o, x0, round(time * 2**j))
        sde = sde_moments(recipe(m, o), o.dim, x0, time)
        (mean, second), upper = (c - s for c, s in zip(chain, sde, strict=True)), np.triu_indices(len(x0))
        found.append(np.concatenate([mean, second[upper]]))
    return np.array(found)


def orders(found):
    """Orders at step sizes in the ratio 2: between the two finest, extrapolated to h = 0 where there is a third."""
    slopes = np.log2(np.abs(found[:-1] / found[1:]))
    return 2 * slopes[-1] - slopes[-2] if len(slopes) > 1 else slopes[-1]
