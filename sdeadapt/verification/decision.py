"""The verdict: CONFIRMED, REFUTED or INCONCLUSIVE from arrays of weak errors, with the numbers behind the word."""

from __future__ import annotations

import enum
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike

from sdeadapt.checks import check_integer
from sdeadapt.verification.evidence import Evidence, gather
from sdeadapt.verification.target_test import TargetTest, per_target

__all__ = ["Decision", "TargetTest", "Verdict", "decide", "needed_factor"]

POWER = 0.95  # of each contrast in the planned study, which then decides in 4 of 5 or more


class Verdict(enum.StrEnum):
    """What a study says of the claim that an SDE has a weak error of a given order."""

    CONFIRMED = "CONFIRMED"
    REFUTED = "REFUTED"
    INCONCLUSIVE = "INCONCLUSIVE"


@dataclass(frozen=True, eq=False)
class Decision:
    """A verdict with its reasons.

    Attributes:
        verdict: the word.
        message: one or two plain sentences.
        tests: one per target.
        target: the test that the summary numbers belong to. CONFIRMED or INCONCLUSIVE: the "ok" target with the
            smallest order interval (without any: the largest plateau bound relative to its scale); REFUTED: the
            violated one with the largest plateau relative to its scale. None if every target was dropped.
        reason: "" for a decision; otherwise "noise", "bound" (of a noise-free estimator), "pre-asymptotic", "bias",
            "diverged" or "constant".
    """

    verdict: Verdict
    message: str
    tests: tuple[TargetTest, ...]
    target: TargetTest | None
    reason: str

    @property
    def order(self) -> float:
        """Local order of `target` at the finest pair of levels."""
        return math.nan if self.target is None else self.target.order

    @property
    def order_interval(self) -> tuple[float, float]:
        """Its Fieller interval."""
        return (-math.inf, math.inf) if self.target is None else self.target.order_interval

    @property
    def plateau_bound(self) -> float:
        """Errors of the SDE above this are excluded, in units of `target`."""
        return math.nan if self.target is None else self.target.plateau_bound


def needed_factor(
    h: ArrayLike,
    error: ArrayLike,
    covariance: ArrayLike,
    *,
    scale: ArrayLike,
    order: float = 1.0,
    confidence: float = 0.95,
    atol: float = 0.0,
    bias: ArrayLike | None = None,
    common_bias: ArrayLike | None = None,
    constant: ArrayLike | None = None,
    critical: float | None = None,
    power: float = POWER,
) -> float | None:
    r"""Return the factor on the number of paths with which a study of these errors is expected to decide.

    The estimates, without a plateau or curvature that they do not resolve, are taken for the truth and their standard
    errors for $\mathrm{se} / \sqrt{f}$; f is the smallest on a grid from 1 to 10^4 at which every contrast that the
    decision needs passes with probability `power`.

    Args:
        h: as in `decide`, with all further arguments.
        error: (J, L).
        covariance: (J, L, L).
        scale: (J,).
        order: p.
        confidence: in (0, 1).
        atol: margin.
        bias: (J, L).
        common_bias: (J,).
        constant: (J,).
        critical: simultaneous critical value.
        power: in [.5, 1), for each contrast.

    Returns:
        f >= 1, or None where it is larger than 10^4 or no number of paths helps (see the `reason` of `decide`).

    Raises:
        ValueError: if an argument is out of range.

    >>> h = [1.0, 1 / 4, 1 / 16]
    >>> f = needed_factor(h, [[0.2, 0.05, 0.0125]], [np.eye(3) * 0.01**2], scale=[1.0])
    >>> 10 < f < 100
    True
    """
    if not 0.5 <= power < 1:
        raise ValueError(f"`power` must lie in [0.5, 1); got {power}.")
    evidence = gather(
        h, error, covariance, scale=scale, order=order, confidence=confidence, atol=atol, bias=bias,
        common_bias=common_bias, constant=constant, critical=critical,
    )  # fmt: skip
    factor = evidence.factor(power) if evidence.kept.any() else None
    return factor if factor is None or math.isfinite(factor) else None


