r"""SVAG without an SDE: does the family converge as its step falls, at what order, and to which means?

The means of successive levels differ by $d_i = E\varphi(x^{h_i}) - E\varphi(x^{h_{i+1}})$. Where the steps fall by one
factor, an error $b h^p + c h^{p+1}$ about *any* limit makes d of the same form, so the rule for weak errors judges the
order of convergence; a limit that no SDE has leaves no trace in d. It is reported instead: the value at h = 0 of the
parabola in $\{1, h^p, h^{p+1}\}$ through the three finest means (Richardson's extrapolation).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np

from sdeadapt.checks import check_choice
from sdeadapt.results import register
from sdeadapt.statistics.estimate import Estimate
from sdeadapt.verification.decision import Decision, Verdict
from sdeadapt.verification.plateau import plateau_weights
from sdeadapt.verification.report import WeakErrorReport

__all__ = ["Limit", "SelfReferenceReport", "against_next", "check_reference", "worded"]


class Limit(NamedTuple):
    """A mean extrapolated to h = 0; shift: how far it moved from the three next coarser levels, noise included."""

    test_function: str
    time: float
    value: Estimate
    shift: float


@register("self-reference", schema=2)
@dataclass(frozen=True, eq=False)
class SelfReferenceReport(WeakErrorReport):
    """A report whose levels are measured against the next finer one: L counts differences, `sde` is the finer mean.

    `sem` and `planned_sem` are of differences, which share levels; paths (L, 2): of the two levels.
    limit, limit_sem, limit_shift, own_error, own_sem (J,): see `limits` and `error_at_own_lr`.
    """

    limit: np.ndarray
    limit_sem: np.ndarray
    limit_shift: np.ndarray
    own_error: np.ndarray
    own_sem: np.ndarray

    @property
    def limits(self) -> tuple[Limit, ...]:
        """The extrapolated means, per target. Their errors are of noise; `shift` is a sign of what it leaves out."""
        n = int(self.paths[-2:].min())
        numbers = zip(self.names, *(a.tolist() for a in (self.times, self.limit, self.limit_sem, self.limit_shift)),
                      strict=True)  # fmt: skip
        return tuple(Limit(name, time, Estimate(mean, sem, n), shift) for name, time, mean, sem, shift in numbers)

    def _own_errors(self) -> tuple[np.ndarray, np.ndarray]:
        """Return what the coarsest level is off the limit."""
        return self.own_error, self.own_sem

    @property
    def total_paths(self) -> int:
        """Paths of all levels together."""
        return int(self.paths[:, 0].sum() + self.paths[-1, 1])


def check_reference(reference: str, *, sde: Any, start: Any, power: bool, multipliers: Sequence[int] | None) -> None:
    """Check that nothing asked for needs an SDE where there is none, and that the steps fall by one factor.

    Raises:
        ValueError: otherwise.
    """
    check_choice("reference", reference, ("sde", "self"))
    if reference == "sde":
        return
    for name, given in (("sde", sde is not None), ("start", start is not None), ("power", power)):
        if given:
            raise ValueError(f"`{name}` must be left out with reference='self', where no SDE is solved.")
    if multipliers is not None:
        m = list(multipliers)
        if len(m) < 4 or any(b * b != a * c for a, b, c in zip(m, m[1:], m[2:], strict=False)):
            raise ValueError(
                f"`multipliers` must be four or more in geometric progression with reference='self'; got {tuple(m)}. "
                "Try (1, 2, 4, 8)."
            )


def against_next(levels: dict[str, np.ndarray], order: float) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Return the fields of a report on differences, and their covariance.

    Args:
        levels: what the levels of chains show: h, multipliers (L,), paths (L, 1), scale (J,), and (J, L): error (the
            mean), sem, chain, factor, planned_sem, bias, bias_sem.
        order: p, for the extrapolation.

    Returns:
        The same fields for L - 1 differences, with limit, limit_sem, limit_shift, own_error and own_sem (J,); and
        (J, L - 1, L - 1): neighbouring differences share a level.

    >>> h = np.array([1.0, 1 / 4, 1 / 16, 1 / 64])
    >>> mean, sem = np.array([2 + 0.3 * h]), np.full((1, 4), 0.01)
    >>> same = dict.fromkeys(("chain", "factor", "planned_sem", "bias", "bias_sem"), sem)
    >>> levels = {"h": h, "multipliers": h, "paths": np.ones((4, 1)), "scale": h, "error": mean, "sem": sem, **same}
    >>> found, covariance = against_next(levels, 1.0)
    >>> found["error"].round(4).tolist(), found["limit"].round(6).tolist()
    ([[0.225, 0.0563, 0.0141]], [2.0])
    >>> (covariance[0] * 1e4).round(6).tolist()
    [[2.0, -1.0, 0.0], [-1.0, 2.0, -1.0], [0.0, -1.0, 2.0]]
    """
    mean, variance, h = levels["error"], levels["sem"] ** 2, levels["h"]
    step = np.eye(len(h))[:-1] - np.eye(len(h))[1:]
    limit, coarser, own = np.zeros((3, len(h)))
    limit[-3:], coarser[-4:-1] = plateau_weights(h[-3:], order), plateau_weights(h[-4:-1], order)
    own[0] = 1
    own -= limit
    either = variance @ np.abs(step).T
    with np.errstate(divide="ignore", invalid="ignore"):
        factor = np.where(either > 0, (variance * levels["factor"]) @ np.abs(step).T / either, 1.0)
    found = {
        "h": h[:-1],
        "multipliers": levels["multipliers"][:-1],
        "paths": np.concatenate([levels["paths"][:-1], levels["paths"][1:]], 1),
        "scale": levels["scale"],
        "error": mean @ step.T,
        "sem": np.sqrt(either),
        "planned_sem": np.sqrt(levels["planned_sem"] ** 2 @ np.abs(step).T),
        "bias": levels["bias"][:, :-1],
        "bias_sem": levels["bias_sem"][:, :-1],
        "chain": levels["chain"][:, :-1],
        "sde": levels["chain"][:, 1:],
        "factor": factor,
        "limit": mean @ limit,
        "limit_sem": np.sqrt(variance @ limit**2),
        "limit_shift": np.abs(mean @ (limit - coarser)),
        "own_error": mean @ own,
        "own_sem": np.sqrt(variance @ own**2),
    }
    return found, (step * variance[:, None, :]) @ step.T


def worded(decision: Decision) -> Decision:
    """Return the decision with a message that speaks of convergence, not of an SDE."""
    target = decision.target
    if target is None or decision.verdict is Verdict.INCONCLUSIVE:
        return decision
    if decision.verdict is Verdict.REFUTED:
        message = (
            f"Convergence is refuted at the order claimed: extrapolated to h = 0, E {target.label} still changes by "
            f"{target.plateau:.3g} (standard error {target.plateau_sem:.1g}) from one step to the next, and at most "
            f"{target.allowed:.2g} is allowed."
        )
    else:
        low, high = target.order_interval
        shown = f"E {target.label} shows order {target.order:.2f} ({low:.2f} to {high:.2f}) at the finest differences"
        found = shown if target.status == "ok" else "every difference is within the margin `atol`"
        message = (
            f"Convergence is confirmed at the order claimed: {found}. That the limit is the SDE is not shown: compare "
            "`limits` with the SDE's means."
        )
    return replace(decision, message=message)
