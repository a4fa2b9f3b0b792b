"""RMSprop's SDE is a weak approximation of order 1 in lr² (Malladi et al. 2022, Theorem 4.2).

On a quadratic whose Hessian and noise covariance do not commute, on a rippled loss with skewed noise, and on logistic
regression of handwritten digits with minibatches of 4; old and new v in the denominator.

    python experiments/weak_order_rmsprop.py --out results/weak_order_rmsprop
"""

import math

import weak_order
from weak_order import Study

from sdeadapt import RMSprop
from sdeadapt.oracles.analytic import Quadratic, Rippled
from sdeadapt.problems import digits


def method(h, eps0, c2, **options):
    """RMSprop by its constants in SDE time."""
    return RMSprop(lr=math.sqrt(h), beta=1 - c2 * h, eps=eps0 / math.sqrt(h), **options)


def studies():
    h = 1 / 8
    new, old = (method(h, 0.7, 0.5, denominator=v) for v in ("new", "old"))
    quadratic = Quadratic([[0.8, 0.3], [0.3, 0.4]], [[1.0, -0.4], [-0.4, 0.7]], 0.3 / math.sqrt(h))
    start, u0 = [1.5, 0.8], {"u": [2.0, 0.35]}
    images = digits(batch_size=4)
    return {
        "quadratic": Study(new, quadratic, start, 8, 4096, u0),
        "quadratic old v": Study(old, quadratic, start, 8, 4096, u0),
        "rippled": Study(new, Rippled(0.1 / math.sqrt(h), dim=1), [1.5], 8, 2048),
        "digits": Study(method(1 / 16, 0.1, 1.0), images.oracle, images.theta0, 8, 1024),
    }


def main(argv=None):
    weak_order.main(__doc__.split("\n")[0], studies(), argv)


if __name__ == "__main__":
    main()
