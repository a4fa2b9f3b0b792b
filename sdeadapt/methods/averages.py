r"""Exponential moving averages: 1 − beta is stored, because beta next to 1 has lost its digits.

A method that averages has a field `one_minus_<name>` (`field(init=False)`) for every hyper-parameter `<name>`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import fields, replace
from typing import Any, TypeVar

import torch
from torch import Tensor

from sdeadapt.checks import check_open_unit, check_positive

__all__ = [
    "averages",
    "bias_correction",
    "denominator",
    "from_u",
    "rescaled_averages",
    "set_averages",
    "to_u",
    "with_averages",
]

M = TypeVar("M")
_PREFIX = "one_minus_"


def _averages(method: Any) -> list[str]:
    return [f.name.removeprefix(_PREFIX) for f in fields(method) if f.name.startswith(_PREFIX)]


def set_averages(method: Any) -> None:
    """Set every `one_minus_<name>` of a frozen dataclass from `<name>`; called once, when it is built.

    Raises:
        ValueError: if a beta does not lie in (0, 1).
    """
    for name in _averages(method):
        object.__setattr__(method, _PREFIX + name, 1.0 - check_open_unit(name, getattr(method, name)))


def averages(method: Any) -> dict[str, float]:
    """Return 1 − beta of every average of `method` that follows the batch size, by the name of beta.

    Those that it names in `steady` forget in a fixed number of steps and stay as they are.
    """
    steady = getattr(method, "steady", ())
    return {name: getattr(method, _PREFIX + name) for name in _averages(method) if name not in steady}


def with_averages(method: M, weights: Mapping[str, float], kappa: float, /, **changes: Any) -> M:
    r"""Return `method` with every $1 - \beta$ as in `weights`, to the last bit, and further fields replaced.

    `dataclasses.replace` derives $1 - \beta$ from $\beta$ again, which costs up to 1e-16 / (1 − beta) of it.

    Raises:
        ValueError: if a beta would not stay positive at `kappa` times the batch.
    """
    widest = max(weights, key=weights.__getitem__, default=None)
    if widest is not None and weights[widest] > 1 - 1e-12:  # 10 (1 - .9) is just below 1 in floats
        raise ValueError(
            f"`kappa` must be below {kappa / weights[widest]:.6g} = 1 / (1 - {widest}), or {widest} would not stay "
            f"positive; got {kappa:g}. Choose {widest} closer to 1, or a smaller `kappa`."
        )
    new = replace(method, **{name: 1.0 - weight for name, weight in weights.items()}, **changes)  # type: ignore[type-var]
    for name, weight in weights.items():
        object.__setattr__(new, _PREFIX + name, weight)
    return new


def rescaled_averages(method: M, kappa: float, /, **changes: Any) -> M:
    r"""Return `method` with every $1 - \beta$ multiplied by `kappa`, and further fields replaced.

    Raises:
        ValueError: if `kappa` is not positive, or a beta would not stay positive.
    """
    check_positive("kappa", kappa)
    return with_averages(method, {name: kappa * w for name, w in averages(method).items()}, kappa, **changes)


def bias_correction(one_minus_beta: float, steps: float) -> float:
    r"""Return $1 - \beta^{\text{steps}}$, without cancellation; beta may be 0."""
    if one_minus_beta == 1:
        return float(steps > 0)
    return -math.expm1(steps * math.log1p(-one_minus_beta))


def denominator(v: Tensor, eps: float) -> Tensor:
    r"""Return $\sqrt v + \epsilon$, epsilon outside the root, as a tensor of its own."""
    return torch.sqrt(v).add_(eps)


def to_u(v: Tensor, scale: float) -> Tensor:
    r"""Return $u = v / \sigma^2$; without noise, where u has no meaning, v itself."""
    return v / (scale * scale or 1.0)


def from_u(u: Tensor, scale: float) -> Tensor:
    r"""Return $v = u \sigma^2$, the inverse of `to_u` within one unit in the last place."""
    return u * (scale * scale or 1.0)
