"""What is to be verified, checked before any work: clock, family of step sizes, start, test functions."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from sdeadapt.checks import check_choice, check_integer
from sdeadapt.methods.base import ItoSDE, Method
from sdeadapt.oracles.amplified import Amplified
from sdeadapt.oracles.base import NotDeclared, Oracle
from sdeadapt.simulation.observables import TestFunction, resolve_test_functions
from sdeadapt.simulation.paths import Level
from sdeadapt.simulation.run import Run
from sdeadapt.simulation.solvers import SOLVERS, check_substeps
from sdeadapt.simulation.start import Clock, check_sde, make_clock, make_initial
from sdeadapt.verification.family import check_order

__all__ = ["Recipe", "Refine", "Study", "check_family", "default_multipliers", "refined"]

Recipe = Callable[[Method, Oracle], ItoSDE]
Refine = str | Callable[[Method, Oracle, int], tuple[Method, Oracle]]


def default_multipliers(method: Method) -> tuple[int, ...]:
    """Return multipliers for which h falls by 4 each time: (1, 2, 4, 8) or, SGD-scaled, (1, 4, 16, 64)."""
    return (1, 2, 4, 8) if method.refinement(2) == 4 else (1, 4, 16, 64)


def refined(refine: Refine, method: Method, oracle: Oracle, r: int) -> tuple[Method, Oracle]:
    """Return the method and the oracle that make r steps of one base step.

    Raises:
        ValueError: if the time step is not divided by r.
    """
    if callable(refine):
        m, o = refine(method, oracle, r)
    else:
        m, o = method.rescaled(1 / r), oracle
        if refine == "svag":
            o = Amplified(oracle, r)
        elif refine == "noise" and r > 1:
            o = oracle.rescaled(1 / r)
    share = m.time_step / method.time_step
    if abs(share * r - 1) > 1e-9:
        raise ValueError(f"`refine` must divide the time step by r = {r}; got {share:.6g} of it.")
    return m, o


def check_family(method: Method, oracle: Oracle, refine: Refine) -> None:
    """Check that `refine` leads through the family to which the SDE belongs.

    Raises:
        ValueError: if there is no such `refine`, it does not fit the method's scaling, or draws depend on each other.
    """
    if not callable(refine):
        check_choice("refine", refine, ("svag", "noise", "step"))
        if refine != "step" and method.scaling != "batch-equivalent":
            raise ValueError(
                f"`refine` must be 'step' under scaling={method.scaling!r}, whose SDE depends on h; got {refine!r}."
            )
        if refine == "svag" and method.sees_density and not oracle.gaussian:
            raise ValueError(
                f"`refine` must not be 'svag' for {type(method).__name__} unless the noise is Gaussian: mixing two "
                "draws keeps the covariance, but not the density of the noise at 0, which the mean of a sign sees. "
                "Use refine='noise' or 'step'."
            )
    if not oracle.independent:
        raise ValueError(
            "Draws over reshuffled epochs have no independent increments, hence no Ito SDE: SVAG and `verify` refuse "
            "sampling='epoch'. Use sampling='replacement' or 'batch', or `compare`."
        )


@dataclass(frozen=True, eq=False)
class Study:
    """The levels of one study, from the user's own lr to the finest, and what they have in common."""

    clock: Clock
    multipliers: tuple[int, ...]
    levels: tuple[Level, ...]
    functions: dict[str, TestFunction]
    oracle: Oracle
    own: bool  # the SDE is the method's own

    @property
    def h(self) -> np.ndarray:
        """Time steps of the levels, decreasing, (L,)."""
        return np.array([level.method.time_step for level in self.levels])

    @property
    def names(self) -> tuple[str, ...]:
        """Test function of each target; targets run over times, then functions, (J,)."""
        return tuple(name for _ in self.clock.times for name in self.functions)

    @property
    def times(self) -> np.ndarray:
        """SDE time of each target, (J,)."""
        return np.repeat(self.clock.seconds, len(self.functions))

    @classmethod
    def build(
        cls,
        method: Method,
        oracle: Oracle,
        *,
        theta0: Any,
        horizon: float | None,
        steps: int | None,
        sde: ItoSDE | Recipe | None,
        multipliers: Sequence[int] | None,
        refine: Refine,
        order: int,
        initial: Any,
        start: float | None,
        times: int | Iterable[float] | None,
        test_functions: Iterable[str] | Mapping[str, TestFunction] | None,
        solver: str,
        substeps: int,
        run: Run,
        reference: str = "sde",
    ) -> Study:
        """Return the study that `verify`'s arguments describe; see there.

        Raises:
            ValueError: if an argument is wrong, before any path is run.
            NotDeclared: if the oracle lacks what the method's SDE, its start or a test function needs.
        """
        oracle = oracle.to(run.device, run.torch_dtype)
        check_family(method, oracle, refine)
        check_order(method, refine, order)
        check_choice("solver", solver, [s for s in SOLVERS if s != "euler"])
        check_substeps(substeps)
        alone = reference == "self"
        clock = make_clock(method, horizon=horizon, steps=steps, start=start, times=times, compares_sde=not alone)
        multipliers = tuple(check_integer("multipliers", m) for m in multipliers or default_multipliers(method))
        if len(multipliers) < 3 or sorted(set(multipliers)) != list(multipliers):
            raise ValueError(f"`multipliers` must be at least three increasing whole numbers; got {multipliers}.")
        try:
            held = start is not None and clock.start > 0
            x0 = make_initial(method, oracle, theta0, initial, held=held)
        except NotDeclared as missing:
            if not alone:
                raise
            raise NotDeclared(f"{missing} Or give the start by `initial`.") from missing
        functions = resolve_test_functions(test_functions, x0, oracle)
        # with bias correction m = u = 0 at t = 0: anything else is the state at `start`
        given = method.bias_correction and any(bool((f != 0).any()) for f in x0[1:])
        levels = []
        for multiplier in multipliers:
            r = method.refinement(multiplier)
            m, o = refined(refine, method, oracle, r)
            equation = None
            if not alone:
                equation = m.sde(o, order) if sde is None else sde if isinstance(sde, ItoSDE) else sde(m, o)
                check_sde(equation, x0, clock.start * clock.h, columns=o.noise_dim if o.couples else 0)
            records = tuple(t * r for t in clock.times)
            first = clock.start * r
            begin = first if given else 0
            levels.append(Level(m, o, oracle, equation, x0, first, records, functions, substeps, solver, begin))
        return cls(clock, multipliers, tuple(levels), functions, oracle, sde is None)
