r"""Sign or gradient? On noisy quadratics the sign wins where the problem is ill-conditioned and axis-aligned.

Figure 2 of Balles and Hennig 2018 (arXiv 1705.07774): f(theta) = (theta - x*)' Q (theta - x*) / 2 in 100 dimensions, a
draw being the gradient at x ~ N(x*, nu²) in place of x*. Spectra: well-conditioned U[.1, 1.1]; ill-conditioned 90 %
U[0, 1], 10 % U[30, 60]. Bases: rotated (Haar), axis-aligned. Noise nu = 0, .1, 4. Each method takes the step that is
best in expectation at its own theta, from the closed forms of `analysis.dissection`, which are put to the test first.

Every replication has its own spectrum, basis, start N(x*, 1) and noise; the methods and bases share them. What the eye
sees in a panel is the distance of two curves of log f: D is the mean over the steps of log10 f(sign) / f(gradient).
A claim is on the median of D over the replications, as without noise a few signs are lucky and run to 0.
"Roughly equal" and "little effect" mean within a factor of 2, "clearly" more than 2, "vastly" and "drastically" more
than 10, "evened out" a tenth of what it was. All intervals hold together at 95 %.

    python experiments/sign_or_gradient.py --out results/sign_or_gradient
"""

import math
import sys
import time

import numpy as np
import torch
from claims import Claim, arguments, conclude, decide, joint
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter
from replications import mean_interval, median_interval

from sdeadapt.analysis.dissection import diagonal_share, gradient_improvement, sign_improvement
from sdeadapt.text import short, table

DIM, NOISE = 100, (0.0, 0.1, 4.0)
SPECTRA, BASES = ("well-conditioned", "ill-conditioned"), ("rotated", "axis-aligned")
METHODS = {"SGD": (gradient_improvement, lambda g: g), "SSD": (sign_improvement, torch.sign)}
COLOURS = {"SGD": "#4c72b0", "SSD": "#b2182b"}
LONG = 1000  # steps of one more comparison, where the signs are independent and a step is cheap
TWO, TEN = math.log10(2), 1.0
TESTS = 100  # intervals of this experiment, at least: 72 of improvements, 25 of differences


def problems(replications, steps):
    """What the replications are made of: eigenvalues by spectrum, rotations, starts and noise."""
    generator = torch.Generator().manual_seed(0)

    def uniform(low, high, columns):
        return low + (high - low) * torch.rand(replications, columns, dtype=torch.float64, generator=generator)

    def normal(*shape):
        return torch.randn(*shape, dtype=torch.float64, generator=generator)

    large = DIM // 10
    spectra = {
        "well-conditioned": uniform(0.1, 1.1, DIM),
        "ill-conditioned": torch.cat([uniform(30, 60, large), uniform(0, 1, DIM - large)], 1),
    }
    rotation = torch.linalg.qr(normal(replications, DIM, DIM)).Q  # Haar up to signs, which change nothing here
    return spectra, rotation, normal(replications, DIM), normal(steps, replications, DIM)


def hessian(eigenvalues, rotation, basis):
    return (rotation * eigenvalues[:, None]) @ rotation.mT if basis == "rotated" else torch.diag_embed(eigenvalues)


def times(matrix, vector):
    return (matrix @ vector[..., None])[..., 0]


