r"""Which half of Adam is it? Adam, its sign alone, its variance adaptation alone and neither, on digits.

|                      | gradient                | sign                    |
|----------------------|-------------------------|-------------------------|
| without adaptation   | M-SGD, SGD with momentum| M-SSD, Signum           |
| variance-adapted     | M-SVAG                  | Adam                    |

After Figure 5 of Balles and Hennig 2018 (arXiv 1705.07774), on what fits here: a perceptron with one hidden layer of 64
and the digits of scikit-learn, as they are and with every pixel multiplied by its own factor, from 1/10 to 10, which
makes the problem ill-conditioned along the axes. Step sizes are tuned on a grid for the final training loss, on seeds
of their own; betas are the paper's (.9, Adam's second .999). 100 seeds, the paper has ten: split of the data, initial
weights and order of the batches; the methods share all three, and are compared seed by seed.

D is the mean over the epochs of log10 (loss of one / loss of another). All intervals hold together at 95 %;
they are over seeds, hence about these 1,797 images.

    python experiments/dissecting_adam_on_digits.py --out results/dissecting_adam_on_digits
"""

import math
import sys
import time

import numpy as np
import torch
from claims import Claim, arguments, conclude, decide
from matplotlib.figure import Figure
from replications import mean_interval
from sklearn.datasets import load_digits
from torch.nn.functional import cross_entropy

from sdeadapt import Adam
from sdeadapt.methods import Momentum, MomentumVarianceAdapted, Signum
from sdeadapt.text import short, table

TRAIN, BATCH, HIDDEN = 1184, 32, 64
METHODS = {  # name: (step size alpha -> method, colour); M-SGD follows the average of gradients, as M-SVAG does
    "M-SGD": (lambda alpha: Momentum(alpha * 0.1, 0.9), "#4c72b0"),
    "M-SVAG": (MomentumVarianceAdapted, "#1b7837"),
    "M-SSD": (Signum, "#b2182b"),
    "Adam": (Adam, "#c98a1b"),
}
GRID = {
    name: [10 ** (k / 3) for k in (range(-3, 5) if name in ("M-SGD", "M-SVAG") else range(-10, -2))] for name in METHODS
}
TWIN = "M-SGD on other batches"
SHORT = "Adam with one memory"  # beta2 = beta1 = .9, for which the paper's identity holds
C, R, N = "CONFIRMED", "REFUTED", "INCONCLUSIVE"
EXPECTED = {  # in the order of `claims_of`
    "digits": (R, C, C, R, C, R, C, C, N, R, C, N, N),
    "badly scaled digits": (C, C, C, C, C, R, C, R, R, N, C),
}
TESTS = 24  # intervals of this experiment, at least


def data(problem):
    """Pixels (examples, 64) and labels."""
    pixels, labels = load_digits(return_X_y=True)
    pixels = pixels / 16
    if problem == "badly scaled digits":
        pixels = pixels * 10 ** np.random.default_rng(0).uniform(-1, 1, 64)
    return torch.tensor(pixels, dtype=torch.float32), torch.tensor(labels)


def initial(seeds):
    """Permutations of the examples, (seeds, examples), whose head is trained on; and weights (seeds, dim), He's."""
    order, weights = [], []
    for seed in seeds:
        generator = torch.Generator().manual_seed(seed)
        order.append(torch.randperm(1797, generator=generator))
        first = torch.randn(64 * HIDDEN, generator=generator) * math.sqrt(2 / 64)
        second = torch.randn(HIDDEN * 10, generator=generator) * math.sqrt(1 / HIDDEN)
        weights.append(torch.cat([first, torch.zeros(HIDDEN), second, torch.zeros(10)]))
    return torch.stack(order), torch.stack(weights)


