"""What is looked at: snapshots of a process, and the named test functions of them. Only smooth ones."""

from __future__ import annotations

import contextlib
import difflib
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sdeadapt.oracles.base import Local, NotDeclared, Oracle

__all__ = ["Named", "Snapshot", "TestFunction", "default_test_functions", "evaluate", "resolve_test_functions"]


class Snapshot:
    """The paths at one time: the fields of the Point, and lazily what the base oracle declares there.

    Args:
        point: a NamedTuple with `theta` first, each field (paths, dim).
        oracle: the base oracle, or None, in which case only the fields can be asked for.
        local: the oracle's view at `point.theta`, if it exists already.

    Raises:
        NotDeclared: when something is asked for that neither declares.
    """

    def __init__(self, point: Any, oracle: Oracle | None, local: Local | None = None) -> None:
        self.point, self.oracle = point, oracle
        if local is not None:
            self.__dict__["local"] = local

    @cached_property
    def local(self) -> Local:
        """The oracle's view at theta.

        Raises:
            NotDeclared: if there is no oracle.
        """
        if self.oracle is None:
            raise NotDeclared(
                f"Without an oracle a test function may use {', '.join(self.point._fields)} only; pass `oracle=`."
            )
        return self.oracle.at(self.point.theta)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        if name in self.point._fields:
            return getattr(self.point, name)
        if not hasattr(Local, name) and (self.oracle is None or not hasattr(type(self.local), name)):
            known = [*self.point._fields, "loss", "gradient", "covariance_diagonal", "noise_trace"]
            raise NotDeclared(f"A snapshot has {', '.join(known)}; got {name!r}.")
        return getattr(self.local, name)


TestFunction = Callable[[Snapshot], Tensor]


def _direction(index: int, like: Tensor) -> Tensor:
    """Return the index-th fixed random unit vector: the same for every study of this dimension."""
    a = np.random.default_rng([20220520, index]).standard_normal(like.shape[-1])
    return torch.as_tensor(a / np.linalg.norm(a), dtype=like.dtype, device=like.device)


_FORMS: dict[str, Callable[[Snapshot, int], Tensor]] = {
    "theta_{i}": lambda x, i: x.theta[:, i],
    "theta_{i}_squared": lambda x, i: x.theta[:, i].square(),
    "projection_{i}_squared": lambda x, i: (x.theta @ _direction(i, x.theta)).square(),
    "theta_norm_squared": lambda x, _: x.theta.square().sum(-1),
    "loss": lambda x, _: x.loss,
    "log_loss": lambda x, _: x.loss.log(),
    "gradient_norm_squared": lambda x, _: x.gradient.square().sum(-1),
    "noise_trace": lambda x, _: x.noise_trace,
    "mean_u": lambda x, _: x.u.mean(-1),
    "m_norm_squared": lambda x, _: x.m.square().mean(-1),
    "velocity_norm_squared": lambda x, _: x.velocity.square().mean(-1),
}


@dataclass(frozen=True)
class Named:
    """A test function known by name.

    `theta_0`, `theta_0_squared`, `projection_0_squared` (a^T theta)^2 with a fixed random unit vector a,
    `theta_norm_squared`, `loss`, `gradient_norm_squared`, `noise_trace` Tr Sigma, `mean_u`, `m_norm_squared` |m|^2/d,
    `velocity_norm_squared` |V|^2/d.

    Example:
        >>> from collections import namedtuple
        >>> Point = namedtuple("Point", "theta")
        >>> Named("theta_norm_squared")(Snapshot(Point(torch.tensor([[3.0, 4.0]])), None))
        tensor([25.])
    """

    name: str

    def __post_init__(self) -> None:
        self._parse()

    def _parse(self) -> tuple[str, int]:
        match = re.fullmatch(r"(theta|projection)_(\d+)(_squared)?", self.name.replace("-", "_"))
        form = f"{match[1]}_{{i}}{match[3] or ''}" if match else self.name.replace("-", "_")
        if form not in _FORMS:
            known = [f.replace("{i}", "0") for f in _FORMS]
            near = difflib.get_close_matches(self.name, known, n=1)
            hint = f" Did you mean {near[0]!r}?" if near else ""
            raise ValueError(f"A test function must be one of {', '.join(known)}; got {self.name!r}.{hint}")
        return form, int(match[2]) if match else 0

    def __call__(self, x: Snapshot) -> Tensor:
        """Return phi(x), (paths,).

        Raises:
            ValueError: if theta has no such coordinate.
        """
        form, index = self._parse()
        if form.startswith("theta_{i}") and index >= x.theta.shape[-1]:
            raise ValueError(f"`{self.name}` needs a coordinate below {x.theta.shape[-1]}, the dimension; got {index}.")
        return _FORMS[form](x, index)


def default_test_functions(oracle: Oracle | None, fields: Iterable[str], dim: int) -> list[str]:
    """Return a set that is not blind to the diffusion, to off-diagonal covariance or to u, m and velocity."""
    fields, names = set(fields), ["theta_0", "theta_0_squared"]
    names += ["projection_0_squared"] if dim > 1 else []
    if oracle is not None:
        probe = oracle.at(torch.zeros(1, dim, dtype=oracle.dtype, device=oracle.device))
        with contextlib.suppress(NotDeclared):
            names += ["loss"] if probe.loss is not None else []
    names += ["mean_u"] if "u" in fields else []
    names += ["m_norm_squared"] if "m" in fields else []
    names += ["velocity_norm_squared"] if "velocity" in fields else []
    return names


def resolve_test_functions(
    functions: Iterable[str] | Mapping[str, TestFunction] | None, point: Any, oracle: Oracle | None
) -> dict[str, TestFunction]:
    """Return {name: function}, each tried once on `point`, so that a bad one fails before any work.

    Args:
        functions: names, a mapping name -> callable (a value may be a name), or None for the default set.
        point: a Point of one or more rows, to try them on.
        oracle: the base oracle or None.

    Raises:
        ValueError: if a name is unknown or a function does not return one real number per path.
    """
    if isinstance(functions, str):
        functions = [functions]
    if functions is None:
        functions = default_test_functions(oracle, point._fields, point.theta.shape[-1])
    if not isinstance(functions, Mapping):
        functions = {name: Named(name) for name in functions}
    resolved = {name: Named(f) if isinstance(f, str) else f for name, f in functions.items()}
    if not resolved:
        raise ValueError("`test_functions` must not be empty; leave it out for the default set.")
    rows = type(point)(*(field.expand(2, -1) if field.shape[0] == 1 else field for field in point))
    for name, function in resolved.items():
        value = function(Snapshot(rows, oracle))
        if not isinstance(value, Tensor) or value.shape != rows.theta.shape[:1] or not value.is_floating_point():
            got = f"{tuple(value.shape)} of {value.dtype}" if isinstance(value, Tensor) else type(value).__name__
            raise ValueError(f"Test function {name!r} must return one real number per path, (paths,); got {got}.")
    return resolved


def evaluate(functions: Mapping[str, TestFunction], point: Any, oracle: Oracle | None) -> Tensor:
    """Return all test functions at one time, (paths, functions), in the precision of theta."""
    x = Snapshot(point, oracle)
    return torch.stack([phi(x).to(point.theta.dtype) for phi in functions.values()], 1)
