r"""Balles and Hennig's dissection of Adam, in formulas: sign and magnitude, variance adaptation, one step's worth.

For one component with gradient p and noise of standard deviation s, everything depends on the relative standard
deviation $\eta = s/|p|$ (not a learning rate here): how often a sign is right, and how far a step should be shrunk.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from sdeadapt.checks import check_positive
from sdeadapt.methods.sign_sgd import sign_covariance
from sdeadapt.oracles.noise import Noise
from sdeadapt.oracles.noise import noise as noise_law

__all__ = [
    "Improvement",
    "adam_factor",
    "diagonal_share",
    "gradient_factor",
    "gradient_improvement",
    "idealised_svag_limit",
    "relative_variance",
    "sign_factor",
    "sign_improvement",
    "sign_success",
]

_FAR = 38.0  # beyond so many standard deviations the sign of a Gaussian is certain in float64


def relative_variance(m: Tensor, v: Tensor) -> Tensor:
    r"""Return $\hat\eta^2 = (v - m^2)/m^2$, with which $m/\sqrt v = \mathrm{sign}(m)\,(1 + \hat\eta^2)^{-1/2}$.

    So a step of Adam (at $\epsilon = 0$) is the sign of its average gradient times a magnitude of variance adaptation.
    Where m and v share one $\beta$ and start at 0, without bias correction, $v_k - m_k^2$ is $\beta$ times the average
    of $(m_{k-1} - g_k)^2$, and not negative.

    Args:
        m: average of gradients, corrected or not as `v` is.
        v: average of squared gradients, of the same shape.

    Returns:
        Of that shape; inf or not a number where m is 0.

    >>> m, v = torch.tensor([-2.0]), torch.tensor([5.0])
    >>> relative_variance(m, v), m / v.sqrt(), m.sign() * adam_factor(relative_variance(m, v).sqrt())
    (tensor([0.2500]), tensor([-0.8944]), tensor([-0.8944]))

    Balles, Hennig 2018 (arXiv 1705.07774), Section 1.
    """
    square = m.square()
    return (v - square) / square


def gradient_factor(eta: Tensor) -> Tensor:
    r"""Return $(1 + \eta^2)^{-1}$, the $\gamma$ that minimises $E(\gamma\hat p - p)^2$ for any law of mean p.

    >>> gradient_factor(torch.tensor([0.5, 1.5]))  # Figure 4: a gradient (2, 1) with deviations (1, 1.5)
    tensor([0.8000, 0.3077])

    Balles, Hennig 2018 (arXiv 1705.07774), Lemma 1.
    """
    return 1 / (1 + eta.square())


def adam_factor(eta: Tensor) -> Tensor:
    r"""Return $(1 + \eta^2)^{-1/2}$, the magnitude that Adam gives a sign.

    It is within .0645 of `sign_factor` for Gaussian noise: too large by that at $\eta = 1.913$, too small by .0619 at
    .455.

    >>> eta = torch.tensor([0.455, 1.913])
    >>> adam_factor(eta) - sign_factor(eta)
    tensor([-0.0618,  0.0644])

    Balles, Hennig 2018 (arXiv 1705.07774), Section 3 and Figure 3.
    """
    return gradient_factor(eta).sqrt()


def sign_success(eta: Tensor, noise: str | Noise = "gaussian") -> Tensor:
    r"""Return $\rho = P[\mathrm{sign}\,\hat p = \mathrm{sign}\,p] = 1 - F(-1/\eta)$ for $\hat p = p + s z$, $p > 0$.

    For $p < 0$ it is the value of the reflected law: no different if z is symmetric. Gaussian:
    $\tfrac12 + \tfrac12\mathrm{erf}(1/\sqrt2\eta)$.

    Args:
        eta: relative standard deviation, not negative, of any shape.
        noise: the law of z, or its name.

    Raises:
        NotDeclared: if the law has no continuous distribution function F.

    >>> sign_success(torch.tensor([0.5, 1.0, 10.0]))
    tensor([0.9772, 0.8413, 0.5398])

    Balles, Hennig 2018 (arXiv 1705.07774), Lemma 1.
    """
    return 1 - noise_law(noise).cdf(-1 / eta)


def sign_factor(eta: Tensor, noise: str | Noise = "gaussian") -> Tensor:
    r"""Return $2\rho - 1$, the $\gamma$ that minimises $E(\gamma\,\mathrm{sign}\,\hat p - \mathrm{sign}\,p)^2$.

    It is the mean of $\mathrm{sign}\,\hat p\,\mathrm{sign}\,p$. Gaussian: $\mathrm{erf}(1/\sqrt2\eta)$.

    Args:
        eta: relative standard deviation, not negative, of any shape.
        noise: the law of z, or its name; see `sign_success`.

    Raises:
        NotDeclared: if the law has no continuous distribution function.

    >>> sign_factor(torch.tensor([1.0])), torch.erf(torch.tensor([0.5]).sqrt())
    (tensor([0.6827]), tensor([0.6827]))

    Balles, Hennig 2018 (arXiv 1705.07774), Lemma 1.
    """
    return 2 * sign_success(eta, noise) - 1


class Improvement(NamedTuple):
    """The step length that is best in expectation, and what it gains: each (paths,).

    Args:
        step: the length alpha of a step against the direction.
        decrease: the expected decrease of the loss.
    """

    step: Tensor
    decrease: Tensor


def gradient_improvement(gradient: Tensor, hessian: Tensor, covariance: Tensor) -> Improvement:
    r"""Return the best step along a noisy gradient on a quadratic, and $I_{SGD} = E[f(\theta) - f(\theta - \alpha g)]$.

    $$\alpha = \frac{|\nabla f|^2}{\nabla f^T H\nabla f + \mathrm{Tr}\,H\Sigma},\qquad
      I_{SGD} = \frac{|\nabla f|^4}{2(\nabla f^T H\nabla f + \mathrm{Tr}\,H\Sigma)}.$$
    For the noise of $\tfrac12(\theta - x)^T H(\theta - x)$ with $x \sim N(\theta^*, \nu^2)$, $\Sigma = \nu^2 H^2$ and
    the trace is $\nu^2\sum\lambda_i^3$.

    Args:
        gradient: (paths, dim).
        hessian: H, (dim, dim) or (paths, dim, dim), positive definite.
        covariance: of g, all of it, of the shape of `hessian`.

    >>> eye, g = torch.eye(2), torch.tensor([[3.0, 4.0]])
    >>> gradient_improvement(g, eye, 0 * eye).decrease, gradient_improvement(g, eye, eye).step
    (tensor([12.5000]), tensor([0.9259]))

    Balles, Hennig 2018 (arXiv 1705.07774), Section 3.
    """
    square = gradient.square().sum(-1)
    second = (gradient[:, None] @ hessian @ gradient[:, :, None])[:, 0, 0] + (hessian * covariance).sum((-2, -1))
    return Improvement(square / second, square.square() / (2 * second))


def sign_improvement(gradient: Tensor, hessian: Tensor, covariance: Tensor) -> Improvement:
    r"""Return the best step along the sign of a Gaussian gradient g on a quadratic, and $I_{SSD}$, what it gains.

    $$\alpha = \frac{\sum_i (2\rho_i - 1)|\nabla f_i|}{E[s^T H s]},\quad
      I_{SSD} = \frac{(\sum_i (2\rho_i - 1)|\nabla f_i|)^2}{2 E[s^T H s]},\quad s = \mathrm{sign}\,g.$$
    $E[s^T H s] = \mathrm{Tr}\,H$ for diagonal H; in general it is at most $\mathrm{Tr}\,H$ over `diagonal_share`.

    Args:
        gradient: (paths, dim).
        hessian: H, (dim, dim) or (paths, dim, dim), positive definite.
        covariance: of g, all of it, of the shape of `hessian`. At 0 the signs are certain.

    >>> g, h = torch.tensor([[1.0, -2.0]]), torch.tensor([[2.0, 1.0], [1.0, 2.0]])
    >>> sign_improvement(g, h, 0 * h)  # s = (1, -1), s'Hs = 2
    Improvement(step=tensor([1.5000]), decrease=tensor([2.2500]))

    Balles, Hennig 2018 (arXiv 1705.07774), Section 3.
    """
    s = covariance.diagonal(dim1=-2, dim2=-1).clamp_min(0).sqrt()
    ratio = (gradient / s).nan_to_num(0.0).clamp(-_FAR, _FAR)
    mean = torch.erf(ratio / math.sqrt(2))
    correlation = (covariance / (s[..., :, None] * s[..., None, :])).nan_to_num(0.0).clamp(-1, 1)
    angles = torch.asin(correlation - torch.diag_embed(correlation.diagonal(dim1=-2, dim2=-1)))
    if angles.any():
        spread = sign_covariance(ratio, angles.expand(len(gradient), -1, -1))
    else:  # independent signs, at a fraction of the cost
        spread = torch.diag_embed(1 - mean.square())
    second = spread + mean[:, :, None] * mean[:, None]
    slope, curvature = (mean * gradient).sum(-1), (hessian * second).sum((-2, -1))
    return Improvement(slope / curvature, slope.square() / (2 * curvature))


def diagonal_share(hessian: Tensor) -> Tensor:
    r"""Return $\sum_i |H_{ii}| / \sum_{ij} |H_{ij}|$, 1 for a diagonal H (..., dim, dim): how far H is axis-aligned.

    >>> diagonal_share(torch.tensor([[2.0, -1.0], [-1.0, 2.0]]))
    tensor(0.6667)

    Balles, Hennig 2018 (arXiv 1705.07774), Section 3.
    """
    return hessian.diagonal(dim1=-2, dim2=-1).abs().sum(-1) / hessian.abs().sum((-2, -1))


def idealised_svag_limit(curvature: Tensor, variance: Tensor, lr: float) -> Tensor:
    r"""Return $\lim_k k\,E f(\theta_k)$ of idealised SVAG on a quadratic, by component (dim,).

    The iteration $\theta \leftarrow \theta - \eta\gamma g$ knows its factors, $\gamma = p^2/(p^2 + s^2)$ with the true
    gradient $p = \lambda\theta$ and variance $s^2$ of g, and has a constant $\eta$. With $a = \eta\lambda$,
    $k p^2$ converges in law to $s^2/(a^2\chi^2_n)$ with $n = 3 + 2/a$ degrees of freedom, so that
    $$k\,E\,\tfrac12\lambda\theta^2 \to \frac{s^2}{2\lambda a(2 + a)}.$$
    Near 0, $s^2/(a^2 p^2)$ is a squared Bessel process of dimension n.

    Args:
        curvature: $\lambda$, positive, (dim,).
        variance: $s^2$ of the gradient, (dim,).
        lr: $\eta$, at most 1 over the largest curvature.

    Raises:
        ValueError: if lr is not positive, or too large.

    >>> idealised_svag_limit(torch.tensor([1.0]), torch.tensor([1.0]), lr=1.0)
    tensor([0.1667])

    Theorem 1 of Balles, Hennig 2018 (arXiv 1705.07774) says O(1/k); the constant and the law are derived here.
    """
    if check_positive("lr", lr) * float(curvature.max()) > 1 + 1e-6:  # 1 / L, rounded, is allowed
        raise ValueError(f"`lr` must be at most 1 / the largest curvature, {1 / float(curvature.max()):.6g}; got {lr}.")
    a = lr * curvature
    return variance / (2 * curvature * a * (2 + a))
