"""SVAG's runs of Adam on a network agree with Adam itself where noise dominates, and converge as l grows.

Figure 3 of Malladi et al. 2022 on digits: train loss, test accuracy, |theta|², |grad f|² and Tr Sigma over SDE time
k eta², for l = 1, 2, 4, 8, where l = 1 is Adam as torch runs it, bias correction included. They read the closeness of
all l as support for the SDE, to which SVAG converges. At a batch sixteen times as large, by the square-root rule, l = 1
is far away and l = 8 comes back to the same limit. A second control: SVAG without its amplified noise.

    python experiments/svag_on_a_network.py --out results/svag_on_a_network
"""

import math
import sys
import time

import numpy as np
from claims import Claim, arguments, conclude, decide, joint
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

import sdeadapt as sa
from sdeadapt.oracles import Amplified
from sdeadapt.problems import digits_mlp
from sdeadapt.simulation.observables import Named
from sdeadapt.statistics.intervals import critical_value, fieller_interval
from sdeadapt.text import short, table

BATCH, KAPPA, STEPS, TIMES, PATHS = 4, 16, 256, 8, 128  # steps and batch of the base; kappa of the large batch
ADAM = sa.Adam(lr=2.0**-8.5, beta1=1 - 2.0**-6, beta2=1 - 2.0**-7, eps=2.0**-9)
MULTIPLIERS = (1, 2, 4, 8)
PANELS = {
    "loss": "train loss",
    "test_accuracy": "test accuracy",
    "theta_norm_squared": "|θ|²",
    "gradient_norm_squared": "|∇f|²",
    "noise_trace": "Tr Σ",
}
CLOSE, POINTS, LEFT = (1 / math.sqrt(2), math.sqrt(2)), 0.05, 0.5
CONVERGING = ("loss", "theta_norm_squared")  # |grad f|² and Tr Sigma are too noisy for it at these paths
COLOURS = {1: "black", 2: "#2166ac", 4: "#35978f", 8: "#e08214"}


class Setting:
    """One batch size: its chains by l, all of them looked at on one clock."""

    def __init__(self, kappa, size, run):
        self.problem, self.method = digits_mlp(batch_size=BATCH * kappa), ADAM.rescaled(kappa)
        self.steps, self.times, self.paths = round(size[0] / kappa), size[1], size[2]
        self.run, self.chains = run, {}

    def add(self, multiplier, amplified=True):
        """Run the chain with lr divided by l; without amplified noise it is another method."""
        r = self.method.refinement(multiplier)
        names = {name: Named(name) for name in PANELS if name not in self.problem.shown}
        seed = 100 * self.problem.oracle.batch_size + multiplier
        self.chains[multiplier if amplified else -multiplier] = sa.simulate(
            self.method.rescaled(1 / r), Amplified(self.problem.oracle, r) if amplified else self.problem.oracle,
            theta0=self.problem.theta0, steps=self.steps * r, times=self.times, paths=self.paths,
            test_functions=names | self.problem.shown, rng=seed, run=self.run,
        )  # fmt: skip


def close(a, b, tests):
    """The verdict on C-closeness of two ensembles in all metrics at all times, and the numbers behind it."""
    z, found = critical_value(tests=tests), []
    for name in PANELS:
        if name != "test_accuracy":
            for x, y, u, v in zip(a.mean[name], b.mean[name], a.sem[name], b.sem[name], strict=True):
                found.append((x / y, *fieller_interval(x, y, [[u**2, 0], [0, v**2]], z), PANELS[name]))
    ratio, low, high, name = max(found, key=lambda row: abs(math.log(row[0])))
    evidence = f"farthest in {name}, ratio {short(ratio)} [{short(low)}, {short(high)}]"
    return joint(decide(low, high, CLOSE) for _, low, high, _ in found), evidence


def accurate(a, b, tests):
    """The verdict on a small difference in test accuracy at all times."""
    gap = a.mean["test_accuracy"] - b.mean["test_accuracy"]
    reach = critical_value(tests=tests) * np.hypot(a.sem["test_accuracy"], b.sem["test_accuracy"])
    verdict = joint(decide(g - r, g + r, (-POINTS, POINTS)) for g, r in zip(gap, reach, strict=True))
    return verdict, f"differences from {short((gap - reach).min(), 2)} to {short((gap + reach).max(), 2)}"


