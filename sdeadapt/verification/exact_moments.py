r"""`moments`: weak errors without noise, where the first two moments of chain and SDE close.

The gradient is linear in theta and the covariance constant or quadratic; the method's step is linear in state and
gradient; test functions are quadratic in theta (and m), for which two moments are enough, whatever the law.
All of it is seen from `method.step`, `sde.at` and the test functions themselves, so that a user's own are served.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from sdeadapt.oracles.base import NotDeclared
from sdeadapt.simulation.paths import Level
from sdeadapt.verification.affine import AffineMap, Law, expectation, gaussian_points, is_polynomial, probe_lines
from sdeadapt.verification.affine_sde import AffineSDE, Coordinates, NotClosed
from sdeadapt.verification.moment_series import MomentOperator
from sdeadapt.verification.noise_free import Means

__all__ = ["exact_sde_means", "moment_means", "moments_apply"]

_TIGHT, _LOOSE = 1e-13, 1e-11  # relative tolerances of the integrator; their difference bounds its error
_DIGITS = 64  # units in the last place that a moment may be wrong by


def moments_apply(levels: Sequence[Level], own: bool) -> str:
    """Return "" if the moments of every level close, and otherwise why they do not.

    Args:
        levels: of one study.
        own: the SDE is the method's own.
    """
    try:
        for level in levels:
            _check_chain(level)
            _recognise(level, own)
        _check_functions(levels[0])
    except NotClosed as reason:
        return str(reason)
    return ""


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


def exact_sde_means(level: Level, own: bool) -> np.ndarray | None:
    """Return E phi(SDE), (J,), where it is known without noise, and otherwise None.

    That is where the SDE is affine with a deterministic u (of RMSprop and Adam: linear gradient, constant covariance)
    and starts from moments that are known: at time 0, or from the chain of a method to which `moments_apply`.

    Args:
        level: one with an SDE.
        own: the SDE is the method's own.
    """
    try:
        if level.start:
            _check_chain(level)
        equation = _recognise(level, own)
        _check_functions(level)
    except NotClosed:
        return None
    return _joined([_look(level, seen) for seen in _sde_laws(level, equation, _LOOSE)], "mean")


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
    x = _coordinates(level).to_rows(level.initial, level.initial.theta)
    mean = x.mean(0)
    u = getattr(level.initial, "u", None)
    return Law(mean, (x - mean).T @ (x - mean) / len(x)), None if u is None else u[0]


def _step(level: Level, k: int) -> tuple[tuple[float, ...], ...]:
    """Return what one iteration does to each field of the Point, and to it with the gradient: unit vectors' images."""
    method, scale = level.method, level.oracle.scale
    fields = len(level.initial)
    rows = torch.eye(fields + 1, dtype=torch.float64)
    point = type(level.initial)(*(rows[:, f : f + 1] for f in range(fields)))
    after = method.to_point(method.step(method.from_point(point, scale), rows[:, fields:], k), scale)
    return tuple(map(tuple, torch.cat(tuple(after), 1).tolist()))


def _step_map(level: Level, images: tuple[tuple[float, ...], ...]) -> tuple[AffineMap, Tensor]:
    """Return one iteration as a map, without its noise, and the factors with which noise reaches the fields, (F,)."""
    zero = torch.zeros_like(level.initial.theta[:1])
    table = torch.tensor(images).to(zero)
    keep, kick = table[:-1].T, table[-1]
    eye = torch.eye(zero.shape[1]).to(zero)
    first = torch.zeros_like(kick)
    first[0] = 1  # the gradient is of theta, the first field
    change = torch.kron(keep - torch.eye(len(kick)).to(zero), eye)
    change = change + torch.kron(torch.outer(kick, first), level.oracle.hessian(zero))
    return AffineMap(change, torch.kron(kick, level.oracle.at(zero).gradient[0]), torch.zeros_like(change)), kick


def _chain_laws(level: Level, stops: Sequence[int]) -> list[Law]:
    """Return the moments of the chain after each of these increasing numbers of iterations."""
    law, d, oracle = _initial_law(level)[0], level.initial.theta.shape[-1], level.oracle
    images = [_step(level, k) for k in range(stops[-1])]
    found, done = [], 0
    for stop in stops:
        for image, equal in groupby(images[done:stop]):
            step, kick = _step_map(level, image)
            factors, count = torch.outer(kick, kick) * oracle.scale**2, sum(1 for _ in equal)

            def noise(mean: Tensor, covariance: Tensor, factors: Tensor = factors) -> Tensor:
                return torch.kron(factors, oracle.mean_covariance(mean[:d], covariance[:d, :d]))

            if oracle.additive or count == 1:
                law = step._replace(noise=noise(*law)).power(count).of(law)
            else:
                law = MomentOperator(step.change, step.shift, noise, discrete=True).advance(law, count)
        found.append(law)
        done = stop
    return found


def _sde_laws(level: Level, equation: AffineSDE, rtol: float) -> list[tuple[Law, Tensor | None]]:
    """Return the moments of the SDE, and u, at each of the level's records."""
    law, u = _initial_law(level)
    if level.start:
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
