r"""The SVAG operator: noise amplified by mixing two draws, which also makes it less skewed."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from sdeadapt.checks import check_integer
from sdeadapt.oracles.base import Draw, Local, NotDeclared, Oracle, Stream
from sdeadapt.oracles.noise import MOST_NODES, standard_normal
from sdeadapt.oracles.wrapped import Wrapped

__all__ = ["Amplified", "svag_weights"]


def svag_weights(refinement: int) -> tuple[float, float]:
    r"""Return $r_{1, 2} = (1 \pm \sqrt{2r - 1}) / 2$, the larger first."""
    root = math.sqrt(2 * refinement - 1)
    return (1 + root) / 2, (1 - root) / 2


@dataclass(frozen=True, eq=False)
class Amplified(Wrapped):
    r"""The oracle whose noise has `refinement` times the variance: $g = r_1 g_1 + r_2 g_2$ from two draws of `oracle`.

    $$r_{1, 2} = \tfrac12(1 \pm \sqrt{2r - 1}),\quad r_1 + r_2 = 1,\quad r_1^2 + r_2^2 = r.$$

    Same f and Sigma, scale $\sqrt r\,\sigma$. The skewness falls to $\mu_3(3r - 1)/(2r^{3/2})$, the excess kurtosis
    to half of itself. One formula for both papers: r = l for SGD (Li, Malladi, Arora 2021, Algorithm 1), r = l^2 for
    the adaptive methods (Malladi et al. 2022, Section 6). At r = 1 it is `oracle` itself, bit for bit, with one draw.

    Args:
        oracle: the oracle to amplify, with independent draws.
        refinement: r >= 1, the steps that replace one base step.

    Raises:
        ValueError: if `refinement` is not a whole number >= 1, or if draws of `oracle` depend on each other.

    >>> from sdeadapt.oracles.analytic import Quadratic
    >>> noisier = Amplified(Quadratic(1.0, 1.0, scale=0.5), 5)
    >>> noisier.weights
    (2.0, -1.0)
    >>> stream = noisier.stream(torch.Generator().manual_seed(0), paths=40_000)
    >>> g = noisier.sample(noisier.at(torch.ones(1, 1, dtype=torch.float64)), stream.next())
    >>> round(float(g.mean()), 1), round(float(g.var()), 1)
    (1.0, 1.2)
    """

    oracle: Oracle
    refinement: int

    def __post_init__(self) -> None:
        object.__setattr__(self, "refinement", check_integer("refinement", self.refinement))
        if not self.oracle.independent:
            raise ValueError(
                "`oracle` must have independent draws: over reshuffled epochs mixing two batches changes the long-run "
                f"variance; got {type(self.oracle).__name__} with independent=False. Sample with replacement."
            )
        object.__setattr__(self, "scale", math.sqrt(self.refinement) * self.oracle.scale)
        self._inherit()

    @property
    def weights(self) -> tuple[float, float]:
        """(r1, r2), the larger first."""
        return svag_weights(self.refinement)

    def at(self, theta: Tensor) -> Local:
        """Return the base oracle's view: f and Sigma are the same."""
        return self.oracle.at(theta)

    def stream(self, generator: torch.Generator, paths: int) -> Stream:
        """Return the randomness of one run: pairs of the base oracle's draws; single draws at r = 1."""
        base = self.oracle.stream(generator, paths)
        return base if self.refinement == 1 else _Pairs(self, base, generator)

    def sample(self, local: Local, draw: Draw) -> Tensor:
        """Return r1 g1 + r2 g2, (paths, dim)."""
        if self.refinement == 1:
            return self.oracle.sample(local, draw)
        return self._mix(*(self.oracle.sample(local, d) for d in draw))

    def _mix(self, first: Tensor, second: Tensor) -> Tensor:
        # first + r2 (second - first): what the two have in common is kept to the last bit, however large r is.
        return torch.lerp(first, second, self.weights[1])

    def sample_derivative(self, local: Local, draw: Draw, direction: Tensor) -> Tensor:
        """Return r1 and r2 times the base oracle's derivatives, added."""
        if self.refinement == 1:
            return self.oracle.sample_derivative(local, draw, direction)
        return self._mix(*(self.oracle.sample_derivative(local, d, direction) for d in draw))

    def rule(self, n: int) -> tuple[Draw, Tensor]:
        """Return the product of the base oracle's rule with itself; at r = 1 the rule itself.

        Raises:
            NotDeclared: if it had more than 100,000 nodes.
        """
        draws, weights = self.oracle.rule(n)
        if self.refinement == 1:
            return draws, weights
        if len(weights) ** 2 > MOST_NODES:
            raise NotDeclared(
                f"`rule` must have at most {MOST_NODES:,} nodes; got {len(weights)} for each of two draws. Lower `n`."
            )
        index = torch.cartesian_prod(*[torch.arange(len(weights), device=weights.device)] * 2).T
        return tuple(_pick(draws, i) for i in index), weights[index].prod(0)

    def hessian(self, theta: Tensor) -> Tensor:
        """Return the base oracle's Hessian."""
        return self.oracle.hessian(theta)

    def noise_moments(self) -> tuple[float, float]:
        """Return those of (r1 z1 + r2 z2) / √r."""
        third, fourth = self.oracle.noise_moments()
        shares = [w / math.sqrt(self.refinement) for w in self.weights]
        return third * sum(s**3 for s in shares), 3 + (fourth - 3) * sum(s**4 for s in shares)

    @property
    def bytes_per_path(self) -> int:
        """Twice the base oracle's."""
        return 2 * self.oracle.bytes_per_path

    def describe(self) -> dict[str, Any]:
        """Return plain data that names it and its base oracle."""
        return {"class": "Amplified", "oracle": self.oracle.describe(), "refinement": self.refinement}


class _Pairs(Stream):
    """Two draws per step; given xi, of a rotation of it and of an own normal, so that r1 xi1 + r2 xi2 = √r xi."""

    def __init__(self, amplified: Amplified, base: Stream, generator: torch.Generator) -> None:
        self.base, self.generator, self.heavy = base, generator, amplified.heavy
        self.cosine, self.sine = (w / math.sqrt(amplified.refinement) for w in amplified.weights)

    def next(self, xi: Tensor | None = None) -> Draw:
        """Return the two draws, of the larger and of the smaller weight."""
        if xi is None:
            return self.base.next(), self.base.next()
        across = standard_normal(self.generator, tuple(xi.shape), xi.dtype, self.heavy)
        first = self.cosine * xi - self.sine * across
        return self.base.next(first), self.base.next(self.sine * xi + self.cosine * across)


def _pick(draws: Draw, index: Tensor) -> Draw:
    """Return the rows `index` of a draw."""
    return draws[index] if isinstance(draws, Tensor) else tuple(_pick(d, index) for d in draws)
