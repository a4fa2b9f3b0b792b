"""RMSprop with decoupled weight decay, its SDE derived by hand, and one derived wrongly."""

import math
from dataclasses import dataclass, replace

from sdeadapt import Budget, RMSprop, oracles, verify
from sdeadapt.methods import ItoSDE


@dataclass(frozen=True)
class DecayedRMSprop(RMSprop):
    decay: float = 0.0

    def step(self, state, g, k):
        shrunk = state._replace(theta=(1 - self.lr * self.decay) * state.theta)
        return super().step(shrunk, g, k)

    def rescaled(self, kappa):  # what a batch kappa times as large does to the hyper-parameters
        return replace(super().rescaled(kappa), decay=self.decay * math.sqrt(kappa))


def candidate(method, oracle, lost=0.0):  # a recipe: called at every step size
    own = RMSprop.sde(method, oracle)  # d theta = −P^{-1} (grad f dt + sigma_0 S dW), du = c (diag Sigma − u) dt
    rate = (1 - lost) * method.decay / method.lr  # decay acts lr * decay per step of SDE time lr^2

    def at(t, x):
        drift, diffuse = own.at(t, x)
        return drift._replace(theta=drift.theta - rate * x.theta), diffuse

    return ItoSDE(at, own.noise_dim, own.point)


problem = oracles.Quadratic(hessian=[1.0, 0.4], covariance=[1.0, 2.0], scale=2.0, noise="exponential")
method = DecayedRMSprop(lr=0.25, beta=0.9375, eps=0.2, decay=0.1)
options = {"theta0": [1.5, -1.0], "steps": 4, "budget": Budget(paths=2000)}
right = verify(method, problem, sde=candidate, **options)
wrong = verify(method, problem, sde=lambda m, o: candidate(m, o, lost=0.5), **options)
print(right.message, wrong.message, sep="\n")
