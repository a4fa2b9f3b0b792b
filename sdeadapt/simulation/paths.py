"""One level of a study: the chain, its SDE, or both on one Brownian path, looked at on the base grid."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from sdeadapt.methods.base import ItoSDE, Method
from sdeadapt.oracles.base import Oracle
from sdeadapt.simulation.observables import TestFunction, evaluate
from sdeadapt.simulation.perturbation import Expansion, Terms
from sdeadapt.simulation.solvers import Pair, draw_increments, solver

__all__ = ["Level", "Mode", "Values", "draw_initial", "first_divergence", "run_paths"]

Mode = Literal["chain", "sde", "coupled"]


@dataclass(frozen=True, eq=False)
class Level:
    """What runs at one step size, from where, and when it is looked at.

    Args:
        method, oracle: the chain of this level (its time step is h, its oracle amplified or rescaled).
        base: the user's oracle; test functions are of it.
        sde: the SDE in the coordinates of `initial`, or None for chains alone.
        initial: a Point with rows (rows, dim); a path starts at a row drawn at random.
        start: the iteration at which the chain hands its paths to the SDE.
        records: iterations after which the test functions are evaluated, increasing.
        functions: name -> test function.
        substeps: fine SDE steps per iteration; the coarse solution makes half as many.
        solver: name of the one-step solver.
        begin: the iteration that `initial` belongs to: 0, or `start` itself.
    """

    method: Method
    oracle: Oracle
    base: Oracle
    sde: ItoSDE | None
    initial: Any
    start: int
    records: tuple[int, ...]
    functions: dict[str, TestFunction]
    substeps: int = 4
    solver: str = "extrapolated"
    begin: int = 0

    def draw_initial(self, generator: torch.Generator, paths: int) -> Any:
        """Return the starting Point of every path."""
        return draw_initial(self.initial, generator, paths)

    def evaluate(self, point: Any) -> Tensor:
        """Return all test functions at one time, (paths, functions)."""
        return evaluate(self.functions, point, self.base)


def draw_initial(initial: Any, generator: torch.Generator, paths: int) -> Any:
    """Return a starting Point of every path: a row of `initial`, drawn at random if there are several."""
    rows = initial.theta.shape[0]
    if rows == 1:
        return type(initial)(*(field.expand(paths, -1) for field in initial))
    index = torch.randint(rows, (paths,), generator=generator, device=generator.device)
    return type(initial)(*(field[index] for field in initial))


class Values(NamedTuple):
    """What a chunk of paths showed; the columns run over times, then functions.

    chain, sde (paths, J): test functions, the SDE's extrapolated; bias (paths, J): fine − coarse; controls
    (paths, J, C): control variates of mean zero; least_u: the smallest u met at a recorded time; kept
    (keep, times, dim): theta of the first paths, the SDE's where it runs alone.
    """

    chain: Tensor | None
    sde: Tensor | None
    bias: Tensor | None
    controls: Tensor | None
    least_u: float
    kept: Tensor | None = None


@torch.no_grad()
def run_paths(
    level: Level,
    mode: Mode,
    generator: torch.Generator,
    paths: int,
    expansion: Expansion | None = None,
    *,
    keep: int = 0,
) -> Values:
    """Run `paths` paths of a level and return their test functions.

    Args:
        level: what runs.
        mode: "chain", "sde" (from the chain's law at `level.start`) or "coupled" (both on one path).
        generator: the only randomness.
        paths: how many.
        expansion: makes the control variates; None leaves them out.
        keep: of how many paths theta is kept.
    """
    method, oracle, sde = level.method, level.oracle, level.sde
    h, q, dtype = method.time_step, level.substeps, level.initial.theta.dtype
    step, area = solver(level.solver)
    heavy = mode == "coupled" and oracle.heavy
    point = level.draw_initial(generator, paths)
    state, pair = method.from_point(point, oracle.scale), Pair(point, point)
    chain_runs = mode != "sde" or level.start > level.begin
    stream = oracle.stream(generator, paths) if chain_runs else None
    terms = expansion.begin(point) if expansion else None
    sde_terms: Terms | None = None
    seen: dict[str, list[Tensor]] = {"chain": [], "sde": [], "bias": [], "controls": [], "kept": []}
    least_u = math.inf

    for k in range(level.begin, level.records[-1]):
        xi, draw = None, None
        if sde is not None and mode != "chain" and k >= level.start:
            if k == level.start:
                if k > level.begin:
                    point = method.to_point(state, oracle.scale)
                    pair = Pair(point, point)
                sde_terms = terms
                chain_runs = mode == "coupled"
            fine = draw_increments(generator, q, h / q, paths, sde.noise_dim, dtype, area=area, heavy=heavy)
            coarse = fine.halved()
            pair = pair.advance(step, sde, k * h, fine, coarse)
            if expansion and sde_terms is not None:
                sde_terms = expansion.sde_step(sde_terms, k, coarse)
            if chain_runs and oracle.couples:
                xi = fine.dw.sum(0)[:, : oracle.noise_dim] / math.sqrt(h)
        if chain_runs and stream is not None:
            local = oracle.at(state.theta)
            draw = stream.next(xi)
            state = method.step(state, oracle.sample(local, draw), k)
            if expansion and terms is not None:
                terms = expansion.chain_step(terms, k, draw)
        if k + 1 in level.records:
            controls = []
            if chain_runs:
                point = method.to_point(state, oracle.scale)
                seen["chain"].append(level.evaluate(point))
                least_u = min(least_u, _least_u(point))
                if expansion and terms is not None:
                    controls.append(expansion.chain_controls(terms, k + 1))
            if mode != "chain":
                fine_phi, coarse_phi = level.evaluate(pair.fine), level.evaluate(pair.coarse)
                seen["sde"].append(2 * fine_phi - coarse_phi)
                seen["bias"].append(fine_phi - coarse_phi)
                least_u = min(least_u, _least_u(pair.fine))
                if expansion and sde_terms is not None:
                    controls.append(expansion.sde_controls(sde_terms, k + 1))
            if controls:
                seen["controls"].append(torch.cat(controls, 2))
            if keep:
                seen["kept"].append((point if chain_runs else pair.fine).theta[:keep, None].clone())
    joined = {name: torch.cat(parts, 1) if parts else None for name, parts in seen.items()}
    return Values(joined["chain"], joined["sde"], joined["bias"], joined["controls"], least_u, joined["kept"])


def _least_u(point: Any) -> float:
    return float(point.u.min()) if hasattr(point, "u") else math.inf


@torch.no_grad()
def first_divergence(level: Level, mode: Mode, generator: torch.Generator, paths: int) -> int:
    """Return the iteration at which a path of this chunk first ceased to be finite.

    Runs the same paths again and looks after every iteration, which the first run is spared.
    """
    low, high = level.begin + 1, level.records[-1]
    state = generator.get_state()
    while low < high:  # a path that is not finite stays so
        middle = (low + high) // 2
        short = Level(**{**level.__dict__, "records": (max(middle, level.start + 1),)})
        generator.set_state(state)
        values = run_paths(short, mode, generator, paths)
        finite = all(bool(v.isfinite().all()) for v in (values.chain, values.sde) if v is not None)
        if finite and middle < high:
            low = middle + 1
        else:
            high = middle
    return low
