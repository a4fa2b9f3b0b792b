"""Adam's SDE is a weak approximation of order 1 in lr², from some t₀ > 0 on (Malladi et al. 2022, Theorem 4.5).

Bias correction is on and t₀ is 8 base steps, up to which each level's chain runs alone; the problems are those of
weak_order_rmsprop.py.

    python experiments/weak_order_adam.py --out results/weak_order_adam
"""

import math

import weak_order
from weak_order import Study

from sdeadapt import Adam
from sdeadapt.oracles.analytic import Quadratic, Rippled
from sdeadapt.problems import digits


def method(h, eps0, c1, c2, **options):
    """Adam by its constants in SDE time."""
    return Adam(lr=math.sqrt(h), beta1=1 - c1 * h, beta2=1 - c2 * h, eps=eps0 / math.sqrt(h), **options)


def studies():
    h = 1 / 8
    new, old = (method(h, 0.7, 1.0, 0.5, denominator=v) for v in ("new", "old"))
    quadratic = Quadratic([[0.8, 0.3], [0.3, 0.4]], [[1.0, -0.4], [-0.4, 0.7]], 0.3 / math.sqrt(h))
    images = digits(batch_size=4)
    return {
        "quadratic": Study(new, quadratic, [1.5, 0.8], 16, 8192),
        "quadratic old v": Study(old, quadratic, [1.5, 0.8], 16, 8192),
        "rippled": Study(method(h, 1.5, 1.0, 1.0), Rippled(0.1 / math.sqrt(h), dim=1), [1.5], 16, 2048),
        "digits": Study(method(1 / 16, 0.3, 2.0, 1.0), images.oracle, images.theta0, 16, 1024),
    }


def main(argv=None):
    weak_order.main(__doc__.split("\n")[0], studies(), argv)


if __name__ == "__main__":
    main()
