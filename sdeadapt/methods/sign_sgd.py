r"""SignSGD (stochastic sign descent), and its SDEs where noise dominates and where it is fixed."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from sdeadapt.checks import check_choice, check_integer, check_positive
from sdeadapt.methods.base import ItoSDE, Method, Schedule
from sdeadapt.oracles.base import Local, NotDeclared, Oracle
from sdeadapt.oracles.noise import Gaussian, Noise
from sdeadapt.oracles.roots import CHOLESKY_DIM, cholesky_root

__all__ = ["SignSGD", "SignSGDPoint", "SignSGDState", "sign_covariance"]

_NODES = 24  # of the integral in `sign_covariance`


class SignSGDState(NamedTuple):
    """Parameters theta (paths, dim)."""

    theta: Tensor


class SignSGDPoint(NamedTuple):
    """Parameters theta (paths, dim)."""

    theta: Tensor


@dataclass(frozen=True)
class SignSGD(Method):
    r"""Sign descent, $\theta_{k+1} = \theta_k - \eta\,\mathrm{sign}(g_k)$, in one of two scalings.

    "batch-equivalent": one iteration advances the time step h = lr², and the noise dominates the gradient.

    "fixed-noise": h = lr at the noise that the oracle has; the SDE depends on h, and is refined by `refine="step"`.

    Batch-size rule (square root): $\eta \to \sqrt\kappa\,\eta$. At fixed noise there is none.

    The mean of a sign sees the density of the noise, not its variance alone. SVAG, which mixes two draws, is therefore
    refused unless the noise is Gaussian.

    Args:
        lr: learning rate, positive.
        scaling: "batch-equivalent" or "fixed-noise".
        schedule: SDE time -> factor of lr, in the iteration and in the SDE; None is 1.

    Raises:
        ValueError: if lr is not positive or the scaling is unknown.

    Example:
        >>> method = SignSGD(lr=0.1)
        >>> method.step(SignSGDState(torch.ones(1, 2)), torch.tensor([[2.0, -3.0]]), k=0).theta
        tensor([[0.9000, 1.1000]])
        >>> method.rescaled(4.0).lr, SignSGD(lr=0.1, scaling="fixed-noise").time_step
        (0.2, 0.1)

    Bernstein et al. 2018 (arXiv 1802.04434); Balles and Hennig 2018 (arXiv 1705.07774), SSD; SDEs: Compagnoni et al.
    2024 (arXiv 2411.15958), Theorem 3.2, Corollary 3.3.
    """

    lr: float
    scaling: str = "batch-equivalent"
    schedule: Schedule | None = None

    State = SignSGDState
    Point = SignSGDPoint
    smooth = False
    sees_density = True

    def __post_init__(self) -> None:
        check_positive("lr", self.lr)
        check_choice("scaling", self.scaling, ("batch-equivalent", "fixed-noise"))

    @property
    def _noise_dominates(self) -> bool:
        return self.scaling == "batch-equivalent"

    @property
    def time_step(self) -> float:
        """The time step h: lr² where noise dominates, lr where it is fixed."""
        return self.lr**2 if self._noise_dominates else self.lr

    def refinement(self, multiplier: int) -> int:
        """Return r: multiplier² where noise dominates, multiplier where it is fixed."""
        return check_integer("multiplier", multiplier) ** (2 if self._noise_dominates else 1)

    def rescaled(self, kappa: float) -> SignSGD:
        """Return the method of `kappa` times the time step; where noise dominates, for a batch `kappa` times as large.

        Raises:
            ValueError: if `kappa` is not positive.
        """
        check_positive("kappa", kappa)
        return replace(self, lr=self.lr * (math.sqrt(kappa) if self._noise_dominates else kappa))

    def init(self, theta: Tensor) -> SignSGDState:
        """Return the start at theta, (paths, dim)."""
        return SignSGDState(theta)

    def step(self, state: SignSGDState, g: Tensor, k: int) -> SignSGDState:
        """Return the state after iteration k with the noisy gradient g, (paths, dim)."""
        return SignSGDState(torch.add(state.theta, torch.sign(g), alpha=-self.lr * self.factor(self.time(k))))

    def to_point(self, state: SignSGDState, scale: float) -> SignSGDPoint:
        """Return theta; the two types differ in name only."""
        return SignSGDPoint(state.theta)

    def from_point(self, point: SignSGDPoint, scale: float) -> SignSGDState:
        """Return theta; the two types differ in name only."""
        return SignSGDState(point.theta)

    def initial(self, local: Local) -> SignSGDPoint:
        """Return the start at the point of `local`."""
        return SignSGDPoint(local.theta)

    def sde(self, oracle: Oracle, order: int = 1) -> ItoSDE:
        r"""Return the SDE of weak order 1, for a noise with $s = \sqrt{\mathrm{diag}\,\Sigma}$ > 0.

        Where noise dominates, for Gaussian noise: with $\sigma_0 = \sigma\eta$,
        $$d\theta = -\sqrt{2/\pi}\,\nabla f/(\sigma_0 s)\,dt - R\,dW,\quad
          (R R^T)_{ij} = \tfrac2\pi\arcsin\frac{\Sigma_{ij}}{s_i s_j}.$$
        Another law has twice its density at 0 in place of $\sqrt{2/\pi}/s$, and has a limit only if its median is 0.

        At fixed noise, for Gaussian noise, or independent components of another law with distribution function F:
        $$d\theta = -\mu\,dt - \sqrt\eta\,R\,dW,\quad \mu = 1 - 2F(-\nabla f/(\sigma s)),\quad
          R R^T = \mathrm{Cov}\,\mathrm{sign}(g),$$
        of diagonal $1 - \mu^2$. For Gaussian noise $\mu = \mathrm{erf}(\nabla f/(\sqrt2\sigma s))$. The covariance is
        of order h here, so that the equation without noise has order 1 as well.

        Raises:
            ValueError: if the oracle's scale is 0.
            NotDeclared: if `order` is not 1, or the law of the noise, of its correlated components or their covariance
                in more than 16 dimensions is not known.
        """
        if order != 1:
            return super().sde(oracle, order)
        limit, dim = self._noise_dominates, oracle.dim
        law, diagonal = self._law(oracle, limit), _is_diagonal(oracle)
        self._check_covariance(oracle, law, diagonal)
        speed, size = self.lr / self.time_step, self.lr / math.sqrt(self.time_step)
        constant = _angles(oracle, _probe(oracle, 1)) if oracle.additive and not diagonal else None
        root = None if constant is None or not limit else cholesky_root(sign_covariance(None, constant))

        def at(t: float, x: SignSGDPoint) -> tuple[SignSGDPoint, Callable[[Tensor], SignSGDPoint]]:
            local, factor = oracle.at(x.theta), self.factor(t)
            s = _size(local, diagonal)
            ratio = local.gradient / (oracle.scale * s)
            mean = ratio * math.sqrt(2 / math.pi) if limit else 1 - 2 * law.cdf(-ratio)
            drift = SignSGDPoint((mean * s.sign()).mul_(-factor * speed))
            if diagonal:
                spread = s.sign() if limit else s.sign() * (1 - mean.square()).clamp_min(1e-30).sqrt()
                return drift, lambda dw: SignSGDPoint((spread * dw).mul_(-factor * size))
            angles = _angles(oracle, x.theta) if constant is None else constant
            kick = cholesky_root(sign_covariance(None if limit else ratio, angles)) if root is None else root
            return drift, lambda dw: SignSGDPoint((kick @ dw[:, :dim, None])[:, :, 0].mul_(-factor * size))

        return ItoSDE(at, max(oracle.noise_dim, dim), SignSGDPoint)

    def outcomes(self, oracle: Oracle, theta: Tensor) -> tuple[Tensor, Tensor]:
        r"""Return the two signs and their probabilities at theta (n,): $P(g > 0) = 1 - F(-\nabla f/(\sigma s))$.

        Raises:
            NotDeclared: if the law of the noise is not known.
        """
        law, diagonal = self._law(oracle, limit=False), _is_diagonal(oracle)
        self._check_covariance(oracle, law, diagonal)
        local = oracle.at(theta[:, None])
        s = _size(local, diagonal)
        below = law.cdf(-local.gradient / (oracle.scale * s))[:, 0]
        down = torch.where(s[:, 0] < 0, 1 - below, below)
        values = torch.stack([-torch.ones_like(down), torch.ones_like(down)])
        return values, torch.stack([down, 1 - down])

    def _law(self, oracle: Oracle, limit: bool) -> Noise:
        """Return the law of a component of the noise; for the `limit` where noise dominates, or as it is.

        Raises:
            ValueError: if there is no noise.
            NotDeclared: if the law is not known, or that limit is not.
        """
        check_positive("scale", oracle.scale)
        if oracle.gaussian:
            return Gaussian()
        law = getattr(oracle, "noise", None)
        if limit:
            raise NotDeclared(
                "SignSGD's SDE where noise dominates is declared for Gaussian noise, whose density at 0 follows from "
                f"its covariance; got {law or type(oracle).__name__}. Pass an equation with twice the density at 0 in "
                "place of sqrt(2/pi)/s as `sde=`, or use scaling='fixed-noise'."
            )
        if not isinstance(law, Noise):
            raise NotDeclared(
                f"{type(oracle).__name__} does not declare the law of its `noise`, which the mean of a sign depends "
                "on; pass an SDE as `sde=`."
            )
        law.cdf(torch.zeros(()))
        return law

    def _check_covariance(self, oracle: Oracle, law: Noise, diagonal: bool) -> None:
        """Raise unless the covariance of the signs can be had.

        Raises:
            NotDeclared: if it cannot.
        """
        if not diagonal and not oracle.gaussian:
            raise NotDeclared(
                f"SignSGD's SDE is declared for independent components of {law}; got a root of Sigma that mixes "
                "them, and mixtures have another law. Pass an oracle with diagonal Sigma, or an SDE as `sde=`."
            )
        constant = oracle.additive and self._noise_dominates
        if not diagonal and not constant and oracle.dim > CHOLESKY_DIM:
            raise NotDeclared(
                f"The covariance of {oracle.dim} correlated signs at every path needs dim <= {CHOLESKY_DIM}; pass an "
                "oracle with diagonal Sigma, or an SDE as `sde=`."
            )


def sign_covariance(ratio: Tensor | None, angles: Tensor) -> Tensor:
    r"""Return Cov sign(a + x), (paths, dim, dim), for standard normals x of correlation $\sin\alpha_{ij}$.

    $$\frac2\pi\int_0^{\alpha_{ij}} \exp\Big(-\frac{a_i^2 + a_j^2 - 2a_i a_j\sin\varphi}{2\cos^2\varphi}\Big)d\varphi
      \ (i \ne j),\qquad 1 - \mathrm{erf}^2(a_i/\sqrt2)\ (i = j).$$
    It is $\tfrac2\pi\alpha_{ij}$ at a = 0. From Plackett's identity (1954): the derivative of the bivariate normal
    distribution function in the correlation is its density.

    Args:
        ratio: a, (paths, dim), or None for 0.
        angles: arcsines of the correlations, (paths or 1, dim, dim); the diagonal is 0.

    >>> angles = torch.asin(torch.tensor([[[0.0, 0.5], [0.5, 0.0]]]))
    >>> sign_covariance(None, angles)
    tensor([[[1.0000, 0.3333],
             [0.3333, 1.0000]]])
    """
    if ratio is None:
        return angles * (2 / math.pi) + torch.eye(angles.shape[-1], dtype=angles.dtype, device=angles.device)
    square = (ratio.square()[:, :, None] + ratio.square()[:, None, :]) / 2
    product = ratio[:, :, None] * ratio[:, None, :]
    total = torch.zeros_like(product)
    for node, weight in zip(*np.polynomial.legendre.leggauss(_NODES), strict=True):
        phi = angles * ((1 + float(node)) / 2)
        total = total + float(weight) * torch.exp((product * phi.sin() - square) / phi.cos().square())
    variance = (1 - torch.erf(ratio / math.sqrt(2)).square()).clamp_min(1e-30)
    return total * angles / math.pi + torch.diag_embed(variance)


def _size(local: Local, diagonal: bool) -> Tensor:
    """Return s; a diagonal S may have negative entries, which turn an asymmetric law around."""
    return local.diffuse(torch.ones_like(local.theta)) if diagonal else local.covariance_diagonal.sqrt()


def _angles(oracle: Oracle, theta: Tensor) -> Tensor:
    """Return the arcsines of the correlations of the noise, (paths, dim, dim), with 0 on the diagonal."""
    paths, columns = theta.shape[0], oracle.noise_dim
    units = torch.eye(columns, dtype=theta.dtype, device=theta.device).repeat(paths, 1)
    root = oracle.at(theta.repeat_interleave(columns, 0)).diffuse(units).view(paths, columns, -1)
    root = root / root.square().sum(1, keepdim=True).sqrt()
    off_diagonal = 1 - torch.eye(root.shape[-1], dtype=theta.dtype, device=theta.device)
    return torch.asin((root.mT @ root * off_diagonal).clamp(-1, 1))


def _probe(oracle: Oracle, rows: int) -> Tensor:
    """Return a point in general position, repeated."""
    index = torch.arange(1, oracle.dim + 1, dtype=oracle.dtype, device=oracle.device)
    return torch.cos(index).expand(rows, -1)


def _is_diagonal(oracle: Oracle) -> bool:
    """Whether S is diagonal at a point in general position: it then commutes with masks of the components.

    The masks are the binary digits of the index: of any two components one is masked without the other.
    """
    if oracle.noise_dim != oracle.dim:
        return False
    index = torch.arange(oracle.dim, device=oracle.device)
    masks = torch.stack([index >> bit & 1 for bit in range(oracle.dim.bit_length())]).to(oracle.dtype)
    theta = _probe(oracle, len(masks))
    local, xi = oracle.at(theta), torch.sin(theta) + 2
    return torch.equal(local.diffuse(masks * xi), masks * local.diffuse(xi))
