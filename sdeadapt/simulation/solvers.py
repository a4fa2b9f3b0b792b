r"""One-step solvers of Ito SDEs on given Brownian increments.

Euler at the chain's own step is almost the chain and has the very order under test. So q and q/2 sub-steps run on one
path, and test functions are extrapolated: $2\varphi(\text{fine}) - \varphi(\text{coarse})$ has bias $O(h^2)$.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from sdeadapt.checks import check_choice, check_integer
from sdeadapt.methods.base import ItoSDE
from sdeadapt.oracles.noise import standard_normal

__all__ = ["SOLVERS", "Increments", "Pair", "check_substeps", "draw_increments", "euler_step", "solver"]

SOLVERS = ("extrapolated", "euler", "torchsde:euler", "torchsde:milstein", "torchsde:srk")

Advance = Callable[[ItoSDE, float, Any, "Increments"], Any]  # (sde, t, x, increments) -> x at t + n dt


class Increments(NamedTuple):
    """Brownian increments of n sub-steps of length dt.

    dw (n, paths, noise_dim); area, the same shape or None, is the integral of W(s) − W(t_i) over each sub-step.
    """

    dt: float
    dw: Tensor
    area: Tensor | None = None

    def halved(self) -> Increments:
        """Return the increments of n/2 sub-steps on the same path."""
        first, second = self.dw[0::2], self.dw[1::2]
        area = None
        if self.area is not None:
            area = self.area[0::2] + self.area[1::2] + self.dt * first
        return Increments(2 * self.dt, first + second, area)


def draw_increments(
    generator: torch.Generator,
    n: int,
    dt: float,
    paths: int,
    noise_dim: int,
    dtype: torch.dtype,
    *,
    area: bool = False,
    heavy: bool = False,
) -> Increments:
    """Return n fresh sub-steps; `heavy` draws them in float64, for a coupled chain whose law needs the tails."""
    shape = (n, paths, noise_dim)
    dw = standard_normal(generator, shape, dtype, heavy).mul_(math.sqrt(dt))
    if not area:
        return Increments(dt, dw)
    other = standard_normal(generator, shape, dtype, heavy)
    return Increments(dt, dw, torch.add(other.mul_(math.sqrt(dt**3 / 12)), dw, alpha=dt / 2))


def euler_step(sde: ItoSDE, t: float, x: Any, dt: float, dw: Tensor) -> Any:
    r"""Return one Euler–Maruyama step, $x + b(t, x)\,dt + M(t, x)\,dw$."""
    drift, diffuse = sde.at(t, x)
    noise = diffuse(dw)
    fields = []
    for value, slope, kick in zip(x, drift, noise, strict=True):
        if slope is not None:
            moved = torch.add(value, slope, alpha=dt)
            fields.append(moved if kick is None else moved.add_(kick))
        else:
            fields.append(value if kick is None else value + kick)
    return type(x)(*fields)


def euler(sde: ItoSDE, t: float, x: Any, increments: Increments) -> Any:
    """Return x after all the increments, by Euler–Maruyama."""
    for i, dw in enumerate(increments.dw):
        x = euler_step(sde, t + i * increments.dt, x, increments.dt, dw)
    return x


def solver(name: str) -> tuple[Advance, bool]:
    """Return the one-step solver named by one of `SOLVERS`, and whether it needs areas.

    Raises:
        ValueError: if there is no such solver.
    """
    check_choice("solver", name, SOLVERS)
    if name.startswith("torchsde:"):
        from sdeadapt.simulation.torchsde_bridge import torchsde_advance  # torchsde is loaded for these alone

        method = name.removeprefix("torchsde:")
        return torchsde_advance(method), method == "srk"
    return euler, False


def check_substeps(substeps: int) -> int:
    """Return `substeps` if a fine and a coarse solution can be made of it.

    Raises:
        ValueError: if it is odd. One sub-step without extrapolation has the order under test.
    """
    check_integer("substeps", substeps)
    if substeps % 2:
        raise ValueError(
            f"`substeps` must be even: q and q/2 sub-steps run as a pair and are extrapolated; got {substeps}. "
            "Euler at the chain's own step has the very order that is tested."
        )
    return substeps


class Pair(NamedTuple):
    """The fine and the coarse solution on one Brownian path."""

    fine: Any
    coarse: Any

    def advance(self, step: Advance, sde: ItoSDE, t: float, fine: Increments, coarse: Increments) -> Pair:
        """Return both after the increments; `coarse` is `fine.halved()`."""
        return Pair(step(sde, t, self.fine, fine), step(sde, t, self.coarse, coarse))