def outputs(theta, x):
    """(seeds, examples, 10), for weights (seeds, dim) and x (seeds, examples, 64): one network per seed."""
    a, b, c, d = theta.split([64 * HIDDEN, HIDDEN, HIDDEN * 10, 10], 1)
    hidden = torch.relu(torch.baddbmm(b[:, None], x, a.view(-1, 64, HIDDEN)))
    return torch.baddbmm(d[:, None], hidden, c.view(-1, HIDDEN, 10))


def loss(theta, x, y):
    return cross_entropy(outputs(theta, x).flatten(0, 1), y.flatten(), reduction="none").view(y.shape).mean(1)


def train(method, problem, seeds, epochs, batches=0):
    """Training loss and test accuracy before and after each epoch, (epochs + 1, seeds), and `alignment` in each."""
    (x, y), (order, theta) = data(problem), initial(seeds)
    inner, outer = order[:, :TRAIN], order[:, TRAIN:]
    generators = [torch.Generator().manual_seed(1_000_000 * (1 + batches) + seed) for seed in seeds]
    state, losses, accuracies, aligned, k = method.init(theta), [], [], [], 0

    def look():
        with torch.no_grad():
            losses.append(loss(state.theta, x[inner], y[inner]))
            accuracies.append((outputs(state.theta, x[outer]).argmax(-1) == y[outer]).double().mean(1))

    look()
    for _ in range(epochs):
        order = [rows[torch.randperm(TRAIN, generator=g)] for rows, g in zip(inner, generators, strict=True)]
        for batch in torch.stack(order).split(BATCH, 1):
            theta = state.theta.requires_grad_()
            (gradient,) = torch.autograd.grad(loss(theta, x[batch], y[batch]).sum(), theta)
            with torch.no_grad():
                state, k = method.step(state, gradient, k), k + 1
        look()
        aligned.append(alignment(theta.detach() - state.theta, getattr(state, "m", gradient)))
    return torch.stack(losses).double().numpy(), torch.stack(accuracies).numpy(), torch.stack(aligned).numpy()


def alignment(step, m):
    """The cosine of a step with the sign of the average gradient less that with the average itself, (seeds,)."""
    return torch.cosine_similarity(step, m.sign()) - torch.cosine_similarity(step, m)


def tune(name, problem, seeds, epochs):
    """The step size with the lowest mean log of the final training loss, and all of these."""
    make, _ = METHODS[name]
    final = [np.log10(train(make(alpha), problem, seeds, epochs)[0][-1]).mean() for alpha in GRID[name]]
    final = np.where(np.isfinite(final), final, np.inf)  # diverged
    return int(np.argmin(final)), final


def claims_of(problem, curves, expected):
    """The claims on one problem, with the verdicts `expected`: the two by two table, and who is near whom."""
    log = {name: np.log10(losses[1:]) for name, (losses, _, _) in curves.items()}
    accuracy = {name: accuracies[-1] for name, (_, accuracies, _) in curves.items()}
    words = iter(expected)

    def claim(text, interval, region, digits):
        evidence = f"{interval[0]:.{digits}f} to {interval[1]:.{digits}f}"
        return Claim(f"{problem}: {text}", decide(*interval, region), evidence, next(words))

    def ahead(one, other, why):
        interval = mean_interval((log[one] - log[other]).mean(0), TESTS)
        return claim(f"{one} trains ahead of {other} ({why}): D", interval, (-math.inf, 0.0), 2)

    def better(one, other, why):
        interval = mean_interval(accuracy[one] - accuracy[other], TESTS)
        return claim(f"{one} is more accurate than {other} ({why}): difference", interval, (0.0, math.inf), 4)

    def direction(text, gap, region):
        return claim(f"{text}: the cosines", mean_interval(gap.mean(0), TESTS), region, 3)

    like = {name: gap for name, (_, _, gap) in curves.items()}
    positive, negative = (0.0, math.inf), (-math.inf, 0.0)
    yield direction("a step of Adam is more like the sign of its average gradient than like it", like["Adam"], positive)
    yield direction(f"more so of {SHORT}", like[SHORT] - like["Adam"], positive)
    yield direction("a step of M-SVAG is more like its average gradient than like the sign", like["M-SVAG"], negative)
    yield ahead("M-SSD", "M-SGD", "the sign speeds up")
    yield ahead("Adam", "M-SVAG", "the sign speeds up, adapted")
    yield ahead("M-SVAG", "M-SGD", "adaptation speeds up a gradient")
    yield ahead("Adam", "M-SSD", "adaptation speeds up a sign")
    yield better("M-SGD", "M-SSD", "the sign costs accuracy")
    yield better("M-SVAG", "Adam", "the sign costs accuracy, adapted")
    yield better("M-SVAG", "M-SGD", "adaptation generalises, gradient")
    yield better("Adam", "M-SSD", "adaptation generalises, sign")
    if TWIN in curves:
        yield ahead(TWIN, "M-SGD", "control")
        yield better(TWIN, "M-SGD", "control")


