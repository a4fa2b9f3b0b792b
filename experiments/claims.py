"""What the experiments that decide a claim share: options, an interval held against a region, the table of verdicts.

A claim is decided by a confidence interval, never by a point estimate: inside the region that the claim asks for it is
CONFIRMED, apart from it REFUTED, across its edge INCONCLUSIVE. Claims of one experiment share its confidence.
"""

import argparse
import json
import math
import time
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from sdeadapt.results import check_output
from sdeadapt.text import duration, table
from sdeadapt.verification.decision import Verdict


class Claim(NamedTuple):
    """A statement, the verdict on it, the numbers behind the word, and the verdict that the ledger states."""

    text: str
    verdict: Verdict
    evidence: str
    expected: str = "CONFIRMED"


def arguments(claim, argv, *, smoke="a small size: some seconds, no claim", full=None):
    """Return the options: `out`, `smoke` and, where the paper's size is larger, `full`."""
    parser = argparse.ArgumentParser(description=claim)
    parser.add_argument("--out", type=Path, required=True, help="new directory, for the verdicts and the figures")
    parser.add_argument("--smoke", action="store_true", help=smoke)
    if full:
        parser.add_argument("--full", action="store_true", help=full)
    options = parser.parse_args(argv)
    if options.smoke and getattr(options, "full", False):
        parser.error("`--smoke` and `--full` exclude each other.")
    try:
        check_output(options.out).mkdir(parents=True, exist_ok=True)
    except ValueError as error:
        parser.error(str(error))
    return options


def decide(low, high, region):
    """Return the verdict on "the quantity lies in `region`" = (a, b), for its confidence interval from low to high.

    A side that is not bounded is infinite. An interval that is not a number decides nothing.
    """
    a, b = region
    if math.isnan(low) or math.isnan(high):
        return Verdict.INCONCLUSIVE
    if low > high or a > b:
        raise ValueError(f"An interval must go from low to high; got {low:g} to {high:g} and {a:g} to {b:g}.")
    if a <= low and high <= b:
        return Verdict.CONFIRMED
    return Verdict.REFUTED if high < a or low > b else Verdict.INCONCLUSIVE


def joint(verdicts: Iterable[Verdict]):
    """Return the verdict on the conjunction of claims whose intervals hold simultaneously."""
    found = list(verdicts)
    if not found:
        raise ValueError("A conjunction must have at least one claim; got none.")
    if Verdict.REFUTED in found:
        return Verdict.REFUTED
    return Verdict.CONFIRMED if set(found) == {Verdict.CONFIRMED} else Verdict.INCONCLUSIVE


def conclude(claims, options, began):
    """Print the claims with their verdicts, leave them in claims.json, and return the exit code.

    Args:
        claims: every one that the experiment decides, its controls included.
        options: what `arguments` returned.
        began: `time.perf_counter()` at the start.

    Returns:
        0 if every verdict is the one expected, or at smoke size; else 1.
    """
    claims, seconds = list(claims), time.perf_counter() - began
    for k, claim in enumerate(claims, 1):
        print(f"\n{k}. {claim.text}\n   {claim.verdict.value}: {claim.evidence}")
    rows = [[str(k), claim.verdict.value, claim.expected] for k, claim in enumerate(claims, 1)]
    print("\n" + table(["claim", "verdict", "expected"], rows, left=3))
    size = "smoke" if options.smoke else "full" if getattr(options, "full", False) else "default"
    stored = [claim._asdict() | {"verdict": claim.verdict.value} for claim in claims]
    text = json.dumps({"size": size, "seconds": seconds, "claims": stored}, indent=2, ensure_ascii=False)
    (options.out / "claims.json").write_text(text + "\n", encoding="utf-8")
    print(f"\nCost: {duration(seconds)} of wall time, size: {size}.")
    return 0 if options.smoke or all(claim.verdict.value == claim.expected for claim in claims) else 1
