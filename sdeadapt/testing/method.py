"""Does a method keep its contracts: types, purity, paths apart, inverse maps, the clock and the batch-size rule?"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import Parameter
from torch.optim import Optimizer

from sdeadapt.checks import check_integer
from sdeadapt.methods.base import ItoSDE, Method
from sdeadapt.oracles.analytic import Quadratic, Rippled
from sdeadapt.oracles.base import NotDeclared, Oracle
from sdeadapt.simulation.randomness import Purpose, SeedTree
from sdeadapt.testing.comparison import Comparison

__all__ = ["MethodMismatch", "MethodReport", "check_method"]

_PATHS, _DIM, _BURN = 5, 2, 8  # methods are looked at after eight iterations: no average is empty then
_SCALE = 3.0  # sigma of the maps between State and Point
_KAPPAS = (1 / 4, 1 / 9)  # below 1: every beta allows them
_ROUNDING = 1e-11  # relative, of what is the same but for rounding
_SAME = 1e-6  # an SDE that moves less with the batch size counts as one that does not


class MethodMismatch(AssertionError):
    """A method breaks its contracts; the message names every one that it breaks."""


@dataclass(frozen=True)
class MethodReport:
    """What `check_method` compared and found in order.

    Attributes:
        comparisons: one per contract.
        skipped: what the method does not declare, and why.
    """

    comparisons: tuple[Comparison, ...]
    skipped: tuple[str, ...]


def check_method(
    method: Method,
    *,
    torch: Callable[[list[Parameter]], Optimizer] | None = None,
    steps: int = 1000,
    rng: int = 0,
) -> MethodReport:
    r"""Compare what a method does with what every method promises.

    Types and shapes of `State` and `Point`, in float32 and float64; purity (inputs as they were, the same result twice,
    no global random numbers); paths that do not see each other; `from_point` as the inverse of `to_point`; `time`,
    `refinement` and `rescaled` on one clock; the declarations `linear` and `elementwise`. Where it has an SDE: its
    coordinates and its purity, and the batch-size rule, on quadratics whose Hessian and covariance do not commute and
    on a `Rippled` problem: `method.rescaled(kappa).sde(oracle.rescaled(kappa))` has the coefficients of
    `method.sde(oracle)` if `scaling` is "batch-equivalent", and has others if it is not.

    Args:
        method: the method, with its hyper-parameters. An eps far from 0 lets a wrong rule for it be seen.
        torch: [parameter] -> the torch optimizer that it equals path by path.
        steps: iterations side by side with torch.
        rng: seed.

    Returns:
        What was compared.

    Raises:
        MethodMismatch: naming each contract that is broken, and how.
        ValueError: if an argument is out of its range.

    Example:
        >>> from sdeadapt.methods import Adam
        >>> report = check_method(Adam(0.1), torch=lambda p: torch.optim.Adam(p, lr=0.1), steps=20)
        >>> report.comparisons[-1].name, report.skipped
        ('torch', ())
    """
    check_integer("steps", steps)
    look = _Look(method, rng)
    look.contracts()
    if not look.failed:  # the rest calls what these have looked at
        look.clock()
        look.declarations()
        look.equations()
        if torch is not None:
            look.compare_torch(torch, steps)
    if look.failed:
        lines = "\n  ".join(f"{c.name}: {c.worst}." for c in look.failed)
        raise MethodMismatch(f"{type(method).__name__} must keep the contracts of a method; it breaks:\n  {lines}")
    return MethodReport(tuple(look.found), tuple(look.skipped))


def _leaves(state: Any, prefix: str = "") -> dict[str, Tensor]:
    """Return every tensor (paths, dim) of a State or Point by name, also those in a mapping of torch's slots."""
    found: dict[str, Tensor] = {}
    for name, value in (state._asdict() if hasattr(state, "_asdict") else state).items():
        if isinstance(value, Mapping) or hasattr(value, "_asdict"):
            found |= _leaves(value, f"{prefix}{name}.")
        elif isinstance(value, Tensor) and value.dim() == 2:
            found[prefix + name] = value
    return found


def _mapped(state: Any, change: Callable[[Tensor], Tensor]) -> Any:
    """Return a State with `change` applied to every tensor (paths, dim) in it."""
    if isinstance(state, Tensor):
        return change(state) if state.dim() == 2 else state
    if isinstance(state, Mapping):
        return {name: _mapped(value, change) for name, value in state.items()}
    return type(state)(*(_mapped(value, change) for value in state)) if hasattr(state, "_asdict") else state


