r"""An average of the weights needs rho to the kappa: with it the rules keep the average, with rho as it is they do not.

The average $\zeta_{k+1} = \rho\zeta_k + (1-\rho)\theta_{k+1}$ becomes part of the state, so that metrics can see it.
In SDE time it is $d\zeta = \beta_0(\theta - \zeta)\,dt$ with $1 - \rho = \beta_0 h$; its memory here is a quarter of
the run. SGD under the linear rule and Adam under the square-root rule, on digits logistic regression (Busbridge et al.
2023, arXiv 2307.13813).

    python experiments/ema_rule.py --out results/ema_rule
"""

import sys
from collections import namedtuple
from dataclasses import dataclass
from functools import cache

import batch_size_rules
import torch

from sdeadapt import SGD, Adam, Method


@cache
def with_average(kind):
    """A State or Point with one more field: one type for each, as its identity is checked."""
    return namedtuple(kind.__name__, (*kind._fields, "average"))


@dataclass(frozen=True)
class Averaged(Method):
    """A method with an exponential moving average of its weights, in one more field of its State and Point."""

    method: Method
    rho: float

    def __post_init__(self):
        for name, value in {
            "State": with_average(self.method.State),
            "Point": with_average(self.method.Point),
            "bias_correction": self.method.bias_correction,
            "lr": self.method.lr,
        }.items():
            object.__setattr__(self, name, value)

    @property
    def time_step(self):
        return self.method.time_step

    def refinement(self, multiplier):
        return self.method.refinement(multiplier)

    def rescaled(self, kappa):
        return Averaged(self.method.rescaled(kappa), self.rho**kappa)

    def init(self, theta):
        return self.State(*self.method.init(theta), theta)

    def step(self, state, g, k):
        new = self.method.step(self.method.State(*state[:-1]), g, k)
        return self.State(*new, torch.lerp(state.average, new.theta, 1 - self.rho))

    def to_point(self, state, scale):
        return self.Point(*self.method.to_point(self.method.State(*state[:-1]), scale), state.average)

    def from_point(self, point, scale):
        return self.State(*self.method.from_point(self.method.Point(*point[:-1]), scale), point.average)

    def initial(self, local):
        return self.Point(*self.method.initial(local), local.theta)


def rho_to_the_kappa(averaged, kappa):
    return averaged.rescaled(kappa)


def rho_as_it_is(averaged, kappa):
    return Averaged(averaged.method.rescaled(kappa), averaged.rho)


METRICS = {
    "average_norm_squared": lambda x: x.average.square().sum(-1),
    "average_log_loss": lambda x: x.oracle.at(x.average).loss.log(),
    "average_gradient_norm_squared": lambda x: x.oracle.at(x.average).gradient.square().sum(-1),
}


def main(argv=None):
    methods = {"sgd": SGD(1 / 32), "adam": Adam(1 / 64, 1 - 2 / 64, 1 - 1 / 64, 0.2)}
    rules = {
        "rho to the kappa": (rho_to_the_kappa, "CONFIRMED"),
        "rho as it is": (rho_as_it_is, "REFUTED"),
    }
    more = {"test_functions": METRICS}
    studies = {
        f"{name} {rule}": (Averaged(method, 1 - 1 / 64), function, claimed, more)
        for name, method in methods.items()
        for rule, (function, claimed) in rules.items()
    }
    figures = {f"{name}.png": [study for study in studies if study.startswith(name)] for name in methods}
    return batch_size_rules.main(__doc__.split("\n")[0], studies, figures, argv)


if __name__ == "__main__":
    sys.exit(main())