def draw(everything):
    figure = Figure(figsize=(11, 7.4), layout="constrained")
    axes = figure.subplots(2, len(EXPECTED), squeeze=False)
    for column, (problem, curves) in enumerate(everything.items()):
        top, bottom = axes[:, column]
        for name, (_, colour) in METHODS.items():
            losses, accuracies, _ = curves[name]
            steps = np.arange(len(losses)) * (TRAIN // BATCH)
            log = np.log10(losses)
            for axis, values, back in ((top, log, lambda v: 10**v), (bottom, accuracies, lambda v: v)):
                mean, sd = values.mean(1), values.std(1)
                axis.fill_between(steps, back(mean - sd), back(mean + sd), color=colour, alpha=0.18, lw=0)
                axis.plot(steps, back(mean), color=colour, label=name)
        top.set(yscale="log", title=problem, ylabel="training loss")
        bottom.set(ylim=(0.86, 1.0), ylabel="test accuracy", xlabel="steps")
        for axis in (top, bottom):
            axis.grid(alpha=0.3)
    axes[0, 0].legend(frameon=False)
    figure.suptitle("shaded: one standard deviation over seeds")
    return figure


def main(argv=None):
    claim = __doc__.split("\n")[0]
    options = arguments(claim, argv, smoke="4 seeds, 2 epochs")
    began = time.perf_counter()
    epochs = 2 if options.smoke else 30
    tuning, seeds = (range(1000, 1002), range(4)) if options.smoke else (range(1000, 1010), range(100))
    print(claim, flush=True)
    everything, claims = {}, []
    for problem in EXPECTED:
        curves, rows = {}, []
        for name, (make, _) in METHODS.items():
            best, final = tune(name, problem, tuning, epochs)
            curves[name] = train(make(GRID[name][best]), problem, seeds, epochs)
            losses, accuracies, _ = curves[name]
            edge = " (at the edge)" if best in (0, len(final) - 1) else ""
            rows.append([name, short(GRID[name][best]) + edge, short(10 ** np.log10(losses[-1]).mean()),
                         f"{accuracies[-1].mean():.4f} ± {accuracies[-1].std(ddof=1) / len(seeds) ** 0.5:.4f}",
                         " ".join(f"{v:.1f}" for v in final)])  # fmt: skip
            if name == "Adam":
                curves[SHORT] = train(Adam(GRID[name][best], 0.9, 0.9), problem, seeds, epochs)
            if problem == "digits" and name == "M-SGD":
                curves[TWIN] = train(make(GRID[name][best]), problem, seeds, epochs, batches=1)
        header = [
            problem,
            "step size",
            "final loss, geometric mean",
            "test accuracy",
            "log10 of the loss over the grid",
        ]
        print("\n" + table(header, rows), f"\n  {time.perf_counter() - began:.0f} s", flush=True)
        everything[problem] = curves
        claims += claims_of(problem, curves, EXPECTED[problem])
    draw(everything).savefig(options.out / "dissecting_adam_on_digits.png", dpi=110)
    return conclude(claims, options, began)


if __name__ == "__main__":
    sys.exit(main())
