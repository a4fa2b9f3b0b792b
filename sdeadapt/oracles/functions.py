r"""An oracle from the user's own functions of one theta (dim,); `torch.func` adds the derivatives and the paths.

The functions go through `torch.func.vmap`: they may not branch on values or call `.item()`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property

import torch
from torch import Tensor
from torch.func import grad, grad_and_value, vmap

from sdeadapt.checks import check_integer, check_positive
from sdeadapt.oracles.analytic import _root, _symmetric
from sdeadapt.oracles.base import Draw, Local, NotDeclared, Oracle, Stream
from sdeadapt.oracles.noise import Gaussian, Noise, NoiseStream
from sdeadapt.oracles.noise import noise as noise_law
from sdeadapt.oracles.roots import CHOLESKY_DIM, cholesky_root
from sdeadapt.oracles.sampling import Minibatch

__all__ = ["ExampleOracle", "FromFunctions", "FunctionOracle"]

Loss = Callable[..., Tensor]  # (theta) or (theta, *example) -> ()
Diffuse = Callable[[Tensor, Tensor], Tensor]  # (theta, xi) -> (dim,)
Covariance = Tensor | Callable[[Tensor], Tensor]  # (theta) -> (dim, dim)

_MOST_COLUMNS = 64  # of S, for its diagonal to be summed column by column
_BLOCK = 1 << 21  # entries of per-example gradients that are held at a time


def FromFunctions(
    loss: Loss,
    *,
    dim: int,
    diffuse: Diffuse | None = None,
    covariance: Covariance | None = None,
    noise_dim: int | None = None,
    scale: float | None = None,
    noise: str | Noise = "gaussian",
    data: tuple[Tensor, ...] | Tensor | None = None,
    batch_size: int | None = None,
    sampling: str = "replacement",
) -> Oracle:
    r"""Return an oracle from functions of one theta, (dim,): a loss with a noise, or the loss of one example.

    Without `data`: $g = \nabla f(\theta) + \sigma S(\theta) z$, with independent components z of the law `noise`.
    With `data`: minibatches of a finite sum, whose noise follows from the per-example gradients.

    Args:
        loss: f, (dim,) -> (); with `data` the loss of one example, (theta, \*example) -> ().
        dim: dimension of theta.
        diffuse: (theta (dim,), xi (noise_dim,)) -> S(theta) xi, (dim,), linear in xi.
        covariance: Sigma, instead of `diffuse`: a matrix (dim, dim), or a function of theta (dim,) that returns one.
        noise_dim: length of xi for `diffuse`; by default dim.
        scale: sigma >= 0, by default 1; with `data` it follows from the batch.
        noise: the law of the components of z, or its name.
        data: tensors of equal length, (examples, …), one per argument of `loss` after theta.
        batch_size: B, with `data` only.
        sampling: "replacement", "batch" or "epoch", see `Minibatch`; with `data` only.

    Returns:
        A `FunctionOracle`, or an `ExampleOracle` where `data` is given.

    Raises:
        ValueError: if the noise is given twice or not at all, or a shape or value is wrong.

    >>> oracle = FromFunctions(lambda x: x.cos().sum(), dim=2, diffuse=lambda x, xi: x * xi, scale=0.1)
    >>> here = oracle.at(torch.tensor([[0.0, 2.0]], dtype=torch.float64))
    >>> here.covariance_diagonal.tolist()
    [[0.0, 4.0]]
    """
    if data is None:
        if batch_size is not None:
            raise ValueError(f"`batch_size` needs `data`; got {batch_size!r} without. Pass data=(…), or scale=….")
        if (diffuse is None) == (covariance is None):
            given = "neither" if diffuse is None else "both"
            raise ValueError(
                f"The noise must be declared once, as `diffuse`, `covariance` or `data`; got {given} of the first two."
            )
        return FunctionOracle(
            loss,
            check_integer("dim", dim),
            check_positive("scale", 1.0 if scale is None else scale, zero=True),
            noise_law(noise),
            diffuse,
            covariance,
            dim if noise_dim is None else check_integer("noise_dim", noise_dim),
        )
    extra = {"diffuse": diffuse, "covariance": covariance, "noise_dim": noise_dim, "scale": scale}
    for name in (name for name, value in extra.items() if value is not None):
        raise ValueError(f"`{name}` must not be given with `data`, whose per-example gradients are the noise.")
    if batch_size is None:
        raise ValueError("`batch_size` must be given with `data`.")
    data = (data,) if isinstance(data, Tensor) else tuple(data)
    return ExampleOracle(loss, data, check_integer("dim", dim), batch_size, sampling)


def _check_shape(name: str, value: Tensor, shape: tuple[int, ...]) -> None:
    """Raise unless a function returned `shape` for one theta.

    Raises:
        ValueError: if it did not.
    """
    if tuple(value.shape) != shape:
        raise ValueError(f"`{name}` must have the shape {shape} for one theta; got {tuple(value.shape)}.")


@dataclass(frozen=True, eq=False)
class FunctionOracle(Oracle):
    """A differentiable loss with a declared noise; made by `FromFunctions`, where the arguments are described."""

    loss: Loss
    dim: int
    scale: float
    noise: Noise
    diffuse: Diffuse | None
    covariance: Covariance | None
    noise_dim: int
    like: Tensor = field(default=torch.empty(0, dtype=torch.float64), repr=False)  # device and type of theta

    root: Tensor = field(init=False, repr=False)  # of a constant covariance

    couples = True

    def __post_init__(self) -> None:
        for name, value in (
            ("gaussian", isinstance(self.noise, Gaussian)),
            ("heavy", self.noise.heavy),
            ("additive", isinstance(self.covariance, Tensor)),
        ):
            object.__setattr__(self, name, value)
        theta = self.like.new_zeros(1, self.dim)
        _check_shape("loss", vmap(self.loss)(theta)[0], ())
        if self.diffuse is not None:
            _check_shape("diffuse", vmap(self.diffuse)(theta, theta.new_zeros(1, self.noise_dim))[0], (self.dim,))
        if callable(self.covariance):
            _check_shape("covariance", vmap(self.covariance)(theta)[0], (self.dim, self.dim))
        elif self.covariance is not None:
            matrix = _symmetric("covariance", self.covariance, like=self.like)
            _check_shape("covariance", matrix, (self.dim, self.dim))
            object.__setattr__(self, "covariance", matrix)
            object.__setattr__(self, "root", _root(matrix))
        if self.covariance is not None and self.noise_dim != self.dim:
            raise ValueError(f"`noise_dim` goes with `diffuse`; with `covariance` it is dim; got {self.noise_dim}.")

    def at(self, theta: Tensor) -> Local:
        """Return the derivatives at `theta`, (paths, dim)."""
        return _LocalFunctions(self, theta)

    def stream(self, generator: torch.Generator, paths: int) -> Stream:
        """Return independent draws of the noise law, (paths, noise_dim)."""
        return NoiseStream(self.noise, generator, paths, self.noise_dim, self.dtype)

    def sample(self, local: Local, draw: Draw) -> Tensor:
        """Return the noisy gradients, (paths, dim)."""
        return local.gradient + self.scale * local.diffuse(draw)

    def rule(self, n: int) -> tuple[Tensor, Tensor]:
        """Return the law's quadrature rule, (nodes, 1) and (nodes,).

        Raises:
            NotDeclared: if noise_dim is not 1.
        """
        if self.noise_dim != 1:
            raise NotDeclared(f"`rule` of functions is declared for noise_dim = 1 only; got {self.noise_dim}.")
        z, weights = self.noise.nodes(n)
        return z[:, None].to(self.like), weights.to(self.like)

    def noise_moments(self) -> tuple[float, float]:
        """Return the law's third and fourth moment."""
        return self.noise.third, self.noise.fourth

    def to(self, device: str | torch.device, dtype: torch.dtype) -> FunctionOracle:
        """Return it for theta on `device`, in `dtype`; tensors inside the functions stay where they are."""
        return replace(self, like=self.like.to(device, dtype))

    @property
    def device(self) -> torch.device:
        """Where theta lives."""
        return self.like.device

    @property
    def dtype(self) -> torch.dtype:
        """The floating-point type of theta."""
        return self.like.dtype

    @property
    def bytes_per_path(self) -> int:
        """What the derivatives of a loss of a few operations need, and the covariance."""
        return self.like.element_size() * (
            16 * self.dim + 4 * self.noise_dim + 5 * self.dim**2 * callable(self.covariance)
        )


