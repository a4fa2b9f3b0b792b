"""What a study could have seen: the plateau that standard perturbations of its SDE would leave, against its bound."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sdeadapt.methods.base import ItoSDE
from sdeadapt.simulation.paths import Level
from sdeadapt.simulation.randomness import Purpose, SeedTree
from sdeadapt.simulation.solvers import draw_increments, euler_step
from sdeadapt.verification.decision import Decision
from sdeadapt.verification.study import Study

__all__ = ["BlindSpot", "blind_spots", "perturbations"]

AMOUNT = 0.1
PATHS = 4096


@dataclass(frozen=True, eq=False)
class BlindSpot:
    """A perturbation of the SDE and what it would do to each target.

    plateau, sem (J,): the change of E phi; visible (J,): larger than the study's plateau bound.
    """

    name: str
    plateau: np.ndarray
    sem: np.ndarray
    visible: np.ndarray


def _scaled(sde: ItoSDE, name: str | None, drift: float, noise: float) -> ItoSDE:
    """Return the SDE with drift and noise of one field (None: of all) multiplied."""

    def scale(point: Any, factor: float) -> Any:
        parts = (
            p if p is None or name not in (None, f) else factor * p for f, p in zip(point._fields, point, strict=True)
        )
        return type(point)(*parts)

    def at(t: float, x: Any) -> tuple[Any, Any]:
        slope, diffuse = sde.at(t, x)
        return scale(slope, drift), lambda dw: scale(diffuse(dw), noise)

    return replace(sde, at=at)


def perturbations(sde: ItoSDE) -> Iterator[tuple[str, ItoSDE]]:
    """Yield standard wrong SDEs, each 10 % off: drift, diffusion, preconditioner, memory of m and u."""
    more = 1 + AMOUNT
    yield "drift of theta +10 %", _scaled(sde, "theta", more, 1.0)
    yield "diffusion +10 %", _scaled(sde, None, 1.0, more)
    for name in sde.point._fields:  # type: ignore[attr-defined]
        what = {"theta": "preconditioner", "m": "c1", "u": "c2"}.get(name, name)
        yield f"{what} +10 %", _scaled(sde, name, more, more)


@torch.no_grad()
def blind_spots(study: Study, decision: Decision, seeds: SeedTree) -> tuple[BlindSpot, ...]:
    """Return, for standard perturbations, the plateau each would leave on this problem and whether it would be seen.

    Both SDEs run by Euler at the coarsest level's sub-steps on one Brownian path.
    """
    level = study.levels[0]
    assert level.sde is not None
    bound = np.array([test.plateau_bound for test in decision.tests])
    rows = []
    for name, wrong in perturbations(level.sde):
        change = _run(level, wrong, seeds).double()
        mean = change.mean(0).cpu().numpy()
        sem = (change.std(0) / len(change) ** 0.5).cpu().numpy()
        rows.append(BlindSpot(name, mean, sem, np.abs(mean) - 2 * sem > bound))
    return tuple(rows)


def _run(level: Level, wrong: ItoSDE, seeds: SeedTree) -> Tensor:
    """Return phi(wrong) − phi(SDE) per path, (paths, J)."""
    right = level.sde
    assert right is not None
    generator = seeds.generator(Purpose.POWER, 0, 0, level.oracle.device)
    h, q = level.method.time_step, level.substeps
    x = level.draw_initial(generator, PATHS)
    if level.start > level.begin:
        state = level.method.from_point(x, level.oracle.scale)
        stream = level.oracle.stream(generator, PATHS)
        for k in range(level.begin, level.start):
            state = level.method.step(state, level.oracle.sample(level.oracle.at(state.theta), stream.next()), k)
        x = level.method.to_point(state, level.oracle.scale)
    y, seen = x, []
    for k in range(level.start, level.records[-1]):
        steps = draw_increments(generator, q, h / q, PATHS, right.noise_dim, x.theta.dtype)
        for j, dw in enumerate(steps.dw):
            t = k * h + j * steps.dt
            x, y = euler_step(right, t, x, steps.dt, dw), euler_step(wrong, t, y, steps.dt, dw)
        if k + 1 in level.records:
            seen.append(level.evaluate(y) - level.evaluate(x))
    return torch.cat(seen, 1)
