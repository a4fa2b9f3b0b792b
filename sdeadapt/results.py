"""Run directories and plain-data descriptions: what is known about a run, without pickle."""

from __future__ import annotations

import dataclasses
import hashlib
from typing import Any

import numpy as np
import torch

__all__ = ["describe"]


def describe(thing: Any) -> Any:
    """Return JSON-ready data that names `thing`: fields of dataclasses, digests of arrays, names of functions."""
    if dataclasses.is_dataclass(thing) and not isinstance(thing, type):
        fields = {f.name: describe(getattr(thing, f.name)) for f in dataclasses.fields(thing) if f.repr}
        return {"class": type(thing).__name__, **fields}
    if isinstance(thing, torch.Tensor):
        thing = thing.detach().cpu().numpy()
    if isinstance(thing, np.ndarray):
        digest = hashlib.sha256(np.ascontiguousarray(thing).tobytes()).hexdigest()[:16]
        return {"shape": list(thing.shape), "dtype": str(thing.dtype), "sha256": digest}
    if isinstance(thing, dict):
        return {str(k): describe(v) for k, v in thing.items()}
    if isinstance(thing, list | tuple):
        return [describe(v) for v in thing]
    if isinstance(thing, np.generic):
        return thing.item()
    if thing is None or isinstance(thing, bool | int | float | str):
        return thing
    return getattr(thing, "__qualname__", None) or type(thing).__name__