def converging(chains, tests):
    """The verdict on what is left at l = 4 of the distance between l = 1 and l = 8, at the last time."""
    z, verdicts, said = critical_value(tests=tests), [], []
    for name in CONVERGING:
        (x, u), (y, v), (w, s) = ((chains[m].mean[name][-1], chains[m].sem[name][-1]) for m in (4, 1, 8))
        low, high = fieller_interval(x - w, y - w, [[u**2 + s**2, s**2], [s**2, v**2 + s**2]], z)
        verdicts.append(decide(low, high, (0, LEFT)))
        said.append(f"{PANELS[name]} {short(abs((x - w) / (y - w)), 2)} [{short(low, 2)}, {short(high, 2)}]")
    return joint(verdicts), "; ".join(said)


def draw(base, large):
    """A column per metric: the base batch, and the large one below."""
    figure = Figure(figsize=(15, 6), layout="constrained")
    axes = figure.subplots(2, len(PANELS), sharex=True, sharey="col")
    for row, setting in zip(axes, (base, large), strict=True):
        for ax, (name, label) in zip(row, PANELS.items(), strict=True):
            for multiplier, chain in setting.chains.items():
                if multiplier > 0:
                    mean, reach, colour = chain.mean[name], 2 * chain.sem[name], COLOURS[multiplier]
                    ax.fill_between(chain.times, mean - reach, mean + reach, color=colour, alpha=0.2, lw=0)
                    ax.plot(chain.times, mean, "o-" if multiplier == 1 else "-", color=colour, lw=1.4, ms=3.5,
                            label=f"ℓ = {multiplier}" + (" (Adam)" if multiplier == 1 else ""))  # fmt: skip
            if name not in ("test_accuracy", "theta_norm_squared"):
                ax.set_yscale("log")
                ax.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
                ax.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
                ax.yaxis.set_minor_formatter(NullFormatter())
            ax.grid(alpha=0.3)
            if setting is base:
                ax.set_title(label)
            else:
                ax.set_xlabel("SDE time k η²")
        row[0].set_ylabel(f"B = {setting.problem.oracle.batch_size}, lr = {setting.method.lr:.2g}")
        row[0].legend(fontsize=8)
    return figure


def main(argv=None):
    claim = __doc__.split("\n")[0]
    options, began = arguments(claim, argv), time.perf_counter()
    print(claim)
    size = (32, 2, 8) if options.smoke else (STEPS, TIMES, PATHS)
    multipliers = (1, 4, 8) if options.smoke else MULTIPLIERS
    with sa.workers(2) as executor:
        run = sa.Run(chunk=max(1, size[2] // 2), executor=executor)
        base, large = Setting(1, size, run), Setting(KAPPA, size, run)
        for multiplier in multipliers:
            base.add(multiplier)
            large.add(multiplier)
        base.add(2, amplified=False)
    tests = (4 * 4 + 2) * size[1] + len(CONVERGING)
    small, big = base.chains, large.chains
    rows = [
        [str(s.problem.oracle.batch_size), f"{abs(m)}{'' if m > 0 else ', not amplified'}",
         *(short(float(chain.mean[name][-1])) for name in PANELS)]
        for s in (base, large) for m, chain in s.chains.items()
    ]  # fmt: skip
    print("\n" + table(["B", "l", *(f"{label}, last" for label in PANELS.values())], rows, left=2))
    draw(base, large).savefig(options.out / "svag_on_a_network.png", dpi=130)
    at, above, points = (
        f"B = {BATCH}:",
        f"B = {BATCH * KAPPA}:",
        f"test accuracies of l = 1 and 8 are within {POINTS:g}",
    )
    claims = [
        Claim(f"{at} l = 1 is C-close to l = 8 at all times", *close(small[1], small[8], tests)),
        Claim(f"{at} {points} at all times", *accurate(small[1], small[8], tests)),
        Claim(f"{at} at l = 4 less than {LEFT:g} of the distance to l = 8 is left", *converging(small, tests)),
        Claim(f"l = 8 at B = {BATCH * KAPPA} is C-close to l = 8 at B = {BATCH}", *close(big[8], small[8], tests)),
        Claim(f"{above} l = 1 is C-close to l = 8 (control)", *close(big[1], big[8], tests), "REFUTED"),
        Claim(f"{above} {points} (control)", *accurate(big[1], big[8], tests), "REFUTED"),
        Claim(f"{at} l = 2 without amplified noise is C-close to l = 1 (control)", *close(small[-2], small[1], tests),
              "REFUTED"),
    ]  # fmt: skip
    return conclude(claims, options, began)


if __name__ == "__main__":
    sys.exit(main())
