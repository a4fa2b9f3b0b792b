r"""SVAG as a torch optimizer: two batches a step, mixed so that the noise grows as the step shrinks."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from sdeadapt.checks import check_integer
from sdeadapt.oracles.amplified import svag_weights
from sdeadapt.training.rescale import rescale_, rule_of, scheduled

__all__ = ["SVAG"]

_CHECKS = 30  # further batches looked at before equal gradients are called one batch


class SVAG(Optimizer):
    r"""A torch optimizer with stochastic variance amplified gradient: $g = r_1 g_1 + r_2 g_2$ from two batches a step.

    $$r_{1,2} = \tfrac12(1 \pm \sqrt{2r - 1}),\quad r_1 + r_2 = 1,\quad r_1^2 + r_2^2 = r,$$
    with r = multiplier for SGD and multiplier² for the adaptive methods. The optimizer is rewritten by
    `rescale_(optimizer, 1 / r)`: r steps take the place of one (lr / multiplier, (1 − beta) / r, eps · multiplier,
    decoupled weight decay / multiplier; Adagrad: eps · r). As the multiplier grows the run approaches the SDE; where
    the results stay the same, the SDE describes the original run. At multiplier 1 it is `optimizer`, bit for bit.

    Build schedulers after wrapping, on the wrapper or on `optimizer`, for `refinement` times as many steps (`stretch`).
    `optimizer` belongs to the wrapper from then on: its groups and state are the wrapper's. Batch-normalisation
    statistics see two batches a step.

    Args:
        optimizer: torch.optim's SGD, RMSprop, Adam, AdamW or Adagrad, fresh or in mid-run.
        multiplier: l >= 1.

    Attributes:
        refinement: r, the steps that replace one step of `optimizer`.

    Raises:
        ValueError: if the class has no rule, `multiplier` is not a whole number >= 1, or a scheduler was built before.

    Example:
        >>> generator, weight = torch.Generator().manual_seed(0), torch.nn.Parameter(torch.ones(3))
        >>> optimizer = SVAG(torch.optim.Adam([weight], lr=0.1), multiplier=2)
        >>> optimizer.refinement, optimizer.param_groups[0]["lr"]
        (4, 0.05)
        >>> def closure():
        ...     batch = torch.randn(8, 3, generator=generator)  # a fresh one with every call
        ...     loss = (weight - batch).square().mean()
        ...     loss.backward()
        ...     return loss
        >>> first = optimizer.step(closure)
        >>> bool((weight - 1).abs().max() < 0.051)
        True

    Malladi et al. 2022 (arXiv 2205.10287), Section 6; Li, Malladi, Arora 2021 (arXiv 2102.12470), Algorithm 1.
    """

    def __init__(self, optimizer: Optimizer, multiplier: int) -> None:
        multiplier = check_integer("multiplier", multiplier)
        refinement = multiplier ** rule_of(optimizer).time_power
        if multiplier > 1 and scheduled(optimizer):
            raise ValueError(
                "`optimizer` must have no learning-rate scheduler yet: it would write the undivided rate back; got one "
                "with a scheduler. Build the scheduler after `SVAG(optimizer, multiplier)`."
            )
        rescale_(optimizer, 1 / refinement)
        # groups and state are those of `optimizer`, hence no Optimizer.__init__, which would make its own
        self.__setstate__(
            {
                "defaults": optimizer.defaults,
                "optimizer": optimizer,
                "multiplier": multiplier,
                "refinement": refinement,
            }
        )

    optimizer: Optimizer
    multiplier: int
    refinement: int

    @property
    def param_groups(self) -> list[dict[str, Any]]:  # type: ignore[override]
        """The groups of the optimizer, as rewritten."""
        return self.optimizer.param_groups

    @property
    def state(self) -> defaultdict[Tensor, Any]:  # type: ignore[override]
        """The state of the optimizer."""
        return self.optimizer.state

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Refuse: a group added now would not be rewritten.

        Raises:
            ValueError: always.
        """
        raise ValueError("Parameter groups must be added before `SVAG(optimizer, multiplier)`; got one after.")

    def __getstate__(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in ("defaults", "optimizer", "multiplier", "refinement")}

    def state_dict(self) -> dict[str, Any]:
        """Return the optimizer's `state_dict`, as rewritten, and the multiplier."""
        return self.optimizer.state_dict() | {"multiplier": self.multiplier}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load what `state_dict` returned.

        Raises:
            ValueError: if it comes from another multiplier or from a bare optimizer.
        """
        if state_dict.get("multiplier") != self.multiplier:
            raise ValueError(
                f"`state_dict` must come from SVAG with multiplier {self.multiplier}; got "
                f"{state_dict.get('multiplier', 'that of a bare optimizer: load it before wrapping')}."
            )
        self.optimizer.load_state_dict(state_dict)

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Reset the gradients."""
        self.optimizer.zero_grad(set_to_none)

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Take one step, from two calls of `closure` (one at multiplier 1).

        Args:
            closure: draws a fresh batch, computes the loss, calls `backward` and returns the loss. Gradients are reset
                before each call.

        Returns:
            The mean of the two losses.

        Raises:
            ValueError: if `closure` is missing or returns no loss, gradients are not finite, or both batches are the
                same. The parameters are then as they were.
        """
        if closure is None:
            raise ValueError(
                "`closure` must draw a fresh batch, call backward and return the loss, as SVAG needs two batches a "
                "step; got None."
            )
        loss, gradients = self._gradients(closure)
        if self.multiplier > 1:
            other, seconds = self._gradients(closure)
            if _equal(gradients, seconds):  # may happen by chance in a small data set
                self._refuse_one_batch(closure, gradients)
            second_weight = svag_weights(self.refinement)[1]
            gradients = [_mix(a, b, second_weight) for a, b in zip(gradients, seconds, strict=True)]
            loss = (loss + other) / 2
        for parameter, gradient in zip(self._parameters(), gradients, strict=True):
            parameter.grad = gradient
        self.optimizer.step()
        return loss

    def _parameters(self) -> list[Tensor]:
        return [parameter for group in self.param_groups for parameter in group["params"]]

    def _gradients(self, closure: Callable[[], Any]) -> tuple[Any, list[Tensor | None]]:
        """Return the loss and the gradients of one batch, which `closure` leaves in fresh tensors.

        Raises:
            ValueError: if there is no loss, or a gradient is sparse or not finite.
        """
        self.zero_grad()
        with torch.enable_grad():
            loss = closure()
        if loss is None:
            raise ValueError("`closure` must return its loss; got None.")
        gradients = [parameter.grad for parameter in self._parameters()]
        for i, gradient in enumerate(gradients):
            if gradient is not None and gradient.is_sparse:
                raise ValueError(f"Gradients must be dense; got a sparse one for parameter {i}.")
            if gradient is not None and not bool(gradient.isfinite().all()):
                raise ValueError(
                    f"Gradients must be finite; got nan or inf in that of parameter {i}, of shape "
                    f"{tuple(gradient.shape)}. Lower `lr`, or `multiplier`."
                )
        return loss, gradients

    def _refuse_one_batch(self, closure: Callable[[], Any], gradients: list[Tensor | None]) -> None:
        """Look at further batches, which are not used.

        Raises:
            ValueError: if all have the same gradients.
        """
        if all(_equal(gradients, self._gradients(closure)[1]) for _ in range(_CHECKS)):
            raise ValueError(
                f"`closure` must draw a fresh batch with every call; got the same gradients {_CHECKS + 2} times. Draw "
                "the batch inside the closure. Without noise there is nothing to amplify: use the optimizer alone."
            )


def _equal(first: list[Tensor | None], second: list[Tensor | None]) -> bool:
    """Return whether two lists of gradients are the same, and not all zero."""
    pairs = [(a, b) for a, b in zip(first, second, strict=True) if a is not None or b is not None]
    same = all(a is not None and b is not None and torch.equal(a, b) for a, b in pairs)
    return same and any(bool(a.any()) for a, _ in pairs if a is not None)


def _mix(first: Tensor | None, second: Tensor | None, weight: float) -> Tensor | None:
    """Return first + weight (second − first) in the memory of one of them; None is zero."""
    if first is None:
        return None if second is None else second.mul_(weight)
    return first.mul_(1 - weight) if second is None else first.lerp_(second, weight)
