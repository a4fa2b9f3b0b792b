r"""The update of an adaptive method is bounded, its law is known, and its size varies more at later steps, not less.

Zhang and Ziyin, "On the Distributional Properties of Adaptive Gradients": Theorem 1, Corollaries 1 and 2,
Proposition 1, and Section 3.1, where exponential averages of the squares are replaced by simple ones. Simulated normals
decide the first; the last needs no simulation, since the law under exponential weights is known to rounding error too.

    python experiments/update_law.py --out results/update_law
"""

import math
import sys
import time
from itertools import pairwise

import numpy as np
from claims import Claim, arguments, conclude, decide, joint
from matplotlib.figure import Figure
from replications import kolmogorov_reach, mean_interval
from scipy import stats

from sdeadapt.analysis.updates import mean_abs, update_bound, update_law, var_abs
from sdeadapt.analysis.updates_weighted import abs_moment, ema_law, kolmogorov, updates
from sdeadapt.statistics.intervals import critical_value
from sdeadapt.verification.decision import Verdict

STEPS, CONFIDENCE = 100, 0.95
TESTS = 5 * (STEPS - 1)  # three distances and two moments at every step
MARGIN = 0.005  # of distribution functions
BETAS = (0.9, 0.98, 0.99, 0.999)
DRAWN = (2, 3, 4, 6, 10, 100)


def simulate(draws, seed):
    """Yield m and the updates of normals, m = 2 ... STEPS."""
    rng = np.random.default_rng(seed)
    steps = enumerate(updates(rng.standard_normal(draws) for _ in range(STEPS)), 1)
    return (step for step in steps if step[0] > 1)


def distance(x, law, tests, stride=16):
    """The interval of Kolmogorov's distance between the law of x and `law`, for all tests at once.

    Every stride-th point of the sample is looked at, and between two of them both functions only grow.
    """
    x, n = np.sort(x), len(x)
    at = np.arange(stride - 1, n, stride)
    seen = np.abs(law.cdf(x[at]) - (at + 1) / n).max()
    reach = kolmogorov_reach(n, tests)
    return max(seen - reach, 0.0), seen + stride / n + reach


def study(draws, seed):
    """What is needed of each m: intervals of distances, of E X², of E|X|, and a histogram."""
    rows = {}
    for m, x in simulate(draws, seed):
        laws = {"right": update_law(m), "next": update_law(m + 1), "normal": stats.norm}
        wanted = laws if m <= 10 else {"right": laws["right"]}
        rows[m] = {name: distance(x, law, TESTS) for name, law in wanted.items()}
        rows[m] |= {"variance": mean_interval(x * x, TESTS), "size": mean_interval(np.abs(x), TESTS)}
        if m in DRAWN:
            end = min(math.sqrt(m), 3.2)
            rows[m]["histogram"] = np.histogram(x, bins=60, range=(-end, end)), len(x)
    return rows


def law_claims(rows):
    z, margin = f"{len(rows)} steps, {100 * CONFIDENCE:g} % together", f"{MARGIN:g}"
    worst = max(rows, key=lambda m: rows[m]["right"][1])
    yield Claim(
        f"Theorem 1: the update of normal gradients has the law (within {margin} in distribution), m = 2 to {STEPS}",
        joint(decide(*row["right"], (0, MARGIN)) for row in rows.values()),
        f"distance at most {rows[worst]['right'][1]:.4f} (m = {worst}); {z}",
    )
    for name, label, until in (("next", "the law of m + 1", 4), ("normal", "N(0, 1)", 6)):
        found = {m: row[name] for m, row in rows.items() if m <= until}
        verdicts = [decide(*interval, (0, MARGIN)) for interval in found.values()]
        low = min(interval[0] for interval in found.values())
        yield Claim(
            f"Control: it has {label} instead, m = 2 to {until}, each",
            verdicts[0] if len({*verdicts}) == 1 else Verdict.INCONCLUSIVE,
            f"distance at least {low:.4f}", "REFUTED",
        )  # fmt: skip
    variance = [row["variance"] for row in rows.values()]
    yield Claim(
        "Corollary 1: the variance is 1 at every step (within 1 %)",
        joint(decide(*v, (0.99, 1.01)) for v in variance),
        f"{min(low for low, _ in variance):.4f} to {max(high for _, high in variance):.4f}; {z}",
    )
    sizes = {m: row["size"] for m, row in rows.items()}
    off = [decide(low - mean_abs(m), high - mean_abs(m), (-0.005, 0.005)) for m, (low, high) in sizes.items()]
    grows = bool((np.diff(var_abs(np.arange(1, 10_001))) > 0).all())
    yield Claim(
        "Corollary 2: the variance of the size is as printed, and grows with m, to 1 - 2/pi",
        joint([*off, *decide_exactly(grows)]),
        f"E|X| within .005 of the closed form at every m; from 0 over {var_abs(2):.4f} (m = 2) to {var_abs(100):.4f} "
        f"(m = 100) and {var_abs(10_000):.4f}, growing at each of 10,000 steps",
    )


def decide_exactly(true):
    """The verdict on what is computed, as a list of one."""
    return [decide(float(true), float(true), (1, 1))]


def bound_claims(draws, seed):
    """Proposition 1, put to gradients of wildly different sizes."""
    rng, beta = np.random.default_rng(seed), 0.99
    gradients = (np.exp(6 * rng.standard_normal(draws)) * rng.choice([-1.0, 1.0], draws) for _ in range(20))
    shares = [np.abs(x).max() / update_bound(beta, t) for t, x in enumerate(updates(gradients, beta), 1)]
    yield Claim(
        "Proposition 1: no update exceeds sqrt((1 - beta^t)/(1 - beta)), whatever the gradients (beta = .99, t to 20)",
        *decide_exactly(max(shares) <= 1 + 1e-12),
        f"the largest of {draws} log-normal ones with sigma = 6 reaches {min(shares):.6f} to {max(shares):.6f} of it",
    )
    yield Claim(
        "Control: a bound 1 % below it holds", *decide_exactly(max(shares) <= 0.99), "it is exceeded", "REFUTED"
    )


