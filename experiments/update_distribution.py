r"""How gradients that grow, shrink, drift or have heavy tails show in the law of an adaptive method's update.

Zhang and Ziyin, "On the Distributional Properties of Adaptive Gradients", Figure 1 and Section 6 (Figures 5, 6 and 7):
independent gradients g_t ~ N(0, 1), N(0, t²), N(0, 1/t²), N(-1, 1), N(-t, 1) and Cauchy, with the simple average of
squares.

Modes are counted twice. From simulated gradients: the fewest modes that a density can have whose bin probabilities lie
in simultaneous bands (Clopper and Pearson's), a lower bound that holds with 95 % for all cases and steps at once. And,
where the law is known as an integral, from exact bin probabilities. A claim of k modes needs both to say k.

    python experiments/update_distribution.py --out results/update_distribution
"""

import math
import sys
import time
from itertools import pairwise

import numpy as np
from claims import Claim, arguments, conclude, decide, joint
from matplotlib import colormaps
from matplotlib.figure import Figure
from scipy import special, stats

from sdeadapt.analysis.updates import update_law
from sdeadapt.analysis.updates_weighted import updates, weighted_law
from sdeadapt.statistics.intervals import critical_value
from sdeadapt.verification.decision import Verdict

LOOKS, BINS = (2, 3, 4, 5, 7, 10, 20, 50), 101
CONFIDENCE = 0.975  # of all bins, and of all moments: 95 % together
CASES = {
    "N(0, 1)": lambda rng, t, n: rng.standard_normal(n),
    "N(0, t²)": lambda rng, t, n: t * rng.standard_normal(n),
    "N(0, 1/t²)": lambda rng, t, n: rng.standard_normal(n) / t,
    "N(-1, 1)": lambda rng, t, n: rng.standard_normal(n) - 1,
    "N(-t, 1)": lambda rng, t, n: rng.standard_normal(n) - t,
    "Cauchy": lambda rng, t, n: rng.standard_cauchy(n),
}


class Cauchy:
    r"""The exact law of the update of Cauchy gradients.

    A Cauchy variable is z / |y| with normals z and y, so S = g_t / sqrt(H), H the sum of the older squares, is
    z / sqrt(y² H), and E exp(-l H) = erfcx(sqrt(l))^(t-1). Craig's formula and an average over y give P(|S| > s); both
    integrals by the trapezoidal rule in a logarithmic variable.
    """

    def __init__(self, t):
        self.t = t

    def cdf(self, x):
        x = np.asarray(x, dtype=float)
        s2 = x * x / self.t / np.maximum(1 - x * x / self.t, 1e-16)  # at an end of the support: 0, to 1e-8
        y = np.arange(-38, 38, 0.25)
        q = np.arange(-38, 2.5, 0.2)[:, None]  # log |y|
        weight = 0.2 * math.sqrt(2 / math.pi) * np.exp(q - np.exp(2 * q) / 2)
        tail = [
            float(0.25 / (2 * math.pi) * (
                (weight * special.erfcx(np.exp(q) * np.sqrt(value / 2 * (1 + np.exp(2 * y)))) ** (self.t - 1)).sum(0)
                / np.cosh(y)
            ).sum())
            for value in s2.ravel()
        ]  # fmt: skip
        tail = np.reshape(tail, x.shape)
        return np.where(x > 0, 1 - tail, tail)


EXACT = {
    "N(0, 1)": update_law,
    "N(0, t²)": lambda m: weighted_law(np.ones(m), np.arange(1, m + 1)),
    "N(0, 1/t²)": lambda m: weighted_law(np.ones(m), 1 / np.arange(1, m + 1)),
    "Cauchy": Cauchy,
}


def grid(m):
    """The edges of equal bins over the support; their number is odd, so that one is about 0."""
    return math.sqrt(m) * np.linspace(-1, 1, BINS + 1)


