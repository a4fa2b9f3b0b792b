r"""The mean step of Adam where theta stands still: the vector field that it follows as lr falls and beta1, beta2 stay.

$\theta' = -F(\theta)$ in the time lr · k, with $F(\theta) = E\,[m_\infty / (\sqrt{v_\infty} + \epsilon)]$, where
$m_\infty$ and $v_\infty$ are the averages of independent gradients at theta. It comes to rest where F is 0: at the
minimum for symmetric noise, in general at another point. No SDE is meant: there beta tends to 1 with lr.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sdeadapt.checks import check_integer, check_open_unit
from sdeadapt.methods.adam import Adam, AdamState
from sdeadapt.methods.averages import averages, with_averages
from sdeadapt.methods.base import Method
from sdeadapt.methods.rmsprop import RMSprop
from sdeadapt.oracles.base import NotDeclared, Oracle
from sdeadapt.oracles.noise import standard_normal
from sdeadapt.simulation.randomness import Purpose, SeedTree
from sdeadapt.simulation.run import Run, run_chunks
from sdeadapt.statistics.estimate import Estimate, Moments
from sdeadapt.statistics.intervals import critical_value

__all__ = ["Field", "adam_field", "largest_step"]


@dataclass(frozen=True, eq=False)
class Field:
    r"""F at one theta, with its two errors.

    Args:
        theta: (dim,), where.
        mean: (dim,), the estimate of F; positive where theta is to fall.
        sem: (dim,), its standard error.
        truncation: (dim,), bounds what the gradients before the run would add to |E F|; estimated in the same run.
        burn_in: iterations from m = v = 0 that were left out.
        n: independent samples, each an average over time (of an antithetic pair, where the oracle couples).
        gain: (dim,), the factor by which the variance fell because E m and E v are known; 1 where they are not.
    """

    theta: np.ndarray
    mean: np.ndarray
    sem: np.ndarray
    truncation: np.ndarray
    burn_in: int
    n: int
    gain: np.ndarray

    def estimate(self, i: int = 0) -> Estimate:
        """Return component `i` with its standard error."""
        return Estimate(float(self.mean[i]), float(self.sem[i]), self.n)

    def interval(self, confidence: float = 0.95) -> tuple[np.ndarray, np.ndarray]:
        """Return (low, high), each (dim,), which hold F at once; the truncation is in them."""
        reach = critical_value(confidence, len(self.mean)) * self.sem + self.truncation
        return self.mean - reach, self.mean + reach


def largest_step(beta1: float, beta2: float) -> float:
    r"""Return the supremum of $|m|/\sqrt v$ over all sequences of gradients, in units of lr the largest step of Adam.

    $\frac{1-\beta_1}{\sqrt{(1-\beta_2)(1-\beta_1^2/\beta_2)}}$ for $\beta_1^2 < \beta_2$, else infinity: by Cauchy and
    Schwarz, with equality for $g_{t-j} \propto (\beta_1/\beta_2)^j$. It is 1 for $\beta_1 = \beta_2$ alone.

    Args:
        beta1: of the average of gradients, in [0, 1).
        beta2: of the average of squared gradients, in (0, 1).

    Returns:
        The supremum, >= 1.

    Raises:
        ValueError: if a beta is out of range.

    Example:
        >>> round(largest_step(0.9, 0.999), 3), round(largest_step(0.0, 0.99), 3), largest_step(0.9, 0.8)
        (7.27, 10.0, inf)

    Derived here. Kingma, Ba 2015 (arXiv 1412.6980), Section 2.1, have $(1-\beta_1)/\sqrt{1-\beta_2}$ or 1.
    """
    if beta1:
        check_open_unit("beta1", beta1)
    check_open_unit("beta2", beta2)
    ratio = beta1**2 / beta2
    return math.inf if ratio >= 1 else (1 - beta1) / math.sqrt((1 - beta2) * (1 - ratio))


@dataclass(frozen=True, eq=False)
class _Job:
    """One chunk as a pure function of its index: moments of (F, m, v, 1/v, v^-3/2), each (dim,), of a sample."""

    method: Any  # Adam or RMSprop, of lr 1
    oracle: Oracle
    theta: Tensor
    burn_in: int
    steps: int
    seeds: SeedTree
    device: str
    samples: int
    size: int

    @torch.no_grad()
    def __call__(self, chunk: int) -> Moments:
        generator = self.seeds.generator(Purpose.ENSEMBLE, 5, chunk, self.device)
        n = min(self.size, self.samples - chunk * self.size)
        pairs = self.oracle.couples
        rows = 2 * n if pairs else n
        local, stream = self.oracle.at(self.theta[None]), self.oracle.stream(generator, rows)
        zero = torch.zeros(rows, self.oracle.dim, dtype=self.theta.dtype, device=self.device)
        state, inverse = self.method.init(zero), zero
        sums = torch.zeros(3, *zero.shape, dtype=zero.dtype, device=self.device)
        for k in range(self.burn_in + self.steps):
            xi = None
            if pairs:
                xi = standard_normal(generator, (n, self.oracle.noise_dim), zero.dtype, self.oracle.heavy)
                xi = torch.cat([xi, -xi])
            g = self.oracle.sample(local, stream.next(xi))
            if k == self.burn_in:
                inverse = state.v.reciprocal()
            state = self.method.step(state._replace(theta=zero), g, k)
            if k >= self.burn_in:
                sums[0] -= state.theta
                sums[1] += state.m if isinstance(state, AdamState) else g
                sums[2] += state.v
        columns = torch.cat([*(sums / self.steps), inverse, inverse**1.5], 1)
        return Moments.of((columns[:n] + columns[n:]) / 2 if pairs else columns)


def adam_field(
    method: Method,
    oracle: Oracle,
    theta: Any,
    *,
    steps: int = 256,
    samples: int = 1024,
    tolerance: float = 1e-6,
    rng: int | np.random.SeedSequence = 0,
    run: Run = Run(),  # noqa: B008 (frozen)
) -> Field:
    r"""Return $F(\theta) = E\,[m_\infty / (\sqrt{v_\infty} + \epsilon)]$ by Monte Carlo, with theta held.

    With $m_\infty = (1-\beta_1)\sum_j \beta_1^j g_j$ and $v_\infty = (1-\beta_2)\sum_j \beta_2^j g_j^2$ over
    independent gradients at theta. The method's own `step` is run from m = v = 0, without bias correction, until
    $\beta^k \le$ `tolerance` for both; then its steps are averaged over time. What the gradients before the run would
    add to F, n steps later, is at most

    $$C\left(\tfrac12 \beta_2^n\,E g^2\,E v_n^{-1} + \beta_1^n \sqrt{E g^2\,E v_n^{-1}}\right),\qquad
      C = \sup |m|/\sqrt v,$$

    which needs $\beta_1 < \sqrt{\beta_2}$; with the old v in the denominator C is $\beta_1 C$, and the newest gradient
    adds $\tfrac12(1-\beta_1)\beta_2^n (E g^2)^{3/2} E v_n^{-3/2}$. The same seed draws the same noise at every theta.

    Where the oracle declares gradient and covariance, E m and E v are known, and m and v are control variates.

    Args:
        method: Adam or RMSprop; its lr, schedule and bias correction do not matter.
        oracle: what gives the gradients; it needs to sample, no more.
        theta: (dim,).
        steps: iterations that are averaged over, after those left out.
        samples: independent runs, >= 8; pairs of them, with opposite noise, where the oracle couples.
        tolerance: of beta^k, in (0, 1).
        rng: a whole number or a SeedSequence; nothing global is read.
        run: where and how.

    Returns:
        The estimate with its standard error and the bound on its truncation.

    Raises:
        ValueError: if an argument is wrong, draws depend on each other, or every gradient of a run is 0.

    Example:
        >>> from sdeadapt.oracles.analytic import Quadratic
        >>> method = RMSprop(lr=0.1, beta=0.9, eps=0.0)
        >>> even, skewed = (Quadratic(1.0, 1.0, 1.0, noise) for noise in ("gaussian", "exponential"))
        >>> adam_field(method, even, [0.0]).estimate()  # an antithetic pair cancels
        0 ± 0
        >>> -0.2 < adam_field(method, skewed, [0.0]).estimate().mean < -0.05  # it would move on, to theta > 0
        True

    Dereich, Jentzen 2024 (arXiv 2407.21078); Dereich, Jentzen, Kassing 2025 (arXiv 2511.04622).
    """
    if type(method) is not Adam and type(method) is not RMSprop:
        raise ValueError(f"`method` must be an Adam or an RMSprop; got {type(method).__name__}.")
    if not oracle.independent:
        raise ValueError("`oracle` must draw independently; got one that does not. Use sampling='replacement'.")
    check_integer("steps", steps)
    check_integer("samples", samples, minimum=8)
    weights = averages(method)
    beta1, beta2 = (method.beta1, method.beta2) if isinstance(method, Adam) else (0.0, method.beta)
    reach = largest_step(beta1, beta2)
    if not math.isfinite(reach):
        raise ValueError(
            f"`beta1` must be below the root of `beta2`, or a step has no bound; got {beta1:g} and {beta2:g}. "
            "Lower beta1."
        )
    oracle = oracle.to(run.device, run.torch_dtype)
    point = torch.as_tensor(theta, dtype=run.torch_dtype, device=run.device)
    if point.shape != (oracle.dim,) or not point.isfinite().all():
        raise ValueError(f"`theta` must be finite, of shape ({oracle.dim},); got {theta!r}.")
    forget = math.log1p(-min(weights.values()))  # the logarithm of the beta next to 1
    burn_in = math.ceil(math.log(check_open_unit("tolerance", tolerance)) / forget)
    plain = {"bias_correction": False} if isinstance(method, Adam) else {}
    still = with_averages(method, weights, 1.0, lr=1.0, schedule=None, **plain)
    size = min(run.chunk_size(2 * oracle.bytes_per_path + 64 * oracle.dim), samples)
    job = _Job(still, oracle, point, burn_in, steps, SeedTree.of(rng), run.device, samples, size)
    moments, *rest = run_chunks(job, math.ceil(samples / size), run)
    for part in rest:
        moments = moments.merge(part)
    if not np.isfinite(moments.mean).all():
        raise ValueError("`oracle` must give a finite gradient other than 0 in every run, or F is 0/0; it did not.")
    mean, average, square, inverse, steep = moments.mean.reshape(5, -1)
    k = burn_in + 1 + np.arange(steps)
    sums = 1 - np.array([np.mean(beta1**k), np.mean(beta2**k)])  # of the weights in m and v
    square = square / sums[1]
    late = 0.5 * beta2**burn_in * square
    truncation = reach * (late * inverse + beta1**burn_in * np.sqrt(square * inverse))
    if method.denominator == "old":
        truncation = beta1 * truncation + (1 - beta1) * late * np.sqrt(square) * steep
    covariance = np.einsum("idjd->dij", moments.covariance.reshape(5, oracle.dim, 5, oracle.dim))
    left = variance = covariance[:, 0, 0]
    if (known := _known_means(oracle, point)) is not None:
        slopes = np.einsum("dij,dj->di", np.linalg.pinv(covariance[:, 1:3, 1:3], hermitian=True), covariance[:, 0, 1:3])
        mean = mean - (slopes * (np.stack([average, square * sums[1]], 1) - known * sums)).sum(1)
        explained = (slopes * covariance[:, 0, 1:3]).sum(1)
        left = np.maximum(variance - explained, 0.0) * (moments.n - 1) / (moments.n - 3)
    return Field(
        theta=point.double().cpu().numpy(), mean=mean, sem=np.sqrt(left / moments.n), truncation=truncation,
        burn_in=burn_in, n=moments.n, gain=np.divide(variance, left, out=np.ones_like(left), where=left > 0),
    )  # fmt: skip


def _known_means(oracle: Oracle, theta: Tensor) -> np.ndarray | None:
    """Return E g and E g² at theta, (dim, 2), or None where the oracle does not declare them."""
    local = oracle.at(theta[None])
    try:
        gradient = local.gradient
        square = gradient.square() + oracle.scale**2 * local.covariance_diagonal
    except NotDeclared:
        return None
    return torch.cat([gradient, square]).T.double().cpu().numpy()
