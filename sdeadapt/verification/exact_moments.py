r"""`moments`: weak errors without noise, where the first two moments of chain and SDE close.

The gradient is linear in theta and the covariance constant or quadratic; the method's step is linear in state and
gradient; test functions are quadratic in theta (and m), for which two moments are enough, whatever the law.
All of it is seen from `method.step`, `sde.at` and the test functions themselves, so that a user's own are served.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from sdeadapt.oracles.base import NotDeclared
from sdeadapt.simulation.paths import Level
from sdeadapt.verification.affine import AffineMap, Law, expectation, gaussian_points, is_polynomial, kron, probe_lines
from sdeadapt.verification.affine_sde import AffineSDE, Coordinates, NotClosed
from sdeadapt.verification.moment_series import MomentOperator
from sdeadapt.verification.noise_free import Means

__all__ = ["exact_sde_means", "moment_means", "moments_apply"]

_TIGHT, _LOOSE = 1e-13, 1e-11  # relative tolerances of the integrator; their difference bounds its error
_DIGITS = 64  # units in the last place that a moment may be wrong by


@torch.no_grad()
def moments_apply(levels: Sequence[Level], own: bool) -> str:
    """Return "" if the moments of every level close, and otherwise why they do not.

    Args:
        levels: of one study.
        own: the SDE is the method's own.
    """
    try:
        for level in levels:
            _recognise(level, own)
            _check_chain(level)
        _check_functions(levels[0])
    except NotClosed as reason:
        return str(reason)
    return ""


@torch.no_grad()
def moment_means(level: Level, own: bool) -> Means:
    """Return the expectations of the level's test functions, exact up to the bounds in `parts`.

    Args:
        level: one to which `moments_apply`.
        own: the SDE is the method's own.

    Returns:
        The means, with the parts "rounding" (how far they move with the last digits of the moments) and "integrator"
        (between two tolerances a factor 100 apart; 0 where the SDE is solved in closed form).
    """
    equation = _recognise(level, own)
    chain = [_look(level, (law, None)) for law in _chain_laws(level, level.records)]
    tight = [_look(level, seen) for seen in _sde_laws(level, equation, _TIGHT)]
    loose = tight if equation.closed_form else [_look(level, seen) for seen in _sde_laws(level, equation, _LOOSE)]
    means = _joined(tight, "mean")
    parts = {
        "rounding": _joined(chain, "rounding") + _joined(tight, "rounding"),
        "integrator": np.abs(means - _joined(loose, "mean")),
    }
    return Means(_joined(chain, "mean"), means, _joined(tight, "square"), parts)


@torch.no_grad()
def exact_sde_means(level: Level, own: bool) -> np.ndarray | None:
    """Return E phi(SDE), (J,), where it is known without noise, and otherwise None.

    That is where the SDE is affine with a deterministic u (of RMSprop and Adam: linear gradient, constant covariance)
    and starts from moments that are known: given ones, or those of a chain to which `moments_apply`.

    Args:
        level: one with an SDE.
        own: the SDE is the method's own.
    """
    try:
        equation = _recognise(level, own)
        if level.start > level.begin:
            _check_chain(level)
        _check_functions(level)
        means = _joined([_look(level, seen) for seen in _sde_laws(level, equation, _LOOSE)], "mean")
    except (NotClosed, FloatingPointError):
        return None
    return means


# -- whether the moments close ---------------------------------------------------------------------------------------


def _check_chain(level: Level) -> None:
    """Check that two moments of the chain close.

    Raises:
        NotClosed: if not.
    """
    method, oracle = level.method, level.oracle
    if not (method.linear and method.elementwise):
        raise NotClosed(f"the step of {type(method).__name__} is not linear")
    if not oracle.linear:
        raise NotClosed("the oracle does not declare a linear gradient with a covariance at most quadratic")
    if not oracle.independent:
        raise NotClosed("the draws of different steps depend on each other")
    theta = level.initial.theta
    lines = probe_lines(theta.mean(0), max(1.0, float(theta.abs().max())))
    if not is_polynomial(oracle.at(lines.flatten(0, 2)).gradient.reshape(lines.shape), 1):
        raise NotClosed("the oracle's gradient is not linear, though declared so")
    try:
        oracle.mean_covariance(theta[0], torch.zeros_like(lines[0, 0, 0]).diag())
    except NotDeclared as missing:
        raise NotClosed("the oracle does not declare `mean_covariance`") from missing


def _recognise(level: Level, own: bool) -> AffineSDE:
    """Return the level's SDE as an affine one.

    Raises:
        NotClosed: if it is not affine.
    """
    if level.sde is None:
        raise NotClosed("there is no SDE")
    if level.initial.theta.dtype != torch.float64:
        raise NotClosed("the run is not in float64")
    if own and not level.oracle.linear:  # no need to look
        raise NotClosed("the oracle does not declare a linear gradient with a covariance at most quadratic")
    method = level.method
    begin, end = method.time(level.start), method.time(level.records[-1])
    return AffineSDE.recognise(level.sde, level.oracle, level.initial, begin, end, method.schedule is None)


def _check_functions(level: Level) -> None:
    """Check that every test function is quadratic in all coordinates but u.

    Raises:
        NotClosed: if one is not.
    """
    law, u = _initial_law(level)
    size = max(1.0, *(float(field.abs().max()) for field in level.initial))
    lines = probe_lines(law.mean, size)
    coordinates = _coordinates(level)
    for at in [None] if u is None else [u, u + 1]:
        values = level.evaluate(coordinates.to_point(lines.flatten(0, 2), at)).reshape(*lines.shape[:3], -1)
        for j, name in enumerate(level.functions):
            if not is_polynomial(values[..., j : j + 1], 2):
                raise NotClosed(f"test function {name!r} is not quadratic")


# -- moments -----------------------------------------------------------------------------------------------------------


def _coordinates(level: Level) -> Coordinates:
    return Coordinates(type(level.initial), level.initial.theta.shape[-1])


def _initial_law(level: Level) -> tuple[Law, Tensor | None]:
    """Return the moments at the start, where a path is at one of the rows, and u."""
    u = getattr(level.initial, "u", None)
    rows = _coordinates(level).to_rows(level.initial, level.initial.theta)
    return _law_of_rows(rows), None if u is None else u[0]


def _law_of_rows(x: Tensor) -> Law:
    mean = x.mean(0)
    return Law(mean, (x - mean).T @ (x - mean) / len(x))


def _unit_rows(state: type, last: int) -> tuple[Any, Tensor]:
    """Return a state whose rows are its unit vectors, then `last` zeros, and what completes them to unit vectors."""
    fields = len(state._fields)  # type: ignore[attr-defined]
    rows = torch.eye(fields + last, dtype=torch.float64)
    return state(*(rows[:, f : f + 1] for f in range(fields))), rows[:, fields:]


def _step(level: Level, state: type, k: int) -> tuple[tuple[float, ...], ...]:
    """Return what iteration k makes of every unit vector of the raw state, and last of the gradient."""
    after = level.method.step(*_unit_rows(state, 1), k)
    return tuple(map(tuple, torch.cat(tuple(after), 1).tolist()))


def _steps(level: Level, state: type, end: int) -> list[tuple[tuple[float, ...], ...]]:
    """Return `_step` of all iterations up to `end`: where there is no schedule, from a look at some of them."""
    looks = sorted({*range(level.begin, min(level.begin + 8, end)), *np.linspace(level.begin, end - 1, 57, dtype=int)})
    if level.method.schedule is None:
        seen = {_step(level, state, int(k)) for k in looks}
        if len(seen) == 1:
            return [*seen] * (end - level.begin)
    return [_step(level, state, k) for k in range(level.begin, end)]


def _step_map(level: Level, images: tuple[tuple[float, ...], ...]) -> tuple[AffineMap, Tensor]:
    """Return one iteration as a map, without its noise, and the factors with which noise reaches the fields, (F,)."""
    zero = torch.zeros_like(level.initial.theta[:1])
    table = torch.tensor(images, dtype=torch.float64).to(zero)
    keep, kick = table[:-1].T, table[-1]
    first = torch.zeros_like(kick)
    first[0] = 1  # the gradient is of theta, the first field
    change = kron(keep - torch.eye(len(kick)).to(zero), torch.eye(zero.shape[1]).to(zero))
    change = change + kron(torch.outer(kick, first), level.oracle.hessian(zero))
    return AffineMap(change, kron(kick, level.oracle.at(zero).gradient[0]), torch.zeros_like(change)), kick


def _chain_laws(level: Level, stops: Sequence[int]) -> list[Law]:
    """Return the moments of the chain, as a Point, after each of these increasing numbers of iterations."""
    method, oracle, d = level.method, level.oracle, level.initial.theta.shape[-1]
    start = method.from_point(level.initial, oracle.scale)
    law = _law_of_rows(torch.cat(tuple(start), 1))
    images = _steps(level, type(start), stops[-1])
    seen = torch.cat(tuple(method.to_point(_unit_rows(type(start), 0)[0], oracle.scale)), 1).T
    seen = kron(seen.to(law.mean), torch.eye(d).to(law.mean))
    found, done = [], level.begin
    for stop in stops:
        for image, equal in groupby(images[done - level.begin : stop - level.begin]):
            step, kick = _step_map(level, image)
            factors, count = torch.outer(kick, kick) * oracle.scale**2, sum(1 for _ in equal)

            def noise(mean: Tensor, covariance: Tensor, factors: Tensor = factors) -> Tensor:
                return kron(factors, oracle.mean_covariance(mean[:d], covariance[:d, :d]))

            if oracle.additive or count == 1:
                law = step._replace(noise=noise(*law)).power(count).of(law)
            else:
                law = MomentOperator(step.change, step.shift, noise, discrete=True).advance(law, count)
        found.append(Law(seen @ law.mean, seen @ law.covariance @ seen.T))
        done = stop
    return found


def _sde_laws(level: Level, equation: AffineSDE, rtol: float) -> list[tuple[Law, Tensor | None]]:
    """Return the moments of the SDE, and u, at each of the level's records."""
    law, u = _initial_law(level)
    if level.start > level.begin:
        law = _chain_laws(level, [level.start])[0]
    found, done = [], level.start
    for record in level.records:
        law, u = equation.advance(law, u, level.method.time(done), level.method.time(record), rtol)
        found.append((law, u))
        done = record
    return found


