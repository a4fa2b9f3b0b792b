"""Says, with error bars, whether a stochastic differential equation is a valid model of an optimizer.

Names are loaded when first used, so that `sdeadapt --help` does not wait for torch.
"""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sdeadapt import methods, oracles, problems, testing, training
    from sdeadapt.analysis.noise import gradient_noise
    from sdeadapt.methods import (
        SGD,
        Adadelta,
        Adagrad,
        Adam,
        AdamW,
        Averaged,
        FadingAdam,
        Momentum,
        MomentumVarianceAdapted,
        RMSprop,
        RMSpropW,
        SignSGD,
        Signum,
        VarianceAdapted,
    )
    from sdeadapt.methods.base import ItoSDE, Method
    from sdeadapt.oracles.base import Oracle
    from sdeadapt.simulation.ensemble import simulate, solve
    from sdeadapt.simulation.run import Run, workers
    from sdeadapt.verification import rules
    from sdeadapt.verification.compare import compare
    from sdeadapt.verification.decision import Verdict
    from sdeadapt.verification.local_error import local_error
    from sdeadapt.verification.planning import Budget
    from sdeadapt.verification.resolution import Resolution
    from sdeadapt.verification.scaling_rule import verify_scaling
    from sdeadapt.verification.weak_error import verify

__all__ = [
    "SGD",
    "Adadelta",
    "Adagrad",
    "Adam",
    "AdamW",
    "Averaged",
    "Budget",
    "FadingAdam",
    "ItoSDE",
    "Method",
    "Momentum",
    "MomentumVarianceAdapted",
    "Oracle",
    "RMSprop",
    "RMSpropW",
    "Resolution",
    "Run",
    "SignSGD",
    "Signum",
    "VarianceAdapted",
    "Verdict",
    "compare",
    "gradient_noise",
    "load",
    "local_error",
    "methods",
    "oracles",
    "problems",
    "rules",
    "simulate",
    "solve",
    "testing",
    "training",
    "verify",
    "verify_scaling",
    "workers",
]

_HOMES = {
    "SGD": "methods",
    "Adadelta": "methods",
    "Adagrad": "methods",
    "Adam": "methods",
    "AdamW": "methods",
    "Averaged": "methods",
    "Budget": "verification.planning",
    "FadingAdam": "methods",
    "ItoSDE": "methods.base",
    "Method": "methods.base",
    "Momentum": "methods",
    "MomentumVarianceAdapted": "methods",
    "Oracle": "oracles.base",
    "RMSprop": "methods",
    "RMSpropW": "methods",
    "Resolution": "verification.resolution",
    "Run": "simulation.run",
    "SignSGD": "methods",
    "Signum": "methods",
    "VarianceAdapted": "methods",
    "Verdict": "verification.decision",
    "compare": "verification.compare",
    "gradient_noise": "analysis.noise",
    "local_error": "verification.local_error",
    "simulate": "simulation.ensemble",
    "solve": "simulation.ensemble",
    "verify": "verification.weak_error",
    "verify_scaling": "verification.scaling_rule",
    "workers": "simulation.run",
}
_MODULES = {"rules": "verification.rules"}
_REPORTS = (
    "sdeadapt.verification.report",
    "sdeadapt.verification.local_error_report",
    "sdeadapt.verification.self_reference",
    "sdeadapt.verification.comparison_report",
    "sdeadapt.verification.scaling_report",
    "sdeadapt.analysis.noise_report",
    "sdeadapt.analysis.updates_report",
)


def load(directory: str | Path) -> Any:
    """Return the report saved in `directory`; its class is picked by the manifest's `kind` and `schema`.

    Raises:
        ValueError: if it is not a run directory, or of a kind or schema that this version does not know.
    """
    from sdeadapt import results

    for module in _REPORTS:  # each makes its kind known
        importlib.import_module(module)
    return results.load(directory)


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        found = getattr(importlib.import_module(f"sdeadapt.{_HOMES[name]}"), name)
        globals()[name] = found
        return found
    if name in __all__:
        return importlib.import_module(f"sdeadapt.{_MODULES.get(name, name)}")
    raise AttributeError(f"module 'sdeadapt' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