def decide(
    h: ArrayLike,
    error: ArrayLike,
    covariance: ArrayLike,
    *,
    scale: ArrayLike,
    order: float = 1.0,
    confidence: float = 0.95,
    atol: float = 0.0,
    bias: ArrayLike | None = None,
    common_bias: ArrayLike | None = None,
    names: Sequence[str] | None = None,
    times: ArrayLike | None = None,
    constant: ArrayLike | None = None,
    critical: float | None = None,
    diverged: bool = False,
    paths: int | None = None,
    blame: Sequence[str] | None = None,
) -> Decision:
    r"""Say whether weak errors at several steps show the claimed order.

    With the plateau a (the curve in $\{1, h^p, h^{p+1}\}$ through the three finest levels, at h = 0), the allowed error
    $A = (h_L/h_{L-1})^{p - 1/4} |e_{L-1}|$ and $\rho = 1/3$, a target is "ok" if provably $|e_L| < A$ and
    $|a| < \rho A$, and "violated" if provably $|e_L| > A$ and $|a| > \rho A$, simultaneously over the targets.
    REFUTED: some target is violated. CONFIRMED: every target is ok, or small beside those that are.
    Noise makes either verdict false with probability at most 1 - `confidence`; "provably" refers to noise and bias
    bounds. A plateau below $\rho A$ passes, and terms beyond $h^{p+1}$ at the three finest steps count as plateau.

    Args:
        h: (L,), time steps of the levels, decreasing, L >= 3 (four make more violations visible).
        error: (J, L), e = E phi(chain) - E phi(SDE) of each target (a test function at a time).
        covariance: (J, L, L), of one target's estimates across the levels: diagonal where levels are independent,
            full where they share a run.
        scale: (J,), sqrt(E phi(SDE)^2), positive.
        order: p > 1/4, the claim.
        confidence: in (0, 1).
        atol: equivalence margin in units of the scale; 0 switches it off.
        bias: (J, L), bounds on unknown solver biases, independent across levels: they widen every interval.
        common_bias: (J,), bounds on a bias that all levels share: it enters |a| in full.
        names: of the J targets.
        times: (J,), their SDE times.
        constant: (J,), true for targets without variance on both sides; without error too they are dropped, and listed.
        critical: simultaneous critical value (see `max_t_quantile`); None is Bonferroni's.
        diverged: paths diverged: the study cannot confirm.
        paths: the number behind the estimates; with it the message says how many would decide.
        blame: of noise-free estimates, whose standard errors are halves of bounds: what most of each target's bound
            comes from. The message then speaks of bounds.

    Returns:
        The decision.

    Raises:
        ValueError: if a shape or a value is out of range.

    >>> h = [1.0, 1 / 4, 1 / 16, 1 / 64]
    >>> errors = np.array([[0.4, 0.1, 0.025, 0.00625]])
    >>> noise = np.eye(4)[None] * 2e-4**2
    >>> decide(h, errors, noise, scale=[1.0]).verdict.value
    'CONFIRMED'
    >>> decide(h, errors + 0.02, noise, scale=[1.0]).verdict.value
    'REFUTED'

    The rule and its operating characteristics on exact sequences are in tests/verification/test_decision.py.
    """
    evidence = gather(
        h, error, covariance, scale=scale, order=order, confidence=confidence, atol=atol, bias=bias,
        common_bias=common_bias, constant=constant, critical=critical,
    )  # fmt: skip
    if paths is not None:
        check_integer("paths", paths)
    targets = len(evidence.error)
    for name, given in (("names", names), ("times", times)):
        if given is not None and np.shape(given) != (targets,):
            raise ValueError(
                f"`{name}` must have one entry for each of {targets} targets; got shape {np.shape(given)}."
            )
    labels = [f"phi_{j + 1}" for j in range(targets)] if names is None else list(names)
    moments = [None] * targets if times is None else np.asarray(times, dtype=float).tolist()

    judgement = evidence.judge()
    tests = per_target(evidence, judgement, labels, moments)
    verdict, reason, factor = Verdict.INCONCLUSIVE, "", None
    if not evidence.kept.any():
        reason = "constant"
    elif judgement.refuted:
        verdict = Verdict.REFUTED
    elif diverged:
        reason = "diverged"
    elif judgement.confirmed:
        verdict = Verdict.CONFIRMED
    else:
        reason, factor = _reason(evidence)
        reason = "bound" if blame is not None and reason in ("noise", "bias") else reason
    decision = Decision(verdict, "", tests, _target(tests, verdict), reason)
    if reason == "bound" and blame is not None:
        wide = [(t, part) for t, part in zip(tests, blame, strict=True) if t.status == "unresolved"]
        return replace(decision, message=_bound_message(*(wide or list(zip(tests, blame, strict=True)))[0]))
    message = _message(decision, evidence.order, confidence, factor, paths)
    return replace(decision, message=message if blame is None else _without_noise(message, confidence))


