r"""First and second moments of SDEs whose equations for them close: references without Monte Carlo.

The gradient is linear, $\nabla f = H\theta$, and the noise constant, so $u$ is deterministic and the rest is linear in
$x$: $dx = A(t)\,x\,dt + B(t)\,dW$, $(E x)' = A\,E x$, $(E x x^T)' = A\,E x x^T + E x x^T A^T + B B^T$.
"""

import math

import numpy as np
from scipy.integrate import solve_ivp


def linear_moments(coefficients, mean, second, start, end):
    """E x and E x x^T at `end`, from those at `start` (second = None: a point); coefficients(t) -> (A, B B^T)."""
    n = len(mean)
    second = np.outer(mean, mean) if second is None else second

    def rates(t, y):
        a, noise = coefficients(t)
        moment = a @ y[n:].reshape(n, n)
        return np.concatenate([a @ y[:n], (moment + moment.T + noise).ravel()])

    y = solve_ivp(rates, (start, end), [*mean, *np.ravel(second)], method="DOP853", rtol=1e-12, atol=1e-14).y[:, -1]
    return y[:n], y[n:].reshape(n, n)


def sgd(hessian, covariance, sigma0, theta0, end):
    """E theta and E theta theta^T; sigma0 = sigma sqrt(lr)."""
    drift, noise = -np.array(hessian), sigma0**2 * np.array(covariance)
    return linear_moments(lambda t: (drift, noise), theta0, None, 0.0, end)


def sgd_chain(hessian, covariance, sigma0, theta0, h, steps):
    """The same of the iteration itself, for any noise law."""
    factor = np.eye(len(theta0)) - h * np.array(hessian)
    mean, second = np.array(theta0), np.outer(theta0, theta0)
    for _ in range(steps):
        mean, second = factor @ mean, factor @ second @ factor.T + h * sigma0**2 * np.array(covariance)
    return mean, second


def u_path(u0, c2, start=0.0):
    """u(t) for Sigma = 1."""
    return lambda t: 1 + (u0 - 1) * math.exp(-c2 * (t - start))


def rmsprop(hessian, sigma0, eps0, c2, theta0, u0, end):
    """E theta and E theta^2 in one dimension, Sigma = 1."""
    u = u_path(u0, c2)

    def coefficients(t):
        p = sigma0 * math.sqrt(u(t)) + eps0
        return np.array([[-hessian / p]]), np.array([[(sigma0 / p) ** 2]])

    return linear_moments(coefficients, [theta0], None, 0.0, end)


def adam(hessian, sigma0, eps0, c1, c2, x0, u0, end, *, second=None, start=0.0, bias_correction):
    """E (theta, m) and E (theta, m)(theta, m)^T in one dimension, Sigma = 1, from x0 and u0 at `start`."""
    u = u_path(u0, c2, start)

    def coefficients(t):
        g1, g2 = (-math.expm1(-c * t) if bias_correction else 1.0 for c in (c1, c2))
        a = math.sqrt(g2) / g1 / (sigma0 * math.sqrt(u(t)) + eps0 * math.sqrt(g2))
        return np.array([[0, -a], [c1 * hessian, -c1]]), np.diag([0, (sigma0 * c1) ** 2])

    return linear_moments(coefficients, x0, second, start, end)


def adam_chain_without_gradient(sigma0, eps0, c1, theta0, h, steps):
    """E (theta, m) and their second moments of bias-corrected Adam's iteration where f = 0 and g = ±sigma.

    Then v / (1 - beta2^k) = sigma^2 exactly, so that (theta, m) is linear in the noise.
    """
    mean, second = np.array([theta0, 0.0]), np.diag([theta0**2, 0.0])
    for k in range(steps):
        size = h / (1 - (1 - c1 * h) ** (k + 1)) / (sigma0 + eps0)  # theta loses size * m
        keep, kick = 1 - c1 * h, c1 * sigma0 * math.sqrt(h)
        a, b = np.array([[1, -size * keep], [0, keep]]), kick * np.array([-size, 1.0])
        mean, second = a @ mean, a @ second @ a.T + np.outer(b, b)
    return mean, second
