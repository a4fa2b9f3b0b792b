"""The linear rule keeps SGD while noise dominates; the square-root rule and none do not.

Digits logistic regression, batches of 1 to 8, equal numbers of examples (Li, Malladi, Arora 2021, arXiv 2102.12470).

    python experiments/linear_rule_sgd.py --out results/linear_rule_sgd
"""

import sys

import batch_size_rules
from batch_size_rules import SQUARE_ROOT

from sdeadapt import SGD, rules


def main(argv=None):
    found = {
        "own, linear": (rules.own, "CONFIRMED"),
        "square root": (SQUARE_ROOT, "REFUTED"),
        "none": (rules.none, "REFUTED"),
    }
    studies = {name: (SGD(1 / 32), rule, claimed, {}) for name, (rule, claimed) in found.items()}
    return batch_size_rules.main(__doc__.split("\n")[0], studies, {"rules.png": list(studies)}, argv)


if __name__ == "__main__":
    sys.exit(main())
