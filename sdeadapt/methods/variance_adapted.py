r"""SVAG and M-SVAG of Balles and Hennig: steps shrunk by the estimated variance of what they follow; and their SDEs."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor

from sdeadapt.checks import check_integer, check_positive
from sdeadapt.methods.averages import bias_correction, from_u, rescaled_averages, set_averages, to_u
from sdeadapt.methods.base import ItoSDE, Method, Schedule
from sdeadapt.oracles.base import Local, Oracle

__all__ = [
    "MomentumVarianceAdapted",
    "VarianceAdapted",
    "VarianceAdaptedPoint",
    "VarianceAdaptedState",
    "average_variance",
    "shrinkage",
]

_MOST = 0.9999  # of rho: at the first step it is 1, and the variance estimate 0/0


class VarianceAdaptedState(NamedTuple):
    """Parameters theta, averages m of gradients and v of squared gradients, not corrected, each (paths, dim)."""

    theta: Tensor
    m: Tensor
    v: Tensor


class VarianceAdaptedPoint(NamedTuple):
    r"""Parameters theta, m and $u = v/\sigma^2$, each (paths, dim)."""

    theta: Tensor
    m: Tensor
    u: Tensor


def average_variance(one_minus_beta: float, steps: int) -> float:
    r"""Return $\rho = \frac{(1-\beta)(1+\beta^n)}{(1+\beta)(1-\beta^n)}$ after n = `steps` iterations.

    The variance of the corrected average of n independent gradients is $\rho$ times that of one.
    """
    gone = bias_correction(one_minus_beta, steps)
    return one_minus_beta * (2 - gone) / ((2 - one_minus_beta) * gone)


def shrinkage(m: Tensor, v: Tensor, one_minus_beta: float, steps: int, *, momentum: bool) -> tuple[Tensor, Tensor]:
    r"""Return the factor $\gamma$ and the corrected average $\hat m$, each of the shape of m.

    $\gamma = \hat m^2/(\hat m^2 + \hat s)$ for the gradient, $\hat m^2/(\hat m^2 + \rho\hat s)$ for its average, with
    $\hat s = (\hat v - \hat m^2)/(1 - \rho)$. As in the published code, $\rho$ is at most .9999, $\gamma$ lies in
    [0, 1], and 0/0 is 0; so $\gamma = 1$ in the first step.

    Args:
        m: average of gradients, not corrected.
        v: average of squared gradients, not corrected.
        one_minus_beta: 1 − beta of both.
        steps: n >= 1, the gradients that they hold.
        momentum: whether the step follows the average.
    """
    rho, gone = min(average_variance(one_minus_beta, steps), _MOST), bias_correction(one_minus_beta, steps)
    mean = m / gone
    square = mean.square()
    variance = (v / gone).sub_(square).mul_((rho if momentum else 1.0) / (1 - rho))
    return torch.nan_to_num(square / variance.add_(square), nan=0.0).clamp_(0, 1), mean


@dataclass(frozen=True)
class _VarianceAdapted(Method):
    """What both methods share: the two averages."""

    lr: float
    beta: float = 0.9
    schedule: Schedule | None = None
    one_minus_beta: float = field(init=False)

    State = VarianceAdaptedState
    Point = VarianceAdaptedPoint
    bias_correction = True

    def __post_init__(self) -> None:
        check_positive("lr", self.lr)
        set_averages(self)
        check_positive("time_step", self.time_step)

    def refinement(self, multiplier: int) -> int:
        """Return r = multiplier."""
        return check_integer("multiplier", multiplier)

    def init(self, theta: Tensor) -> VarianceAdaptedState:
        """Return the start at theta, (paths, dim): m = v = 0."""
        return VarianceAdaptedState(theta, torch.zeros_like(theta), torch.zeros_like(theta))

    def step(self, state: VarianceAdaptedState, g: Tensor, k: int) -> VarianceAdaptedState:
        """Return the state after iteration k with the noisy gradient g, (paths, dim)."""
        m = torch.lerp(state.m, g, self.one_minus_beta)
        v = torch.lerp(state.v, g * g, self.one_minus_beta)
        value = -self.lr * self.factor(self.time(k))
        return VarianceAdaptedState(torch.addcmul(state.theta, *self._direction(m, v, g, k + 1), value=value), m, v)

    @abstractmethod
    def _direction(self, m: Tensor, v: Tensor, g: Tensor, steps: int) -> tuple[Tensor, Tensor]:
        """Return the factor and what it multiplies."""

    def to_point(self, state: VarianceAdaptedState, scale: float) -> VarianceAdaptedPoint:
        r"""Return (theta, m, u) with $u = v/\sigma^2$."""
        return VarianceAdaptedPoint(state.theta, state.m, to_u(state.v, scale))

    def from_point(self, point: VarianceAdaptedPoint, scale: float) -> VarianceAdaptedState:
        r"""Return (theta, m, v) with $v = u\sigma^2$: inverts `to_point` within one unit in v's last place."""
        return VarianceAdaptedState(point.theta, point.m, from_u(point.u, scale))

    def initial(self, local: Local) -> VarianceAdaptedPoint:
        """Return the start: m = u = 0."""
        return VarianceAdaptedPoint(local.theta, torch.zeros_like(local.theta), torch.zeros_like(local.theta))

    def _corrected(self, t: float) -> float:
        r"""Return $\gamma_t = 1 - e^{-ct}$, the share that the averages hold of a long run's.

        Raises:
            ValueError: if t is not positive.
        """
        if t <= 0:
            raise ValueError(
                f"`t` must be positive: the SDE is singular at 0, where the averages are empty; got {t}. "
                "Start after 8 steps."
            )
        return -math.expm1(-self.one_minus_beta / self.time_step * t)


