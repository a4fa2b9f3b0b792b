r"""Moments of one iteration of a chain, and of its SDE over the same time, without random numbers.

The chain's come from the oracle's quadrature rule. The SDE's come from Euler trees with 1, 2, … n branchings: in weak
expansions a symmetric law of the right covariance serves as well as a normal one, and the extrapolated tree is exact
up to $h^n$. It evaluates `sde.at` and nothing else, so that any SDE is taken as it is.
"""

from __future__ import annotations

import math
from itertools import combinations_with_replacement
from typing import Any

import torch
from torch import Tensor

from sdeadapt.methods.base import ItoSDE, Method
from sdeadapt.oracles.base import Draw, Oracle

__all__ = ["Moments", "chain_moments", "check_tree", "monomials", "sde_moments"]

Moments = dict[tuple[int, ...], float]  # (i, j, …) -> E D_i D_j …
MOST_LEAVES = 2_000_000  # of the largest tree


def monomials(coordinates: int, highest: int) -> list[tuple[int, ...]]:
    """Return every (i, j, …), i <= j <= …, with 1 to `highest` entries below `coordinates`, short ones first."""
    return [m for n in range(1, highest + 1) for m in combinations_with_replacement(range(coordinates), n)]


def chain_moments(
    method: Method, oracle: Oracle, x: Any, k: int, rule: tuple[Draw, Tensor], columns: list[int], highest: int
) -> Moments:
    """Return E D_i D_j … of the increments D in iteration k from the Point `x` of one row.

    Args:
        method: whose iteration.
        oracle: gives the noisy gradient.
        x: the Point, (1, dim) each.
        k: the iteration.
        rule: draws of the oracle and their weights (nodes,).
        columns: the coordinates looked at; coordinates run over fields, then components.
        highest: the largest number of factors.
    """
    draws, weights = rule
    wide = type(x)(*(field.expand(len(weights), -1).contiguous() for field in x))
    state = method.from_point(wide, oracle.scale)
    old = method.to_point(state, oracle.scale)  # `x` up to rounding
    new = method.to_point(method.step(state, oracle.sample(oracle.at(x.theta), draws), k), oracle.scale)
    return _moments((_flat(new, x.theta) - _flat(old, x.theta))[:, columns], weights, highest)


def sde_moments(sde: ItoSDE, t: float, x: Any, h: float, columns: list[int], highest: int, exact: int) -> Moments:
    r"""Return E D_i D_j … of the increments D of the SDE over [t, t + h] from the Point `x` of one row.

    The operator of n Euler steps is $(1 + \tfrac hn L + O(h^2/n^2))^n$, whose coefficient of $h^j$ is a polynomial of
    degree j − 1 in 1/n. So n = 1 … `exact`, extrapolated to 1/n = 0, leave no error in $h, \dots, h^{\text{exact}}$.

    Args:
        sde: the equation.
        t: SDE time.
        x: the Point, (1, dim) each.
        h: the time that passes.
        columns: the coordinates looked at.
        highest: the largest number of factors.
        exact: the power of h up to which the moments are exact.
    """
    found: Moments = {}
    for n in range(1, exact + 1):
        share = (-1) ** (exact - n) * n**exact / (math.factorial(n) * math.factorial(exact - n))
        leaves = _tree(sde, t, x, h / n, n)[:, columns]
        weights = leaves.new_full((len(leaves),), 1 / len(leaves))
        for index, value in _moments(leaves, weights, highest).items():
            found[index] = found.get(index, 0.0) + share * value
    return found


def check_tree(noise_dim: int, branchings: int) -> None:
    """Check that a tree is not too large.

    Raises:
        ValueError: if it is.
    """
    if (leaves := (2 * noise_dim) ** branchings) > MOST_LEAVES:
        raise ValueError(
            f"The SDE must have few Brownian columns for one-step moments; got {noise_dim}, a tree of {leaves:.3g} "
            f"leaves where {MOST_LEAVES:,} are allowed. Use a problem of smaller dimension or with fewer examples."
        )


def _tree(sde: ItoSDE, t: float, x: Any, dt: float, steps: int) -> Tensor:
    """Return D after `steps` Euler steps, (leaves, coordinates): an increment is one of ±sqrt(m dt) e_k, k < m."""
    start = torch.cat(list(x), 1)
    d = torch.zeros_like(start)
    for i in range(steps):
        here = type(x)(*(start + d).split(x.theta.shape[1], 1))
        drift, diffuse = sde.at(t + i * dt, here)
        d = d + dt * _flat(drift, here.theta)
        branches = []
        for column in range(sde.noise_dim):
            dw = d.new_zeros(len(d), sde.noise_dim)
            dw[:, column] = math.sqrt(sde.noise_dim * dt)
            kick = _flat(diffuse(dw), here.theta)
            branches += [d + kick, d - kick]
        d = torch.cat(branches) if branches else d
    return d


def _flat(point: Any, like: Tensor) -> Tensor:
    """Return the fields side by side, (rows, coordinates); one that is None is zero."""
    return torch.cat([torch.zeros_like(like) if field is None else field for field in point], 1)


def _moments(d: Tensor, weights: Tensor, highest: int) -> Moments:
    """Return the weighted mean of every product of up to `highest` columns of d, (rows, coordinates)."""
    found: Moments = {}

    def extend(index: tuple[int, ...], product: Tensor) -> None:
        for j, value in enumerate((product @ d).tolist()):
            if not index or j >= index[-1]:
                found[*index, j] = value
                if len(index) + 1 < highest:
                    extend((*index, j), product * d[:, j])

    extend((), weights)
    return found
