r"""Stationary laws near a quadratic minimum, in closed form: where the noise of an optimizer comes to rest.

The SDEs meant are linear there. With $y = P^{1/2}\theta$ all of them share one symmetric form, so that one formula
serves: neither H and Sigma nor H and P need commute.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor

from sdeadapt.checks import check_positive
from sdeadapt.methods.adam import Adam
from sdeadapt.methods.adamw import AdamW, RMSpropW
from sdeadapt.methods.base import Method
from sdeadapt.methods.rmsprop import RMSprop
from sdeadapt.methods.sgd import SGD, SGDPoint
from sdeadapt.methods.sign_sgd import SignSGD
from sdeadapt.oracles.base import NotDeclared, Oracle
from sdeadapt.simulation.observables import Named, evaluate

__all__ = ["Stationary", "stationary"]

_QUADRATIC = ("theta_", "projection_", "loss", "gradient_norm_squared")
_METHODS = (SGD, RMSprop, RMSpropW, Adam, AdamW, SignSGD)


@dataclass(frozen=True, eq=False)
class Stationary:
    r"""The mean and covariance of theta in the stationary law of an SDE, and the mean loss.

    Args:
        mean: (dim,); the minimiser, but for decoupled decay.
        covariance: (dim, dim).
        loss: $E f(\theta)$.
        oracle: whose loss it is, in float64 on the CPU.
    """

    mean: Tensor
    covariance: Tensor
    loss: float
    oracle: Oracle = field(repr=False)

    def expectation(self, name: str) -> float:
        r"""Return $E\varphi(\theta)$ of a named test function that is a polynomial of degree 2 in theta.

        Args:
            name: `theta_0`, `theta_0_squared`, `projection_0_squared`, `theta_norm_squared`, `loss` or
                `gradient_norm_squared`, with any index.

        Raises:
            ValueError: if there is no such test function.
            NotDeclared: if it is not such a polynomial.
        """
        return float(self._at_nodes([name]).mean(0))

    def scale(self, name: str) -> float:
        r"""Return the size that an error of $E\varphi$ is measured by: $|E\varphi|$, of `theta_0` at least its SD.

        Raises:
            ValueError: if there is no such test function.
            NotDeclared: if it is not a polynomial of degree 2.
        """
        values = self._at_nodes([name])
        return max(abs(float(values.mean())), float(values.std(correction=0)))

    def _at_nodes(self, names: Iterable[str]) -> Tensor:
        """Return test functions at 2 dim points of equal weight, a cubature that is exact up to degree 3.

        Raises:
            NotDeclared: if one is not a polynomial of degree 2 in theta.
        """
        functions = {name: Named(name) for name in names}
        if other := [name for name in functions if not name.startswith(_QUADRATIC)]:
            raise NotDeclared(
                f"A stationary mean is declared for {', '.join(_QUADRATIC)}… (of degree 2 in theta); got {other[0]!r}."
            )
        values, vectors = torch.linalg.eigh(self.covariance)
        arms = (vectors * (values.clamp_min(0) * len(values)).sqrt()).T
        return evaluate(functions, SGDPoint(self.mean + torch.cat([arms, -arms])), self.oracle)


class _Linear(NamedTuple):
    r"""$d\theta = -(P^{-1}\nabla f + \lambda_0\theta)\,dt + dN$ with $\mathrm{Cov}\,dN = D\,dt$; gradients averaged."""

    p: Tensor  # (dim,), the diagonal of P
    noise: Tensor  # D, (dim, dim)
    decay: float = 0.0
    rate: float = math.inf  # of that average, c_1


def stationary(method: Method, oracle: Oracle) -> Stationary:
    r"""Return the stationary law of a method's SDE on a quadratic loss with constant covariance.

    With $K = P^{-1/2} H P^{-1/2} = Q\,\mathrm{diag}(\kappa)\,Q^T$, $\Gamma = Q^T P^{1/2} D P^{1/2} Q$ and
    $\mathrm{Cov}\,\theta = P^{-1/2} Q A Q^T P^{-1/2}$,
    $$A_{ij} = \frac{r\,\Gamma_{ij}}
      {\kappa_i + \kappa_j + 2\lambda_0 + r^2(\kappa_i - \kappa_j)^2/(2c_1)},\quad r = \frac{c_1}{c_1 + \lambda_0}.$$

    * SGD: $P = 1$, $D = \eta\sigma^2\Sigma$, loss $\tfrac14\eta\sigma^2\,\mathrm{Tr}\,\Sigma$.
    * RMSprop, Adam, RMSpropW, AdamW: $P = \sigma_0 s + \epsilon_0$, $D = \sigma_0^2 P^{-1}\Sigma P^{-1}$, loss without
      decay $\tfrac14\sigma_0^2\,\mathrm{Tr}\,\Sigma P^{-1}$; where all is diagonal
      $\mathrm{Cov}_{ii} = \tfrac{r}{2}\sigma_0^2 s^2/P(h + \lambda_0 P)$.
    * SignSGD: $P = \sqrt{\pi/2}\,\sigma_0 s$, $D = \tfrac2\pi\arcsin\mathrm{corr}$, loss
      $\tfrac14\sqrt{\pi/2}\,\sigma_0\,\mathrm{Tr}\,s$.

    Here s is the root of diag Sigma, $\sigma_0 = \sigma\eta$, $\epsilon_0 = \epsilon\eta$, $\lambda_0$ the `decay_rate`
    of RMSpropW and AdamW, and $c_1 = (1-\beta_1)/h$ of Adam (infinite, r = 1, for the others). Without decay the loss
    depends on no beta, and the covariance on beta1 only where K and Gamma do not commute. With decay
    $\mathrm{Tr}(H\,\mathrm{Cov}\,\theta)/2$ is at most $\mathrm{Tr}(HD)/4\lambda_0$, for diagonal Sigma
    $\mathrm{Tr}(H)/4\lambda_0$, whatever the noise.

    SignSGD with scaling="fixed-noise" is linear only where the gradient is small beside the noise (phase 3): there,
    for diagonal H and Sigma, $\mathrm{Cov}_{ii} = \eta/(2a + \eta a^2)$ with $a = \sqrt{2/\pi}\,h/\sigma s$. To first
    order in lr the SDE itself, with erf, departs from $\eta/2a$ by only .215 of what $\eta a^2$ does here.

    Args:
        method: SGD, RMSprop, RMSpropW, Adam, AdamW or SignSGD, without a schedule.
        oracle: a quadratic loss and constant covariance, scale positive.

    Returns:
        Mean, covariance and loss, of the SDE. The iteration's differ by O(h).

    Raises:
        ValueError: if the oracle's scale is 0.
        NotDeclared: if no closed form is known, or there is no stationary law; the message says why.

    Example:
        >>> from sdeadapt.oracles.analytic import Quadratic
        >>> oracle = Quadratic([1.0, 2.0], [1.0, 4.0], scale=10.0)
        >>> adam, sign = stationary(Adam(lr=0.1, eps=0.0), oracle), stationary(SignSGD(lr=0.1), oracle)
        >>> round(adam.loss, 6), round(sign.loss / adam.loss, 6)
        (0.75, 1.253314)

    Compagnoni et al. 2024 (arXiv 2411.15958), Section 3, in our units of time and without their commuting matrices.
    """
    oracle = _check(method, oracle)
    zero = torch.zeros(1, oracle.dim, dtype=oracle.dtype)
    here, hessian = oracle.at(zero), oracle.hessian(zero)
    sigma = oracle.mean_covariance(zero[0], torch.zeros_like(hessian))
    if isinstance(method, SignSGD) and method.scaling == "fixed-noise":
        mean, covariance = torch.linalg.solve(hessian, -here.gradient[0]), _phase_three(method, oracle, hessian, sigma)
    else:
        form = _linear(method, oracle, sigma)
        pull = hessian + form.decay * torch.diag(form.p)
        covariance = _covariance(form, hessian)
        mean = torch.linalg.solve(pull, -here.gradient[0])
    loss = float(oracle.at(mean[None]).loss + (hessian * covariance).sum() / 2)
    return Stationary(mean, covariance, loss, oracle)


def _check(method: Method, oracle: Oracle) -> Oracle:
    """Return the oracle in float64 on the CPU if a closed form may be known.

    Raises:
        NotDeclared: if none is.
    """
    if type(method) not in _METHODS:
        names = ", ".join(known.__name__ for known in _METHODS)
        raise NotDeclared(f"A stationary law is declared for {names}; got {type(method).__name__}.")
    if method.schedule is not None:
        raise NotDeclared(f"{type(method).__name__} with a schedule has no stationary law; pass schedule=None.")
    if method.scaling == "ballistic":
        raise NotDeclared(
            f"{type(method).__name__} with scaling='ballistic' has an ODE for its limit, which comes to rest in the "
            "minimum; use scaling='batch-equivalent'."
        )
    if not (oracle.linear and oracle.additive):
        raise NotDeclared(
            "A stationary law is declared for a quadratic loss with constant covariance; "
            f"{type(oracle).__name__} declares linear={oracle.linear}, additive={oracle.additive}. "
            "Pass the `Quadratic` of its Hessian and covariance at the minimum."
        )
    check_positive("scale", oracle.scale)
    method.sde(oracle)  # knows for which laws of the noise there is one
    return oracle.to("cpu", torch.float64)


def _linear(method: Any, oracle: Oracle, sigma: Tensor) -> _Linear:
    """Return the SDE's form.

    Raises:
        NotDeclared: if P is singular.
    """
    s = sigma.diagonal().sqrt()
    if isinstance(method, SGD):
        return _Linear(torch.ones_like(s), method.lr * oracle.scale**2 * sigma)
    if isinstance(method, SignSGD):
        correlation = (sigma / torch.outer(s, s)).clamp(-1, 1)
        return _Linear(math.sqrt(math.pi / 2) * oracle.scale * method.lr * s, 2 / math.pi * correlation.asin())
    sigma0, eps0 = method.fixed(oracle.scale)
    p = sigma0 * s + eps0
    if not bool((p > 0).all()):
        raise NotDeclared("A component without noise has u = 0, and no stationary law without eps; pass eps > 0.")
    rate = method.one_minus_beta1 / method.time_step if isinstance(method, Adam) else math.inf
    return _Linear(p, sigma0**2 * sigma / torch.outer(p, p), getattr(method, "decay_rate", 0.0), rate)


def _covariance(form: _Linear, hessian: Tensor) -> Tensor:
    """Return Cov theta.

    Raises:
        NotDeclared: if the SDE is not stable.
    """
    root = form.p.sqrt()
    kappa, q = torch.linalg.eigh(hessian / torch.outer(root, root))
    if float(kappa[0]) + form.decay <= 1e-12 * float(kappa.abs().max()):
        raise NotDeclared(
            f"There is a stationary law where P^-1 H + decay is positive; got the eigenvalue "
            f"{float(kappa[0]) + form.decay:.3g}. Drop the flat directions, or add a weight decay."
        )
    gamma = q.T @ (form.noise * torch.outer(root, root)) @ q
    r = 1 / (1 + form.decay / form.rate)
    sums, gaps = kappa[:, None] + kappa, kappa[:, None] - kappa
    a = r * gamma / (sums + 2 * form.decay + (r * gaps).square() / (2 * form.rate))
    return (q @ a @ q.T) / torch.outer(root, root)


def _phase_three(method: SignSGD, oracle: Oracle, hessian: Tensor, sigma: Tensor) -> Tensor:
    r"""Return Cov theta for noise of fixed size, where $\mathrm{erf}$ is linear.

    Raises:
        NotDeclared: if H or Sigma is not diagonal, H not positive, or the noise not Gaussian.
    """
    h, s = hessian.diagonal(), sigma.diagonal().sqrt()
    diagonal = torch.equal(hessian, torch.diag(h)) and torch.equal(sigma, torch.diag(s.square()))
    if not (diagonal and oracle.gaussian and bool((h > 0).all())):
        raise NotDeclared(
            "SignSGD with scaling='fixed-noise' has a closed form for diagonal H > 0, diagonal Sigma and Gaussian "
            "noise; use scaling='batch-equivalent', of which it is the limit for small lr."
        )
    a = math.sqrt(2 / math.pi) * h / (oracle.scale * s)
    return torch.diag(method.lr / (2 * a + method.lr * a.square()))
