"""Minibatches of a finite data set: with replacement, each without replacement, or over reshuffled epochs."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace

import torch
from torch import Tensor

from sdeadapt.checks import check_choice, check_integer, check_positive
from sdeadapt.oracles.base import NotDeclared, Oracle, Stream
from sdeadapt.oracles.noise import MOST_NODES

__all__ = ["SAMPLINGS", "Minibatch", "Replacement", "Shuffle"]

SAMPLINGS = ("replacement", "batch", "epoch")


class Replacement(Stream):
    """Independent, uniform draws of (paths, batch_size) indices below `examples`."""

    def __init__(self, generator: torch.Generator, paths: int, examples: int, batch_size: int) -> None:
        self.generator, self.examples, self.shape = generator, examples, (paths, batch_size)

    def next(self, xi: Tensor | None = None) -> Tensor:
        """Return the indices of the next step; `xi` plays no part."""
        return torch.randint(self.examples, self.shape, generator=self.generator, device=self.generator.device)


class Shuffle(Stream):
    """Distinct indices, (paths, batch_size): one path deals its examples like cards, by Fisher and Yates's shuffle.

    Args:
        generator: where the indices live.
        paths, examples, batch_size: the shape of a draw, and the number of cards.
        epoch: deal on until fewer than a batch are left, which are dropped; otherwise every batch is dealt from all.
    """

    def __init__(self, generator: torch.Generator, paths: int, examples: int, batch_size: int, *, epoch: bool) -> None:
        self.generator, self.batch_size, self.epoch = generator, batch_size, epoch
        self.dealt = 0
        # (examples, paths): a card of all paths is one contiguous row. Any order of the deck is as good as another.
        self.deck = torch.arange(examples, device=generator.device)[:, None].repeat(1, paths)

    def next(self, xi: Tensor | None = None) -> Tensor:
        """Return the indices of the next step; `xi` plays no part."""
        examples, paths = self.deck.shape
        if not self.epoch or self.dealt + self.batch_size > examples:
            self.dealt = 0
        first, self.dealt = self.dealt, self.dealt + self.batch_size
        place = torch.arange(first, self.dealt, device=self.deck.device)[:, None]
        uniform = torch.rand(
            self.batch_size, paths, generator=self.generator, dtype=torch.float64, device=self.deck.device
        )
        picks = place + (uniform * (examples - place)).long()
        for row, pick in zip(range(first, self.dealt), picks, strict=True):
            card = self.deck.gather(0, pick[None])
            self.deck.scatter_(0, pick[None], self.deck[row : row + 1].clone())
            self.deck[row] = card[0]
        return self.deck[first : self.dealt].T.contiguous()


class Minibatch(Oracle):
    r"""An oracle whose gradient is the mean over a batch of B out of n examples; a draw is (paths, B) indices.

    $\Sigma$ is the covariance of one example's gradient in the data set (divisor n), and $\sigma^2 = 1/B$, times
    $(n - B)/(n - 1)$ where the examples of a batch are distinct.

    Attributes:
        examples: n.
        batch_size: B.
        sampling: "replacement" (independent draws), "batch" (each batch without replacement) or "epoch" (reshuffled
            epochs, the incomplete last batch dropped; its draws depend on each other, so `independent` is False).
    """

    examples: int
    batch_size: int
    sampling: str

    def _set_sampling(self, examples: int) -> None:
        """Set what follows from n, B and the kind of sampling.

        Raises:
            ValueError: if one of them is out of its range, or no noise is left.
        """
        check_choice("sampling", self.sampling, SAMPLINGS)
        size = check_integer("batch_size", self.batch_size)
        if examples < 2:
            raise ValueError(f"The data must hold at least 2 examples, or there is no noise; got {examples}.")
        variance = 1 / size
        if self.sampling != "replacement":
            if size >= examples:
                raise ValueError(
                    f"`batch_size` must be below the {examples} examples without replacement, or there is no noise; "
                    f'got {size}. Take a smaller batch, or sampling="replacement".'
                )
            variance *= (examples - size) / (examples - 1)
        for name, value in (
            ("examples", examples),
            ("batch_size", size),
            ("scale", math.sqrt(variance)),
            ("independent", self.sampling != "epoch"),
        ):
            object.__setattr__(self, name, value)

    def stream(self, generator: torch.Generator, paths: int) -> Stream:
        """Return the indices of one run."""
        if self.sampling == "replacement":
            return Replacement(generator, paths, self.examples, self.batch_size)
        return Shuffle(generator, paths, self.examples, self.batch_size, epoch=self.sampling == "epoch")

    def with_batch(self, batch_size: int) -> Minibatch:
        """Return the oracle at another batch size; without replacement this is not `rescaled`."""
        return replace(self, batch_size=batch_size)  # type: ignore[type-var]

    def rescaled(self, kappa: float) -> Minibatch:
        r"""Return the oracle at the batch size that divides the noise variance by `kappa`: same f, same Sigma.

        That is $\kappa B$ with replacement and $\kappa B n/(n + (\kappa - 1)B)$ without. The law of z changes with
        the batch: its skewness falls as $1/\sqrt B$.

        Raises:
            NotDeclared: if no whole number of examples does so.
        """
        check_positive("kappa", kappa)
        size = kappa * self.batch_size
        if self.sampling != "replacement":
            size *= self.examples / (self.examples + (kappa - 1) * self.batch_size)
        whole = round(size)
        if whole < 1 or abs(size - whole) > 1e-9 * size:
            raise NotDeclared(
                f"`rescaled` must lead to a whole number of examples; kappa = {kappa:g} asks for a batch of {size:g}. "
                'Amplify the noise with `Amplified` (refine="svag"), or choose `batch_size` and kappa to fit.'
            )
        return self.with_batch(whole)

    def rule(self, n: int) -> tuple[Tensor, Tensor]:
        """Return every batch with its probability, (batches, B) and (batches,): exact, whatever `n`.

        Raises:
            NotDeclared: if there are more than 100,000 batches.
        """
        repeats = self.sampling == "replacement"
        count = math.comb(self.examples + (self.batch_size - 1 if repeats else 0), self.batch_size)
        if count > MOST_NODES:
            raise NotDeclared(
                f"`rule` must have at most {MOST_NODES:,} nodes; {self.examples} examples have {count:.3g} batches of "
                f"{self.batch_size}. Take fewer examples or smaller batches."
            )
        choose = itertools.combinations_with_replacement if repeats else itertools.combinations
        batches = torch.tensor(list(choose(range(self.examples), self.batch_size)))
        # An unordered batch stands for B! / (multiplicities)! ordered ones; each index counts those like it so far.
        ranks = (batches[:, :, None] == batches[:, None, :]).tril().sum(-1).to(self.dtype)
        weights = 1 / ranks.prod(-1)
        return batches.to(self.device), (weights / weights.sum()).to(self.device)
