r"""The batch-size rule for a torch optimizer: hyper-parameters and state rewritten in place, also in mid-run."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.optim import SGD, Adagrad, Adam, AdamW, Optimizer, RMSprop

from sdeadapt.checks import check_positive

__all__ = ["rescale_", "rule_of", "scheduled"]


@dataclass(frozen=True)
class Rule:
    """What a batch `kappa` times as large does: each quantity is multiplied by kappa to the power given here.

    Args:
        time_power: r = multiplier ** time_power steps of SVAG take the place of one.
        group: hyper-parameters of the parameter groups.
        state: per-parameter state.
        averages: hyper-parameters beta (or tuples of them) of which 1 − beta is multiplied by kappa.
    """

    time_power: int
    group: Mapping[str, float] = field(default_factory=dict)
    state: Mapping[str, float] = field(default_factory=dict)
    averages: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


# torch's `momentum` (SGD, RMSprop) stays: its memory is a fixed number of steps, which the SDE does not see; dampening
# and Nesterov's form only change the factor of lr. The gradient averages `exp_avg` and `grad_avg` (RMSprop, centered)
# stay too: they estimate the gradient itself, whatever the batch.
_ADAM = Rule(
    time_power=2,
    group={"lr": 0.5, "eps": -0.5},
    state={"exp_avg_sq": -1, "max_exp_avg_sq": -1, "step": -1},
    averages={"betas": ("beta1", "beta2")},
)
_RULES: dict[type[Optimizer], Rule] = {
    SGD: Rule(time_power=1, group={"lr": 1}),
    RMSprop: Rule(
        time_power=2,
        group={"lr": 0.5, "eps": -0.5},
        state={"square_avg": -1, "step": -1},
        averages={"alpha": ("alpha",)},
    ),
    Adam: _ADAM,
    AdamW: _ADAM,
    Adagrad: Rule(
        time_power=2,
        group={"eps": -1, "lr_decay": 1, "initial_accumulator_value": -2},
        state={"sum": -2, "step": -1},
    ),
}
_LIKE_LR = ("initial_lr", "max_lr", "min_lr")  # what schedulers leave in the groups


def rule_of(optimizer: Optimizer) -> Rule:
    """Return the batch-size rule of a torch optimizer.

    Raises:
        ValueError: if its class has none.
    """
    if type(optimizer) not in _RULES:  # a subclass may update in another way
        known = ", ".join(cls.__name__ for cls in _RULES)
        raise ValueError(
            f"`optimizer` must be one of torch.optim's {known}, whose SDEs give a batch-size rule; got "
            f"{type(optimizer).__module__}.{type(optimizer).__qualname__}."
        )
    return _RULES[type(optimizer)]


def scheduled(optimizer: Optimizer) -> bool:
    """Return whether a learning-rate scheduler was built on the optimizer."""
    return hasattr(optimizer.step, "_wrapped_by_lr_sched")


def rescale_(optimizer: Optimizer, kappa: float) -> None:
    r"""Rewrite a torch optimizer for a batch `kappa` times as large, in place: the same SDE, `kappa` times its step.

    | optimizer | lr | 1 − beta | eps | decoupled weight decay | state |
    |---|---|---|---|---|---|
    | SGD | $\kappa$ | | | | as it is |
    | RMSprop, Adam, AdamW | $\sqrt\kappa$ | $\kappa$ | $1/\sqrt\kappa$ | $\sqrt\kappa$ | $v/\kappa$, step$/\kappa$ |
    | Adagrad | 1 (`lr_decay` $\kappa$) | | $1/\kappa$ | | sum$/\kappa^2$, step$/\kappa$ |

    Take steps$/\kappa$ steps afterwards. Coupled weight decay is part of the loss and stays, and so does `momentum`: at
    a fixed momentum the SDE is that of lr (1 − dampening) / (1 − momentum), with Nesterov's form or without. `kappa`
    and then 1 / `kappa` restores everything to rounding. After an error the optimizer is as it was.

    A scheduler keeps its own base learning rates and clock: build it after this call (`stretch` its schedule by
    1 / kappa if it steps with every batch). `initial_lr` in the groups is rewritten for it.

    Args:
        optimizer: torch.optim's SGD, RMSprop, Adam, AdamW or Adagrad, fresh or in mid-run.
        kappa: the new batch size over the old one, positive; below 1 for a smaller batch.

    Raises:
        ValueError: if the class has no rule, `kappa` is not positive, or an average has no memory left:
            kappa (1 − beta) >= 1.

    Example:
        >>> model = torch.nn.Linear(2, 1)
        >>> optimizer = torch.optim.AdamW(model.parameters(), lr=0.01, weight_decay=0.1)
        >>> rescale_(optimizer, 4)
        >>> group = optimizer.param_groups[0]
        >>> group["lr"], group["weight_decay"], [round(beta, 6) for beta in group["betas"]]
        (0.02, 0.2, [0.6, 0.996])

    Malladi et al. 2022 (arXiv 2205.10287), Definitions 5.2 and 5.3; for SGD Li, Malladi, Arora 2021 (arXiv 2102.12470).
    Weight decay and Adagrad follow from their SDEs in the same way.
    """
    check_positive("kappa", kappa)
    rule = rule_of(optimizer)
    changes = [_changes(optimizer, rule, group, kappa) for group in optimizer.param_groups]
    if kappa == 1:
        return
    if scheduled(optimizer):
        warnings.warn(
            "A learning-rate scheduler was built on this optimizer before `rescale_`; it keeps its base learning rates "
            "and its clock. Build a new one.",
            stacklevel=2,
        )
    with torch.no_grad():
        for group, values in zip(optimizer.param_groups, changes, strict=True):
            for name, value in values.items():
                group[name] = _write(group[name], value)
        for slots in optimizer.state.values():
            for name in rule.state.keys() & slots.keys():
                slots[name] = _multiply(slots[name], kappa ** rule.state[name])


def _changes(optimizer: Optimizer, rule: Rule, group: dict[str, Any], kappa: float) -> dict[str, Any]:
    """Return the new hyper-parameters of one group as plain numbers; nothing is written.

    Raises:
        ValueError: if an average has no rule, or a scheduler cycles the betas.
    """
    powers = dict(rule.group)
    powers |= dict.fromkeys(_LIKE_LR, powers.get("lr", 0))
    if group.get("decoupled_weight_decay", type(optimizer) is AdamW):  # per step it is lr * weight_decay
        powers["weight_decay"] = 0.5
    if "betas" in group and "max_momentum" in group:
        raise ValueError(
            "`optimizer` must keep its betas, which the rule rewrites; got one whose scheduler cycles them. Build the "
            "scheduler with cycle_momentum=False."
        )
    new: dict[str, Any] = {name: float(group[name]) * kappa**power for name, power in powers.items() if name in group}
    for name, labels in rule.averages.items():
        betas = group[name] if len(labels) > 1 else (group[name],)
        shorter = tuple(_average(label, float(beta), kappa) for label, beta in zip(labels, betas, strict=True))
        new[name] = shorter if len(labels) > 1 else shorter[0]
    return new


def _average(name: str, beta: float, kappa: float) -> float:
    """Return 1 − kappa (1 − beta).

    Raises:
        ValueError: if that is not positive.
    """
    if name == "beta1" and beta == 0:  # no average of gradients, at any batch size
        return 0.0
    if not 0 < beta < 1:
        raise ValueError(f"`{name}` must lie in (0, 1) for a batch-size rule; got {beta!r}.")
    weight = kappa * (1 - beta)
    if weight > 1 - 1e-12:
        raise ValueError(
            f"`kappa` must be below {kappa / weight:.6g} = 1 / (1 - {name}), or {name} would not stay positive; got "
            f"{kappa:g}. Choose {name} closer to 1, or a smaller `kappa`."
        )
    return 1 - weight


def _write(old: Any, new: Any) -> Any:
    """Return `new` in the form of `old`; a tensor is written in place, as a captured graph needs it."""
    if isinstance(old, Tensor):
        return old.fill_(new)
    if isinstance(old, tuple | list):
        return type(old)(_write(a, b) for a, b in zip(old, new, strict=True))
    return new


def _multiply(value: Any, factor: float) -> Any:
    """Return `value * factor`, in place where a tensor can hold it."""
    return value.mul_(factor) if isinstance(value, Tensor) and not _whole(value) else value * factor


def _whole(value: Tensor) -> bool:
    return not (value.is_floating_point() or value.is_complex())
