r"""Linear and logistic regression on data: minibatch noise with every moment in closed form.

The gradient of one example is $q_k x$ with the residual q of the K outputs, here always (paths, K, examples); so the
full gradient and the covariance are matrix products of residuals with features and with their pairwise products.
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from sdeadapt.checks import check_choice, check_integer, check_positive
from sdeadapt.oracles.base import Draw, Local
from sdeadapt.oracles.roots import CHOLESKY_DIM, cholesky_root
from sdeadapt.oracles.sampling import Minibatch

__all__ = ["LinearRegression", "LogisticRegression"]


class _Regression(Minibatch):
    """What the regressions share; a subclass gives loss, residual and its derivative in the outputs z = x theta."""

    features: Tensor
    l2: float
    root: str
    by_samples: bool
    outputs: int = 1  # K

    def _set(self, targets: Tensor, targets_name: str) -> None:
        """Check the arguments and set what follows from them.

        Raises:
            ValueError: if one is out of its range.
        """
        x = self.features
        if x.dim() != 2 or x.dtype not in (torch.float32, torch.float64):
            raise ValueError(
                f"`features` must be a float32 or float64 tensor (examples, features); got {tuple(x.shape)}, {x.dtype}."
            )
        if not x.numel() or not x.isfinite().all():
            raise ValueError(f"`features` must be finite and not empty; got {int((~x.isfinite()).sum())} that are not.")
        if targets.shape != x.shape[:1]:
            raise ValueError(
                f"`{targets_name}` must have the shape ({len(x)},), as `features` has rows; got {tuple(targets.shape)}."
            )
        check_positive("l2", self.l2, zero=True)
        check_choice("root", self.root, ("auto", "cholesky", "samples"))
        self._set_sampling(len(x))
        dim = self.outputs * x.shape[1]
        small = dim <= CHOLESKY_DIM and dim < len(x)
        by_samples = self.root == "samples" or (self.root == "auto" and not small)
        object.__setattr__(self, "dim", dim)
        object.__setattr__(self, "noise_dim", len(x) if by_samples else dim)
        object.__setattr__(self, "by_samples", by_samples)

    @property
    @abstractmethod
    def _targets(self) -> Tensor:
        """(examples,), as `_residual` takes them."""

    @abstractmethod
    def _loss(self, z: Tensor, y: Tensor) -> Tensor:
        """Return the losses, (paths, examples), of outputs (paths, K, examples)."""

    @abstractmethod
    def _residual(self, z: Tensor, y: Tensor) -> Tensor:
        """Return the derivative of the loss in z, (paths, K, examples)."""

    @abstractmethod
    def _turn(self, z: Tensor, dz: Tensor) -> Tensor:
        """Return the derivative of the residual along dz, (paths, K, examples)."""

    def at(self, theta: Tensor) -> Local:
        """Return the closed forms at `theta`, (paths, dim)."""
        return _LocalRegression(self, theta)

    def sample(self, local: Local, draw: Draw) -> Tensor:
        """Return the minibatch gradients, (paths, dim), at the cost of the batch."""
        x, z = self._batch(local, draw)
        return self._mean(self._residual(z, self._targets[draw][:, None]), x) + self.l2 * local.theta

    def sample_derivative(self, local: Local, draw: Draw, direction: Tensor) -> Tensor:
        """Return the minibatch Hessians times `direction`, (paths, dim)."""
        x, z = self._batch(local, draw)
        return self._mean(self._turn(z, self._split(direction) @ x.mT), x) + self.l2 * direction

    def hessian(self, theta: Tensor) -> Tensor:
        """Return the Hessian of f at theta (1, dim), (dim, dim)."""
        eye = torch.eye(self.dim, dtype=theta.dtype, device=theta.device)
        z = self._split(theta) @ self.features.T
        return self._mean(self._turn(z, self._split(eye) @ self.features.T), self.features) + self.l2 * eye

    def _split(self, theta: Tensor) -> Tensor:
        """Return theta (paths, dim) as weights (paths, K, features)."""
        return theta.reshape(theta.shape[0], self.outputs, -1)

    def _batch(self, local: Local, draw: Draw) -> tuple[Tensor, Tensor]:
        """Return the rows of the batch, (paths, B, features), and their outputs (paths, K, B)."""
        x = self.features.index_select(0, draw.reshape(-1)).reshape(*draw.shape, -1)
        return x, self._split(local.theta) @ x.mT

    @staticmethod
    def _mean(q: Tensor, x: Tensor) -> Tensor:
        """Return the mean of q_k x over the examples, (paths, dim)."""
        return (q @ x).flatten(1) / x.shape[-2]

    @cached_property
    def _pairs(self) -> Tensor:
        """Products of two features, (examples, features (features + 1) / 2)."""
        i, j = torch.triu_indices(*[self.features.shape[1]] * 2, device=self.device)
        return self.features[:, i] * self.features[:, j]

    @cached_property
    def _squares(self) -> Tensor:
        return self.features.square()

    def to(self, device: str | torch.device, dtype: torch.dtype) -> _Regression:
        """Return the oracle with its tensors on `device`, in `dtype`."""
        return replace(self, features=self.features.to(device, dtype))  # type: ignore[type-var]

    @property
    def device(self) -> torch.device:
        """Where the features live."""
        return self.features.device

    @property
    def dtype(self) -> torch.dtype:
        """The type of the features."""
        return self.features.dtype

    @property
    def bytes_per_path(self) -> int:
        """Outputs, residuals and their products over the data; the gathered batch; the covariance and its root."""
        k, n = self.outputs, self.examples
        full = n * (6 * k if self.by_samples or k == 1 else 4 * k + k * (k + 1)) + self.batch_size * (
            self.dim // k + 4 * k
        )
        return self.features.element_size() * (full + 8 * self.dim + (0 if self.by_samples else 5 * self.dim**2))


class _LocalRegression(Local):
    oracle: _Regression

    @cached_property
    def outputs(self) -> Tensor:
        """(paths, K, examples)."""
        weights = self.oracle._split(self.theta)
        return (weights.flatten(0, 1) @ self.oracle.features.T).unflatten(0, weights.shape[:2])

    @cached_property
    def residual(self) -> Tensor:
        """(paths, K, examples): derivatives of the losses in the outputs."""
        return self.oracle._residual(self.outputs, self.oracle._targets)

    def _average(self, weights: Tensor, of: Tensor) -> Tensor:
        """Return the mean of weights (paths, any, examples) times `of` (examples, any), as one matrix product."""
        return (weights.flatten(0, 1) @ of / len(of)).reshape(len(weights), -1)

    @cached_property
    def data_gradient(self) -> Tensor:
        """(paths, dim): the gradient without the L2 term, which carries no noise."""
        return self._average(self.residual, self.oracle.features)

    @cached_property
    def loss(self) -> Tensor:
        data = self.oracle._loss(self.outputs, self.oracle._targets).mean(-1)
        return data + self.oracle.l2 / 2 * self.theta.square().sum(-1)

    @cached_property
    def gradient(self) -> Tensor:
        return self.data_gradient + self.oracle.l2 * self.theta

    @cached_property
    def covariance_diagonal(self) -> Tensor:
        if not self.oracle.by_samples:
            return self.covariance.diagonal(dim1=1, dim2=2).clamp_min(0)
        second = self._average(self.residual.square(), self.oracle._squares)
        return (second - self.data_gradient.square()).clamp_min(0)

    @cached_property
    def covariance(self) -> Tensor:
        """(paths, dim, dim): Sigma, from the second moments of residuals and features."""
        k, d = self.oracle.outputs, self.oracle.features.shape[1]
        q = self.residual
        if k == 1:
            products = q.square()
        else:
            a, b = torch.triu_indices(k, k, device=q.device)
            products = q[:, a] * q[:, b]
        packed = self._average(products, self.oracle._pairs).reshape(*products.shape[:2], -1)
        second = packed[:, _places(k, q.device)][..., _places(d, q.device)]  # (paths, k, k, d, d)
        second = second.transpose(2, 3).reshape(-1, k * d, k * d)
        return second - self.data_gradient[:, :, None] * self.data_gradient[:, None, :]

    @cached_property
    def root(self) -> Tensor:
        """(paths, dim, dim): the Cholesky root of Sigma."""
        return cholesky_root(self.covariance)

    def diffuse(self, xi: Tensor) -> Tensor:
        if not self.oracle.by_samples:
            return (self.root @ xi[:, :, None])[:, :, 0]
        # S = (g_i - mean g) / sqrt n by columns; centring xi instead of the g_i gives the same product.
        xi = xi - xi.mean(-1, keepdim=True)
        return self._average(self.residual * xi[:, None], self.oracle.features) * self.oracle.examples**0.5

    def hessian_product(self, v: Tensor) -> Tensor:
        dz = (self.oracle._split(v).flatten(0, 1) @ self.oracle.features.T).unflatten(0, (len(v), -1))
        return self._average(self.oracle._turn(self.outputs, dz), self.oracle.features) + self.oracle.l2 * v


def _places(size: int, device: torch.device) -> Tensor:
    """Return where the entries of a symmetric matrix are in its packed upper triangle, (size, size)."""
    i, j = torch.triu_indices(size, size, device=device)
    places = torch.zeros(size, size, dtype=torch.long, device=device)
    places[i, j] = places[j, i] = torch.arange(len(i), device=device)
    return places


@dataclass(frozen=True, eq=False)
class LinearRegression(_Regression):
    r"""Least squares on data, $f(\theta) = \frac{1}{2n}\sum_i (x_i^T\theta - y_i)^2 + \frac{\lambda}{2}|\theta|^2$.

    Args:
        features: x, (examples, dim), float32 or float64; they set dtype and device of everything.
        targets: y, (examples,).
        batch_size: B >= 1; below the number of examples without replacement.
        l2: lambda >= 0.
        sampling: "replacement", "batch" or "epoch", see `Minibatch`.
        root: of Sigma: "cholesky" (noise_dim = dim), "samples" (one column per example, noise_dim = examples), or
            "auto": the former where dim <= 16 and dim < examples.

    Raises:
        ValueError: if a shape, value or choice is wrong.

    >>> x = torch.tensor([[1.0], [2.0]], dtype=torch.float64)
    >>> oracle = LinearRegression(x, torch.tensor([1.0, 0.0]), batch_size=4)
    >>> here = oracle.at(torch.zeros(1, 1, dtype=torch.float64))
    >>> here.gradient.item(), here.covariance_diagonal.item(), oracle.scale
    (-0.5, 0.25, 0.5)
    """

    features: Tensor
    targets: Tensor
    batch_size: int
    l2: float = 0.0
    sampling: str = "replacement"
    root: str = "auto"

    linear = True

    def __post_init__(self) -> None:
        object.__setattr__(self, "targets", self.targets.to(self.features))
        self._set(self.targets, "targets")
        if not self.targets.isfinite().all():
            raise ValueError(f"`targets` must be finite; got {int((~self.targets.isfinite()).sum())} that are not.")

    @property
    def _targets(self) -> Tensor:
        return self.targets

    def _loss(self, z: Tensor, y: Tensor) -> Tensor:
        return (z - y).square().sum(1) / 2

    def _residual(self, z: Tensor, y: Tensor) -> Tensor:
        return z - y

    def _turn(self, z: Tensor, dz: Tensor) -> Tensor:
        return dz

    def mean_covariance(self, mean: Tensor, covariance: Tensor) -> Tensor:
        """Return E Sigma, (dim, dim), at the cost of examples x dim^2: from E q^2 and the gradient's second moment."""
        x, n = self.features, self.examples
        q = x @ mean - self.targets
        square = q.square() + ((x @ covariance) * x).sum(1)
        gradient, hessian = q @ x / n, self._gram
        return x.T @ (square[:, None] * x) / n - hessian @ covariance @ hessian - torch.outer(gradient, gradient)

    @cached_property
    def _gram(self) -> Tensor:
        return self.features.T @ self.features / self.examples


