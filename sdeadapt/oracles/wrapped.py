"""An oracle made of another one: what is asked of both in the same way is handed on."""

from __future__ import annotations

from dataclasses import replace
from typing import TypeVar

import torch
from torch import Tensor

from sdeadapt.oracles.base import Oracle

__all__ = ["Wrapped"]

W = TypeVar("W", bound="Wrapped")


class Wrapped(Oracle):
    """The base of oracles with a field `oracle` whose Sigma they keep; `scale` is theirs to set."""

    oracle: Oracle

    def _inherit(self) -> None:
        for name in ("dim", "noise_dim", "couples", "gaussian", "additive", "linear", "heavy", "independent"):
            object.__setattr__(self, name, getattr(self.oracle, name))

    def _around(self: W, oracle: Oracle) -> W:
        return replace(self, oracle=oracle)  # type: ignore[type-var]

    def mean_covariance(self, mean: Tensor, covariance: Tensor) -> Tensor:
        """Return the base oracle's E Sigma: Sigma is the same."""
        return self.oracle.mean_covariance(mean, covariance)

    def rescaled(self: W, kappa: float) -> W:
        """Return it with the noise variance divided by `kappa`."""
        return self._around(self.oracle.rescaled(kappa))

    def with_batch(self: W, batch_size: int) -> W:
        """Return it at another batch size."""
        return self._around(self.oracle.with_batch(batch_size))

    def to(self: W, device: str | torch.device, dtype: torch.dtype) -> W:
        """Return it with its tensors on `device`, in `dtype`."""
        return self._around(self.oracle.to(device, dtype))

    @property
    def device(self) -> torch.device:
        """The base oracle's."""
        return self.oracle.device

    @property
    def dtype(self) -> torch.dtype:
        """The base oracle's."""
        return self.oracle.dtype