def average_claims(steps):
    """Section 3.1: exponential averages by simple ones. Exact, no simulation."""
    at = [2, 3, 4, 5, 7, 10, 14, 20, 30, 50, 100, 200, 500, 1000][:steps]
    # at 1,023 quantiles: between two of them it can be 1/1024 more
    gaps = {beta: [kolmogorov(ema_law(beta, t), update_law(t), 1024) for t in at] for beta in BETAS}
    variances = {beta: [ema_law(beta, t).var() for t in at] for beta in BETAS}
    for beta, expected in ((0.999, "CONFIRMED"), (0.99, "REFUTED")):
        worst = int(np.argmax(gaps[beta]))
        later = max(gaps[beta][1:])
        yield Claim(
            f"Section 3.1: at beta = {beta:g} a simple average is as good (law within .01 at 14 steps from 2 to 1,000)",
            joint(decide(gap, gap + 1 / 1024, (0, 0.01)) for gap in gaps[beta]),
            f"farthest at t = {at[worst]}, {gaps[beta][worst]:.4f} (the supports differ); from t = 3 on {later:.4f}",
            expected,
        )  # fmt: skip
    low = min(variances[0.9])
    yield Claim(
        "Corollary 1 holds under exponential averaging too (variance within 1 % of 1), beta = .9",
        joint(decide(v, v, (0.99, 1.01)) for v in variances[0.9]),
        f"it falls to {low:.4f}; at beta = .98, .99, .999 to "
        + ", ".join(f"{min(variances[b]):.4f}" for b in BETAS[1:]), "REFUTED",
    )  # fmt: skip
    sizes = {b: [abs_moment(ema_law(b, t), 2) - abs_moment(ema_law(b, t), 1) ** 2 for t in at] for b in BETAS}
    yield Claim(
        "The variance of the size never falls under exponential averaging either",
        *decide_exactly(all(a <= b + 1e-12 for v in sizes.values() for a, b in pairwise(v))),
        ", ".join(f"beta = {b:g}: {v[0]:.4f} at t = 2 to {v[-1]:.4f} at {at[-1]}" for b, v in sizes.items()),
    )
    yield at, gaps, variances


def draw(rows, at, gaps, variances):
    figure = Figure(figsize=(12, 4), layout="constrained")
    left, middle, right = figure.subplots(1, 3)
    for k, m in enumerate(m for m in DRAWN if m in rows):
        (counts, edges), n = rows[m]["histogram"]
        density = counts / n / np.diff(edges)
        reach = critical_value(CONFIDENCE, 60 * len(DRAWN)) * np.sqrt(counts) / n / np.diff(edges)
        colour, centre = f"C{k}", (edges[1:] + edges[:-1]) / 2
        left.fill_between(centre, density - reach, density + reach, step="mid", color=colour, alpha=0.4, lw=0)
        x = np.linspace(edges[0], edges[-1], 801)[1:-1]
        left.plot(x, update_law(m).pdf(x), color=colour, lw=1.3, label=f"m = {m}")
    left.set(ylim=(0, 0.85), xlabel="Δθ", ylabel="density", title="lines: the law; bands: simulated normals")
    left.legend(fontsize=8, frameon=False)
    steps = np.array(list(rows))
    shown = [m for m in (2, 3, 4, 5, 7, 10, 15, 20, 30, 50, 70, 100) if m in rows]
    for name, colour, label in (("variance", "C0", "Var Δθ, simulated"), ("size", "C3", "Var|Δθ|, simulated")):
        low, high = np.array([rows[m][name] for m in shown]).T
        if name == "size":  # Var|X| = E X² − (E|X|)², with E X² = 1
            low, high = 1 - high**2, 1 - low**2
        middle.errorbar(shown, (low + high) / 2, (high - low) / 2, fmt="o", ms=3.5, color=colour, label=label)
    middle.plot(steps, var_abs(steps), "k-", lw=0.8)
    middle.axhline(1, color="k", lw=0.8, label="the law")
    t = steps[steps > 2]
    middle.plot(t, stats.t(t).var(), "k:", lw=1, label="Student's t (independent denominator)")
    middle.set(xscale="log", xlabel="step m", ylim=(0, 3.9), title="bars: 95 %, all steps together")
    middle.legend(fontsize=8, frameon=False, loc="upper right")
    for beta, gap in gaps.items():
        right.plot(at, gap, "o-", ms=3, label=f"β = {beta:g}: variance falls to {min(variances[beta]):.3f}")
    right.axhline(0.01, color="0.4", lw=0.8, ls=":")
    right.set(xscale="log", yscale="log", xlabel="step t", ylabel="distance from the simple average's law")
    right.set_title("exponential averages, exactly")
    right.legend(fontsize=8, frameon=False)
    return figure


def main(argv=None):
    claim = __doc__.split("\n")[0]
    options = arguments(claim, argv, smoke="20,000 draws, 7 steps of the averages: seconds, no claim")
    began = time.perf_counter()
    print(claim)
    draws = 20_000 if options.smoke else 1_000_000
    rows = study(draws, seed=0)
    *averages, drawn = average_claims(7 if options.smoke else 14)
    draw(rows, *drawn).savefig(options.out / "update_law.png", dpi=130)
    return conclude([*law_claims(rows), *bound_claims(draws // 10, seed=1), *averages], options, began)


if __name__ == "__main__":
    sys.exit(main())
