"""What is settled before any path runs: the clock, the starting point, and whether the SDE can be evaluated there."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from sdeadapt.checks import check_integer
from sdeadapt.methods.base import ItoSDE, Method
from sdeadapt.oracles.base import NotDeclared, Oracle

__all__ = ["Clock", "base_steps", "check_sde", "make_clock", "make_initial", "make_point", "make_times"]

BIAS_CORRECTION_STEPS = 8  # base steps after which Adam is compared; from t = 0 its SDE is singular


def base_steps(name: str, time: float, h: float) -> int:
    """Return `time` in base steps.

    Raises:
        ValueError: if it is not a whole number of them.
    """
    steps = round(time / h) if math.isfinite(time) else -1
    if steps < 0 or abs(time / h - steps) > 1e-6 * max(1, steps):
        near = max(1, steps) * h
        raise ValueError(
            f"`{name}` must be a whole number of base steps of {h:.6g} (SDE time); got {time!r}. "
            f"The nearest is {near:.6g}."
        )
    return steps


@dataclass(frozen=True)
class Clock:
    """The base grid: step h in SDE time, and in base steps the start and the times looked at (the last is the end)."""

    h: float
    start: int
    times: tuple[int, ...]

    @property
    def seconds(self) -> np.ndarray:
        """The times in SDE time."""
        return np.array(self.times) * self.h


def make_clock(
    method: Method,
    *,
    horizon: float | None,
    steps: int | None,
    start: float | None = None,
    times: int | Iterable[float] | None = None,
    compares_sde: bool = True,
) -> Clock:
    """Return the clock of a run.

    Args:
        method: gives the base step.
        horizon: the end in SDE time, counted from t = 0.
        steps: the end in base steps; exactly one of the two is given.
        start: SDE time at which the SDE takes over; None is 0, or 8 base steps with bias correction.
        times: SDE times to look at (None: the end only), or how many, equally spaced as far as the grid allows.
        compares_sde: False for chains alone, which start at 0.

    Raises:
        ValueError: if a time is off the base grid or out of order.
    """
    h = method.time_step
    if (horizon is None) == (steps is None):
        raise ValueError("Exactly one of `horizon` (SDE time) and `steps` (base steps) must be given.")
    end = base_steps("horizon", horizon, h) if horizon is not None else check_integer("steps", steps or 0)
    if start is None:
        first = BIAS_CORRECTION_STEPS if compares_sde and method.bias_correction else 0
    else:
        first = base_steps("start", start, h)
    if compares_sde and method.bias_correction and first == 0:
        raise ValueError("With bias correction the SDE is singular at t = 0: `start` must be at least one base step.")
    if end <= first:
        raise ValueError(f"`horizon` must exceed `start`; got {end} and {first} base steps of {h:.6g}.")
    return Clock(h, first, make_times(times, first, end, h))


def make_times(
    times: int | Iterable[float] | None, first: int, end: int, h: float, *, origin: float = 0.0
) -> tuple[int, ...]:
    """Return the steps after `first`, up to `end`, at which a run is looked at.

    Args:
        times: SDE times, or how many, equally spaced as far as the grid allows; None is the end alone.
        first: the step that it starts from.
        end: its last step.
        h: the step.
        origin: SDE time of step 0.

    Raises:
        ValueError: if a time is off the grid or out of order.
    """
    if times is None:
        return (end,)
    if isinstance(times, int):
        count = min(check_integer("times", times), end - first)
        return tuple(sorted({first + round((end - first) * (i + 1) / count) for i in range(count)}))
    grid = tuple(sorted({base_steps("times - start" if origin else "times", t - origin, h) for t in times}))
    if not grid or grid[0] <= first or grid[-1] > end:
        begin, last = origin + first * h, origin + end * h
        raise ValueError(f"`times` must lie in ({begin:.6g}, {last:.6g}]; got {list(times)!r}.")
    return grid


def make_initial(
    method: Method, oracle: Oracle, theta0: Any, initial: Any, *, need_point: bool = True, held: bool = False
) -> Any:
    """Return the starting Point with rows (rows, dim): theta0, and m and u of the method unless `initial` overrides.

    Args:
        method: at the base step.
        oracle: the base oracle.
        theta0: (dim,) or (rows, dim).
        initial: None, a Point or a mapping with some of the fields.
        need_point: False for chains started as torch starts them.
        held: `initial` is the state at a given `start` > 0, where m and u need not be 0.

    Raises:
        ValueError: on shapes, values that are not finite, unknown fields or u, m != 0 under bias correction.
    """
    theta = torch.as_tensor(theta0, dtype=oracle.dtype, device=oracle.device)
    theta = theta[None] if theta.dim() == 1 else theta
    if theta.dim() != 2 or theta.shape[1] != oracle.dim:
        raise ValueError(f"`theta0` must have shape ({oracle.dim},) or (rows, {oracle.dim}); got {tuple(theta.shape)}.")
    if not bool(theta.isfinite().all()):
        raise ValueError(f"`theta0` must be finite; got {theta.tolist() if theta.numel() < 9 else 'NaN or inf in it'}.")
    overrides = dict(initial if isinstance(initial, Mapping) else initial._asdict()) if initial is not None else {}
    fields = method.Point._fields  # type: ignore[attr-defined]
    if unknown := set(overrides) - set(fields):
        raise ValueError(f"`initial` must have fields among {', '.join(fields)}; got {', '.join(sorted(unknown))}.")
    values: dict[str, torch.Tensor] = {}
    for name, value in overrides.items():
        values[name] = _field(name, value, theta)
        if name != "theta" and method.bias_correction and not held and bool((values[name] != 0).any()):
            raise ValueError(
                f"With bias correction m = u = 0 at t = 0; got `initial` {name} != 0. "
                "Leave it out, set bias_correction=False, or (in `verify`) give the `start` that it is the state at."
            )
    if "theta" in values and not torch.equal(values["theta"], theta):
        raise ValueError("`initial` theta must agree with `theta0`; leave one of them out.")
    if set(fields) == {*values, "theta"} or not need_point:
        default = None if need_point else method.to_point(method.init(theta), oracle.scale)
    else:
        default = method.initial(oracle.at(theta))
    parts = [theta if f == "theta" else values[f] if f in values else getattr(default, f) for f in fields]
    return method.Point(*(part.expand(theta.shape).contiguous() for part in parts))


def _field(name: str, value: Any, theta: torch.Tensor) -> torch.Tensor:
    value = torch.as_tensor(value, dtype=theta.dtype, device=theta.device)
    if value.dim() > 2 or (value.dim() > 0 and value.shape[-1] != theta.shape[1]):
        raise ValueError(f"`initial` {name} must have shape {tuple(theta.shape)}; got {tuple(value.shape)}.")
    value = value.expand(theta.shape)
    if not bool(value.isfinite().all()):
        raise ValueError(f"`initial` {name} must be finite.")
    if name == "u" and bool((value < 0).any()):
        raise ValueError(f"`initial` u must not be negative; got {float(value.min())}.")
    return value


def make_point(point: type, initial: Any, dtype: torch.dtype, device: str | torch.device) -> Any:
    """Return the starting Point of an SDE alone, with rows (rows, dim).

    Args:
        point: the NamedTuple of its coordinates.
        initial: one of them, or a mapping with all of its fields.
        dtype: of the state.
        device: of the state.

    Raises:
        ValueError: on missing or unknown fields, shapes, values that are not finite.
    """
    given = dict(initial if isinstance(initial, Mapping) else initial._asdict())
    fields = point._fields  # type: ignore[attr-defined]
    if set(given) != set(fields):
        raise ValueError(f"`initial` must have the fields {', '.join(fields)}; got {', '.join(map(str, given))}.")
    theta = torch.as_tensor(given["theta"], dtype=dtype, device=device)
    theta = theta[None] if theta.dim() == 1 else theta
    if theta.dim() != 2:
        raise ValueError(f"`initial` theta must have shape (dim,) or (rows, dim); got {tuple(theta.shape)}.")
    return point(*(_field(name, given[name], theta).contiguous() for name in fields))


def check_sde(sde: ItoSDE, x0: Any, t: float, *, columns: int = 0) -> None:
    """Look at the SDE once, at the start: shapes, precision, and whether everything it needs is declared.

    Args:
        sde: the SDE.
        x0: the starting Point, one or more rows.
        t: SDE time of the look.
        columns: Brownian columns that it shares with a chain, hence must have.

    Raises:
        ValueError: if the coordinates, the columns, a shape or a dtype are wrong.
        NotDeclared: if the oracle behind it lacks what it needs.
    """
    if sde.point is not type(x0) and sde.point._fields != x0._fields:  # type: ignore[attr-defined]
        raise ValueError(f"The SDE's Point must have the fields {x0._fields}; got {sde.point._fields}.")  # type: ignore[attr-defined]
    if sde.noise_dim < columns:
        raise ValueError(f"The SDE must have at least {columns} Brownian columns; got {sde.noise_dim}.")
    if hasattr(x0, "u") and bool((x0.u == 0).all()):  # Adam's start: a look from a point that it can reach
        x0 = x0._replace(u=x0.u + 1)
    rows = type(x0)(*(field[:1].expand(2, -1) for field in x0))
    theta = rows.theta
    try:
        drift, diffuse = sde.at(t, rows)
        noise = diffuse(torch.zeros(2, sde.noise_dim, dtype=theta.dtype, device=theta.device))
    except NotDeclared as missing:
        raise NotDeclared(f"The SDE cannot be evaluated. {missing}") from missing
    except RuntimeError as error:  # torch's, about shapes, dtypes or devices that do not agree
        rule = f"The SDE must take points (paths, {theta.shape[1]}) in {theta.dtype} on {theta.device}, as `run` says"
        raise ValueError(f"{rule}; got {error}. Build it from `oracle.to(device, dtype)`.") from error
    for part in (*drift, *noise):
        if part is None:
            continue
        if part.shape != theta.shape:
            raise ValueError(f"Drift and diffusion must have shape (paths, {theta.shape[1]}); got {tuple(part.shape)}.")
        if part.dtype != theta.dtype or part.device != theta.device:
            raise ValueError(
                f"Drift and diffusion must be in {theta.dtype} on {theta.device}, as `run` says; got {part.dtype} on "
                f"{part.device}. Build the SDE from `oracle.to(device, dtype)`."
            )
