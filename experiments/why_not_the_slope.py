"""Why a log-log slope decides nothing: the customary rule beside the plateau rule on sequences known exactly.

192 weak errors of RMSprop under SVAG (l = 1, 2, 4, 8; three noise laws, old and new v, two values each of c2, eps0 and
the base step; four test functions), computed without noise, get Gaussian errors of known size; each rule then judges
the same data. A precision of x means a standard error of x max|e| h_L / h_1 at every level.

The slope rule, in its usual form: take the levels with |e| > 3 se, at least three; fit a weighted log-log line; REFUTED
if its slope is below 3/4 with 95 % confidence, CONFIRMED if above. "With intercept" also fits e = a + b h to all levels
and refutes if a differs from 0.

    python experiments/why_not_the_slope.py --out results/why_not_the_slope
"""

import argparse
import sys
import time
from pathlib import Path

import matplotlib as mpl

mpl.use("Agg")
import matplotlib.pyplot as plt
import numpy as np

from sdeadapt.statistics.intervals import critical_value
from sdeadapt.verification.decision import Verdict, decide
from sdeadapt.verification.plateau import TOLERANCE, judge

DATA = Path(__file__).parents[1] / "tests" / "data" / "exact_sequences.npz"
PRECISIONS = (0.3, 0.1, 0.03, 0.01)
RULES = ("slope with intercept", "slope alone", "plateau")
COLOURS = dict(zip(RULES, ("#c44e52", "#dd8452", "#4c72b0"), strict=True))
Z = critical_value(0.95)


def weighted_fit(design, y, weights):
    """Coefficients and standard errors of many weighted lines; design (..., L, 2), y and weights (..., L)."""
    gram = np.einsum("...li,...l,...lj->...ij", design, weights, design)
    inverse = np.linalg.inv(gram)
    moment = np.einsum("...li,...l->...i", design, weights * y)
    return np.einsum("...ij,...j->...i", inverse, moment), np.sqrt(np.diagonal(inverse, axis1=-2, axis2=-1))


def slope_rule(h, error, sem, *, intercept):
    """(confirmed, refuted) of the customary rule, vectorised over the leading axes."""
    resolved = np.abs(error) > 3 * sem
    enough = resolved.sum(-1) >= 3
    use = np.where(enough[..., None], resolved, True)
    log_design = np.broadcast_to(np.stack([np.ones_like(h), np.log(h)], -1), (*error.shape, 2))
    line, line_se = weighted_fit(log_design, np.log(np.abs(error)), use * (error / sem) ** 2)
    slope, slope_se = line[..., 1], line_se[..., 1]
    confirmed, refuted = slope - Z * slope_se > 1 - TOLERANCE, slope + Z * slope_se < 1 - TOLERANCE
    if intercept:
        design = np.broadcast_to(np.stack([np.ones_like(h), h], -1), (*error.shape, 2))
        fit, fit_se = weighted_fit(design, error, 1 / sem**2)
        visible = np.abs(fit[..., 0]) > Z * fit_se[..., 0]
        confirmed, refuted = confirmed & ~visible, refuted | visible
    return confirmed & enough, refuted & enough


def plateau_rule(h, error, sem):
    """(confirmed, refuted) of this library's rule, each sequence a study of its own."""
    covariance = (sem**2)[..., None, :, None] * np.eye(len(h))
    found = judge(h, error[..., None, :], covariance, np.ones(1), z=Z, z_joint=Z)
    return found.confirmed, found.refuted


def apply(rule, h, error, sem):
    if rule == "plateau":
        return plateau_rule(h, error, sem)
    return slope_rule(h, error, sem, intercept=rule == "slope with intercept")


def frequencies(h, sequences, top, precision, replicates, rng):
    """{rule: (CONFIRMED, REFUTED)} in per cent over all sequences and replicates, on the same data."""
    sem = np.broadcast_to(precision * top * h[-1] / h[0], sequences.shape)
    error = sequences + sem * rng.standard_normal((replicates, *sequences.shape))
    sem = np.broadcast_to(sem, error.shape)
    return {rule: tuple(100 * f.mean() for f in apply(rule, h, error, sem)) for rule in RULES}