def _target(tests: tuple[TargetTest, ...], verdict: Verdict) -> TargetTest | None:
    """Return the test that the summary numbers belong to; see `Decision`."""
    tests = tuple(t for t in tests if t.status != "dropped")
    if verdict is Verdict.REFUTED:
        return max((t for t in tests if t.status == "violated"), key=lambda t: abs(t.plateau) / t.scale)
    shown = [t for t in tests if t.status == "ok"]
    if shown:
        return min(shown, key=lambda t: t.order_interval[1] - t.order_interval[0])
    return max(tests, key=lambda t: t.plateau_bound / t.scale, default=None)


def _reason(evidence: Evidence) -> tuple[str, float | None]:
    """Return why nothing was decided, and the factor of paths that would."""
    factor = evidence.factor(POWER)
    if factor is not None:
        return "noise", factor
    unbiased = replace(evidence, bias=0 * evidence.bias, common_bias=0 * evidence.common_bias)
    return ("bias" if unbiased.factor(POWER) is not None else "pre-asymptotic"), None


_REMEDIES = {
    "grid": "take more `points`",
    "nodes": "take more `nodes`",
    "domain": "take a larger `radius`, and more `points` with it",
    "extrapolation": "take more `euler` steps",
}


def _bound_message(test: TargetTest, part: str) -> str:
    """Return which part of a noise-free bound is to blame, and what helps."""
    remedy = _REMEDIES.get(part, "it is at the limit of the arithmetic; drop the finest multiplier")
    return f"The bound on the error is too wide to decide E {test.label}; most of it is the {part}: {remedy}."


def _without_noise(message: str, confidence: float) -> str:
    """Return a message for errors that are bounded, not random."""
    return message.replace("(standard error", "(half of its bound:").replace(f" at {confidence:.0%}", " by the bound")


def _message(decision: Decision, order: float, confidence: float, factor: float | None, paths: int | None) -> str:
    """Return the verdict in one or two plain sentences."""
    tests, target = decision.tests, decision.target
    if target is None:
        return "Nothing to decide: no test function varies. Add test functions that see the noise."
    if decision.verdict is Verdict.REFUTED:
        return (
            f"Order {order:g} is refuted: extrapolated to h = 0, the error of E {target.label} is {target.plateau:.3g} "
            f"(standard error {target.plateau_sem:.1g}), and at most {target.allowed:.2g} is allowed."
        )
    if decision.verdict is Verdict.CONFIRMED:
        bound = (
            f"an error of the SDE above {target.plateau_bound:.2g} in E {target.label} is excluded at {confidence:.0%}."
        )
        if target.status != "ok":
            return f"Every error is within the margin `atol`; {bound}"
        low, high = target.order_interval
        return (
            f"Order {order:g} is confirmed: E {target.label} shows {target.order:.2f} ({low:.2f} to {high:.2f}) at the "
            f"finest pair of steps; {bound}"
        )
    open_tests = [t for t in tests if t.status == "unresolved"]
    where = f"E {open_tests[0].label}" if open_tests else "every test function"
    if len(open_tests) > 1:
        where += f" and {len(open_tests) - 1} more"
    if decision.reason == "diverged":
        return "Paths diverged, so the estimates are of the survivors and confirm nothing; reduce the step."
    if decision.reason == "bias":
        return f"The bound on the solver's bias is too wide to decide {where}; use a finer or extrapolated solver."
    if factor is None:
        return f"The steps are too large to decide {where} (pre-asymptotic); add a larger multiplier."
    if math.isinf(factor):
        return f"Far too noisy to decide {where}: even 10,000 times as many paths would not; use larger steps."
    needed = f"about {factor:.2g} times as many paths" if paths is None else f"about {factor * paths:,.0f} paths"
    return f"Too noisy to decide {where}; {needed} would decide."