@dataclass(frozen=True, eq=False)
class LogisticRegression(_Regression):
    r"""Logistic regression on data: the mean of $-\log p_{y_i}(x_i^T\theta)$, plus $\frac{\lambda}{2}|\theta|^2$.

    With two classes p is the logistic function and dim = features. With more, p is the softmax and theta is the weight
    of `torch.nn.Linear(features, classes, bias=False)`, flattened: (classes, features), dim = classes x features.
    A bias is a feature that is constant.

    Args:
        features: x, (examples, features), float32 or float64; they set dtype and device of everything.
        labels: y, (examples,), whole numbers 0, 1, …, classes - 1, of any dtype.
        batch_size, l2, sampling: as for `LinearRegression`.
        classes: their number; None takes the largest label + 1, at least two.
        root: as for `LinearRegression`.

    Raises:
        ValueError: if a shape, value or choice is wrong.

    >>> x = torch.tensor([[1.0], [2.0]], dtype=torch.float64)
    >>> oracle = LogisticRegression(x, torch.tensor([1, 0]), batch_size=4)
    >>> here = oracle.at(torch.zeros(1, 1, dtype=torch.float64))
    >>> here.gradient.item(), here.covariance_diagonal.item(), oracle.scale
    (0.25, 0.5625, 0.5)
    """

    features: Tensor
    labels: Tensor
    batch_size: int
    l2: float = 0.0
    sampling: str = "replacement"
    classes: int | None = None
    root: str = "auto"

    def __post_init__(self) -> None:
        labels = self.labels.long().to(self.features.device)
        if not labels.numel() or (labels != self.labels.to(labels.device)).any() or labels.min() < 0:
            raise ValueError("`labels` must be whole numbers >= 0, at least one. Number the classes 0, 1, …")
        classes = max(2, int(labels.max()) + 1) if self.classes is None else self.classes
        check_integer("classes", classes, minimum=2)
        if labels.max() >= classes:
            raise ValueError(f"`labels` must be below `classes` = {classes}; got {int(labels.max())}.")
        object.__setattr__(self, "labels", labels)
        object.__setattr__(self, "classes", classes)
        object.__setattr__(self, "outputs", 1 if classes == 2 else classes)
        self._set(labels, "labels")

    @cached_property
    def _targets(self) -> Tensor:
        return self.labels.to(self.dtype) if self.outputs == 1 else self.labels

    def _hits(self, y: Tensor) -> Tensor:
        """Return whether the class is the label, broadcastable to (paths, K, examples)."""
        return y == torch.arange(self.outputs, device=y.device)[:, None]

    def _loss(self, z: Tensor, y: Tensor) -> Tensor:
        if self.outputs == 1:
            return (torch.nn.functional.softplus(z) - y * z)[:, 0]
        return z.logsumexp(1) - z.masked_fill(~self._hits(y), 0).sum(1)

    def _residual(self, z: Tensor, y: Tensor) -> Tensor:
        if self.outputs == 1:
            return torch.sigmoid(z) - y
        return z.softmax(1) - self._hits(y).to(z.dtype)

    def _turn(self, z: Tensor, dz: Tensor) -> Tensor:
        if self.outputs == 1:
            p = torch.sigmoid(z)
            return p * (1 - p) * dz
        p = z.softmax(1)
        return p * (dz - (p * dz).sum(1, keepdim=True))