def _gap(got: Mapping[str, Tensor], want: Mapping[str, Tensor]) -> tuple[float, str]:
    """Return the largest difference, relative to the largest number of its field, and the field."""
    worst, where = 0.0, "no field"
    for name, y in want.items():
        x = got[name]
        size = float(torch.maximum(x.abs().max(), y.abs().max())) or 1.0
        gap = float((x - y).abs().max()) / size
        if not gap <= worst:  # NaN is the worst
            worst, where = gap, name
    return worst, where


def _global_random_state() -> str:
    return repr((torch.get_rng_state().tolist(), np.random.get_state()))  # noqa: NPY002


def _coefficients(sde: ItoSDE, t: float, x: Any) -> dict[str, Tensor]:
    """Return drift (paths, dim) and diffusion columns (paths * noise_dim, dim), by field; None is zero."""
    n, zero = sde.noise_dim, torch.zeros_like(x.theta)
    drift, _ = sde.at(t, x)
    _, diffuse = sde.at(t, type(x)(*(field.repeat_interleave(n, 0) for field in x)))
    moved = diffuse(torch.eye(n, dtype=x.theta.dtype).repeat(len(zero), 1))
    wide = zero.repeat_interleave(n, 0)
    parts = {f"drift of {name}": zero if a is None else a for name, a in zip(x._fields, drift, strict=True)}
    return parts | {f"noise of {name}": wide if b is None else b for name, b in zip(x._fields, moved, strict=True)}