@dataclass(frozen=True)
class MomentumVarianceAdapted(_VarianceAdapted):
    r"""M-SVAG, momentum with variance adaptation; one iteration advances the time step h = lr.

    $m$ and $v$ average gradients and their squares with one $\beta$, with bias correction; $\theta_{k+1} = \theta_k -
    \eta\gamma\hat m_{k+1}$ with $\gamma = \hat m^2/(\hat m^2 + \rho\hat s)$, see `shrinkage`: $\rho\hat s$ estimates
    the variance of $\hat m$.

    Batch-size rule (linear): $\eta \to \kappa\eta$, $1-\beta \to \kappa(1-\beta)$. The memory of the average follows
    the batch, hence its variance, and with it $\gamma$, stays.

    Args:
        lr: learning rate, positive.
        beta: of both averages, in (0, 1).
        schedule: SDE time -> factor of lr in the theta equation, in the iteration and in the SDE; None is 1.

    Attributes:
        one_minus_beta: 1 − beta, which the method computes with and `rescaled` carries exactly.

    Raises:
        ValueError: if a hyper-parameter is out of range.

    Example:
        >>> method = MomentumVarianceAdapted(lr=0.1)
        >>> state = method.step(method.init(torch.ones(1, 1).double()), torch.full((1, 1), 2.0).double(), k=0)
        >>> round(float(state.theta), 4), round(method.rescaled(4.0).beta, 4), method.rescaled(4.0).lr
        (0.8, 0.6, 0.4)

    Balles, Hennig 2018 (arXiv 1705.07774), Algorithm 5. SDE and batch-size rule are derived here.
    """

    @property
    def time_step(self) -> float:
        """The time step h = lr."""
        return self.lr

    def rescaled(self, kappa: float) -> MomentumVarianceAdapted:
        """Return the method for a batch `kappa` times as large.

        Raises:
            ValueError: if `kappa` is not positive, or not below 1 / (1 − beta).
        """
        return rescaled_averages(self, kappa, lr=self.lr * check_positive("kappa", kappa))

    def _direction(self, m: Tensor, v: Tensor, g: Tensor, steps: int) -> tuple[Tensor, Tensor]:
        return shrinkage(m, v, self.one_minus_beta, steps, momentum=True)

    def sde(self, oracle: Oracle, order: int = 1) -> ItoSDE:
        r"""Return the SDE of weak order 1, from some t > 0 on, where $1-\beta = ch$ and $\sigma^2 = \sigma_0^2/h$.

        $d\theta = -\frac{m^3/\gamma_t}{m^2 + \tfrac c2(2-\gamma_t)\,\sigma_0^2 u}\,dt, \quad
        dm = c(\nabla f - m)\,dt + \sigma_0 c\,S\,dW, \quad du = c(\mathrm{diag}\,\Sigma - u)\,dt$ with
        $\gamma_t = 1 - e^{-ct}$: the variance of the average, $\rho\sigma^2$, has a limit.

        Raises:
            NotDeclared: if `order` is not 1.
        """
        if order != 1:
            return super().sde(oracle, order)
        sigma0, c = oracle.scale * math.sqrt(self.time_step), self.one_minus_beta / self.time_step

        def at(
            t: float, x: VarianceAdaptedPoint
        ) -> tuple[VarianceAdaptedPoint, Callable[[Tensor], VarianceAdaptedPoint]]:
            gone, local, square = self._corrected(t), oracle.at(x.theta), x.m.square()
            variance = x.u.clamp_min(0) * (c / 2 * (2 - gone) * sigma0**2)  # u < 0 only by the solver's error
            drift = VarianceAdaptedPoint(
                square * x.m / (square + variance) * (-self.factor(t) / gone),
                (local.gradient - x.m).mul_(c),
                (local.diagonal_estimate - x.u).mul_(c),
            )
            return drift, lambda dw: VarianceAdaptedPoint(None, local.diffuse(dw) * (sigma0 * c), None)  # type: ignore[arg-type]

        return ItoSDE(at, oracle.noise_dim, VarianceAdaptedPoint)


