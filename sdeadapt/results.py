"""Run directories: what is known about a run, without pickle.

A run directory holds `manifest.json` (what made it), `config.json` (what was asked), `result.json` and `result.npz`
(what was found), and files for the eye. It appears whole or not at all. Arrays come back bit for bit, floats exactly.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import os
import platform
import shutil
import subprocess
import tempfile
import time
import typing
import uuid
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from sdeadapt.checks import check_choice
from sdeadapt.plain import decode, describe, dumps, encode, equal, field_names

__all__ = ["Saved", "check_output", "describe", "equal", "load", "read_config", "register", "write_run"]

Files = Mapping[str, Callable[[Path], None]]
Report = TypeVar("Report", bound="Saved")

PACKAGES = ("sdeadapt", "torch", "torchsde", "numpy", "scipy")
_registry: dict[str, dict[int, type["Saved"]]] = {}  # kind -> schema -> class


def check_output(directory: str | Path) -> Path:
    """Return `directory` as a path if a run can be written there; ask before the work, not after it.

    Raises:
        ValueError: if it exists and is not empty, is a file, or cannot be created.
    """
    path = Path(directory).absolute()
    if os.path.exists(path) and not path.is_dir():
        raise ValueError(f"The output directory must not be a file; got {str(path)!r}. Name another directory.")
    if path.is_dir() and any(path.iterdir()):
        raise ValueError(f"The output directory must be new or empty; got {str(path)!r}. Name another, or remove it.")
    parent = next(p for p in path.parents if os.path.exists(p))  # False also where it may not be looked at
    try:
        with tempfile.TemporaryDirectory(dir=parent):
            pass
    except OSError as error:
        raise ValueError(
            f"The output directory must be in a writable place; got {str(path)!r}: {error.strerror} in "
            f"{str(parent)!r}. Name another directory."
        ) from error
    return path


def write_run(
    directory: str | Path,
    kind: str,
    schema: int,
    result: Any,
    config: Mapping[str, Any],
    *,
    facts: Mapping[str, Any] | None = None,
    files: Files | None = None,
) -> Path:
    """Write a run directory and return its path: it appears whole, by one rename, or not at all.

    Args:
        directory: new or empty.
        kind: the kind of report, and
        schema: the version of its fields: `load` finds the class by both.
        result: plain data and dataclasses for `result.json`; the arrays in it go to `result.npz`, without pickle.
        config: what was asked for, to `config.json`; its hash goes to the manifest.
        facts: further entries of the manifest (seed, device, dtype, chunk, seconds).
        files: further files, name -> function that writes to the path it is given (figures, tables).

    Raises:
        ValueError: if `check_output` refuses the directory.
    """
    path = check_output(directory)
    arrays: dict[str, np.ndarray] = {}
    data, asked = encode(result, "", arrays), encode(describe(config), "", {})
    manifest = {
        "kind": kind,
        "schema": schema,
        "created": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        **encode(describe(facts or {}), "", {}),
        "config_sha256": hashlib.sha256(dumps(asked, sort=True).encode()).hexdigest(),
        "packages": {name: importlib.metadata.version(name) for name in PACKAGES},
        "python": platform.python_version(),
        "platform": platform.platform(),
        "git": _git_revision(),
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.parent / f".{path.name}.{uuid.uuid4().hex}"  # a sibling: a rename stays within one file system
    draft.mkdir()
    try:
        for name, content in ("manifest", manifest), ("config", asked), ("result", data):
            (draft / f"{name}.json").write_text(dumps(content), encoding="utf-8")
        np.savez_compressed(draft / "result.npz", **arrays)  # type: ignore[arg-type]
        for name, write in (files or {}).items():
            write(draft / name)
        draft.replace(path)
    except BaseException:
        shutil.rmtree(draft, ignore_errors=True)
        raise
    return path


def _git_revision() -> str | None:
    """Return the commit of the checkout this file is tracked in ("-dirty" with local changes), if there is one."""
    here = Path(__file__)
    tracked, revision = ["ls-files", "--error-unmatch", here.name], "describe --always --exclude=* --abbrev=40 --dirty"
    for arguments in tracked, revision.split():
        command = ["git", "--no-optional-locks", "-C", str(here.parent), *arguments]
        try:
            output = subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout
        except (OSError, subprocess.SubprocessError):
            return None
    return output.strip()


def _read(directory: str | Path, name: str) -> Any:
    path = Path(directory) / name
    if not path.is_file():
        raise ValueError(f"A run directory must hold {name}; got {str(directory)!r}, which does not.")
    return json.loads(path.read_text(encoding="utf-8"))


def read_config(directory: str | Path) -> dict[str, Any]:
    """Return what was asked for in the run at `directory`.

    Raises:
        ValueError: if it is not a run directory.
    """
    return decode(_read(directory, "config.json"), dict[str, Any], {})


class Saved:
    """Base of reports: frozen dataclasses (`eq=False`) of NumPy arrays and plain data that can be saved and loaded.

    A report has the fields `config` (what was asked for; `seed`, `device`, `dtype` and `chunk` go to the manifest)
    and `seconds` (wall time).
    """

    kind: typing.ClassVar[str]
    schema: typing.ClassVar[int]

    if typing.TYPE_CHECKING:  # declared by the dataclasses
        config: dict[str, Any]
        seconds: float

    def __eq__(self, other: object) -> bool:
        """Return whether every field agrees, arrays bit by bit; see `equal`."""
        return equal(self, other)

    __hash__ = None  # type: ignore[assignment]  # holds arrays

    def save(
        self, directory: str | Path, *, config: Mapping[str, Any] | None = None, files: Files | None = None
    ) -> Path:
        """Write the report to a new run directory, so that `load(report.save(directory)) == report`.

        Args:
            directory: new or empty.
            config: what was asked for, where it is known better than by the report (command-line options).
            files: further files, name -> function that writes to the path it is given.

        Raises:
            ValueError: if `check_output` refuses the directory.
            TypeError: if a field would not come back as it is.
        """
        check_output(directory)
        arrays: dict[str, np.ndarray] = {}
        back = decode(encode(self, "", arrays), type(self), arrays)
        for name in field_names(type(self)):
            if not equal(getattr(self, name), getattr(back, name)):
                raise TypeError(
                    f"`{type(self).__name__}.{name}` must come back equal from a run directory, and does not. "
                    "Give the field a precise type, of arrays, enums, dataclasses, tuples and plain data."
                )
        facts = {name: self.config.get(name) for name in ("seed", "device", "dtype", "chunk")}
        facts["seconds"] = self.seconds
        config = self.config if config is None else config
        return write_run(directory, self.kind, self.schema, self, config, facts=facts, files=files)


def register(kind: str, *, schema: int) -> Callable[[type[Report]], type[Report]]:
    """Return a class decorator that lets `load` find a report by the `kind` and `schema` of its manifest.

    Change `schema` whenever a field changes; the class of an older schema may stay registered beside the new one.
    """

    def decorate(cls: type[Report]) -> type[Report]:
        if cls.__eq__ is not Saved.__eq__ or not {"config", "seconds"} <= set(field_names(cls)):
            raise TypeError(
                f"{cls.__name__} must be a `@dataclass(frozen=True, eq=False)` with the fields `config` and `seconds`."
            )
        cls.kind, cls.schema = kind, schema
        _registry.setdefault(kind, {})[schema] = cls
        return cls

    return decorate


def load(directory: str | Path) -> Any:
    """Return the report saved in `directory`; its class is picked by the manifest's `kind` and `schema`.

    Raises:
        ValueError: if it is not a run directory, or of a kind or schema that this version does not know.
    """
    manifest = _read(directory, "manifest.json")
    schemas = _registry[check_choice("kind", manifest["kind"], _registry)]
    if manifest["schema"] not in schemas:
        raise ValueError(
            f"`schema` of a {manifest['kind']!r} run must be one of {sorted(schemas)}; got {manifest['schema']!r}. "
            f"It was written by sdeadapt {manifest['packages']['sdeadapt']}: use that version."
        )
    data = _read(directory, "result.json")
    with np.load(Path(directory) / "result.npz", allow_pickle=False) as stored:
        return decode(data, schemas[manifest["schema"]], dict(stored))
