"""Results as plain data: described, compared, and turned into strict JSON with arrays and back.

The way back is driven by the type hints of dataclasses and NamedTuples, so that a file never names a class to build.
Floats come back exactly, arrays bit for bit; where a hint is `Any`, a tuple comes back as a list.
"""

from __future__ import annotations

import dataclasses
import enum
import hashlib
import json
import math
import types
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

__all__ = ["decode", "describe", "dumps", "encode", "equal", "field_names"]


def describe(thing: Any) -> Any:
    """Return JSON-ready data that names `thing`: fields of dataclasses, digests of arrays, names of functions."""
    if dataclasses.is_dataclass(thing) and not isinstance(thing, type):
        fields = {f.name: describe(getattr(thing, f.name)) for f in dataclasses.fields(thing) if f.repr}
        return {"class": type(thing).__name__, **fields}
    if isinstance(thing, torch.Tensor):
        thing = thing.detach().cpu().numpy()
    if isinstance(thing, np.ndarray):
        sha256 = hashlib.sha256(thing.tobytes()).hexdigest()[:16]
        return {"shape": list(thing.shape), "dtype": str(thing.dtype), "sha256": sha256}
    if isinstance(thing, enum.Enum):
        return thing.name
    if isinstance(thing, torch.dtype | torch.device | Path):
        return str(thing)
    if isinstance(thing, Mapping):
        return {str(k): describe(v) for k, v in thing.items()}
    if isinstance(thing, list | tuple):
        return [describe(v) for v in thing]
    if isinstance(thing, np.generic):
        return thing.item()
    if thing is None or isinstance(thing, bool | int | float | str):
        return thing
    return getattr(thing, "__qualname__", None) or type(thing).__name__


def equal(a: Any, b: Any) -> bool:
    """Return whether two results agree: dataclasses field by field, arrays bit by bit, NaN equal to NaN."""
    if isinstance(a, np.ndarray) or isinstance(b, np.ndarray):
        same = isinstance(a, np.ndarray) and isinstance(b, np.ndarray) and (a.dtype, a.shape) == (b.dtype, b.shape)
        return same and a.tobytes() == b.tobytes()
    if dataclasses.is_dataclass(a):
        return type(a) is type(b) and all(equal(getattr(a, n), getattr(b, n)) for n in field_names(type(a)))
    if isinstance(a, Mapping) and isinstance(b, Mapping):
        return a.keys() == b.keys() and all(equal(a[k], b[k]) for k in a)
    if isinstance(a, list | tuple) and isinstance(b, list | tuple):
        return len(a) == len(b) and all(map(equal, a, b))
    if isinstance(a, float) and isinstance(b, float) and math.isnan(a):
        return math.isnan(b)
    return bool(a == b)


def field_names(cls: type) -> list[str]:
    """Return the fields that a dataclass is built from."""
    return [f.name for f in dataclasses.fields(cls) if f.init]


def encode(value: Any, name: str, arrays: dict[str, np.ndarray]) -> Any:
    """Return `value` as strict JSON data; arrays go to `arrays` under their dotted `name`.

    Raises:
        TypeError: if something in it is neither an array nor plain data with string keys.
    """
    if isinstance(value, np.ndarray) and not value.dtype.hasobject:
        arrays[name] = value
        return {"$array": name}
    if isinstance(value, enum.Enum):
        return value.name
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        value = {n: getattr(value, n) for n in field_names(type(value))}
    if isinstance(value, Mapping) and all(isinstance(k, str) and not k.startswith("$") for k in value):
        return {k: encode(v, f"{name}.{k}" if name else k, arrays) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [encode(v, f"{name}.{i}", arrays) for i, v in enumerate(value)]
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return {"$float": repr(value)}  # strict JSON has no NaN and no infinity
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise TypeError(
        f"`{name}` must be an array of numbers or strings, or plain data with string keys; "
        f"got {type(value).__name__}. Store `describe(...)` of it instead."
    )


def decode(data: Any, hint: Any, arrays: Mapping[str, np.ndarray]) -> Any:
    """Return the value that `data` was encoded from, where `hint` is its declared type."""
    if isinstance(data, dict) and "$array" in data:
        return arrays[data["$array"]]
    if isinstance(data, dict) and "$float" in data:
        return float(data["$float"])
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):  # `X | None`
        return None if data is None else decode(data, next(t for t in inner if t is not types.NoneType), arrays)
    if isinstance(hint, type) and issubclass(hint, enum.Enum):
        return hint[data]
    if isinstance(hint, type) and dataclasses.is_dataclass(hint):
        hints = typing.get_type_hints(hint)
        return hint(**{n: decode(data[n], hints[n], arrays) for n in field_names(hint)})
    if isinstance(data, dict):
        return {k: decode(v, inner[1] if inner else Any, arrays) for k, v in data.items()}
    if not isinstance(data, list):
        return data
    if isinstance(hint, type) and issubclass(hint, tuple) and hasattr(hint, "_fields"):
        hints = typing.get_type_hints(hint)
        return hint(*(decode(v, hints[n], arrays) for n, v in zip(hint._fields, data, strict=True)))
    if origin is not tuple or ... in inner:
        inner = (inner[0] if inner else Any,) * len(data)
    values = [decode(v, t, arrays) for v, t in zip(data, inner, strict=True)]
    return tuple(values) if tuple in (origin, hint) else values


def dumps(data: Any, *, sort: bool = False) -> str:
    """Return strict JSON; floats are written so that they are read back exactly."""
    return json.dumps(data, indent=1, allow_nan=False, sort_keys=sort, ensure_ascii=False) + "\n"
