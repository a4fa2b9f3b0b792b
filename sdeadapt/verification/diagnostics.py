"""What a report says beside the errors: whether the assumptions of a study hold, and where its means started."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from sdeadapt.oracles.base import NotDeclared
from sdeadapt.simulation.perturbation import Expansion
from sdeadapt.verification.estimators import LevelResult
from sdeadapt.verification.study import Study

__all__ = ["assumptions", "diagnostics", "initial_values"]


def assumptions(study: Study, expansion: Expansion | None) -> dict[str, float]:
    """Return relative changes in one iteration and the ratio of noise to signal, where the expansion is known.

    Args:
        study: what ran.
        expansion: of its coarsest level.
    """
    found: dict[str, float] = {}
    if expansion is None:
        return found
    base = study.levels[0]
    for name, rate in expansion.rates().items():
        found[f"rate_{name}"] = rate
    points = {"start": base.initial, "end": expansion.reference(base.records[-1])}
    for where, point in points.items():
        local = study.oracle.at(point.theta[:1])
        signal = float(local.gradient.square().sum())
        noise = float(local.noise_trace.sum()) * study.oracle.scale**2
        found[f"noise_to_signal_{where}"] = noise / signal if signal > 0 else math.inf
    return found


def diagnostics(
    study: Study, results: Sequence[LevelResult], expansions: Sequence[Expansion | None], path_steps: int
) -> dict[str, float]:
    """Return the numbers that say whether the assumptions hold: see `summary`.

    Args:
        study: what ran.
        results: of its levels.
        expansions: the control variates of its levels.
        path_steps: evaluations of a gradient in all.
    """
    found = assumptions(study, expansions[0])
    found["kurtosis"] = max(float(np.nanmax(r.kurtosis, initial=0.0)) for r in results)
    found["skewness"] = max(float(np.nanmax(np.abs(r.skewness), initial=0.0)) for r in results)
    found["largest_chunk_share"] = max(float(np.nanmax(r.share, initial=0.0)) for r in results)
    found["control_z"] = max(r.control_z for r in results)
    found["least_u"] = min(r.least_u for r in results)
    found["diverged"] = sum(r.diverged for r in results)
    found["diverged_fraction"] = found["diverged"] / sum(n for r in results for _, n in r.paths)
    found["first_divergence"] = min((r.first_step for r in results if r.diverged), default=-1)
    found["path_steps"] = path_steps
    return found


def initial_values(study: Study) -> np.ndarray:
    """Return E phi at time 0 for every target, (J,); NaN where it does not exist yet."""
    base = study.levels[0]
    try:
        values = base.evaluate(base.initial).double().mean(0).cpu().numpy()
    except (NotDeclared, ValueError):
        values = np.full(len(base.functions), np.nan)
    return np.tile(values, len(study.clock.times))
