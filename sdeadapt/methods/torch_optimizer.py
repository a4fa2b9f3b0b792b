r"""Any elementwise `torch.optim.Optimizer` as a method: one Parameter of shape (paths, dim) *is* the ensemble."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import Parameter
from torch.optim import Optimizer

from sdeadapt.checks import check_integer, check_positive
from sdeadapt.methods.base import Method
from sdeadapt.oracles.base import Local, NotDeclared

__all__ = ["TorchOptimizer", "TorchPoint", "TorchState", "from_torch"]

Make = Callable[[list[Parameter]], Optimizer]


class TorchState(NamedTuple):
    """Parameters theta (paths, dim), and what the optimizer keeps for them, by torch's names; empty at the start."""

    theta: Tensor
    slots: Mapping[str, Any] = {}


class TorchPoint(NamedTuple):
    """Parameters theta (paths, dim)."""

    theta: Tensor


@dataclass(frozen=True)
class TorchOptimizer(Method):
    """A `torch.optim.Optimizer` as a method; `from_torch` builds it and says what the fields are."""

    make: Make
    base_time_step: float
    rescaling: Callable[[float], Make] | None
    point: type
    state_to_point: Callable[[TorchState, float], Any]
    point_to_state: Callable[[Any, float], TorchState]
    start: Callable[[Local], Any] | None
    time_power: int
    bias_correction: bool = False
    kappa: float = 1.0
    name: str = field(init=False)
    settings: Mapping[str, Any] = field(init=False, compare=False)
    lr: float = field(init=False)

    State = TorchState

    def __post_init__(self) -> None:
        optimizer = self._optimizer(Parameter(torch.zeros(1, 1)))
        settings = {k: v for k, v in optimizer.param_groups[0].items() if k != "params"}
        object.__setattr__(self, "name", type(optimizer).__name__)
        object.__setattr__(self, "settings", settings)
        object.__setattr__(self, "lr", float(settings.get("lr", "nan")))

    @property
    def Point(self) -> type:  # type: ignore[override]
        """The NamedTuple of the SDE coordinates."""
        return self.point

    @property
    def time_step(self) -> float:
        """The time step h, as declared, times kappa."""
        return self.base_time_step * self.kappa

    def refinement(self, multiplier: int) -> int:
        """Return r = multiplier ** time_power."""
        return check_integer("multiplier", multiplier) ** self.time_power

    def rescaled(self, kappa: float) -> TorchOptimizer:
        """Return the optimizer for a batch `kappa` times as large.

        Raises:
            NotDeclared: if `from_torch` was not told how to rescale it.
        """
        check_positive("kappa", kappa)
        if self.rescaling is None and kappa != 1:
            raise NotDeclared(f"{self.name} does not declare `rescaled`; pass it to `from_torch`: kappa -> make.")
        return replace(self, kappa=self.kappa * kappa)

    def _optimizer(self, parameter: Parameter) -> Optimizer:
        make = self.make if self.rescaling is None or self.kappa == 1 else self.rescaling(self.kappa)
        return make([parameter])

    def init(self, theta: Tensor) -> TorchState:
        """Return the start at theta, (paths, dim); the optimizer fills its slots in the first iteration."""
        return TorchState(theta)

    def step(self, state: TorchState, g: Tensor, k: int) -> TorchState:
        """Return the state after iteration k with the noisy gradient g, (paths, dim).

        A fresh optimizer works on copies, so that `state` stays as it is; its counter is k. Building it is cheap.
        """
        parameter = Parameter(state.theta.clone(memory_format=torch.contiguous_format))
        parameter.grad = g.clone(memory_format=torch.contiguous_format)
        optimizer = self._optimizer(parameter)
        if state.slots:
            slots = {name: v.clone() if isinstance(v, Tensor) else copy.copy(v) for name, v in state.slots.items()}
            counter = slots.get("step", torch.zeros(()))
            slots["step"] = torch.full_like(counter, k) if isinstance(counter, Tensor) else k
            optimizer.state[parameter] = slots
        optimizer.step()
        return TorchState(parameter.detach(), dict(optimizer.state[parameter]))

    def to_point(self, state: TorchState, scale: float) -> Any:
        """Return the state in SDE coordinates; by default theta alone. A fresh state shows its slots at rest."""
        if self.point is not TorchPoint and not state.slots:  # what a zero gradient at zero leaves in them
            zero = torch.zeros_like(state.theta)
            state = TorchState(state.theta, self.step(TorchState(zero), zero, 0).slots)
        return self.state_to_point(state, scale)

    def from_point(self, point: Any, scale: float) -> TorchState:
        """Return the raw state; by default that of a fresh optimizer."""
        return self.point_to_state(point, scale)

    def initial(self, local: Local) -> Any:
        """Return the default start in SDE coordinates.

        Raises:
            NotDeclared: if the coordinates are the user's own and `initial` was not passed.
        """
        if self.start is not None:
            return self.start(local)
        if self.point is not TorchPoint:
            raise NotDeclared(f"{self.name} does not declare `initial`; pass it to `from_torch`: local -> Point.")
        return TorchPoint(local.theta)


