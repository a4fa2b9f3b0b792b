r"""Local error: which one-step moment of an SDE is wrong, and at which power of h. No random number is drawn.

A weak order p follows where $E D_{i_1}\cdots D_{i_n}$ of chain and SDE agree up to $O(h^{p+1})$ for all n from 1 to
2p + 1, D being the increment over one iteration (Li, Tai, E 2019, arXiv 1811.01558, a theorem of Milstein's type).
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from sdeadapt.checks import check_integer
from sdeadapt.methods.base import ItoSDE, Method
from sdeadapt.oracles.base import Draw, NotDeclared, Oracle
from sdeadapt.plain import describe
from sdeadapt.simulation.start import BIAS_CORRECTION_STEPS, base_steps, check_sde, make_initial, make_point
from sdeadapt.verification.decision import Decision, Verdict
from sdeadapt.verification.local_error_report import LocalErrorReport, judge
from sdeadapt.verification.one_step import chain_moments, check_tree, monomials, sde_moments
from sdeadapt.verification.study import Recipe, Refine, Study, check_family, default_multipliers, refined

__all__ = ["explain", "local_error"]

MOST_COORDINATES = 12  # looked at; their monomials are many
MOST_EXPLAINED = 6  # coordinates of a problem that is looked at unasked
MOST_EXPLAINED_COLUMNS = 30  # Brownian columns of such a problem: a second of work
# Of the oracle's rule, the most that it gives, and a check. One has a node at 0 and one has none: were both even, a
# function that jumps there would be wrong by the same.
_NODES = ((64, 33), (32, 17), (16, 9), (8, 7), (6, 5))


class _Level(NamedTuple):
    """One step size: iterations up to the point, chain and SDE."""

    k: int
    method: Method
    oracle: Oracle
    sde: ItoSDE


def local_error(
    method: Method,
    oracle: Oracle,
    sde: ItoSDE | Recipe | None = None,
    theta: Any = None,
    *,
    initial: Any = None,
    order: int = 1,
    refine: Refine = "svag",
    t: float | None = None,
    multipliers: Sequence[int] | None = None,
    components: Sequence[int] | None = None,
) -> LocalErrorReport:
    r"""Compare the moments of one iteration with those of the SDE, term by term, as powers of h.

    Weak order p needs $E D_{i_1}\cdots D_{i_n}$ of chain and SDE to differ by $O(h^{p+1})$ for n = 1, …, 2p + 1; D is
    the increment over one iteration from the same point. The condition is sufficient; it is looked at in one point.

    Args:
        method: at the user's own learning rate.
        oracle: at the user's own batch; it must declare `rule`.
        sde: None for the method's own, an ItoSDE, or a recipe (method, oracle) -> ItoSDE called at every level.
        theta: the point, (dim,).
        initial: further fields of the point, {"u": …}; by default m = grad f / 2 and u = 5/4 diag Sigma, where no
            term of the usual equations vanishes.
        order: p, the claim.
        refine: the family of step sizes, as for `verify`.
        t: SDE time at the point, in base steps; None is 0, or 8 base steps with bias correction.
        multipliers: three or more divisors of the learning rate, each the same factor times the one before; by default
            h is 1/16, 1/64, 1/256 and 1/1024 of the base step.
        components: those components of every field are looked at; all by default.

    Returns:
        Every moment of chain and SDE, the power of h of their difference, and what is wrong.

    Raises:
        ValueError: if an argument is wrong, there are too many coordinates, or the SDE has too many Brownian columns.
        NotDeclared: if the oracle has no rule, or lacks what the SDE needs; or a Point is not all that the method
            remembers.

    Example:
        >>> import dataclasses, sdeadapt as sa
        >>> def too_noisy(method, oracle):
        ...     sde = method.sde(oracle)
        ...     def at(t, x):
        ...         drift, diffuse = sde.at(t, x)
        ...         return drift, lambda dw: diffuse(1.1 * dw)
        ...     return dataclasses.replace(sde, at=at)
        >>> oracle = sa.oracles.Quadratic(1.0, 1.0, scale=1.0)
        >>> local_error(sa.SGD(lr=0.1), oracle, theta=[1.0]).verdict.value
        'CONFIRMED'
        >>> report = local_error(sa.SGD(lr=0.1), oracle, too_noisy, theta=[1.0])
        >>> report.offending[0].moment, report.offending[0].power
        ('E[dtheta^2]', 1.0)

    Li, Tai, E 2019 (arXiv 1811.01558).
    """
    begin = time.perf_counter()
    check_integer("order", order)
    check_family(method, oracle, refine)
    if not method.smooth and refine == "svag":
        raise NotDeclared(
            f"A step of {type(method).__name__} jumps, and the rule of SVAG's pairs of draws has no edge there. "
            "Use refine='noise' or 'step', with an oracle whose rule has one."
        )
    if theta is None:
        raise ValueError("`theta` must be given: the point whose one-step moments are compared.")
    if not method.invertible:
        raise NotDeclared(
            f"One-step moments need a Point that is all the method remembers; {type(method).__name__} remembers more. "
            "Use `verify`."
        )
    oracle = oracle.to("cpu", torch.float64)
    first = BIAS_CORRECTION_STEPS if method.bias_correction else 0
    start = first if t is None else base_steps("t", t, method.time_step)
    x = _point(method, oracle, theta, initial)
    if multipliers is None:  # beyond the usual ones
        usual = default_multipliers(method)
        multipliers = tuple(m * usual[2] for m in usual)
    levels = []
    for multiplier in multipliers:
        r = method.refinement(check_integer("multipliers", multiplier))
        m, o = refined(refine, method, oracle, r)
        equation = m.sde(o, order) if sde is None else sde if isinstance(sde, ItoSDE) else sde(m, o)
        check_sde(equation, x, start * method.time_step)
        levels.append(_Level(start * r, m, o, equation))
    config = {
        "method": method.describe(), "oracle": oracle.describe(), "point": _plain(x),
        "sde": "own" if sde is None else describe(sde), "order": order, "refine": describe(refine),
        "t": start * method.time_step, "multipliers": list(multipliers),
        "components": None if components is None else list(components),
    }  # fmt: skip
    return _measure(levels, x, start * method.time_step, order, components, config, begin)


def explain(study: Study, decision: Decision, *, order: int = 1) -> LocalErrorReport | None:
    """Return which one-step moments are wrong, where a study of a small problem REFUTED its SDE.

    Args:
        study: what was judged; its step sizes and its theta are taken.
        decision: what was found.
        order: p, the claim.

    Returns:
        The report; None if the SDE was not refuted, no moment is found wrong, or the study is no case for it (six
        coordinates at most, a rule, an SDE, float64, three levels or more at constant ratio).
    """
    begin = time.perf_counter()
    base = study.levels[0]
    theta, levels = base.initial.theta, []
    for level in study.levels:
        if level.sde is not None and level.sde.noise_dim <= MOST_EXPLAINED_COLUMNS:
            levels.append(_Level(level.start, level.method, level.oracle, level.sde))
    small = theta.shape[1] * len(base.initial) <= MOST_EXPLAINED
    double = theta.dtype == torch.float64 and theta.device.type == "cpu"
    if decision.verdict is not Verdict.REFUTED or not (
        small and double and base.method.invertible and base.method.smooth
    ):
        return None
    config = {"method": base.method.describe(), "oracle": base.base.describe(), "order": order}
    t = study.clock.start * study.clock.h
    try:
        x = _point(base.method, base.base, theta[:1], None)
        report = _measure(
            levels, x, t, order, None, {**config, "refine": "the study's", "point": _plain(x), "t": t}, begin
        )
    except ValueError:  # NotDeclared among them: no rule, no constant ratio, too many Brownian columns
        return None
    return report if report.offending else None


def _point(method: Method, oracle: Oracle, theta: Any, initial: Any) -> Any:
    """Return the Point to look at, of one row.

    Raises:
        ValueError: on shapes, several rows, values that are not finite, a negative u, or unknown fields.
    """
    given = dict(initial if isinstance(initial, Mapping) else initial._asdict()) if initial is not None else {}
    same = {"theta": given.pop("theta")} if "theta" in given else None
    theta = make_initial(method, oracle, theta, same, need_point=False).theta
    if len(theta) != 1:
        raise ValueError(f"`theta` must be one point, ({oracle.dim},); got {len(theta)} of them.")
    local = oracle.at(theta)
    values: dict[str, Any] = {"theta": theta}
    for name in method.Point._fields[1:]:  # type: ignore[attr-defined]
        if name in given:
            continue
        if name in ("m", "velocity"):
            values[name] = local.gradient / 2
        elif name in ("u", "w"):
            values[name] = 1.25 * local.covariance_diagonal
        else:
            values[name] = getattr(method.initial(local), name)
    return make_point(method.Point, values | given, theta.dtype, theta.device)


def _measure(
    levels: Sequence[_Level],
    x: Any,
    t: float,
    order: int,
    components: Sequence[int] | None,
    config: dict[str, Any],
    begin: float,
) -> LocalErrorReport:
    """Return the report on these levels.

    Raises:
        ValueError: if there are too few levels, no constant ratio of h, too many coordinates, or the tree is too large.
        NotDeclared: if an oracle has no rule.
    """
    h = np.array([level.method.time_step for level in levels])
    if len(h) < 3 or np.ptp(np.log(h[:-1] / h[1:])) > 1e-6 or h[0] <= h[-1]:
        raise ValueError(
            "`multipliers` must be at least three whole numbers, each the same factor above 1 times the one before; "
            f"got time steps {', '.join(f'{step:.3g}' for step in h)}."
        )
    dim, highest = x.theta.shape[1], 2 * order + 1
    chosen = range(dim) if components is None else [check_integer("components", c, minimum=0) for c in components]
    columns = [f * dim + c for f in range(len(x)) for c in chosen]
    if not columns or len(columns) > MOST_COORDINATES or max(chosen) >= dim:
        raise ValueError(
            f"`components` must be among 0 … {dim - 1}, and with the {len(x)} fields of the point make at most "
            f"{MOST_COORDINATES} coordinates; got {len(columns)}. Pass a few, such as components=[0, 1]."
        )
    index = monomials(len(columns), highest)
    chain, sde, rounding, nodes = (np.empty((len(index), len(h))) for _ in range(4))
    size = torch.cat(list(x), 1)[0, columns].abs().numpy()
    for i, level in enumerate(levels):
        check_tree(level.sde.noise_dim, order + 2)
        fine, coarse = (
            chain_moments(level.method, level.oracle, x, level.k, rule, columns, highest)
            for rule in _rules(level.oracle)
        )
        found = sde_moments(level.sde, t, x, h[i], columns, highest, order + 2)
        spread = np.sqrt([max(fine[j, j], found[j, j]) for j in range(len(columns))])
        for row, monomial in enumerate(index):
            chain[row, i], sde[row, i] = fine[monomial], found[monomial]
            nodes[row, i] = abs(fine[monomial] - coarse[monomial])
            rounding[row, i] = _rounding(size, spread, monomial)
    names = _names(type(x)._fields, list(chosen), dim)
    return LocalErrorReport(
        config=config, seconds=time.perf_counter() - begin, order=order, h=h,
        moments=tuple(_label([names[j] for j in monomial]) for monomial in index),
        degree=np.array([len(monomial) for monomial in index]),
        chain=chain, sde=sde, **judge(h, chain, sde, rounding, nodes, order),
    )  # fmt: skip


def _rules(oracle: Oracle) -> tuple[tuple[Draw, Tensor], tuple[Draw, Tensor]]:
    """Return the oracle's rule with as many nodes as it gives, and one with fewer.

    Raises:
        NotDeclared: if it has none.
    """
    for fine, coarse in _NODES[:-1]:
        with contextlib.suppress(NotDeclared):
            return oracle.rule(fine), oracle.rule(coarse)
    fine, coarse = _NODES[-1]
    return oracle.rule(fine), oracle.rule(coarse)


def _rounding(size: np.ndarray, spread: np.ndarray, monomial: tuple[int, ...]) -> float:
    """Return what rounding may do to a moment: D is a difference of numbers of this size, its spread is smaller."""
    factors = spread[list(monomial)]
    others = [np.prod(np.delete(factors, i)) for i in range(len(factors))]
    return 16 * float(np.finfo(float).eps) * float(sum((size[list(monomial)] + factors) * others))


def _plain(x: Any) -> dict[str, list[float]]:
    return {name: field[0].tolist() for name, field in x._asdict().items()}


def _names(fields: Sequence[str], chosen: Sequence[int], dim: int) -> list[str]:
    return [f"d{field}" if dim == 1 else f"d{field}_{c}" for field in fields for c in chosen]


def _label(factors: Sequence[str]) -> str:
    """Return "E[dtheta^2 du]" for ["dtheta", "dtheta", "du"]."""
    powers = {name: factors.count(name) for name in factors}
    return f"E[{' '.join(name if n == 1 else f'{name}^{n}' for name, n in powers.items())}]"