@dataclass(frozen=True)
class VarianceAdapted(_VarianceAdapted):
    r"""SVAG of Balles and Hennig; the time step h that one iteration advances is a field of its own.

    (Not the SVAG that refines a step, which is `Amplified`.) $\theta_{k+1} = \theta_k - \eta\gamma g_k$ with $\gamma =
    \hat m^2/(\hat m^2 + \hat s)$, see `shrinkage`; m and v, of one $\beta$, include $g_k$.

    Batch-size rule: $\eta$ unchanged, $1-\beta \to \kappa(1-\beta)$. Where noise dominates, $\gamma$ is
    $\hat m^2/\hat s$, and $\hat s \propto 1/\kappa$ supplies the $\kappa$.

    Args:
        lr: learning rate, positive.
        beta: of both averages, in (0, 1).
        schedule: SDE time -> factor of lr in the theta equation, in the iteration and in the SDE; None is 1.
        time_step: h, positive: the unit of SDE time, which no step depends on, is 1 / h iterations.

    Attributes:
        one_minus_beta: 1 − beta, which the method computes with and `rescaled` carries exactly.

    Raises:
        ValueError: if a hyper-parameter is out of range.

    Example:
        >>> method = VarianceAdapted(lr=0.1)
        >>> state = method.step(method.init(torch.ones(1, 1).double()), torch.full((1, 1), 2.0).double(), k=0)
        >>> round(float(state.theta), 4), round(method.rescaled(4.0).beta, 4), method.rescaled(4.0).lr
        (0.8, 0.6, 0.1)

    Balles, Hennig 2018 (arXiv 1705.07774), Algorithm 4. SDE and batch-size rule are derived here.
    """

    time_step: float = 0.01

    def rescaled(self, kappa: float) -> VarianceAdapted:
        """Return the method for a batch `kappa` times as large: lr unchanged.

        Raises:
            ValueError: if `kappa` is not positive, or not below 1 / (1 − beta).
        """
        return rescaled_averages(self, kappa, time_step=self.time_step * check_positive("kappa", kappa))

    def _direction(self, m: Tensor, v: Tensor, g: Tensor, steps: int) -> tuple[Tensor, Tensor]:
        return shrinkage(m, v, self.one_minus_beta, steps, momentum=False)[0], g

    def sde(self, oracle: Oracle, order: int = 1) -> ItoSDE:
        r"""Return the formal SDE of order 1, from some t > 0 on, where $1-\beta = ch$ and $\sigma^2 = \sigma_0^2/h$.

        $d\theta = -\frac{\eta}{\gamma_t u}\left[\frac{m^2}{\sigma_0^2}(\nabla f\,dt + \sigma_0 S\,dW) +
        2cm\,\mathrm{diag}\,\Sigma\,dt\right]$, and m, u as in `MomentumVarianceAdapted.sde`. The last term is the
        covariance of $m_{k+1}^2$ with $g_k$, which it includes. Mean and covariance of one iteration agree with it; but
        its coefficients grow like $m^2$, where those of the theorems are Lipschitz: the iteration's steps are bounded
        by $\gamma \le 1$, those of the SDE are not.

        Raises:
            NotDeclared: if `order` is not 1.
        """
        if order != 1:
            return super().sde(oracle, order)
        sigma0, c = oracle.scale * math.sqrt(self.time_step), self.one_minus_beta / self.time_step

        def at(
            t: float, x: VarianceAdaptedPoint
        ) -> tuple[VarianceAdaptedPoint, Callable[[Tensor], VarianceAdaptedPoint]]:
            local = oracle.at(x.theta)
            sigma = local.covariance_diagonal
            rate = (-self.lr * self.factor(t) / self._corrected(t) / sigma0**2) / x.u
            gain = rate * x.m.square()
            drift = VarianceAdaptedPoint(
                gain * local.gradient + rate * x.m * sigma * (2 * c * sigma0**2),
                (local.gradient - x.m).mul_(c),
                (sigma - x.u).mul_(c),
            )

            def diffuse(dw: Tensor) -> VarianceAdaptedPoint:
                noise = local.diffuse(dw) * sigma0
                return VarianceAdaptedPoint(gain * noise, c * noise, None)  # type: ignore[arg-type]

            return drift, diffuse

        return ItoSDE(at, oracle.noise_dim, VarianceAdaptedPoint)
