r"""SDEs of weak order 2 for RMSprop and Adam: first and second moments of one iteration agree up to O(h^3).

With L the generator and $m_1 h + m_2 h^2$ a moment of one iteration, the SDE needs the drift $b_0 + h b_1$ with
$b_1 = m_2 - \tfrac12 L b_0$, and likewise for its covariance (Li, Tai, E 2019, arXiv 1811.01558). It serves both
scalings of the noise, written in raw $v = \sigma^2 u$; terms that a scaling makes one order smaller are kept where
they cost nothing. Notation, all componentwise: $q = |\nabla f|^2 + V - v$ with $V = \sigma^2\mathrm{diag}\,\Sigma$,
$D = \rho/(\sqrt v + \epsilon\sqrt{\gamma_2})$ with $\rho = \eta/h$, and $D' = dD/dv$.

Constant diagonal Sigma only. What depends on t alone is taken half a step earlier, which is its $-\tfrac12\partial_t$.
In the batch-equivalent scaling third joint moments of theta and v, and fourth ones of noise whose fourth moment is
not 3, still differ by O(h^2), so the order is 2 for some test functions only. Cf. Callisti, Romito, Triggiano 2025
(arXiv 2509.21614); derived here.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from sdeadapt.methods.adam import Adam, AdamPoint
from sdeadapt.methods.averages import bias_correction, from_u, to_u
from sdeadapt.methods.base import ItoSDE, Method
from sdeadapt.methods.rmsprop import RMSprop, RMSpropPoint
from sdeadapt.oracles.base import Local, NotDeclared, Oracle

__all__ = ["adam_sde", "rmsprop_sde"]


def rmsprop_sde(method: RMSprop, oracle: Oracle) -> ItoSDE:
    r"""Return RMSprop's SDE of order 2; `RMSprop.sde` describes it.

    With $b = -FD\nabla f$, the schedule F, the noise $M = -\sqrt h\,FD\sigma S$ and $T = \sum_j V_j F^2 D_j^2
    \partial_j^2\nabla f$, for the old v:
    $b_\theta = b + \tfrac h2 F[D\,Hb + c\,q D'\nabla f + \tfrac h2 D T]$ and
    $M_\theta = M + \tfrac h2[FDHM - c\,q\,(D'/D)\,M]$.
    The new v adds $-hFcD'[(q + 2V)\nabla f + \mu_3 V^{3/2}]$ and $h c\,(\mu_4 V - v)(D'/D)\,M$.
    Terms with M beyond the first vanish where the noise is fixed.
    """
    parts = _Parts.of(method, oracle, method.one_minus_beta)
    h, c, new, strong = parts.h, parts.c, method.denominator == "new", method.scaling == "batch-equivalent"

    def at(t: float, x: RMSpropPoint) -> tuple[RMSpropPoint, Callable[[Tensor], RMSpropPoint]]:
        here = parts.look(x)
        factor, f, d, slope = _early(method, t), here.gradient, here.d, here.slope
        velocity = -factor * d * f
        turned = here.local.hessian_product(velocity)
        correction = d * turned + c * here.q * slope * f
        if new:
            correction = correction - 2 * c * slope * ((here.q + 2 * here.noise) * f + parts.third * here.noise**1.5)
        if strong:
            correction = correction + h / 2 * d * here.local.third_contraction(factor**2 * here.noise * d.square())
        drift = RMSpropPoint(velocity + h / 2 * factor * correction, parts.u_drift(here, turned))

        def diffuse(dw: Tensor) -> RMSpropPoint:
            z = parts.kick(here, dw)
            kick = -math.sqrt(h) * factor * d * z
            if strong:
                lag = (parts.fourth * here.noise - here.v if new else 0) - here.q / 2
                curved = factor / 2 * d * here.local.hessian_product(kick)
                kick = kick + h * (curved + c * lag * slope / d * kick)
            return RMSpropPoint(kick, parts.u_noise(here, z, dw))

        return drift, diffuse

    return ItoSDE(at, oracle.noise_dim + oracle.dim, RMSpropPoint)


def adam_sde(method: Adam, oracle: Oracle) -> ItoSDE:
    r"""Return Adam's SDE of order 2; `Adam.sde` describes it.

    With the schedule F times $\sqrt{\gamma_2}/\gamma_1$ as G, $b = -GDm$ and $M = \sqrt h\,c_1\sigma S$:
    $b_\theta = b - \tfrac h2 G[c_1 D(\nabla f - m) \mp c_2\,q D' m]$ with − for the old v and + for the new,
    $b_m = c_1(\nabla f - m) - \tfrac h2 c_1[Hb - c_1(\nabla f - m)]$,
    $M_\theta = -\tfrac h2 GDM$ and $M_m = (1 + \tfrac h2 c_1) M$.
    """
    parts = _Parts.of(method, oracle, method.one_minus_beta2)
    h, c1, c2 = parts.h, method.one_minus_beta1 / parts.h, parts.c
    sign = 1.0 if method.denominator == "new" else -1.0

    def at(t: float, x: AdamPoint) -> tuple[AdamPoint, Callable[[Tensor], AdamPoint]]:
        first, second = _corrections(method, t)
        here = parts.look(x, math.sqrt(second))
        factor = _early(method, t) * math.sqrt(second) / first
        m, gap = x.m, here.gradient - x.m
        velocity = -factor * here.d * m
        turned = here.local.hessian_product(velocity)
        drift = AdamPoint(
            velocity - h / 2 * factor * (c1 * here.d * gap + sign * c2 * here.q * here.slope * m),
            c1 * gap - h / 2 * c1 * (turned - c1 * gap),
            parts.u_drift(here, turned),
        )

        def diffuse(dw: Tensor) -> AdamPoint:
            z = parts.kick(here, dw)
            kick = math.sqrt(h) * c1 * z
            return AdamPoint(-h / 2 * factor * here.d * kick, (1 + h / 2 * c1) * kick, parts.u_noise(here, z, dw))

        return drift, diffuse

    return ItoSDE(at, oracle.noise_dim + oracle.dim, AdamPoint)


@dataclass(frozen=True)
class _Look:
    """What both equations need at one point, each (paths, dim)."""

    local: Local
    gradient: Tensor
    v: Tensor
    noise: Tensor  # V
    q: Tensor
    d: Tensor
    slope: Tensor  # D'


@dataclass(frozen=True)
class _Parts:
    """What the equations have in common, the one of v above all."""

    oracle: Oracle
    h: float
    c: float
    ratio: float  # rho
    eps: float
    third: float
    fourth: float

    @classmethod
    def of(cls, method: Any, oracle: Oracle, one_minus_beta: float) -> _Parts:
        """Return them for the average of squares with this 1 − beta.

        Raises:
            NotDeclared: if the noise is not one that the equations are known for.
        """
        h = method.time_step
        third, fourth = _noise_moments(method, oracle)
        return cls(oracle, h, one_minus_beta / h, method.lr / h, method.eps, third, fourth)

    def look(self, x: Any, root2: float = 1.0) -> _Look:
        """Return what is needed at x; `root2` multiplies eps."""
        local = self.oracle.at(x.theta)
        f, v, noise = local.gradient, from_u(x.u, self.oracle.scale), self.oracle.scale**2 * local.covariance_diagonal
        # A smooth positive v that differs by O(h^2): D' would be infinite where the fluctuations take v through 0.
        floor = self.h * self.c * noise
        root = ((v + torch.sqrt(v.square() + floor.square())) / 2).sqrt()
        d = self.ratio / (root + self.eps * root2)
        return _Look(local, f, v, noise, f.square() + noise - v, d, -d.square() / (2 * self.ratio * root))

    def u_drift(self, here: _Look, turned: Tensor) -> Tensor:
        r"""Return $c\,[(1 + \tfrac h2 c)\,q - h\nabla f\,Hb]/\sigma^2$ for `turned` = Hb."""
        q = (1 + self.h / 2 * self.c) * here.q - self.h * here.gradient * turned
        return to_u(self.c * q, self.oracle.scale)

    def kick(self, here: _Look, dw: Tensor) -> Tensor:
        """Return sigma S dw of the Brownian columns that are shared with the chain."""
        return self.oracle.scale * here.local.diffuse(dw[:, : self.oracle.noise_dim])

    def u_noise(self, here: _Look, z: Tensor, dw: Tensor) -> Tensor:
        r"""Return $\sqrt h\,c\,[(2\nabla f + \mu_3\sqrt V)\,\sigma S\,dW + V\sqrt{\mu_4 - 1 - \mu_3^2}\,dW']/\sigma^2$.

        That is the regression of $g^2$ on its noise, and the rest of it, which has Brownian columns of its own.
        """
        own = math.sqrt(self.fourth - 1 - self.third**2) * here.noise * dw[:, self.oracle.noise_dim :]
        with_chain = (2 * here.gradient + self.third * here.noise.sqrt()) * z
        return to_u(math.sqrt(self.h) * self.c * (with_chain + own), self.oracle.scale)


def _early(method: Method, t: float) -> float:
    """Return the schedule half a step before t, from its values at t >= 0."""
    return 1.0 if method.schedule is None else 2 * method.factor(t) - method.factor(t + method.time_step / 2)


def _corrections(method: Adam, t: float) -> tuple[float, float]:
    """Return gamma1 and gamma2 half a step before t, as functions of t that are the iteration's own at t = k h.

    Raises:
        ValueError: if t is not above h / 2 where the bias is corrected.
    """
    if not method.bias_correction:
        return 1.0, 1.0
    k = t / method.time_step - 0.5
    if k <= 0:
        raise ValueError(
            f"`t` must be above h / 2 = {method.time_step / 2:.6g} for Adam's SDE of order 2 where the bias is "
            f"corrected; got {t}. Start after 8 steps, or set bias_correction=False."
        )
    second = bias_correction(method.one_minus_beta2, k + 1 if method.denominator == "new" else k)
    return bias_correction(method.one_minus_beta1, k + 1), second


def _noise_moments(method: Method, oracle: Oracle) -> tuple[float, float]:
    """Return the third and fourth moment of the noise components, if there is an SDE of order 2 for them.

    Raises:
        NotDeclared: if there is none, with the reason.
    """
    name, remedy = type(method).__name__, "Use order=1."
    if not oracle.additive:
        raise NotDeclared(f"{name}'s SDE of order 2 is known for constant Sigma only; {_who(oracle)} varies. {remedy}")
    theta = torch.zeros(oracle.noise_dim, oracle.dim, dtype=oracle.dtype, device=oracle.device)
    columns = oracle.at(theta).diffuse(torch.eye(oracle.noise_dim, dtype=oracle.dtype, device=oracle.device))
    if oracle.noise_dim != oracle.dim or columns.count_nonzero() > columns.diagonal().count_nonzero():
        raise NotDeclared(
            f"{name}'s SDE of order 2 is known for a diagonal Sigma with one noise component for each of theta; "
            f"{_who(oracle)} is another. {remedy}"
        )
    third, fourth = oracle.noise_moments()
    if not math.isfinite(third + fourth):
        raise NotDeclared(f"An SDE of order 2 needs E z^4; got noise with ({third}, {fourth}) = E z^3, E z^4. {remedy}")
    if third and method.scaling == "batch-equivalent":
        raise NotDeclared(
            f"{name} has no SDE of order 2 with skewed noise in this scaling: E z^3 = {third:.3g} gives third moments "
            f"of order h^(3/2), and a diffusion has none. {remedy}"
        )
    return third, fourth


def _who(oracle: Oracle) -> str:
    return f"that of {type(oracle).__name__}"