class _LocalFunctions(Local):
    oracle: FunctionOracle

    @cached_property
    def _both(self) -> tuple[Tensor, Tensor]:
        return vmap(grad_and_value(self.oracle.loss))(self.theta)

    @cached_property
    def loss(self) -> Tensor:
        return self._both[1]

    @cached_property
    def gradient(self) -> Tensor:
        return self._both[0]

    @cached_property
    def covariance(self) -> Tensor:
        """(paths, dim, dim), where it is a function of theta."""
        assert callable(self.oracle.covariance)
        return vmap(self.oracle.covariance)(self.theta)

    @cached_property
    def root(self) -> Tensor:
        """(paths, dim, dim), where the covariance is a function of theta."""
        return cholesky_root(self.covariance)

    @cached_property
    def covariance_diagonal(self) -> Tensor:
        oracle = self.oracle
        if isinstance(oracle.covariance, Tensor):
            return oracle.covariance.diagonal().expand_as(self.theta)
        if oracle.covariance is not None:
            return self.covariance.diagonal(dim1=1, dim2=2)
        if oracle.noise_dim > _MOST_COLUMNS:
            raise NotDeclared(
                f"`covariance_diagonal` is read off `diffuse` up to noise_dim = {_MOST_COLUMNS}; got "
                f"{oracle.noise_dim}. Declare `covariance=` instead."
            )
        assert oracle.diffuse is not None
        units = torch.eye(oracle.noise_dim, dtype=self.theta.dtype, device=self.theta.device)
        columns = vmap(vmap(oracle.diffuse, (None, 0)), (0, None))(self.theta, units)
        return columns.square().sum(1)

    def diffuse(self, xi: Tensor) -> Tensor:
        oracle = self.oracle
        if isinstance(oracle.covariance, Tensor):
            return xi @ oracle.root.T
        if oracle.diffuse is None:
            return (self.root @ xi[:, :, None])[:, :, 0]
        return vmap(oracle.diffuse)(self.theta.expand(len(xi), -1), xi)


