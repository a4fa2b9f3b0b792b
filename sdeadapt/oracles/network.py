r"""Minibatches of any `torch.nn.Module`: the noise of a real network, and $\Sigma^{1/2}dW$ without a matrix.

An ensemble is one vmap over the paths. $S\xi = \sum_i (\xi_i - \bar\xi)\,\nabla l_i / \sqrt n$ is one backward pass of
the example losses with the weights $\xi$, after the forward pass that the gradient needs anyway.
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from torch._C._functorch import is_functorch_wrapped_tensor
from torch.func import functional_call, grad, vmap

from sdeadapt.checks import check_choice
from sdeadapt.oracles.base import Draw, Local
from sdeadapt.oracles.network_checks import check_data, check_losses, check_module
from sdeadapt.oracles.network_passes import ByLayers, ByVjp, Layers, Pass, away, linear_layers
from sdeadapt.oracles.probe import signs
from sdeadapt.oracles.sampling import Minibatch
from sdeadapt.results import describe

__all__ = ["Network"]

_ROOM = {"cuda": 1 << 29}  # entries that forward passes may leave for backward passes
_LEAST_ROOM = 1 << 25


@dataclass(frozen=True, eq=False)
class Network(Minibatch):
    r"""Minibatch gradients of $f(\theta) = \frac1n \sum_i l(\text{module}_\theta(x_i), y_i)$, any module and loss.

    theta is flat: the module's trainable parameters in the order of `named_parameters`, a shared one once. Those with
    `requires_grad=False`, and buffers, stay as they are. The module is copied and never changed.

    Everything declared is exact, and S(theta) has one column per example. `covariance_diagonal` needs the gradient of
    every example, in bounded memory; in a network of linear layers alone it is a matrix product (`network_passes`).
    Where it enters linearly, in the drift of u, `diagonal="probe"` uses $(S\xi')^2$ instead, with random signs $\xi'$
    that are a hash of theta: unbiased, one backward pass.

    Args:
        module: without randomness, memory or a mixing of examples: dropout and BatchNorm in evaluation mode.
        loss: (outputs, targets) -> (n,), one loss per example: torch's losses with `reduction="none"`, summed over what
            that leaves beside the examples. One with weights is passed as a module, so that `to` moves them.
        data: (inputs, …, targets), tensors of one length n >= 2; the module takes all but the last.
        batch_size: B >= 1; below n without replacement.
        sampling: "replacement", "batch" or "epoch", see `Minibatch`.
        diagonal: "exact" or "probe", for the drift of u.
        compiled: let `torch.compile` fuse the minibatch gradients: half a minute at first, then faster.

    Attributes:
        names: of the parameters in theta.
        theta0: (dim,), the module's own parameters.

    Raises:
        ValueError: if the module draws random numbers, mixes examples or changes its buffers, or if a shape, value or
            choice is wrong.

    >>> module = torch.nn.Linear(1, 1, bias=False, dtype=torch.float64)
    >>> data = torch.tensor([[1.0], [2.0]]), torch.tensor([[1.0], [0.0]])
    >>> oracle = Network(module, lambda out, y: (out - y).square()[:, 0] / 2, data, batch_size=4)
    >>> here = oracle.at(torch.zeros(1, 1, dtype=torch.float64))
    >>> here.gradient.item(), here.covariance_diagonal.item(), oracle.scale
    (-0.5, 0.25, 0.5)
    """

    module: torch.nn.Module
    loss: Callable[[Any, Tensor], Tensor]
    data: tuple[Tensor, ...]
    batch_size: int
    sampling: str = "replacement"
    diagonal: str = "exact"
    compiled: bool = False

    names: tuple[str, ...] = field(init=False, repr=False)
    homes: dict[str, str] = field(init=False, repr=False)  # where a parameter is used -> its name in theta
    shapes: tuple[torch.Size, ...] = field(init=False, repr=False)  # of the parameters in theta
    theta0: Tensor = field(init=False, repr=False)
    layers: Layers | None = field(init=False, repr=False)  # if all are linear
    saved: int = field(init=False, repr=False)  # entries that the forward pass of one example leaves for the backward

    def __post_init__(self) -> None:
        check_choice("diagonal", self.diagonal, ("exact", "probe"))
        check_module(self.module)
        module = copy.deepcopy(self.module)
        trainable = {name: p for name, p in module.named_parameters() if p.requires_grad}
        theta0 = torch.cat([p.detach().flatten() for p in trainable.values()])
        for name, value in (
            ("module", module),
            ("data", check_data(self.data, theta0)),
            ("names", tuple(trainable)),
            ("homes", _homes(module, trainable)),
            ("theta0", theta0),
            ("dim", len(theta0)),
            ("shapes", tuple(p.shape for p in trainable.values())),
        ):
            object.__setattr__(self, name, value)
        self._set_sampling(len(self.data[0]))
        object.__setattr__(self, "noise_dim", self.examples)
        object.__setattr__(self, "saved", check_losses(module, self.loss, self.data, self._two_paths))
        object.__setattr__(self, "layers", linear_layers(self, [x[:4] for x in self.data]))

    def _two_paths(self, *rows: Tensor) -> Tensor:
        return self.losses(away(self.theta0), *rows)

    # -- the network as a function of theta ----------------------------------------------------------------------------

    def parameters(self, theta: Tensor) -> dict[str, Tensor]:
        """Return the parameters by name, each (…, *shape), as views of theta (…, dim)."""
        parts = theta.split([shape.numel() for shape in self.shapes], -1)
        return {
            name: part.unflatten(-1, shape) if shape else part[..., 0]
            for name, part, shape in zip(self.names, parts, self.shapes, strict=True)
        }

    def predict(self, theta: Tensor, *inputs: Tensor) -> Tensor:
        """Return the outputs, (paths, n, …), of every path's network, theta (paths, dim), on inputs (n, …)."""
        return vmap(self._outputs, (0, *(None for _ in inputs)))(theta, *inputs)

    def losses(self, theta: Tensor, *rows: Tensor) -> Tensor:
        """Return the example losses, (paths, n), on rows (n, …) of inputs and targets that all paths share."""
        return vmap(self.example_losses, (0, *(None for _ in rows)))(theta, *rows)

    def _outputs(self, theta: Tensor, *inputs: Tensor) -> Any:
        parameters = self.parameters(theta)
        # torch's own tie_weights leaves its tensors behind in a layer that is used twice
        placed = {home: parameters[name] for home, name in self.homes.items()}
        return functional_call(self.module, placed, inputs, tie_weights=False)

    def example_losses(self, theta: Tensor, *rows: Tensor) -> Tensor:
        """Return the losses, (n,), on rows (n, …) of inputs and targets, of one theta (dim,)."""
        return self.loss(self._outputs(theta, *rows[:-1]), rows[-1])

    # -- the oracle ----------------------------------------------------------------------------------------------------

    def at(self, theta: Tensor) -> Local:
        """Return the sums over all examples at `theta`, (paths, dim)."""
        return _LocalNetwork(self, theta)

    def one_pass(self, theta: Tensor, rows: list[Tensor]) -> Pass:
        """Return the forward pass of theta, (paths, dim), over rows (n, …) that all paths share."""
        return ByVjp(self, theta, rows) if self.layers is None else ByLayers(self, theta, rows, self.layers)

    def sample(self, local: Local, draw: Draw) -> Tensor:
        """Return the minibatch gradients, (paths, dim), at the cost of the batch."""
        batch = [x.index_select(0, draw.flatten()).unflatten(0, draw.shape) for x in self.data]
        theta = local.theta.expand(len(draw), -1)
        if self.compiled or is_functorch_wrapped_tensor(theta):  # derivatives of it: `sample_derivative`
            return self._gradients(theta, *batch)
        with torch.enable_grad():  # the same by plain autograd, which costs a quarter less
            theta = theta.detach().requires_grad_()
            return torch.autograd.grad(self._batch_losses(theta, *batch), theta)[0]

    def sample_derivative(self, local: Local, draw: Draw, direction: Tensor) -> Tensor:
        """Return the minibatch Hessians times `direction`, (paths, dim)."""
        plain = replace(self, compiled=False) if self.compiled else self
        return super(Network, plain).sample_derivative(local, draw, direction)

    def _batch_losses(self, theta: Tensor, *batch: Tensor) -> Tensor:
        """Return the sum over paths of the mean loss of their batches, (paths, B, …)."""
        outputs = vmap(self._outputs)(theta, *batch[:-1])
        if isinstance(outputs, Tensor):  # one call of the loss for all paths
            losses = self.loss(outputs.flatten(0, 1), batch[-1].flatten(0, 1))
        else:
            losses = vmap(self.loss)(outputs, batch[-1])
        return losses.sum() / self.batch_size

    @cached_property
    def _gradients(self) -> Callable[..., Tensor]:
        """(theta (paths, dim), batches (paths, B, …)) -> (paths, dim)."""
        gradients = grad(self._batch_losses)
        return torch.compile(gradients) if self.compiled else gradients

    def __getstate__(self) -> dict[str, Any]:
        """Return what travels to a worker: it compiles for itself."""
        return {name: value for name, value in self.__dict__.items() if name != "_gradients"}

    def to(self, device: str | torch.device, dtype: torch.dtype) -> Network:
        """Return the oracle with its module and data on `device`, the floating-point ones in `dtype`."""
        loss = copy.deepcopy(self.loss).to(device, dtype) if isinstance(self.loss, torch.nn.Module) else self.loss
        return replace(self, module=copy.deepcopy(self.module).to(device, dtype), loss=loss)

    @property
    def device(self) -> torch.device:
        """Where the module's parameters live."""
        return self.theta0.device

    @property
    def dtype(self) -> torch.dtype:
        """The type of the module's parameters."""
        return self.theta0.dtype

    @property
    def room(self) -> int:
        """Entries that forward passes may leave for the backward passes, of all paths together."""
        return _ROOM.get(self.device.type, _LEAST_ROOM)

    @property
    def bytes_per_path(self) -> int:
        """What the forward pass saves, of all examples or of a block; weights; gradients; the gathered batch."""
        row = self.saved + sum(x[0].numel() for x in self.data)
        saved = min(self.saved * self.examples, self.room // 64)
        return self.theta0.element_size() * (saved + self.batch_size * row + 4 * self.examples + 8 * self.dim)

    def describe(self) -> dict[str, Any]:
        """Return plain data that names the oracle: the module as torch prints it, digests of data and constants."""
        frozen = {name: p for name, p in self.module.named_parameters() if not p.requires_grad}
        loss = describe(self.loss)
        if isinstance(self.loss, functools.partial):
            loss = [describe(self.loss.func), describe(self.loss.keywords)]
        elif isinstance(self.loss, torch.nn.Module):  # its repr leaves options and weights out
            loss = [
                describe(type(self.loss)),
                describe({k: v for k, v in vars(self.loss).items() if k[0] != "_"}),
                describe(dict(self.loss.state_dict())),
            ]
        return {
            "class": "Network",
            "module": " ".join(repr(self.module).split()),
            "constants": describe(frozen | dict(self.module.named_buffers())),
            "loss": loss,
            "data": describe(self.data),
            "dim": self.dim,
            "batch_size": self.batch_size,
            "sampling": self.sampling,
            "diagonal": self.diagonal,
        }


def _homes(module: torch.nn.Module, parameters: dict[str, torch.nn.Parameter]) -> dict[str, str]:
    """Return the attribute of every layer that holds one of the parameters, with the parameter's name."""
    names = {id(p): name for name, p in parameters.items()}
    return {
        f"{prefix}.{attribute}".removeprefix("."): names[id(p)]
        for prefix, layer in module.named_modules()
        for attribute, p in layer._parameters.items()
        if id(p) in names
    }


class _LocalNetwork(Local):
    oracle: Network

    def _run(self) -> Iterator[tuple[slice, Pass]]:
        """Yield blocks of the examples that fit into memory, each with its forward pass."""
        oracle = self.oracle
        size = max(1, oracle.room // (len(self.theta) * max(1, oracle.saved)))
        for start in range(0, oracle.examples, size):
            block = slice(start, start + size)
            yield block, oracle.one_pass(self.theta, [x[block] for x in oracle.data])

    @cached_property
    def _kept(self) -> list[tuple[slice, Pass]]:
        return list(self._run())

    def _passes(self) -> Iterable[tuple[slice, Pass]]:
        """Return the forward passes, kept if they fit into memory, and otherwise made again."""
        whole = len(self.theta) * self.oracle.saved * self.oracle.examples <= self.oracle.room
        return self._kept if whole else self._run()

    def _weighted(self, weights: Tensor) -> Tensor:
        return _total(p.weighted(weights[:, block]) for block, p in self._passes())

    @cached_property
    def loss(self) -> Tensor:
        return _total(p.losses.sum(-1) for _, p in self._passes()) / self.oracle.examples

    @cached_property
    def gradient(self) -> Tensor:
        n = self.oracle.examples
        return self._weighted(self.theta.new_full((len(self.theta), n), 1 / n))

    @cached_property
    def covariance_diagonal(self) -> Tensor:
        second = _total(p.squares() for _, p in self._passes()) / self.oracle.examples
        return (second - self.gradient.square()).clamp_min(0)

    @cached_property
    def diagonal_estimate(self) -> Tensor:
        if self.oracle.diagonal == "exact":
            return self.covariance_diagonal
        return self.diffuse(signs(self.theta, self.oracle.examples)).square()

    def diffuse(self, xi: Tensor) -> Tensor:
        if len(xi) > len(self.theta):  # a local of one row
            return self.oracle.at(self.theta.expand(len(xi), -1)).diffuse(xi)
        # S = (g_i - mean g) / sqrt n by columns; centring xi instead of the g_i gives the same product.
        return self._weighted((xi - xi.mean(-1, keepdim=True)) / self.oracle.examples**0.5)


def _total(parts: Iterable[Tensor]) -> Tensor:
    first, *more = parts
    return sum(more, first)
