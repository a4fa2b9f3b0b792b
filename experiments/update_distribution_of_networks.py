r"""Updates of real networks have the law of normal gradients while no unit is off, the batch small, and training young.

Zhang and Ziyin, "On the Distributional Properties of Adaptive Gradients", Section 5 and Appendix A (Figures 2, 3, 4 and
9), on scikit-learn's digits: a perceptron, a convolutional network and a transformer encoder, the first two with ReLU
and with smooth units. Each is trained, and left as initialised; the perceptron is also fed large batches. Means over 96
independent copies; intervals hold for all networks, steps and bins of a study at once, with 95 %.

    python experiments/update_distribution_of_networks.py --out results/update_distribution_of_networks
"""

import math
import sys
import time
from dataclasses import replace
from functools import partial
from itertools import pairwise

from claims import Claim, arguments, conclude, decide, joint
from scipy import stats
from torch import nn

from sdeadapt.analysis.updates_architectures import cnn, mlp, transformer
from sdeadapt.analysis.updates_networks import network_updates
from sdeadapt.report.updates import updates_figure

NETWORKS = {
    "MLP, ReLU": mlp,
    "MLP, tanh": partial(mlp, nn.Tanh),
    "CNN, ReLU": cnn,
    "CNN, GELU": partial(cnn, nn.GELU),
    "transformer": transformer,
}
TOLERANCE, LR = 0.05, 1e-3


def studies(smoke):
    given = {"copies": 8, "looks": (1, 2, 3, 5)} if smoke else {"copies": 96}
    tanh = {"MLP, tanh": NETWORKS["MLP, tanh"]}
    return {
        "trained": network_updates(NETWORKS, lr=LR, tolerance=TOLERANCE, rng=10, **given),
        "frozen": network_updates(NETWORKS, lr=0.0, tolerance=TOLERANCE, rng=11, **given),
        "large_batch": network_updates(tanh, lr=0.0, batch_size=512, tolerance=TOLERANCE, rng=12, **given),
    }


def upto(report, most):
    """The positions of the steps looked at up to `most`."""
    return [j for j, m in enumerate(report.looks) if m <= most]


def within(report, network, most, least=1, tolerance=TOLERANCE):
    """The verdict on "the distance is at most `tolerance` at every step from `least` to `most`", and the numbers."""
    (low, high), i = report.bounds, report.networks.index(network)
    at = [j for j in upto(report, most) if report.looks[j] >= least]
    worst = max(at, key=lambda j: high[i, j])
    text = f"{network}: {low[i, worst]:.3f} to {high[i, worst]:.3f} at m = {report.looks[worst]}"
    return joint(decide(low[i, j], high[i, j], (0, tolerance)) for j in at), text


def size(report, network, region, steps):
    """The verdict on "Var|X| over the law's lies in `region`" at those steps looked at, and the numbers."""
    (low, high), i = report.var_abs_interval, report.networks.index(network)
    at = [j for j, m in enumerate(report.looks) if m in steps]
    ratios = {int(report.looks[j]): (low[i, j] / report.law_var_abs[j], high[i, j] / report.law_var_abs[j]) for j in at}
    text = ", ".join(f"{a:.2f} to {b:.2f} at m = {m}" for m, (a, b) in ratios.items())
    return joint(decide(a, b, region) for a, b in ratios.values()), f"{network}: {text}"


def both(*found):
    """The conjunction of verdicts, and their texts."""
    return joint(verdict for verdict, _ in found), "; ".join(text for _, text in found)


def grows(report, most):
    (low, high), steps = report.var_abs_interval, pairwise(upto(report, most))
    least = [(low[:, b] - high[:, a], high[:, b] - low[:, a]) for a, b in steps]
    return (
        joint(decide(x, y, (0, math.inf)) for a, b in least for x, y in zip(a, b, strict=True)),
        f"the least increase from look to look, over all networks, is above {min(a.min() for a, _ in least):.3f}",
    )


def normal(report):
    """The same report against N(0, 1), a law that is wrong at small m."""
    return replace(report, law_cdf=stats.norm.cdf(report.edges))


def claims(found):
    trained, frozen, large = found["trained"], found["frozen"], found["large_batch"]
    last = int(trained.looks[-1])
    yield Claim("Section 5.1: the law holds up to m = 10, MLP with tanh", *within(trained, "MLP, tanh", 10))
    yield Claim("Section 5.1: it holds up to m = 5, CNN with GELU", *within(trained, "CNN, GELU", 5))
    relu = [within(trained, network, 10) for network in ("MLP, ReLU", "CNN, ReLU")]
    for network, (verdict, text) in zip(("MLP", "CNN"), relu, strict=True):
        i = trained.networks.index(f"{network}, ReLU")
        yield Claim(
            f"Section 5.1: it holds up to m = 10, {network} with ReLU", verdict,
            f"{text}; gradients of exactly 0 at m = 5: {100 * trained.zeros[i, 3]:.0f} %", "REFUTED",
        )  # fmt: skip
    yield Claim("Section 5.1: it holds up to m = 3, transformer", *within(trained, "transformer", 3), "INCONCLUSIVE")
    yield Claim(
        "Section 5.3: all layers pooled, its updates are within .1 of the law (distance) up to m = 10, transformer",
        *within(trained, "transformer", 10, tolerance=2 * TOLERANCE),
    )
    smooth = [within(frozen, network, last) for network in ("MLP, tanh", "CNN, GELU")]
    yield Claim(
        f"Networks left as initialised, with smooth units, follow the law up to m = {last} (MLP, CNN)", *both(*smooth)
    )
    yield Claim(
        "Appendix A.2: networks that leave the law have smaller variances of the size (MLP with ReLU, m = 2 to 50)",
        *size(trained, "MLP, ReLU", (0, 1), trained.looks[1:]), "REFUTED",
    )  # fmt: skip
    yield Claim(
        "They do where a mean persists over steps: batches of 512, MLP with tanh, as initialised, m = 2 to 50",
        *size(large, "MLP, tanh", (0, 1), large.looks[1:]),
    )
    yield Claim("And there the law holds, up to m = 10", *within(large, "MLP, tanh", 10), "REFUTED")
    yield Claim("Section 5.2: the variance of the size grows in every network, m = 1, 2, 3, 5", *grows(trained, 5))
    yield Claim(
        f"Section 5.2: it is never anomalously large, at most twice the law's (MLP with ReLU, up to m = {last})",
        *size(trained, "MLP, ReLU", (0, 2), trained.looks[1:]), "REFUTED",
    )  # fmt: skip
    yield Claim(
        "It is not in the same network left as initialised", *size(frozen, "MLP, ReLU", (0, 2), frozen.looks[1:])
    )
    yield Claim(
        "Control: the law of MLP with tanh is N(0, 1), m = 2", *within(normal(trained), "MLP, tanh", 2, 2), "REFUTED"
    )


def main(argv=None):
    claim = __doc__.split("\n")[0]
    options = arguments(claim, argv, smoke="8 copies, 5 steps: seconds, no claim")
    began = time.perf_counter()
    print(claim)
    found = studies(options.smoke)
    for name, report in found.items():
        report.save(
            options.out / name, files={"figure.png": lambda path, r=report: updates_figure(r).savefig(path, dpi=120)}
        )
        print(f"\n--- {name}\n{report.summary()}")
    return conclude(claims(found), options, began)


if __name__ == "__main__":
    sys.exit(main())