@dataclass(frozen=True, eq=False)
class ExampleOracle(Minibatch):
    """Minibatches of any differentiable example loss; made by `FromFunctions`, where the arguments are described.

    S(theta) has one column per example, matrix-free, unless dim <= 16: then it is the Cholesky root of Sigma.
    """

    loss: Loss
    data: tuple[Tensor, ...]
    dim: int
    batch_size: int
    sampling: str

    def __post_init__(self) -> None:
        lengths = {x.shape[0] if x.dim() else 0 for x in self.data}
        if len(lengths) != 1:
            raise ValueError(f"`data` must hold tensors of one length; got the lengths {sorted(lengths)}.")
        self._set_sampling(lengths.pop())
        theta = self._like.new_zeros(1, self.dim)
        _check_shape("loss", vmap(self.loss)(theta, *(x[:1] for x in self.data))[0], ())
        small = self.dim <= CHOLESKY_DIM and self.dim < self.examples
        object.__setattr__(self, "noise_dim", self.dim if small else self.examples)

    @property
    def _like(self) -> Tensor:
        """A tensor of the device and type of theta: those of the first floating-point data."""
        floating = (x for x in self.data if x.is_floating_point())
        return next(floating, torch.empty(0, dtype=torch.float64, device=self.data[0].device))

    def at(self, theta: Tensor) -> Local:
        """Return the sums over all examples at `theta`, (paths, dim)."""
        return _LocalExamples(self, theta)

    def sample(self, local: Local, draw: Draw) -> Tensor:
        """Return the minibatch gradients, (paths, dim), at the cost of the batch."""

        def mean(theta: Tensor, *batch: Tensor) -> Tensor:
            return vmap(self.loss, (None, *(0 for _ in batch)))(theta, *batch).mean()

        return vmap(grad(mean))(local.theta.expand(len(draw), -1), *(x[draw] for x in self.data))

    def to(self, device: str | torch.device, dtype: torch.dtype) -> ExampleOracle:
        """Return it with its data on `device`, the floating-point ones in `dtype`."""
        data = tuple(x.to(device, dtype if x.is_floating_point() else x.dtype) for x in self.data)
        return replace(self, data=data)

    @property
    def device(self) -> torch.device:
        """Where the data live."""
        return self.data[0].device

    @property
    def dtype(self) -> torch.dtype:
        """The floating-point type of the data."""
        return self._like.dtype

    @property
    def bytes_per_path(self) -> int:
        """The gathered batch and its derivatives, weights over the data, the covariance; blocks are bounded."""
        row = sum(x[0].numel() for x in self.data)
        return self._like.element_size() * (
            self.batch_size * (row + 4 * self.dim) + 4 * self.examples + 5 * self.dim * min(self.dim, CHOLESKY_DIM)
        )


