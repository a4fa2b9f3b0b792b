r"""The noise-to-signal ratio of a chain, $\sigma^2 E\,\mathrm{Tr}\,\Sigma / E|\nabla f|^2$: a rule needs it large."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from sdeadapt.simulation.paths import Level, run_paths
from sdeadapt.simulation.randomness import Purpose, SeedTree

__all__ = ["NoiseProbe", "noise_to_signal", "separate"]


def separate(norm: Tensor, squares: Tensor, n: int) -> tuple[Tensor, Tensor]:
    r"""Return unbiased estimates of $N = \sigma^2\,\mathrm{Tr}\,\Sigma$ and $G = |\nabla f|^2$ from n gradients g.

    $G = (n|\bar g|^2 - \overline{|g|^2})/(n-1)$ and $N = \overline{|g|^2} - G$. Li, Malladi, Arora 2021 (arXiv
    2102.12470), Section 5.

    Args:
        norm: $|\sum g|^2$, of any shape.
        squares: $\sum |g|^2$, of the same shape.
        n: independent gradients behind each, 2 or more.

    >>> [float(x) for x in separate(torch.tensor(4.0), torch.tensor(10.0), 2)]  # g = -1 and 3
    [8.0, -3.0]
    """
    signal = (norm - squares) / (n * (n - 1))
    return squares / n - signal, signal


def noise_to_signal(noise: np.ndarray, signal: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    r"""Return the ratio of the means of N and G over the runs, with its standard error by the delta method.

    Args:
        noise: N, (runs, times), of each run.
        signal: G, (runs, times).

    Returns:
        (ratio, standard error), each (times,); inf and NaN where the mean of G is not positive.

    Example:
        >>> rng = np.random.default_rng(0)
        >>> ratio, sem = noise_to_signal(rng.exponential(4.0, (10_000, 1)), rng.exponential(2.0, (10_000, 1)))
        >>> bool(abs(ratio[0] - 2.0) < 4 * sem[0]), round(float(sem[0]), 2)
        (True, 0.03)
    """
    n, g = noise.mean(0), signal.mean(0)
    positive = g > 0
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = np.where(positive, n / g, np.inf)
        sem = (noise - ratio * signal).std(0, ddof=1) / np.sqrt(len(noise)) / g
    return ratio, np.where(positive, sem, np.nan)


@dataclass(frozen=True, eq=False)
class NoiseProbe:
    r"""Unbiased N and G along chains whose oracle only samples, from `draws` fresh minibatch gradients at a point.

    See `separate`; the batch is the chain's own.

    Args:
        levels: one per chain.
        seeds: of all.
        paths: runs of its own per chain.
        draws: n, gradients at a point.
    """

    levels: tuple[Level, ...]
    seeds: SeedTree
    paths: int = 64
    draws: int = 16

    def __call__(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        """Return N and G of one chain, (paths, times) each; paths that ceased to be finite are left out."""
        level = self.levels[index]
        oracle = level.oracle
        generator = self.seeds.generator(Purpose.DIAGNOSTICS, index, 0, oracle.device)
        kept = run_paths(level, "chain", generator, self.paths, keep=self.paths).kept
        assert kept is not None
        theta = kept.flatten(0, 1)
        total, squares = torch.zeros_like(theta), theta.new_zeros(len(theta))
        with torch.no_grad():
            for _ in range(self.draws):  # a fresh stream each: over epochs its first draw is independent of the others
                g = oracle.sample(oracle.at(theta), oracle.stream(generator, len(theta)).next())
                total += g
                squares += g.square().sum(-1)
        both = (
            torch.stack(separate(total.square().sum(-1), squares, self.draws))
            .double()
            .reshape(2, *kept.shape[:2])
            .cpu()
            .numpy()
        )
        return both[0][np.isfinite(both).all((0, 2))], both[1][np.isfinite(both).all((0, 2))]
