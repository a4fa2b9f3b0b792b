import math
from collections import namedtuple
from dataclasses import dataclass, replace

import torch

import sdeadapt as sa

State = namedtuple("State", "theta m")
Point = namedtuple("Point", "theta m")


@dataclass(frozen=True)
class Lion(sa.Method):
    r"""Lion: the sign of the gradient mixed with its average, which is updated with a beta of its own.

    $\theta_{k+1} = \theta_k - \eta\,\mathrm{sign}(\beta_1 m_k + (1-\beta_1) g_k), \quad
    m_{k+1} = \beta_2 m_k + (1-\beta_2) g_k$, here without weight decay.

    Batch-size rule (square root): $\eta \to \sqrt\kappa\,\eta$, $1-\beta_2 \to \kappa(1-\beta_2)$, $\beta_1$ unchanged.

    Chen et al. 2023 (arXiv 2302.06675). SDE and batch-size rule: "A new method is one file"."""

    lr: float
    beta1: float = 0.9
    beta2: float = 0.99

    State, Point = State, Point
    smooth, sees_density = False, True  # what noise does to a sign depends on its density at 0

    def __post_init__(self):
        if not (self.lr > 0 and 0 < self.beta1 < 1 and 0 < self.beta2 < 1):
            raise ValueError(f"`lr` must be positive, `beta1` and `beta2` must lie in (0, 1); got {self}.")

    @property
    def time_step(self):
        """The time step h = lr²."""
        return self.lr**2

    def refinement(self, multiplier):
        return multiplier**2

    def rescaled(self, kappa):
        return replace(self, lr=math.sqrt(kappa) * self.lr, beta2=1 - kappa * (1 - self.beta2))

    def init(self, theta):
        return State(theta, torch.zeros_like(theta))

    def step(self, state, g, k):
        mixed = torch.lerp(state.m, g, 1 - self.beta1)
        return State(state.theta - self.lr * mixed.sign(), torch.lerp(state.m, g, 1 - self.beta2))

    def to_point(self, state, scale):
        return Point(*state)

    def from_point(self, point, scale):
        return State(*point)

    def initial(self, local):
        return Point(*self.init(local.theta))

    def sde(self, oracle, order=1):
        r"""Return the SDE of weak order 1, for Gaussian noise of constant covariance.

        $d\theta = -\sqrt{\tfrac2\pi}\,\frac{\nabla f + q\,m}{\sigma_0 s}\,dt - dB, \quad
        dm = c\,(\nabla f - m)\,dt + c\,\sigma_0 S\,dW$, where $q = \beta_1/(1-\beta_1)$, $\sigma_0 = \sigma\eta$,
        $c = (1-\beta_2)/h$, $s^2 = \mathrm{diag}\,\Sigma$ and $dB = \sqrt{2/\pi}\,s^{-1}S\,dW + R\,dW'$ with
        $R R^T = \tfrac2\pi(\arcsin\rho - \rho)$ for the correlations $\rho$ of $\Sigma$."""
        if order != 1 or not (oracle.gaussian and oracle.additive):
            raise sa.oracles.NotDeclared("Lion has an SDE of order 1, for Gaussian noise of constant covariance.")
        n, eye = oracle.noise_dim, torch.eye(oracle.noise_dim, dtype=oracle.dtype, device=oracle.device)
        root = oracle.at(eye.new_zeros(n, oracle.dim)).diffuse(eye)  # the transpose of S, the same at every theta
        s, sigma0 = root.norm(dim=0), oracle.scale * self.lr
        gain, c, q = math.sqrt(2 / math.pi) / s, (1 - self.beta2) / self.time_step, self.beta1 / (1 - self.beta1)
        rho = ((root / s).T @ (root / s)).clamp(-1, 1)
        kick = torch.cat([gain * root, torch.linalg.cholesky((torch.asin(rho) - rho) * 2 / math.pi).T])

        def at(t, x):
            slope = oracle.at(x.theta).gradient
            drift = Point(-gain * (slope + q * x.m) / sigma0, c * (slope - x.m))
            return drift, lambda dw: Point(-dw @ kick, c * sigma0 * dw[:, :n] @ root)

        return sa.ItoSDE(at, n + oracle.dim, Point)