# -- test functions ----------------------------------------------------------------------------------------------------


class _Look(NamedTuple):
    """Of every test function at one time: mean, bound of its rounding, mean square."""

    mean: np.ndarray
    rounding: np.ndarray
    square: np.ndarray


def _look(level: Level, seen: tuple[Law, Tensor | None]) -> _Look:
    """Return what the test functions are for these moments."""
    (law, u), coordinates = seen, _coordinates(level)

    def phi(x: Tensor) -> Tensor:
        return level.evaluate(coordinates.to_point(x, u))

    mean = expectation(phi, law)
    # the mean square is the scale of a target: the law may pass for Gaussian, and a fixed sample for the law
    square = phi(gaussian_points(law)).square().mean(0)
    unit = _DIGITS * torch.finfo(torch.float64).eps
    signs = torch.as_tensor(np.random.default_rng(2).choice([-1.0, 1.0], len(law.mean))).to(law.mean)
    way = signs * (law.mean - _initial_law(level)[0].mean)
    spread = law.covariance * torch.outer(signs, signs) + torch.outer(way, way)
    other = Law(law.mean + unit * signs * law.mean, law.covariance + unit * spread)
    rounding = (expectation(phi, other) - mean).abs() + unit * square.sqrt()
    return _Look(*(part.cpu().numpy() for part in (mean, rounding, square)))


def _joined(looks: Sequence[_Look], name: str) -> np.ndarray:
    return np.concatenate([getattr(look, name) for look in looks])
