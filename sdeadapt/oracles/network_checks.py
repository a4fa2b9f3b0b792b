"""What a network must be for its loss to be a mean over examples: no randomness, no memory, no mixing of examples."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm, _NormBase
from torch.nn.modules.dropout import _DropoutNd

__all__ = ["check_data", "check_losses", "check_module"]

_ROWS = 8  # examples to try the module on


def check_module(module: torch.nn.Module) -> None:
    """Raise unless the module, as far as its layers tell, is deterministic and treats examples separately.

    Raises:
        ValueError: naming the layer, and what to do.
    """
    for name, layer in module.named_modules():
        what = f"got {type(layer).__name__} at {name or 'the top'!r}"
        if isinstance(layer, _DropoutNd) and layer.training and layer.p > 0:
            raise ValueError(
                f"`module` must not draw random numbers of its own: f and Sigma would not be those of its minibatches; "
                f"{what} in training mode. Call module.eval() first, or set p = 0."
            )
        mixes = isinstance(layer, _BatchNorm) or (isinstance(layer, _NormBase) and layer.track_running_stats)
        if mixes and layer.training:
            raise ValueError(
                f"`module` must treat examples separately, without running statistics; {what} in training mode. Use "
                "GroupNorm or LayerNorm, or call module.eval() first, which freezes the statistics it has."
            )
    trainable = [p for p in module.parameters() if p.requires_grad]
    if not trainable:
        raise ValueError("`module` must have parameters with requires_grad=True; got none.")
    kinds = {(p.dtype, p.device) for p in trainable}
    if len(kinds) > 1 or trainable[0].dtype not in (torch.float32, torch.float64):
        found = ", ".join(sorted(f"{dtype} on {device}" for dtype, device in kinds))
        raise ValueError(f"`module` must have float32 or float64 parameters of one type on one device; got {found}.")


def check_data(data: tuple[Tensor, ...], like: Tensor) -> tuple[Tensor, ...]:
    """Return the data on the device of `like`, the floating-point ones in its type.

    Raises:
        ValueError: if they are not finite tensors of one length, inputs and targets.
    """
    if not isinstance(data, tuple | list) or not all(isinstance(x, Tensor) for x in data):
        raise ValueError(
            f"`data` must be a tuple of tensors (inputs, …, targets); got {type(data).__name__}. Use torch.as_tensor, "
            "or the `tensors` of a TensorDataset."
        )
    if len(data) < 2:
        raise ValueError(f"`data` must be tensors (inputs, …, targets); got {len(data)} of them.")
    lengths = [len(x) if x.dim() else 0 for x in data]
    if len(set(lengths)) != 1:
        raise ValueError(f"`data` must hold tensors of one length; got the lengths {lengths}.")
    for i, x in enumerate(data):
        if not x.isfinite().all():
            raise ValueError(
                f"`data` must be finite; got {int((~x.isfinite()).sum())} values that are not, in part {i}."
            )
    return tuple(x.to(like.device, like.dtype if x.is_floating_point() else x.dtype) for x in data)


def check_losses(
    module: torch.nn.Module,
    loss: Callable[[Any, Tensor], Tensor],
    data: tuple[Tensor, ...],
    losses: Callable[..., Tensor],
) -> int:
    """Try the module and the loss on a few examples; return the entries that one leaves for the backward pass.

    Args:
        module: a copy that may be run.
        loss: (outputs, targets) -> (n,).
        data: checked.
        losses: the same losses by `vmap` over two paths with the module's own parameters, (2, n).

    Raises:
        ValueError: if they draw random numbers, mix examples, change buffers, or have another shape.
    """
    rows = tuple(x[:_ROWS] for x in data)
    n = len(rows[0])
    before = {name: b.clone() for name, b in module.named_buffers()}
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        found, again = (loss(module(*rows[:-1]), rows[-1]) for _ in range(2))
        if not isinstance(found, Tensor) or tuple(found.shape) != (n,) or not found.is_floating_point():
            shape = tuple(found.shape) if isinstance(found, Tensor) else type(found).__name__
            raise ValueError(
                f"`loss` must return one real number per example, ({n},) for {n} of them; got {shape}. Use torch's "
                'losses with reduction="none", and sum what they leave beside the examples, .flatten(1).sum(1).'
            )
        if not found.isfinite().all():
            raise ValueError(f"`loss` must be finite at the module's own parameters; got {found.tolist()}.")
        if not torch.equal(found, again):
            raise ValueError(
                "`module` and `loss` must give the same losses twice; they draw random numbers. Call module.eval(), or "
                "take the random part out."
            )
    changed = [name for name, b in module.named_buffers() if not torch.equal(b, before[name])]
    if changed:
        raise ValueError(f"`module` must not change its buffers when it runs; it changes {changed[0]!r}. Use eval().")
    try:
        together = losses(*rows)
    except RuntimeError as error:
        raise ValueError(f"`module` and `loss` must run under torch.func.vmap; it says: {error}") from error
    alone = torch.cat([losses(*(x[i : i + 1] for x in rows)) for i in range(n)], 1)
    tolerance = 1e3 * torch.finfo(found.dtype).eps * float(1 + together.abs().max())
    worst = float((together - alone).abs().max())
    if worst > tolerance:
        raise ValueError(
            f"`module` and `loss` must treat examples separately; the loss of one differs by {worst:.2g} when others "
            "are beside it. Replace what normalises over the batch."
        )
    if not torch.allclose(together[0], found, rtol=0, atol=tolerance):
        raise ValueError(
            "`module` must take its parameters from itself: through torch.func.functional_call it gives other losses."
        )
    return _saved(module, loss, rows) // n


def _saved(module: torch.nn.Module, loss: Callable[[Any, Tensor], Tensor], rows: tuple[Tensor, ...]) -> int:
    """Return the entries that the forward pass of `rows` saves, parameters left out."""
    known = {p.untyped_storage().data_ptr() for p in module.parameters()}
    sizes: dict[int, int] = {}

    def pack(x: Tensor) -> Tensor:
        if x.untyped_storage().data_ptr() not in known:
            sizes[x.untyped_storage().data_ptr()] = x.numel()
        return x

    with torch.enable_grad(), torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
        loss(module(*rows[:-1]), rows[-1])
    return sum(sizes.values())
