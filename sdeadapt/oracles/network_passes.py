r"""One forward pass of an ensemble over some examples, and the sums over them of gradients and of their squares.

In general a weighted sum is a vjp, and the squares need every example's gradient. Where all parameters are in linear
layers, used once each, an example's gradient is the outer product of a layer's input and of the loss's derivative in
its output: one backward pass to the outputs, then every sum is a matrix product.

Goodfellow 2015 (arXiv 1510.01799) for the linear layers.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.func import grad, vjp, vmap

if TYPE_CHECKING:
    from sdeadapt.oracles.network import Network

__all__ = ["ByLayers", "ByVjp", "Pass", "linear_layers"]

Layers = dict[str, tuple[str | None, str | None]]  # layer -> its weight and bias in theta
_GRADIENTS = 1 << 21  # entries of per-example gradients that are held at a time


class Pass(ABC):
    """The examples `rows` at theta (paths, dim).

    Attributes:
        losses: (paths, n).
    """

    losses: Tensor

    @abstractmethod
    def weighted(self, weights: Tensor) -> Tensor:
        """Return the sum of the gradients with weights (paths, n), (paths, dim)."""

    @abstractmethod
    def squares(self) -> Tensor:
        """Return the sum of the squared gradients, (paths, dim)."""


class ByVjp(Pass):
    """Any module: a vjp, and for the squares one example at a time."""

    def __init__(self, oracle: Network, theta: Tensor, rows: list[Tensor]) -> None:
        self.oracle, self.theta, self.rows = oracle, theta, rows
        self.losses, self.pull = vjp(lambda theta: oracle.losses(theta, *rows), theta)  # type: ignore[misc]

    def weighted(self, weights: Tensor) -> Tensor:
        """Return the sum of the gradients with weights (paths, n), (paths, dim)."""
        return self.pull(weights)[0]

    def squares(self) -> Tensor:
        """Return the sum of the squared gradients, (paths, dim)."""

        def one(theta: Tensor, *row: Tensor) -> Tensor:
            return self.oracle.example_losses(theta, *row)[0]

        batches = [x[:, None] for x in self.rows]  # of one example each
        each = vmap(vmap(grad(one), (None, *(0 for _ in batches))), (0, *(None for _ in batches)))
        size, total = max(1, _GRADIENTS // self.theta.numel()), torch.zeros_like(self.theta)
        for start in range(0, len(batches[0]), size):
            total += each(self.theta, *(x[start : start + size] for x in batches)).square().sum(1)
        return total


class ByLayers(Pass):
    """Linear layers: their inputs, and the derivatives of the losses in their outputs."""

    def __init__(self, oracle: Network, theta: Tensor, rows: list[Tensor], layers: Layers) -> None:
        self.names, self.layers = oracle.names, layers
        shape, zeros = (len(theta), len(rows[0])), {}
        for name in self.layers:
            layer = oracle.module.get_submodule(name)
            assert isinstance(layer, nn.Linear)
            zeros[name] = theta.new_zeros(*shape, layer.out_features)

        def losses(taps: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
            return vmap(tapped)(theta, taps)

        def tapped(theta: Tensor, taps: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
            inputs: dict[str, Tensor] = {}

            def add(name: str, x: Tensor, out: Tensor) -> Tensor:
                inputs[name] = x
                return out + taps[name]

            with _hooked(oracle.module, self.layers, add):
                return oracle.example_losses(theta, *rows), inputs

        self.losses, self.pull, inputs = vjp(losses, zeros, has_aux=True)  # type: ignore[misc]
        # (paths, n, features), or (n, features) where all paths share them: the data
        self.inputs = {name: x[0] if x.stride(0) == 0 else x for name, x in inputs.items()}

    @cached_property
    def slopes(self) -> dict[str, Tensor]:
        """The derivatives of every example's loss in its outputs, by layer: (paths, n, features)."""
        return self.pull(torch.ones_like(self.losses))[0]

    def weighted(self, weights: Tensor) -> Tensor:
        """Return the sum of the gradients with weights (paths, n), (paths, dim)."""
        return self._products({k: d * weights[:, :, None] for k, d in self.slopes.items()}, self.inputs)

    def squares(self) -> Tensor:
        """Return the sum of the squared gradients, (paths, dim)."""
        squared = ({k: x.square() for k, x in part.items()} for part in (self.slopes, self.inputs))
        return self._products(*squared)

    def _products(self, slopes: Mapping[str, Tensor], inputs: Mapping[str, Tensor]) -> Tensor:
        """Return the sums over examples of slope times input, and of slope for a bias, (paths, dim)."""
        found = {}
        for layer, (weight, bias) in self.layers.items():
            slope, x = slopes[layer], inputs[layer]
            if weight is not None:
                found[weight] = slope.mT @ x
            if bias is not None:
                found[bias] = slope.sum(1)
        return torch.cat([found[name].flatten(1) for name in self.names], 1)


@contextmanager
def _hooked(
    module: nn.Module, names: Mapping[str, Any], change: Callable[[str, Tensor, Tensor], Tensor]
) -> Iterator[None]:
    """Let `change` see (name, input, output) of the named layers and return their output."""
    with ExitStack() as stack:
        for name in names:

            def hook(
                _: Any, args: tuple[Tensor, ...], kwargs: dict[str, Tensor], out: Tensor, name: str = name
            ) -> Tensor:
                (x,) = (*args, *kwargs.values())  # by position or by name
                return change(name, x, out)

            handle = module.get_submodule(name).register_forward_hook(hook, with_kwargs=True)
            stack.callback(handle.remove)
        yield


def away(theta0: Tensor) -> Tensor:
    """Return theta0 and a point near it where nothing is 0 by construction, (2, dim)."""
    noise = torch.randn(theta0.shape, generator=torch.Generator().manual_seed(0), dtype=theta0.dtype)
    return torch.stack([theta0, theta0 + 0.1 * noise.to(theta0.device)])


def linear_layers(oracle: Network, rows: list[Tensor]) -> Layers | None:
    """Return the layers with the names of their weight and bias in theta, or None if `ByLayers` does not apply.

    Args:
        oracle: with a module that may be run, and everything else set.
        rows: a few examples; every layer must see them once, as (n, features), and its parameters be used there alone.
    """
    found: dict[str, list[str | None]] = {}
    for home, name in oracle.homes.items():
        layer, _, kind = home.rpartition(".")
        if type(oracle.module.get_submodule(layer)) is not nn.Linear or home != name:
            return None
        found.setdefault(layer, [None, None])[kind == "bias"] = name
    layers = {name: (weight, bias) for name, (weight, bias) in found.items()}
    n, calls = len(rows[0]), []

    def note(name: str, x: Tensor, out: Tensor) -> Tensor:
        calls.append(name if x.shape == (n, x.shape[-1]) else "")
        return out

    with torch.no_grad(), _hooked(oracle.module, layers, note):
        oracle.module(*rows[:-1])
    if sorted(calls) != sorted(layers):
        return None
    # away from theta0, where a layer that starts at 0 hides what lies before it
    theta, weights = away(oracle.theta0), torch.linspace(1, 2, n).to(oracle.theta0).expand(2, -1)
    want, got = ByVjp(oracle, theta, rows).weighted(weights), ByLayers(oracle, theta, rows, layers).weighted(weights)
    return layers if torch.allclose(want, got, atol=1e-4 * float(want.abs().max())) else None