def example(h, exact, rng, title, name, axis):
    """Draw one sequence at a precision of 3 %, with the words of the three rules; print them."""
    sem = 0.03 * np.abs(exact).max() * h[-1] / h[0]
    error = exact + sem * rng.standard_normal(h.size)
    decision = decide(h, error[None], np.diag(np.full(h.size, sem**2))[None], scale=[1.0], names=[name])
    words = []
    for rule in RULES:
        confirmed, refuted = apply(rule, h, error, np.full(h.size, sem))
        words.append((Verdict.CONFIRMED if confirmed else Verdict.REFUTED if refuted else Verdict.INCONCLUSIVE).value)
    axis.loglog(h, np.abs(error[-1]) * h / h[-1], ":", color="0.4", lw=1.5, label="order 1, through the finest error")
    axis.errorbar(h, np.abs(error), yerr=2 * sem, fmt="ko-", lw=0.8, ms=6, capsize=3, label="error, 2 standard errors")
    axis.set(title=title, xlabel="step h (SDE time)", ylabel=f"|error of E {name}|")
    axis.set_ylim(np.abs(error).min() / 2, np.abs(error).max() * 25)
    text = "\n".join(f"{rule}: {word}" for rule, word in zip(RULES, words, strict=True))
    axis.text(0.03, 0.96, text, transform=axis.transAxes, va="top", fontsize=10, linespacing=1.4)
    axis.legend(loc="lower right", frameon=False)
    print(f"{title}.", ", ".join(f"{rule}: {word}" for rule, word in zip(RULES, words, strict=True)))
    print("   ", decision.message)


def draw_rates(axis, table, kind, which, title):
    for rule in RULES:
        axis.semilogx([100 * p for p in PRECISIONS], [table[kind, p][rule][which] for p in PRECISIONS], "o-",
                      color=COLOURS[rule], label=rule)  # fmt: skip
    axis.set(title=title, xlabel="standard error, % of the finest error expected", ylabel="% of studies",
             ylim=(-4, 104), xticks=[30, 10, 3, 1])  # fmt: skip
    axis.set_xticklabels(["30", "10", "3", "1"])
    axis.minorticks_off()
    axis.invert_xaxis()
    axis.grid(alpha=0.3)


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=Path, required=True, help="directory for table.csv and why_not_the_slope.png")
    parser.add_argument("--smoke", action="store_true", help="few replicates, a second or two")
    options = parser.parse_args(argv)
    began, replicates, rng = time.perf_counter(), 4 if options.smoke else 100, np.random.default_rng(0)

    with np.load(DATA) as data:
        steps, true, settings = data["h"], data["error"], list(data["settings"])
    h = steps[0] / steps[0, 0]
    top = np.abs(true).max(-1, keepdims=True)
    kinds = {
        "true SDE": true,
        "plateau = half the finest error": true + true[..., -1:],
        "plateau 10 % of max|e|": true + 0.1 * top,
        "plateau -10 % of max|e|": true - 0.1 * top,
        "plateau 100 % of max|e|": true + top,
        "order 1/2": top * np.sqrt(h) + 0 * true,
    }
    table = {
        (kind, p): frequencies(h, sequences, top, p, replicates, rng)
        for kind, sequences in kinds.items()
        for p in PRECISIONS
    }
    options.out.mkdir(parents=True, exist_ok=True)
    lines = ["kind,precision,rule,confirmed_percent,refuted_percent"]
    print(f"\nCONFIRMED / REFUTED in % of {true[..., 0].size} sequences x {replicates} replicates")
    print(f"{'':34}{'precision':>10}" + "".join(f"{rule:>24}" for rule in RULES))
    for (kind, p), rates in table.items():
        print(f"{kind:34}{p:>10.0%}" + "".join(f"{c:>15.1f} / {r:>6.1f}" for c, r in rates.values()))
        lines += [f"{kind},{p},{rule},{c:.3f},{r:.3f}" for rule, (c, r) in rates.items()]
    (options.out / "table.csv").write_text("\n".join(lines) + "\n")
    print()

    figure, axes = plt.subplots(2, 2, figsize=(11, 8.5), layout="constrained")
    skewed, plain = settings.index("exponential False 1.0 0.1 0.25"), settings.index("normal True 1.0 0.1 0.25")
    right, wrong = true[skewed, 1], true[plain, 2] + true[plain, 2, -1]
    example(steps[skewed], right, rng, "A true SDE", "theta^2", axes[0, 0])
    example(steps[plain], wrong, rng, "A wrong SDE: half of the finest error stays as h -> 0", "u", axes[0, 1])
    draw_rates(axes[1, 0], table, "true SDE", 1, "True SDEs: wrongly REFUTED")
    draw_rates(
        axes[1, 1],
        table,
        "plateau = half the finest error",
        0,
        "A plateau of half the finest error: wrongly CONFIRMED",
    )
    axes[1, 0].legend(loc="center right")
    path = options.out / "why_not_the_slope.png"
    figure.savefig(path, dpi=130)
    plt.close(figure)

    finest = table["true SDE", 0.01]
    print(
        f"\nAt 1 %: the slope with intercept refutes {finest[RULES[0]][1]:.0f} % of true SDEs, the plateau rule "
        f"{finest[RULES[2]][1]:.1f} %; the slope alone confirms "
        f"{table['plateau = half the finest error', 0.01][RULES[1]][0]:.0f} % of the wrong ones, the plateau rule "
        f"{table['plateau = half the finest error', 0.01][RULES[2]][0]:.1f} %."
    )
    print(f"{path}; {time.perf_counter() - began:.1f} s on one core")
    return 0


if __name__ == "__main__":
    sys.exit(main())