class _LocalExamples(Local):
    oracle: ExampleOracle

    def _blocks(self) -> Iterator[slice]:
        """Yield slices of the examples, as many as their per-example gradients leave room for."""
        size = max(1, _BLOCK // self.theta.numel())
        return (slice(i, i + size) for i in range(0, self.oracle.examples, size))

    def _weighted(self, weights: Tensor) -> tuple[Tensor, Tensor]:
        """Return gradient (paths, dim) and value (paths,) of the losses summed with weights (paths or 1, examples)."""
        loss, data = self.oracle.loss, self.oracle.data
        one = (None,) * len(data)

        def total(theta: Tensor, w: Tensor, *rows: Tensor) -> Tensor:
            return w @ vmap(loss, (None, *(0 for _ in rows)))(theta, *rows)

        paths = max(len(self.theta), len(weights))
        theta, weights = self.theta.expand(paths, -1), weights.expand(paths, -1)
        parts = [
            vmap(grad_and_value(total), (0, 0, *one))(theta, weights[:, i], *(x[i] for x in data))
            for i in self._blocks()
        ]
        gradients, values = zip(*parts, strict=True)
        return sum(gradients[1:], gradients[0]), sum(values[1:], values[0])

    def _gradients(self) -> Iterator[Tensor]:
        """Yield the per-example gradients block by block, (paths, block, dim)."""
        data = self.oracle.data
        one = (None,) * len(data)
        each = vmap(vmap(grad(self.oracle.loss), (None, *(0 for _ in data))), (0, *one))
        return (each(self.theta, *(x[i] for x in data)) for i in self._blocks())

    @cached_property
    def _mean(self) -> tuple[Tensor, Tensor]:
        n = self.oracle.examples
        return self._weighted(self.theta.new_full((1, n), 1 / n))

    @cached_property
    def loss(self) -> Tensor:
        return self._mean[1]

    @cached_property
    def gradient(self) -> Tensor:
        return self._mean[0]

    @property
    def _by_samples(self) -> bool:
        return self.oracle.noise_dim == self.oracle.examples

    @cached_property
    def covariance(self) -> Tensor:
        """(paths, dim, dim)."""
        second, *more = (g.mT @ g for g in self._gradients())
        return sum(more, second) / self.oracle.examples - self.gradient[:, :, None] * self.gradient[:, None, :]

    @cached_property
    def covariance_diagonal(self) -> Tensor:
        if not self._by_samples:
            return self.covariance.diagonal(dim1=1, dim2=2).clamp_min(0)
        second, *more = (g.square().sum(1) for g in self._gradients())
        return (sum(more, second) / self.oracle.examples - self.gradient.square()).clamp_min(0)

    @cached_property
    def root(self) -> Tensor:
        """(paths, dim, dim): the Cholesky root of Sigma."""
        return cholesky_root(self.covariance)

    def diffuse(self, xi: Tensor) -> Tensor:
        if not self._by_samples:
            return (self.root @ xi[:, :, None])[:, :, 0]
        # S = (g_i - mean g) / sqrt n by columns; centring xi instead of the g_i gives the same product.
        return self._weighted((xi - xi.mean(-1, keepdim=True)) / self.oracle.examples**0.5)[0]