class _Look:
    """One method, and what was compared so far."""

    def __init__(self, method: Method, rng: int) -> None:
        self.method = method
        self.generator = SeedTree.of(rng).generator(Purpose.DIAGNOSTICS, 0, 0, torch.device("cpu"))
        hessian, covariance = [[1.0, 0.4], [0.4, 2.0]], [[2.0, -0.7], [-0.7, 0.5]]
        self.oracles: tuple[Oracle, ...] = (
            Quadratic(hessian, covariance, scale=2.0),
            Rippled(scale=2.0, dim=_DIM),
            Quadratic(hessian, [2.0, 0.5], scale=2.0),  # some SDEs are known for a diagonal covariance only
        )
        self.found: list[Comparison] = []
        self.skipped: list[str] = []

    @property
    def failed(self) -> list[Comparison]:
        return [c for c in self.found if not c.passed]

    def _note(self, name: str, rule: str, deviation: float, limit: float = 0.0) -> None:
        self.found.append(Comparison(name, rule, float(deviation), limit, 1))

    def _same(self, name: str, rule: str, got: Any, want: Any, limit: float = 0.0) -> None:
        """Note the largest relative difference between two States, Points or mappings."""
        got, want = _leaves(got), _leaves(want)
        if got.keys() != want.keys():
            self._note(name, f"{rule}; got the fields {sorted(got)} and {sorted(want)}", math.inf)
            return
        gap, where = _gap(got, want)
        self._note(name, f"{rule}; {where} is off by a relative {gap:.2g}", gap, limit)

    def _typed(self, name: str, state: Any, kind: type, dtype: torch.dtype = torch.float64) -> None:
        """Note whether `state` is of its kind, and every tensor (paths, dim) and of the dtype."""
        rule = f"it must be a {kind.__name__} of tensors ({_PATHS}, {_DIM}) in {dtype}"
        if not isinstance(state, kind):
            self._note(name, f"{rule}; got a {type(state).__name__}", 1)
            return
        want = ((_PATHS, _DIM), dtype)
        wrong = [f"{n} {tuple(x.shape)} in {x.dtype}" for n, x in _leaves(state).items() if (x.shape, x.dtype) != want]
        self._note(name, f"{rule}; got {', '.join(wrong)}", len(wrong))

    def _normal(self) -> Tensor:
        return torch.randn(_PATHS, _DIM, generator=self.generator, dtype=torch.float64)

    def _chain(self, oracle: Oracle) -> Any:
        """Return the state after a few iterations from the method's own start: generic, and within its reach."""
        state = self.method.from_point(self.method.initial(oracle.at(self._normal())), oracle.scale)
        stream = oracle.stream(self.generator, _PATHS)
        for k in range(_BURN):
            state = self.method.step(state, oracle.sample(oracle.at(state.theta), stream.next()), k)
        return state

    # -- types, purity, paths, inverse maps ------------------------------------------------------------------------

    def contracts(self) -> None:
        """Compare types and shapes, results with themselves, and paths together with paths alone."""
        method, theta = self.method, self._normal()
        for name, kind in (("State", method.State), ("Point", method.Point)):
            fields = getattr(kind, "_fields", ())
            self._note(name, f"it must be a NamedTuple with `theta` first; got {fields}", fields[:1] != ("theta",))
        self._note("State and Point", "they must be two types", method.State is method.Point)
        start = method.initial(self.oracles[0].at(theta))
        for name, state, kind in (("init", method.init(theta), method.State), ("initial", start, method.Point)):
            self._typed(name, state, kind)
            if not self.failed:
                self._same(f"{name}, theta", "it must start at theta", {"theta": state.theta}, {"theta": theta})
        self._typed("step", method.step(method.init(theta), self._normal(), 0), method.State)
        for dtype in (torch.float64, torch.float32):
            if not self.failed:
                self._step(dtype)
        if not self.failed:
            self._inverse()

    def _step(self, dtype: torch.dtype) -> None:
        """Compare one iteration with itself, and its paths with paths that run alone."""
        method = self.method
        state, g = _mapped(self._chain(self.oracles[0]), lambda x: x.to(dtype)), self._normal().to(dtype)
        before, g_before, world = _mapped(state, Tensor.clone), g.clone(), _global_random_state()
        after = method.step(state, g, _BURN)
        self._typed(f"step, {dtype}", after, method.State, dtype)
        if self.failed:
            return
        kept = _mapped(after, Tensor.clone)
        self._same("purity", "`step` must leave its state as it was", state, before)
        self._same("purity", "`step` must leave the gradient as it was", {"g": g}, {"g": g_before})
        again = method.step(before, g_before, _BURN)
        self._same("purity", "`step` must return the same for the same arguments", again, kept)
        self._same("purity", "`step` must not write into what it returned before", after, kept)
        self._note("purity", "`step` must draw no global random numbers", world != _global_random_state())
        rows = [slice(i, i + 1) for i in range(_PATHS)]
        alone = [method.step(_mapped(before, lambda x, i=i: x[i]), g_before[i], _BURN) for i in rows]  # type: ignore[misc]
        joined = {name: torch.cat([_leaves(row)[name] for row in alone]) for name in _leaves(kept)}
        self._same("paths", "paths together must move as each does alone, to the last bit", kept, joined)

    def _inverse(self) -> None:
        """Compare `from_point` of `to_point` with the State, and the other way round."""
        method, state = self.method, self._chain(self.oracles[0])
        limit = 4 * torch.finfo(torch.float64).eps
        for scale in (_SCALE, 0.0):
            point = method.to_point(state, scale)
            self._typed("to_point", point, method.Point)
            back = method.from_point(point, scale)
            if not isinstance(back, method.State):
                self._typed("from_point", back, method.State)
            if self.failed:
                return
            rule = f"`to_point` must undo `from_point` (scale {scale:g})"
            self._same("inverse", rule, method.to_point(back, scale), point, limit)
            if len(_leaves(point)) == len(_leaves(state)):  # not so where the Point is theta alone
                self._same("inverse", f"`from_point` must undo `to_point` (scale {scale:g})", back, state, limit)

    # -- the clock and the declarations ----------------------------------------------------------------------------

    def clock(self) -> None:
        """Compare the time steps of the method and of its refinements."""
        method = self.method
        h = method.time_step
        self._note("time_step", f"it must be finite and positive; got {h!r}", not (0 < h < math.inf))
        self._number("time", "`time(7)` must be 7 time steps", method.time(7), 7 * h)
        self._number("refinement", "`refinement(1)` must be 1", method.refinement(1), 1)
        finer = method.refinement(2)
        whole = isinstance(finer, int) and finer > 1
        self._note("refinement", f"`refinement(2)` must be a whole number above 1; got {finer!r}", not whole)
        try:
            methods = {kappa: method.rescaled(kappa) for kappa in (1.0, 1 / max(finer, 2), *_KAPPAS)}
        except NotDeclared as missing:
            self.skipped.append(str(missing))
            return
        state, g = self._chain(self.oracles[0]), self._normal()
        want = method.step(state, g, _BURN)
        for kappa, other in methods.items():
            self._number(
                "rescaled", f"`rescaled({kappa:g})` must have {kappa:g} time steps", other.time_step, kappa * h
            )
            back = other.rescaled(1 / kappa).step(state, g, _BURN)
            self._same("rescaled", f"`rescaled({kappa:g})` and back must be the method itself", back, want, _ROUNDING)
        for oracle in self.oracles:
            local = oracle.at(state.theta)
            want, got = method.initial(local), methods[_KAPPAS[0]].initial(local)
            self._same("initial", "it must be the same at every step size", got, want, _ROUNDING)

    def _number(self, name: str, rule: str, got: float, want: float) -> None:
        self._note(name, f"{rule}: {want:.9g}; got {got:.9g}", abs(got - want) / abs(want), _ROUNDING)

    def declarations(self) -> None:
        """Compare `linear` and `elementwise` with what `step` does."""
        method = self.method
        first, second = self._chain(self.oracles[0]), self._chain(self.oracles[0])
        g, other = self._normal(), self._normal()
        if method.linear:
            sums = [2 * a - 3 * b for a, b in zip(first, second, strict=True)]
            got = method.step(type(first)(*sums), 2 * g - 3 * other, _BURN)
            pairs = zip(method.step(first, g, _BURN), method.step(second, other, _BURN), strict=True)
            want = type(first)(*(2 * a - 3 * b for a, b in pairs))
            self._same("linear", "`step` must be linear in state and gradient", got, want, _ROUNDING)
        if method.elementwise:
            changed = torch.cat([other[:, :1], g[:, 1:]], 1)
            got, want = (method.step(first, x, _BURN) for x in (changed, g))
            rule = "a component must not see another one's gradient"
            self._same("elementwise", rule, _mapped(got, lambda x: x[:, 1:]), _mapped(want, lambda x: x[:, 1:]))

    # -- the SDE and the batch-size rule ---------------------------------------------------------------------------

    def equations(self) -> None:
        """Compare the SDE at several batch sizes, with the noise rescaled along."""
        method, gaps = self.method, []
        equivalent = method.scaling == "batch-equivalent"
        for oracle in self.oracles:
            try:
                sde = method.sde(oracle)
            except NotDeclared as missing:
                self.skipped += [str(missing)] if str(missing) not in self.skipped else []
                continue
            x, t = method.to_point(self._chain(oracle), oracle.scale), method.time(_BURN)
            before, name = _mapped(x, Tensor.clone), type(oracle).__name__
            want = _coefficients(sde, t, x)
            self._same("sde", "it must leave the point as it was", x, before)
            fields = getattr(sde.point, "_fields", ())
            rule = f"its Point must have the fields {x._fields}; got {fields}"
            self._note("sde", rule, fields != x._fields)
            for kappa in _KAPPAS:
                try:
                    other = method.rescaled(kappa)
                except NotDeclared:
                    return
                got = _coefficients(other.sde(oracle.rescaled(kappa)), t, x)
                gap, where = _gap(got, want)
                gaps.append(gap)
                if equivalent:
                    rule = (
                        f"with {kappa:.3g} times the batch ({name}) the SDE must be the same; the {where} is off by a "
                        f"relative {gap:.2g}. Correct `rescaled`, `sde` or `scaling`"
                    )
                    self._note("batch-size rule", rule, gap, _ROUNDING)
        if gaps and not equivalent:
            rule = (
                f"`scaling` is {method.scaling!r}, but the SDE is the same at every batch size: declare it "
                '"batch-equivalent"'
            )
            self._note("scaling", rule, not max(gaps) > _SAME)

    # -- torch -----------------------------------------------------------------------------------------------------

    def compare_torch(self, make: Callable[[list[Parameter]], Optimizer], steps: int) -> None:
        """Run the method beside one torch optimizer for every path."""
        theta = self._normal()
        parameters = [Parameter(row.clone()) for row in theta]
        optimizers = [make([parameter]) for parameter in parameters]
        state, gap = self.method.init(theta), 0.0
        for k in range(steps):
            g = 0.3 + self._normal()
            state = self.method.step(state, g, k)
            for parameter, optimizer, row in zip(parameters, optimizers, g, strict=True):
                parameter.grad = row.clone()
                optimizer.step()
            want = torch.stack([parameter.detach() for parameter in parameters])
            gap, _ = _gap({"theta": state.theta}, {"theta": want})
            if not gap <= _ROUNDING:
                break
        rule = f"{type(optimizers[0]).__name__} must be equal path by path; theta is off by a relative {gap:.2g} after"
        self._note("torch", f"{rule} {k + 1} iterations", gap, _ROUNDING)
