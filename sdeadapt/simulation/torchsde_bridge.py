r"""torchsde as a backend, and its objects in and out: the only file that knows it.

It runs on an integer grid, one unit of its time per sub-step of ours, and reads our Brownian increments through `bm=`.
So the number of steps is exact (a float clock takes 11 steps of 0.1 to 1), nothing is interpolated between grid points,
and the path is the one that our own solvers see. On the grid $Y(s) = X(t + s\,dt)$ the drift is $b\,dt$ and the noise
$\sqrt{dt}\,M$ with the Brownian motion $W(t + s\,dt)/\sqrt{dt}$; Euler is linear in it and needs no such scaling.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, NamedTuple

import torch
import torchsde
from torch import Tensor

from sdeadapt.checks import check_choice, check_integer
from sdeadapt.methods.base import ItoSDE
from sdeadapt.simulation.solvers import Advance, Increments

__all__ = ["NoiseStructure", "from_torchsde", "noise_structure", "to_torchsde", "torchsde_advance"]


class NoiseStructure(NamedTuple):
    """What the noise of an SDE looks like to torchsde.

    noise_type: "additive" (M does not depend on X), "scalar" (one Brownian column), "diagonal" (a column moves one
    component, a component is moved by one column, and its entry of M depends on no other component that is moved), or
    "general"; column (D,): for "diagonal", the column that moves each component of the state.
    """

    noise_type: str
    column: Tensor | None = None


def _joined(x: Any, like: Any) -> Tensor:
    """Return the fields of a Point in a row, (paths, D); None is zero."""
    fields = [torch.zeros_like(b) if a is None else a for a, b in zip(x, like, strict=True)]
    return fields[0] if len(fields) == 1 else torch.cat(fields, 1)


def _split(y: Tensor, point: Any, dim: int) -> Any:
    return point(*y.split(dim, 1))


def noise_structure(sde: ItoSDE, t: float, x: Any) -> NoiseStructure:
    """Return how the noise of `sde` looks from the first path of `x`: every component of the state is shifted in turn.

    Args:
        sde: the SDE.
        t: SDE time.
        x: a Point, fields (paths, dim).

    Example:
        >>> from sdeadapt.methods import RMSprop
        >>> from sdeadapt.oracles.analytic import Quadratic
        >>> sde = RMSprop(lr=0.1).sde(Quadratic([1.0, 2.0], [1.0, 1.0], scale=1.0))
        >>> x = sde.point(*torch.ones(2, 1, 2, dtype=torch.float64))
        >>> noise_structure(sde, 0.0, x)
        NoiseStructure(noise_type='diagonal', column=tensor([0, 1, 0, 0]))
    """
    y = _joined(x, x)[:1]
    shifted = torch.cat([y, y + torch.diag(0.1 * (y[0].abs() + 0.1))])
    rows = _split(shifted, sde.point, x.theta.shape[1])
    diffuse = sde.at(t, rows)[1]
    columns = torch.eye(sde.noise_dim, dtype=y.dtype, device=y.device)
    entries = [_joined(diffuse(e.expand(len(shifted), -1)), rows) for e in columns]  # (1 + D, D) for every column
    tolerance = 1e3 * torch.finfo(y.dtype).eps * max(float(g.abs().max()) for g in entries)
    depends = torch.stack([(g[1:] - g[:1]).abs() > tolerance for g in entries]).any(0)  # [j, i]: entries of i on y_j
    if not depends.any():
        return NoiseStructure("additive")
    if sde.noise_dim == 1:
        return NoiseStructure("scalar")
    moves = torch.stack([(g.abs() > tolerance).any(0) for g in entries], 1)  # (D, noise_dim)
    crossed = depends.fill_diagonal_(False)[moves.any(1)]
    if moves.sum(0).max() > 1 or moves.sum(1).max() > 1 or crossed.any():
        return NoiseStructure("general")
    return NoiseStructure("diagonal", moves.to(torch.int8).argmax(1))


class _Path:
    """Brownian increments on the integer grid, in torchsde's protocol."""

    levy_area_approximation = "space-time"

    def __init__(self, dw: Tensor, area: Tensor | None) -> None:
        self.dw, self.area, self.shape = dw, area, dw.shape[1:]

    def __call__(self, ta: Any, tb: Any, return_U: bool = False, return_A: bool = False) -> Any:
        i = int(ta)
        return (self.dw[i], self.area[i]) if return_U and self.area is not None else self.dw[i]