def _theta_alone(state: TorchState, scale: float) -> TorchPoint:
    return TorchPoint(state.theta)


def _fresh(point: TorchPoint, scale: float) -> TorchState:
    return TorchState(point.theta)


def from_torch(
    make: Make,
    *,
    time_step: float,
    rescaled: Callable[[float], Make] | None = None,
    point: type = TorchPoint,
    to_point: Callable[[TorchState, float], Any] | None = None,
    from_point: Callable[[Any, float], TorchState] | None = None,
    initial: Callable[[Local], Any] | None = None,
    time_power: int = 2,
    bias_correction: bool = False,
) -> TorchOptimizer:
    r"""Return an elementwise torch optimizer as a method, equal to torch path by path.

    One Parameter of shape (paths, dim) is the ensemble. That is right only if every component of theta is updated from
    the same component of the gradient; a few iterations on made-up gradients check it. Optimizers that look at whole
    tensors (Muon, Adafactor, LARS), need a closure (LBFGS), draw random numbers or remember anything elsewhere than in
    `optimizer.state[parameter]` are refused.

    Args:
        make: [parameter] -> optimizer.
        time_step: SDE time that one iteration advances, positive: lr for SGD, lr² for adaptive methods.
        rescaled: kappa -> make of the optimizer for a batch `kappa` times as large; `rescaled(1)` is `make`. Without it
            the method has no batch-size rule and no finer levels.
        point: the NamedTuple of the SDE coordinates, `theta` first.
        to_point: (state, scale) -> point; by default theta alone.
        from_point: (point, scale) -> state, the inverse of `to_point`; by default a fresh optimizer at theta. Slots are
            named as torch names them; "step" is filled in.
        initial: local -> point, the default start; by default theta alone.
        time_power: the power of lr that the time step grows with: 1 for SGD, 2 for adaptive methods.
        bias_correction: the SDE is singular at t = 0, and is compared from a later time on.

    Returns:
        A method without an SDE of its own; pass one as `sde=`.

    Raises:
        ValueError: if the optimizer is not elementwise, or an argument is out of range or missing.

    Example:
        >>> method = from_torch(lambda p: torch.optim.Adagrad(p, lr=0.5), time_step=0.25)
        >>> state = method.step(method.init(torch.ones(1, 2)), torch.tensor([[2.0, -3.0]]), k=0)
        >>> state.theta, state.slots["sum"]
        (tensor([[0.5000, 1.5000]]), tensor([[4., 9.]]))
    """
    check_positive("time_step", time_step)
    check_integer("time_power", time_power)
    if len({point is TorchPoint, to_point is None, from_point is None}) > 1:
        raise ValueError("`point`, `to_point` and `from_point` must be given all or none; got some of them.")
    method = TorchOptimizer(
        make=make,
        base_time_step=time_step,
        rescaling=rescaled,
        point=point,
        state_to_point=to_point or _theta_alone,
        point_to_state=from_point or _fresh,
        start=initial,
        time_power=time_power,
        bias_correction=bias_correction,
    )
    _probe(method)
    if rescaled is not None:
        own = replace(method, make=rescaled(1.0))
        if (own.name, own.settings) != (method.name, method.settings):
            raise ValueError(
                f"`rescaled(1)` must be that of `make`, {dict(method.settings)}; got {dict(own.settings)}."
            )
    return method


def _probe(method: TorchOptimizer) -> None:
    """Run three iterations of three paths, whole and with one component of the gradient changed.

    Raises:
        ValueError: if other components move with it, or an optimizer kept all along moves differently.
    """
    theta = torch.linspace(-1.0, 1.0, 12, dtype=torch.float64).reshape(3, 4)
    gradients = torch.cos(7.0 * torch.arange(36, dtype=torch.float64)).reshape(3, 3, 4)
    changed = gradients.clone()
    changed[:, 0, 0] *= -3
    try:
        kept = Parameter(theta.clone())
        optimizer = method._optimizer(kept)
        for g in gradients:
            kept.grad = g.clone()
            optimizer.step()
        whole, other = method.init(theta), method.init(theta)
        for k in range(3):
            whole, other = method.step(whole, gradients[k], k), method.step(other, changed[k], k)
    except Exception as error:
        raise ValueError(
            f"The optimizer must step with dense gradients and without a closure; {method.name} raised: {error}"
        ) from error
    if not torch.equal(whole.theta, kept.detach()):
        raise ValueError(
            f"The optimizer must keep its memory in `optimizer.state[parameter]` and draw no random numbers; "
            f"{method.name} rebuilt from it moves differently. Write it as a Method of its own."
        )
    same = whole.theta == other.theta
    same[0, 0] = True
    if not bool(same.all()):
        raise ValueError(
            f"The optimizer must be elementwise, so that paths stay independent; {method.name} moves other components "
            "when one component of the gradient changes. Write it as a Method of its own."
        )