def run(name, q, start, noise, nu):
    """The losses, (steps + 1, replications), and the thetas before the first and the middle step."""
    improvement, direction = METHODS[name]
    theta, covariance, losses, seen = start, nu**2 * q @ q, [], []
    for k, z in enumerate(noise):
        gradient = times(q, theta)
        losses.append((theta * gradient).sum(-1) / 2)
        if k in (0, len(noise) // 2):
            seen.append(theta)
        step = improvement(gradient, q, covariance).step
        theta = theta - step[:, None] * direction(gradient - nu * times(q, z))
    losses.append((theta * times(q, theta)).sum(-1) / 2)
    return torch.stack(losses).numpy(), seen


def gained(name, q, theta, nu, draws, generator):
    """By replication: the mean decrease of one best step over its closed form; the same over the one without noise; and
    E[p' Q p], the expected curvature along the step, over the trace of Q.
    """
    improvement, direction = METHODS[name]
    gradient, covariance = times(q, theta), nu**2 * q @ q
    expected = improvement(gradient, q, covariance)
    z = torch.randn(len(q), DIM, draws, dtype=torch.float64, generator=generator)
    z = torch.cat([z, -z], 2)  # antithetic: terms linear in the noise cancel
    p = direction(gradient[..., None] + nu * q @ z)
    slope, curvature = (p * gradient[..., None]).sum(1), (p * (q @ p)).sum(1)
    decrease = (expected.step[:, None] * slope - expected.step[:, None] ** 2 / 2 * curvature).mean(1)
    deaf = improvement(gradient, q, 0 * covariance).decrease
    bend = 2 * expected.decrease / expected.step**2 / q.diagonal(dim1=1, dim2=2).sum(1)
    return (decrease / expected.decrease).numpy(), (decrease / deaf).numpy(), bend.numpy()


def say(low, high):
    return f"{low:.2f} to {high:.2f}"


def claims_on_one_step(ratios):
    """The closed forms of one step, and how the basis enters them."""

    def claim(text, which, chosen, region, expected="CONFIRMED"):
        intervals = [mean_interval(r[which], TESTS) for r in chosen]
        low, high = min(i[0] for i in intervals), max(i[1] for i in intervals)
        evidence = f"ratios, {len(intervals)} intervals, from {low:.3f} to {high:.3f}"
        return Claim(text, joint(decide(*i, region) for i in intervals), evidence, expected)

    everywhere, near = ratios.values(), (0.95, 1.05)
    rotated = {where: [r for key, r in ratios.items() if {where, "rotated", "SSD"} <= set(key)] for where in SPECTRA}
    yield claim("I_SGD and I_SSD are what one step gains, within 5 %, in every noisy panel, early and late",
                0, everywhere, near)  # fmt: skip
    yield claim("Control: the same without the noise in the formula", 1, everywhere, near, "REFUTED")
    for where in SPECTRA:
        yield claim(f"{where.capitalize()}, rotated: E[s' Q s] exceeds the trace of Q, so that the trace alone would "
                    "promise more than I_SSD", 2, rotated[where], (1, math.inf))  # fmt: skip


def claims_on_figure_2(losses, long, steps):
    """The caption's claims, and controls."""
    apart = {
        panel: np.log10(losses[*panel, "SSD"][1:] / losses[*panel, "SGD"][1:]).mean(0)
        for panel in {key[:3] for key in losses}
    }

    def distance(*panel):
        return median_interval(apart[panel], TESTS)

    def turned(spectrum, nu):
        return median_interval(apart[spectrum, "rotated", nu] - apart[spectrum, "axis-aligned", nu], TESTS)

    def claim(text, intervals, region, expected):
        verdict = joint(decide(*i, region) for i in intervals)
        return Claim(text, verdict, "D: " + "; ".join(say(*i) for i in intervals), expected)

    well, ill = SPECTRA
    equal, clearly, vastly = (-TWO, TWO), (-math.inf, -TWO), (TEN, math.inf)
    yield claim("Well-conditioned, no noise: gradient descent vastly outperforms the sign, in both bases",
                [distance(well, basis, 0.0) for basis in BASES], vastly, "CONFIRMED")  # fmt: skip
    yield claim("Control: so it does on the ill-conditioned problem",
                [distance(ill, basis, 0.0) for basis in BASES], vastly, "REFUTED")  # fmt: skip
    shares = [
        median_interval(np.abs(apart[well, basis, nu]) - 0.1 * apart[well, basis, 0.0], TESTS)
        for basis in BASES for nu in NOISE[1:]
    ]  # fmt: skip
    yield claim("Well-conditioned: noise evens that out, to less than a tenth of D at nu = .1 and 4 (|D| - D0/10 < 0)",
                shares, (-math.inf, 0.0), "CONFIRMED")  # fmt: skip
    yield claim("Well-conditioned, nu = 4: roughly equal in both bases",
                [distance(well, basis, 4.0) for basis in BASES], equal, "CONFIRMED")  # fmt: skip
    for nu, expected in zip(NOISE, ("INCONCLUSIVE", "REFUTED", "CONFIRMED"), strict=True):
        yield claim(f"Well-conditioned, nu = {nu:g}: the orientation has little effect on the comparison",
                    [turned(well, nu)], equal, expected)  # fmt: skip
    for nus, expected in ((NOISE[1:], "CONFIRMED"), (NOISE[:1], "INCONCLUSIVE")):
        yield claim(f"Ill-conditioned, rotated: roughly equal at nu = {' and '.join(f'{nu:g}' for nu in nus)}",
                    [distance(ill, "rotated", nu) for nu in nus], equal, expected)  # fmt: skip
    yield claim("Control: ill-conditioned, axis-aligned: roughly equal at every noise level",
                [distance(ill, "axis-aligned", nu) for nu in NOISE], equal, "REFUTED")  # fmt: skip
    for nu, expected in zip(NOISE[:2], ("INCONCLUSIVE", "CONFIRMED"), strict=True):
        yield claim(f"Ill-conditioned, nu = {nu:g}: the sign benefits drastically from an axis-aligned basis",
                    [turned(ill, nu)], vastly, expected)  # fmt: skip
    yield claim("Ill-conditioned, axis-aligned, nu = 0 and .1: the sign clearly outperforms the gradient",
                [distance(ill, "axis-aligned", nu) for nu in NOISE[:2]], clearly, "CONFIRMED")  # fmt: skip
    yield claim(f"Ill-conditioned, axis-aligned, nu = 4: so it does in {steps} steps",
                [distance(ill, "axis-aligned", 4.0)], clearly, "REFUTED")  # fmt: skip
    last = median_interval(np.log10(long["SSD"][-1] / long["SGD"][-1]), TESTS)
    yield claim(f"Ill-conditioned, axis-aligned, nu = 4: so it does at step {len(long['SGD']) - 1}",
                [last], clearly, "CONFIRMED")  # fmt: skip


def draw(losses, spectra, steps):
    figure = Figure(figsize=(13, 11), layout="constrained")
    axes = figure.subplots(4, 4, width_ratios=[0.75, 1, 1, 1])
    rows = [(spectrum, basis) for spectrum in SPECTRA for basis in BASES]
    for (spectrum, basis), row in zip(rows, axes, strict=True):
        row[0].hist(spectra[spectrum][0].numpy(), 24, color="0.6")
        row[0].set(ylabel=f"{spectrum},\n{basis}", yticks=[])
        for nu, axis in zip(NOISE, row[1:], strict=True):
            for name, colour in COLOURS.items():
                values = losses[spectrum, basis, nu, name]
                low, high = np.quantile(values, (0.05, 0.95), axis=1)
                axis.fill_between(range(steps + 1), low, high, color=colour, alpha=0.2, lw=0)
                axis.plot(np.median(values, axis=1), color=colour, label=name)
            axis.set_yscale("log")
            axis.yaxis.set_minor_formatter(NullFormatter())
            if nu == NOISE[-1]:  # less than two decades
                axis.yaxis.set_major_locator(LogLocator(10, (1, 2, 5)))
                axis.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
            axis.grid(alpha=0.3)
            if (nu, spectrum) == (0.0, "well-conditioned"):
                axis.set_ylim(1e-8, 1e2)  # the gradient goes on to 1e-30
    for nu, axis in zip(NOISE, axes[0, 1:], strict=True):
        axis.set_title(f"noise ν = {nu:g}")
    axes[0, 0].set_title("eigenvalues (one replication)")
    axes[0, 1].legend(frameon=False)
    axes[3, 0].set_xlabel("λ")
    for axis in axes[3, 1:]:
        axis.set_xlabel("steps")
    figure.suptitle("function value: median and 90 % of the replications")
    return figure


def main(argv=None):
    claim = __doc__.split("\n")[0]
    options = arguments(claim, argv, smoke="3 replications, 10 steps", full="100 replications, 400 steps: 40 minutes")
    began = time.perf_counter()
    replications, steps = (3, 10) if options.smoke else (100, 400) if options.full else (40, 200)
    draws = 100 if options.smoke else 3000
    print(claim, flush=True)
    spectra, rotation, start, noise = problems(replications, max(steps, 20 if options.smoke else LONG))
    losses, ratios, generator = {}, {}, torch.Generator().manual_seed(1)
    for spectrum in SPECTRA:
        for basis in BASES:
            q = hessian(spectra[spectrum], rotation, basis)
            share = diagonal_share(q).mean()
            for nu in NOISE:
                for name in METHODS:
                    panel = (spectrum, basis, nu, name)
                    losses[panel], seen = run(name, q, start, noise[:steps], nu)
                    for when, theta in enumerate(seen if nu else []):
                        ratios[*panel, when] = gained(name, q, theta, nu, draws, generator)
            print(
                f"{spectrum}, {basis}: share of the diagonal {share:.3f}, {time.perf_counter() - began:.0f} s",
                flush=True,
            )
    q = hessian(spectra["ill-conditioned"], rotation, "axis-aligned")
    long = {name: run(name, q, start, noise, NOISE[-1])[0] for name in METHODS}
    shown = [(k, name) for k in (0, steps // 2, steps) for name in METHODS]
    rows = [
        [f"{spectrum}, {basis}, ν = {nu:g}"]
        + [short(np.median(losses[spectrum, basis, nu, name][k])) for k, name in shown]
        for spectrum in SPECTRA for basis in BASES for nu in NOISE
    ]  # fmt: skip
    header = ["median of f", *(f"{name}, {k}" for k, name in shown)]
    print("\n" + table(header, rows))
    draw(losses, spectra, steps).savefig(options.out / "sign_or_gradient.png", dpi=110)
    claims = [*claims_on_one_step(ratios), *claims_on_figure_2(losses, long, steps)]
    return conclude(claims, options, began)


if __name__ == "__main__":
    sys.exit(main())