def torchsde_advance(method: str) -> Advance:
    """Return torchsde's one-step solver `method` as a function (sde, t, x, increments) -> x.

    It asks the SDE for the type of its noise at the first step, by `noise_structure`; gradients of M are not needed
    (Milstein runs derivative-free).

    Args:
        method: "euler" for any noise; "milstein" or "srk" (Rößler 2010, SRA1 and SRID2, from areas too) for additive,
            scalar or diagonal noise.

    Raises:
        ValueError: if there is no such method; on the first step, if the noise is too general for it.

    Example:
        >>> from sdeadapt.methods import SGD
        >>> from sdeadapt.oracles.analytic import Quadratic
        >>> sde = SGD(lr=0.1).sde(Quadratic(1.0, 1.0, scale=0.0))
        >>> increments = Increments(0.1, torch.zeros(10, 1, 1, dtype=torch.float64))
        >>> x = torchsde_advance("euler")(sde, 0.0, sde.point(torch.ones(1, 1, dtype=torch.float64)), increments)
        >>> round(float(x.theta), 12) == round(0.9**10, 12)
        True
    """
    check_choice("method", method, ("euler", "milstein", "srk"))
    seen: list[tuple[ItoSDE, NoiseStructure]] = []

    def advance(sde: ItoSDE, t: float, x: Any, increments: Increments) -> Any:
        if method == "euler":
            structure = NoiseStructure("general")
        elif seen and seen[0][0] is sde:
            structure = seen[0][1]
        else:
            structure = noise_structure(sde, t, x)
            _check_order(method, structure.noise_type)
            seen[:] = [(sde, structure)]
        dt = increments.dt
        root = 1.0 if method == "euler" else math.sqrt(dt)
        dw, area = increments.dw / root if root != 1.0 else increments.dw, increments.area
        area = None if area is None else area / root**3
        if structure.column is not None:
            dw, area = dw[..., structure.column], None if area is None else area[..., structure.column]
        y, dim = _joined(x, x), x.theta.shape[1]
        on_grid = _on_grid(sde, t, dt, root, structure, x, matrix_free=method == "euler")
        ts = torch.tensor([0.0, len(dw)], dtype=torch.float64)
        devices = [y.device] if y.is_cuda else []
        with torch.random.fork_rng(devices):  # torchsde's check of its argument draws from the global generator
            options = {"grad_free": True} if method == "milstein" else None
            ys = torchsde.sdeint(on_grid, y, ts, bm=_Path(dw, area), method=method, dt=1.0, options=options)
        return _split(ys[-1], sde.point, dim)

    return advance


def _check_order(method: str, noise_type: str) -> None:
    if noise_type == "general":
        raise ValueError(
            f"torchsde:{method} must have additive, scalar or diagonal noise; got general noise, for which torchsde "
            "has no Ito scheme but Euler. Use solver='extrapolated' (weak order 2 for any noise) or 'torchsde:euler'."
        )


