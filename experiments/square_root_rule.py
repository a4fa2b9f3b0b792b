"""The square-root rule keeps RMSprop and Adam while noise dominates; the linear rule and none do not.

Digits logistic regression, batches of 1 to 8, equal numbers of examples. Each part of the rule is tried alone: the
learning rate, the betas, whose memory is an eighth to a quarter of the run, and eps, once comparable with the root of v
and once negligible, where scaling it changes nothing (Malladi et al. 2022, arXiv 2205.10287).

    python experiments/square_root_rule.py --out results/square_root_rule
"""

import sys

import batch_size_rules
from batch_size_rules import LINEAR, SQUARE_ROOT

from sdeadapt import Adam, RMSprop, rules

LR, WEIGHT, EPS, SMALL = 1 / 64, 1 / 64, 0.2, 1e-4
EPS_FIXED = rules.learning_rate(0.5, eps=False)
RULES = {
    "own": (rules.own, "CONFIRMED"),
    "linear": (LINEAR, "REFUTED"),
    "none": (rules.none, "REFUTED"),
    "betas fixed": (rules.learning_rate(0.5, betas=False), "REFUTED"),
    "eps fixed": (EPS_FIXED, "REFUTED"),
    "beta to the kappa": (rules.learning_rate(0.5, beta="power"), "CONFIRMED"),
}


def rmsprop(eps):
    return RMSprop(LR, 1 - WEIGHT, eps)


def adam(eps):
    return Adam(LR, 1 - 2 * WEIGHT, 1 - WEIGHT, eps)


def main(argv=None):
    studies, figures = {}, {}
    for name, make, more in (("rmsprop", rmsprop, {"initial": {"u": 1.0}}), ("adam", adam, {})):
        for rule, (function, claimed) in RULES.items():
            studies[f"{name} {rule}"] = make(EPS), function, claimed, more
        for rule, function in {"own": SQUARE_ROOT, "eps fixed": EPS_FIXED}.items():
            studies[f"{name} small eps, {rule}"] = make(SMALL), function, "CONFIRMED", more | {"kappas": (2, 4)}
        for file, shown in (
            ("learning_rate", ("own", "linear", "none")),
            ("parts", ("own", "betas fixed", "eps fixed")),
        ):
            figures[f"{name}_{file}.png"] = [f"{name} {rule}" for rule in shown]
    return batch_size_rules.main(__doc__.split("\n")[0], studies, figures, argv)


if __name__ == "__main__":
    sys.exit(main())
