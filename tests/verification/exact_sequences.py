r"""Noise-free weak errors e(l) of 1-d RMSprop under SVAG: what the rule of decision is calibrated on.

f = theta^2/2, Sigma = 1, sigma0 = 1, theta0 = 1.5, u0 = 2, T = 1. The chain is a transition operator on a grid in
(theta, log u), the SDE two linear moment equations. Run this file to make ../data/exact_sequences.npz.
"""

import itertools
import math
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.polynomial.hermite_e import hermegauss
from numpy.polynomial.laguerre import laggauss
from scipy.integrate import solve_ivp
from scipy.sparse import csr_array

DATA = Path(__file__).parents[1] / "data" / "exact_sequences.npz"
FUNCTIONS = ("theta", "theta^2", "u", "cos theta")
THETA0, U0, HORIZON = 1.5, 2.0, 1.0
SPLITS = (1, 4, 16, 64)  # l = 1, 2, 4, 8
THETA, LOG_U = np.linspace(-5.5, 6.5, 81), np.linspace(-1.0, 4.5, 56)


class Setting(NamedTuple):
    law: str
    new_v: bool
    c2: float
    eps0: float
    base_h: float


SETTINGS = [
    Setting(*s)
    for s in itertools.product(
        ("normal", "exponential", "two-point"), (False, True), (1.0, 0.3), (0.1, 0.5), (1 / 4, 1 / 8)
    )
]


def gauss_rule(z, w, n):
    """The Gauss rule with (at most) n nodes of a discrete measure: Lanczos with full reorthogonalisation."""
    keep = w > 1e-30
    z, w = z[keep], w[keep]
    basis, alpha, beta = [np.sqrt(w / w.sum())], [], []
    for _ in range(min(n, len(np.unique(z.round(12))))):
        q = z * basis[-1]
        alpha.append(q @ basis[-1])
        for b in basis * 2:
            q = q - (q @ b) * b
        beta.append(np.linalg.norm(q))
        basis.append(q / max(beta[-1], 1e-300))
    off = beta[: len(alpha) - 1]
    nodes, vectors = np.linalg.eigh(np.diag(alpha) + np.diag(off, 1) + np.diag(off, -1))
    return nodes, vectors[0] ** 2


def svag_rule(law, r, n=20):
    """Nodes and weights of the standardised SVAG noise (r1 z1 + r2 z2) / sqrt(r)."""
    if law == "normal":
        z, w = hermegauss(n)
        return z, w / w.sum()  # a rotation of two normals is one normal
    if law == "exponential":
        z, w = laggauss(24)
        z = z - 1
    else:  # two points, skewness 1.5
        z, w = np.array([2.0, -0.5]), np.array([0.2, 0.8])
    root = math.sqrt(2 * r - 1)
    r1, r2 = (1 + root) / 2, (1 - root) / 2
    return gauss_rule((r1 * z[:, None] + r2 * z).ravel() / math.sqrt(r), np.outer(w, w).ravel(), n)


def interpolate(x, nodes):
    """Local 8-point Lagrange interpolation on a uniform grid, held constant outside: (first column, weights (8, n))."""
    t = np.clip((x - nodes[0]) / (nodes[1] - nodes[0]), 0, len(nodes) - 1)
    first = np.clip(np.floor(t).astype(int) - 3, 0, len(nodes) - 8)
    local, offsets = t - first, np.arange(8)
    weights = [np.prod([(local - j) / (i - j) for j in offsets if j != i], axis=0) for i in offsets]
    return first, np.stack(weights)


def chain(setting, r, theta=THETA, log_u=LOG_U):
    """E phi at the horizon for each of FUNCTIONS, by powers of the (sparse) transition operator."""
    h = setting.base_h / r
    x, y = (g.ravel() for g in np.meshgrid(theta, log_u, indexing="ij"))
    u, size, operator = np.exp(y), x.size, 0.0
    rows, near = np.arange(size), np.arange(8)
    for z, weight in zip(*svag_rule(setting.law, r), strict=True):
        new_u = u + setting.c2 * h * ((math.sqrt(h) * x + z) ** 2 - u)
        move = (h * x + math.sqrt(h) * z) / (np.sqrt(new_u if setting.new_v else u) + setting.eps0)
        (i, wi), (j, wj) = interpolate(x - move, theta), interpolate(np.log(new_u), log_u)
        columns = (i + near[:, None])[:, None] * len(log_u) + (j + near[:, None])[None]
        entries = weight * wi[:, None] * wj[None]
        at = (np.broadcast_to(rows, columns.shape).ravel(), columns.ravel())
        operator = operator + csr_array((entries.ravel(), at), shape=(size, size))
    phi = np.stack([x, x**2, u, np.cos(x)], 1)
    for _ in range(round(HORIZON / h)):
        phi = operator @ phi
    (i, wi), (j, wj) = interpolate(np.array([THETA0]), theta), interpolate(np.array([math.log(U0)]), log_u)
    near_start = phi.reshape(len(theta), len(log_u), -1)[i[0] : i[0] + 8, j[0] : j[0] + 8]
    return np.einsum("i,j,ijf->f", wi[:, 0], wj[:, 0], near_start)


def sde(setting):
    """E phi at the horizon and sqrt(E phi^2), from the closed moments of the (Gaussian) SDE."""

    def rates(t, y):
        p = math.sqrt(1 + (U0 - 1) * math.exp(-setting.c2 * t)) + setting.eps0
        return [-y[0] / p, -2 * y[1] / p + 1 / p**2]

    mean, second = solve_ivp(rates, (0, HORIZON), [THETA0, THETA0**2], rtol=1e-12, atol=1e-14).y[:, -1]
    u, variance = 1 + (U0 - 1) * math.exp(-setting.c2 * HORIZON), second - mean**2
    fourth = mean**4 + 6 * mean**2 * variance + 3 * variance**2
    squared_cos = (1 + math.exp(-2 * variance) * math.cos(2 * mean)) / 2
    return (
        np.array([mean, second, u, math.exp(-variance / 2) * math.cos(mean)]),
        np.sqrt([second, fourth, u**2, squared_cos]),
    )


def weak_errors(setting):
    """(functions, levels): e(l) for l = 1, 2, 4, 8."""
    return np.stack([chain(setting, r) - sde(setting)[0] for r in SPLITS], 1)


def load():
    """Return h (settings, levels), error (settings, functions, levels), scale (settings, functions)."""
    with np.load(DATA) as data:
        return data["h"], data["error"], data["scale"]


def main():
    np.savez_compressed(
        DATA,
        h=np.array([[s.base_h / r for r in SPLITS] for s in SETTINGS]),
        error=np.stack([weak_errors(s) for s in SETTINGS]),
        scale=np.stack([sde(s)[1] for s in SETTINGS]),
        functions=np.array(FUNCTIONS),
        settings=np.array([" ".join(map(str, s)) for s in SETTINGS]),
    )


if __name__ == "__main__":
    main()