def _on_grid(
    sde: ItoSDE, t: float, dt: float, root: float, structure: NoiseStructure, like: Any, *, matrix_free: bool
) -> SimpleNamespace:
    """Return the SDE on the integer grid, as torchsde asks for it; only what its scheme needs, for it tries all."""
    dim, noise_type = like.theta.shape[1], structure.noise_type

    def look(s: Tensor, y: Tensor) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
        x = _split(y, sde.point, dim)
        drift, diffuse = sde.at(t + float(s) * dt, x)
        return _joined(drift, x) * dt, lambda v: _joined(diffuse(v), x)

    def f_and_g_prod(s: Tensor, y: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        drift, diffuse = look(s, y)
        return drift, diffuse(v)

    def f(s: Tensor, y: Tensor) -> Tensor:
        return look(s, y)[0]

    def g_prod(s: Tensor, y: Tensor, v: Tensor) -> Tensor:
        return look(s, y)[1](v) * root

    def f_and_g(s: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        drift, diffuse = look(s, y)  # every component is moved by one column: the sum of its columns is its entry
        entries = diffuse(y.new_ones(len(y), sde.noise_dim)) * root
        return drift, entries if noise_type == "diagonal" else entries.unsqueeze(2)

    functions: dict[str, Callable[..., Any]] = {"f": f, "f_and_g": f_and_g, "g": lambda s, y: f_and_g(s, y)[1]}
    if matrix_free:
        functions = {"f_and_g_prod": f_and_g_prod}
    elif noise_type == "additive":
        functions = {"f": f, "g_prod": g_prod}
    return SimpleNamespace(sde_type="ito", noise_type=noise_type, **functions)


class _TorchSDE:
    """An ItoSDE in torchsde's protocol, matrix-free."""

    sde_type, noise_type = "ito", "general"

    def __init__(self, sde: ItoSDE, dim: int) -> None:
        self.sde, self.dim = sde, dim

    def _look(self, t: Any, y: Tensor) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
        x = _split(y, self.sde.point, self.dim)
        drift, diffuse = self.sde.at(float(t), x)
        return _joined(drift, x), lambda v: _joined(diffuse(v), x)

    def f(self, t: Any, y: Tensor) -> Tensor:
        """Return the drift, (paths, D)."""
        return self._look(t, y)[0]

    def g_prod(self, t: Any, y: Tensor, v: Tensor) -> Tensor:
        """Return M v, (paths, D), for v (paths, noise_dim)."""
        return self._look(t, y)[1](v)

    def f_and_g_prod(self, t: Any, y: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Return both, with one look at the oracle."""
        drift, diffuse = self._look(t, y)
        return drift, diffuse(v)


def to_torchsde(sde: ItoSDE, dim: int) -> _TorchSDE:
    """Return `sde` as an object for `torchsde.sdeint`, with `f`, `g_prod` and `f_and_g_prod`.

    It holds no matrix, so `sdeint` needs a `bm` of shape (paths, sde.noise_dim) and takes method="euler".

    Args:
        sde: the SDE.
        dim: dimension of theta; y is the Point's fields in order, (paths, fields * dim).

    Raises:
        ValueError: if `dim` is not a positive whole number.

    Example:
        >>> from sdeadapt.methods import RMSprop
        >>> from sdeadapt.oracles.analytic import Quadratic
        >>> obj = to_torchsde(RMSprop(lr=0.1).sde(Quadratic([1.0, 1.0], [1.0, 4.0], scale=1.0)), dim=2)
        >>> obj.f(0.0, torch.ones(1, 4, dtype=torch.float64)).shape
        torch.Size([1, 4])
    """
    return _TorchSDE(sde, check_integer("dim", dim))


def from_torchsde(obj: Any, point: type, dim: int, noise_dim: int) -> ItoSDE:
    r"""Return the ItoSDE of an object for torchsde.

    Of the forms that it offers the first is taken, as torchsde does: `f_and_g_prod`, (`f`, `g_prod`), `f_and_g`,
    (`f`, `g`). With `f_and_g_prod` alone the drift costs a second call.

    Args:
        obj: has `sde_type` "ito", `noise_type`, and one of these forms; y is the Point's fields in order.
        point: the NamedTuple of the coordinates, `theta` first.
        dim: dimension of theta.
        noise_dim: Brownian columns; for diagonal noise as many as components of y.

    Raises:
        ValueError: if it is no Ito SDE of this shape.

    Example:
        >>> from types import SimpleNamespace
        >>> from sdeadapt.methods.sgd import SGDPoint
        >>> obj = SimpleNamespace(sde_type="ito", noise_type="diagonal", f=lambda t, y: -y, g=lambda t, y: 0.1 * y)
        >>> drift, diffuse = from_torchsde(obj, SGDPoint, dim=1, noise_dim=1).at(0.0, SGDPoint(torch.ones(3, 1)))
        >>> drift.theta[0], diffuse(torch.ones(3, 1)).theta[0]
        (tensor([-1.]), tensor([0.1000]))
    """
    size = check_integer("dim", dim) * len(point._fields)  # type: ignore[attr-defined]
    check_integer("noise_dim", noise_dim)
    sde_type, noise_type = getattr(obj, "sde_type", None), getattr(obj, "noise_type", None)
    if sde_type != "ito":
        raise ValueError(
            f"`obj.sde_type` must be 'ito'; got {sde_type!r}. A Stratonovich equation has another drift: add "
            "(1/2) sum_jk M_jk d_j M_ik to component i, and declare it Ito."
        )
    check_choice("obj.noise_type", str(noise_type), ("additive", "diagonal", "general", "scalar"))
    expected = {"diagonal": size, "scalar": 1}.get(str(noise_type), noise_dim)
    if noise_dim != expected:
        raise ValueError(
            f"`noise_dim` must be {expected} for {noise_type} noise and {size} components; got {noise_dim}."
        )
    has = {name for name in ("f", "g", "g_prod", "f_and_g", "f_and_g_prod") if hasattr(obj, name)}
    if not any(form <= has for form in ({"f_and_g_prod"}, {"f", "g_prod"}, {"f_and_g"}, {"f", "g"})):
        raise ValueError(
            f"`obj` must offer f_and_g_prod, f and g_prod, f_and_g, or f and g; got {', '.join(sorted(has)) or 'none'}."
        )

    def product(g: Tensor, v: Tensor) -> Tensor:
        return g * v if noise_type == "diagonal" else torch.einsum("pij,pj->pi", g, v)

    def look(s: Tensor, y: Tensor) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
        if "f_and_g_prod" in has:
            drift = obj.f(s, y) if "f" in has else obj.f_and_g_prod(s, y, y.new_zeros(len(y), noise_dim))[0]
            return drift, lambda v: obj.f_and_g_prod(s, y, v)[1]
        if {"f", "g_prod"} <= has:
            return obj.f(s, y), lambda v: obj.g_prod(s, y, v)
        drift, g = obj.f_and_g(s, y) if "f_and_g" in has else (obj.f(s, y), obj.g(s, y))
        return drift, lambda v: product(g, v)

    def at(t: float, x: Any) -> tuple[Any, Callable[[Tensor], Any]]:
        y = _joined(x, x)
        drift, diffuse = look(y.new_tensor(t), y)
        if drift.shape != y.shape:
            raise ValueError(f"The drift of `obj` must have shape {tuple(y.shape)}; got {tuple(drift.shape)}.")
        return _split(drift, point, dim), lambda dw: _split(diffuse(dw), point, dim)

    return ItoSDE(at, noise_dim, point)