def fewest_modes(low, high):
    """The fewest modes of a sequence that lies between two others; an end counts as one if the sequence rises to it."""
    modes, rising, level = 0, True, -math.inf
    for a, b in zip(low, high, strict=True):
        if rising:
            if b < level:
                modes, rising, level = modes + 1, False, b
            else:
                level = max(level, a)
        elif a > level:
            rising, level = True, a
        else:
            level = min(level, b)
    return modes + rising


def simulate(draws, seed):
    """Counts per bin, moments: {case: {m: …}}; draws are made in parts, so that memory stays small."""
    part = min(draws, 100_000)
    found = {case: {} for case in CASES}
    for k, (case, draw) in enumerate(CASES.items()):
        rng = np.random.default_rng([seed, k])
        for _ in range(draws // part):
            steps = updates(draw(rng, t, part) for t in range(1, LOOKS[-1] + 1))
            for m, x in enumerate(steps, 1):
                if m == 1 or m in LOOKS:
                    powers = np.stack([x, x**2, x**3])
                    new = [np.histogram(x, grid(m))[0], powers.sum(1), powers @ powers.T, part]
                    old = found[case].get(m, [0, 0, 0, 0])
                    found[case][m] = [a + b for a, b in zip(old, new, strict=True)]
    return found


def bands(counts, n, tests):
    """Clopper and Pearson's interval of every bin probability, for `tests` at once."""
    alpha = (1 - CONFIDENCE) / tests
    low = stats.beta.ppf(alpha / 2, counts, n - counts + 1)
    high = stats.beta.isf(alpha / 2, counts + 1, n - counts)
    return np.nan_to_num(low, nan=0.0), np.nan_to_num(high, nan=1.0)


def peak(row, m, tests):
    """Where the highest point can be: the bins that the bands do not show to be below another, end to end."""
    counts, *_, n = row
    low, high = bands(counts, n, tests)
    (at,) = np.nonzero(high >= low.max())
    return grid(m)[at[0]], grid(m)[at[-1] + 1]


def count_modes(found):
    """{case: {m: (at least, exactly or None)}}."""
    tests = len(CASES) * len(LOOKS) * BINS
    modes = {}
    for case, rows in found.items():
        modes[case] = {}
        for m in LOOKS:
            counts, *_, n = rows[m]
            exact = None
            if case in EXACT:
                p = np.diff(EXACT[case](m).cdf(grid(m)))
                exact = fewest_modes(p - 1e-9, p + 1e-9)
            modes[case][m] = fewest_modes(*bands(counts, n, tests)), exact
    return modes


def shape(row, z):
    """Intervals of mean, variance and skewness, by the delta method on the first three moments."""
    _, sums, products, n = row
    a, b, c = mean = sums / n
    covariance = (products / n - np.outer(mean, mean)) / n
    variance, third = b - a * a, c - 3 * a * b + 2 * a**3
    slopes = {
        "mean": (a, [1, 0, 0]),
        "variance": (variance, [-2 * a, 1, 0]),
        "skewness": (
            third / variance**1.5,
            np.array([6 * a * a - 3 * b, -3 * a, 1]) / variance**1.5
            - 1.5 * third / variance**2.5 * np.array([-2 * a, 1, 0]),
        ),
    }
    return {
        name: (value - z * math.sqrt(g @ covariance @ g), value + z * math.sqrt(g @ covariance @ g))
        for name, (value, slope) in slopes.items()
        for g in [np.asarray(slope, dtype=float)]
    }


def modes_verdict(modes, wanted):
    """CONFIRMED: at least and exactly as many; REFUTED: the exact law has another number; else INCONCLUSIVE."""
    verdicts = []
    for m, k in wanted.items():
        proven, exact = modes[m]
        agree = Verdict.CONFIRMED if proven == k else Verdict.INCONCLUSIVE
        verdicts.append(Verdict.REFUTED if exact != k or proven > k else agree)
    return joint(verdicts)


def said(modes):
    """The counts of modes as text."""
    return ", ".join(f"m = {m}: {a} proven, {b} exact" for m, (a, b) in modes.items())


def last_with_two(case, most=20):
    """The last step at which the exact law has two modes, none before it having another number."""
    for m in range(2, most):
        p = np.diff(EXACT[case](m).cdf(grid(m)))
        if fewest_modes(p - 1e-9, p + 1e-9) != 2:
            return m - 1
    return most


def claims(modes, shapes, peaks):
    late = LOOKS[-1]
    yield Claim(
        "Figure 1: with equal variances two modes at m = 2, one from m = 3 on",
        modes_verdict(modes["N(0, 1)"], {m: 2 if m == 2 else 1 for m in LOOKS}), said(modes["N(0, 1)"]),
    )  # fmt: skip
    yield Claim(
        "Figure 5, left: with growing variance two modes remain for longer, m = 2 to 7",
        modes_verdict(modes["N(0, t²)"], dict.fromkeys((2, 3, 4, 5, 7), 2)),
        f"{said(modes['N(0, t²)'])}; the exact law has two up to m = {last_with_two('N(0, t²)')}",
    )
    shrinking = modes["N(0, 1/t²)"]
    yield Claim(
        "Figure 5, right: with shrinking variance one mode from m = 3 on",
        modes_verdict(shrinking, dict.fromkeys(LOOKS[1:], 1)), said(shrinking),
    )  # fmt: skip
    yield Claim(
        "Control: and two at m = 2 (it has three: the middle, and both ends of the support)",
        modes_verdict(shrinking, {2: 2}), said({2: shrinking[2]}), "REFUTED",
    )  # fmt: skip

    def falls(case, name, steps):
        pairs = pairwise([shapes[case][m][name] for m in steps])
        return joint(decide(b[0] - a[1], b[1] - a[0], (-math.inf, 0)) for a, b in pairs)

    def spell(case, name, steps):
        return f"{name} " + ", ".join("{:.3f} to {:.3f}".format(*shapes[case][m][name]) for m in steps)

    yield Claim(
        "Figure 5, right: and it gets thinner at every step looked at",
        falls("N(0, 1/t²)", "variance", LOOKS), spell("N(0, 1/t²)", "variance", LOOKS),
    )  # fmt: skip
    yield Claim(
        f"Figure 6, left, N(-1, 1): early steps are more skewed than late ones, m = 1 to 10 and {late}",
        falls("N(-1, 1)", "skewness", (1, 2, 3, 4, 5, 7, 10, late)),
        spell("N(-1, 1)", "skewness", (1, 2, 3, 5, 10, late)),
    )
    low, high = shapes["N(-1, 1)"][2]["skewness"]
    yield Claim(
        "Figure 6, left: the skewness is to the left (negative third moment), m = 2",
        decide(low, high, (-math.inf, 0)), f"{low:.3f} to {high:.3f}: the mass is left, the tail right", "REFUTED",
    )  # fmt: skip
    a, b = shapes["N(-1, 1)"][1]["mean"], shapes["N(-1, 1)"][late]["mean"]
    yield Claim(
        "Figure 6, left: the mean moves back towards 0 as m grows",
        decide(a[0] - b[1], a[1] - b[0], (-math.inf, 0)),  # the mean is negative: of its size, late less early
        f"m = 1: {a[0]:.4f} to {a[1]:.4f}; m = {late}: {b[0]:.4f} to {b[1]:.4f}; the limit is -sqrt(1/2)", "REFUTED",
    )  # fmt: skip
    a, b = peaks
    yield Claim(
        f"Figure 6, left: the highest point moves back towards 0, from m = 2 to {late}",
        decide(b[0] - a[1], b[1] - a[0], (0, math.inf)),
        f"m = 2: {a[0]:.2f} to {a[1]:.2f}; m = {late}: {b[0]:.2f} to {b[1]:.2f}",
    )
    yield Claim(
        "Figure 6, right, N(-t, 1): it gets thinner at every step looked at",
        falls("N(-t, 1)", "variance", (1, *LOOKS)), spell("N(-t, 1)", "variance", (1, *LOOKS)),
    )  # fmt: skip
    gaps = {m: (shapes["N(-t, 1)"][m]["skewness"], shapes["N(-1, 1)"][m]["skewness"]) for m in LOOKS}
    less = {m: decide(a[0] - b[1], a[1] - b[0], (-math.inf, 0)) for m, (a, b) in gaps.items()}
    text = "; ".join(
        f"m = {m}: {a[0]:.3f} to {a[1]:.3f} against {b[0]:.3f} to {b[1]:.3f}" for m, (a, b) in gaps.items()
    )
    yield Claim(
        "Figure 6, right: and it is less skewed than N(-1, 1) at every step", joint(less.values()), text, "REFUTED"
    )
    yield Claim("Figure 6, right: it is, from m = 5 to 10", joint(less[m] for m in (5, 7, 10)), "as above")
    yield Claim(
        "Figure 7: with Cauchy gradients three modes at every step looked at",
        modes_verdict(modes["Cauchy"], dict.fromkeys(LOOKS, 3)), said(modes["Cauchy"]),
    )  # fmt: skip
    yield Claim(
        "Control: with normal gradients three modes, m = 4 to 50",
        modes_verdict(modes["N(0, 1)"], dict.fromkeys(LOOKS[2:], 3)), said(modes["N(0, 1)"]), "REFUTED",
    )  # fmt: skip


def draw(found):
    figure = Figure(figsize=(12, 7), layout="constrained")
    shades = colormaps["viridis"](np.linspace(0, 0.9, len(LOOKS)))
    tests = len(CASES) * len(LOOKS) * BINS
    for ax, (case, rows) in zip(figure.subplots(2, 3).ravel(), found.items(), strict=True):
        for m, colour in zip(LOOKS, shades, strict=True):
            counts, *_, n = rows[m]
            edges = grid(m)
            width, centre = np.diff(edges), (edges[1:] + edges[:-1]) / 2
            low, high = (side / width for side in bands(counts, n, tests))
            ax.fill_between(centre, low, high, color=colour, alpha=0.5, lw=0)
            ax.plot(centre, counts / n / width, color=colour, lw=1.1, label=f"m = {m}")
            if case in EXACT:
                ax.plot(centre, np.diff(EXACT[case](m).cdf(edges)) / width, "k:", lw=0.8)
        ax.set(xlim=(-3.3, 3.3), ylim=(0, 1.0), title=f"$g_t$ ~ {case}", xlabel="Δθ", ylabel="density")
    figure.axes[2].set(xlim=(-1.6, 1.6), ylim=(0, 3))
    figure.axes[4].set(xlim=(-2, 0.5), ylim=(0, 6))
    figure.axes[0].legend(fontsize=8, frameon=False)
    figure.supxlabel(
        "bands: 97.5 %, all bins, steps and panels together; dotted: exact, where known", fontsize=8, color="0.3"
    )
    return figure


def main(argv=None):
    claim = __doc__.split("\n")[0]
    options = arguments(claim, argv, smoke="20,000 draws: some seconds, no claim")
    began = time.perf_counter()
    print(claim)
    found = simulate(20_000 if options.smoke else 1_000_000, seed=0)
    z = critical_value(CONFIDENCE, 3 * len(CASES) * (len(LOOKS) + 1))
    shapes = {case: {m: shape(row, z) for m, row in rows.items()} for case, rows in found.items()}
    tests, ends = len(CASES) * len(LOOKS) * BINS, (LOOKS[0], LOOKS[-1])
    peaks = [peak(found["N(-1, 1)"][m], m, tests) for m in ends]
    draw(found).savefig(options.out / "update_distribution.png", dpi=130)
    return conclude(claims(count_modes(found), shapes, peaks), options, began)


if __name__ == "__main__":
    sys.exit(main())
