"""A report comes back as it was, a run directory appears whole or not at all, and what cannot be kept is refused."""

from __future__ import annotations

import dataclasses
import enum
import json
import math
import os
import re
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from sdeadapt.results import Saved, check_output, describe, equal, load, read_config, register, write_run
from sdeadapt.statistics.estimate import Estimate, Moments


class Verdict(enum.Enum):
    CONFIRMED = "confirmed"
    REFUTED = "refuted"


@dataclass(frozen=True)
class Target:
    name: str
    interval: tuple[float, float]
    verdict: Verdict


@dataclass(frozen=True, eq=False)
class Report(Saved):
    verdict: Verdict
    errors: np.ndarray
    labels: np.ndarray
    finite: np.ndarray
    targets: tuple[Target, ...]
    best: Target | None
    worst: Target | None
    own: Estimate
    by_name: dict[str, Estimate]
    pairs: tuple[tuple[int, ...], ...]
    seconds: float
    config: dict[str, Any]
    note: str | None = None


@pytest.fixture(autouse=True)
def kinds(monkeypatch):
    """Register the report of this file for one test at a time."""
    monkeypatch.setattr("sdeadapt.results._registry", {})
    register("test-report", schema=1)(Report)


def report(**changes: Any) -> Report:
    target = Target("E θ² / ‖θ‖", (-math.inf, 0.1 + 0.2), Verdict.REFUTED)
    plain = Report(
        verdict=Verdict.CONFIRMED,
        errors=np.array([[0.1, math.nan], [-0.0, math.inf]]),
        labels=np.array(["a", "βγ"]),
        finite=np.array(True),
        targets=(target, dataclasses.replace(target, name="loss")),
        best=target,
        worst=None,
        own=Estimate(1 / 3, math.nan, 4096),
        by_name={"loss.0": Estimate(5e-324, 1.7976931348623157e308, 1)},
        pairs=((1, 2), (), (4,)),
        seconds=1.25,
        config={"seed": 0, "device": "cpu", "dtype": "float64", "chunk": 4096, "margin": math.inf, "x": [1, None]},
    )
    return dataclasses.replace(plain, **changes)


def test_a_report_comes_back_equal_and_with_its_types(tmp_path):
    saved = report()
    back = load(saved.save(tmp_path / "new" / "run"))
    assert back == saved
    assert isinstance(back, Report)
    assert isinstance(back.own, Estimate)
    assert isinstance(back.targets[1], Target)
    assert isinstance(back.best.interval, tuple)
    assert back.verdict is Verdict.CONFIRMED
    assert back.errors.tobytes() == saved.errors.tobytes()  # the sign of -0.0 included
    assert back.config["margin"] == math.inf
    assert back.pairs == ((1, 2), (), (4,))


@pytest.mark.parametrize(
    "changes",
    [
        {"verdict": Verdict.REFUTED},
        {"errors": np.array([[0.1, math.nan], [0.0, math.inf]])},  # only the sign of a zero
        {"errors": np.array([[np.nextafter(0.1, 1), math.nan], [-0.0, math.inf]])},
        {"errors": np.zeros((2, 2), dtype=np.float32)},
        {"best": None},
        {"own": Estimate(1 / 3, 0.0, 4096)},
        {"targets": ()},
        {"note": ""},
        {"config": {}},
    ],
)
def test_reports_that_differ_are_not_equal(changes):
    assert report() == report()
    assert report(**changes) != report()


def test_files_are_strict_json_and_arrays_without_pickle(tmp_path):
    path = report().save(tmp_path / "run", files={"note.txt": lambda p: p.write_text("hello")})
    assert sorted(p.name for p in path.iterdir()) == [
        "config.json",
        "manifest.json",
        "note.txt",
        "result.json",
        "result.npz",
    ]

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is not JSON")

    for file in path.glob("*.json"):
        json.loads(file.read_text(encoding="utf-8"), parse_constant=refuse)
    with np.load(path / "result.npz", allow_pickle=False) as arrays:
        assert sorted(arrays) == ["errors", "finite", "labels"]


def test_manifest_says_what_made_the_run(tmp_path):
    options = {"problem": "digits", "tensor": torch.zeros(2), "margin": math.nan}
    path = report().save(tmp_path / "run", config=options)
    manifest = json.loads((path / "manifest.json").read_text())
    assert (manifest["kind"], manifest["schema"]) == ("test-report", 1)
    assert (manifest["seed"], manifest["device"], manifest["dtype"], manifest["chunk"]) == (0, "cpu", "float64", 4096)
    assert manifest["seconds"] == 1.25
    assert manifest["packages"]["torch"] == torch.__version__
    assert manifest["python"] == ".".join(map(str, sys.version_info[:3]))
    assert len(manifest["config_sha256"]) == 64
    assert manifest["git"] is None or re.fullmatch(r"[0-9a-f]{40}(-dirty)?", manifest["git"])
    assert read_config(path)["problem"] == "digits"
    assert math.isnan(read_config(path)["margin"])

    same = report(seconds=9.0).save(tmp_path / "same", config=dict(reversed(options.items())))
    other = report().save(tmp_path / "other", config={**options, "problem": "digit"})
    hashes = [json.loads((p / "manifest.json").read_text())["config_sha256"] for p in (path, same, other)]
    assert hashes[0] == hashes[1] != hashes[2]


@pytest.mark.parametrize("error", [RuntimeError("disk full"), KeyboardInterrupt()])
def test_an_interrupted_write_leaves_nothing(tmp_path, error):
    def fail(path: Path) -> None:
        path.write_text("half")
        raise error

    with pytest.raises(type(error)):
        report().save(tmp_path / "run", files={"figure.pdf": fail})
    assert list(tmp_path.iterdir()) == []
    report().save(tmp_path / "run")
    assert [p.name for p in tmp_path.iterdir()] == ["run"]


def test_a_run_written_meanwhile_is_not_overwritten(tmp_path):
    def rival(path: Path) -> None:
        (tmp_path / "run").mkdir()
        (tmp_path / "run" / "theirs").touch()

    with pytest.raises(OSError, match="not empty"):
        report().save(tmp_path / "run", files={"figure.pdf": rival})
    assert [p.name for p in tmp_path.rglob("*")] == ["run", "theirs"]


def test_check_output_takes_new_and_empty_directories_and_makes_none(tmp_path):
    (tmp_path / "empty").mkdir()
    for name in ("empty", "new", "a/b/c"):
        assert check_output(tmp_path / name) == tmp_path / name
    assert [p.name for p in tmp_path.iterdir()] == ["empty"]


def test_check_output_refuses_what_is_used(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match=r"must not be a file; got '.*file'\. Name another"):
        check_output(tmp_path / "file")
    with pytest.raises(ValueError, match=r"must be new or empty; got .* Name another, or remove it"):
        check_output(tmp_path)
    with pytest.raises(ValueError, match=r"must be in a writable place; got '.*file/run': Not a directory"):
        check_output(tmp_path / "file" / "run")


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="/proc takes no directories, not even from root")
def test_check_output_refuses_an_unwritable_place():
    with pytest.raises(ValueError, match="must be in a writable place; got '/proc/run'"):
        check_output("/proc/run")


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write everywhere")
def test_check_output_refuses_a_read_only_parent(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(ValueError, match="Permission denied"):
        check_output(tmp_path / "run")


def test_a_used_directory_is_refused_before_anything_is_written(tmp_path):
    path = report().save(tmp_path / "run")
    before = {p: p.read_bytes() for p in path.iterdir()}
    with pytest.raises(ValueError, match="must be new or empty"):
        report(note="other").save(path)
    assert {p: p.read_bytes() for p in path.iterdir()} == before
    assert [p.name for p in tmp_path.iterdir()] == ["run"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"config": {"f": print}}, r"`config\.f` must be an array .* got builtin_function_or_method\. Store `describe"),
        ({"config": {1: 2}}, r"`config` must be .* with string keys; got dict"),
        ({"config": {"$array": 2}}, "`config` must be"),
        ({"config": {"v": Verdict.REFUTED}}, r"`Report\.config` must come back equal from a run directory"),
        ({"config": {"z": 1j}}, "got complex"),
        ({"labels": np.array([print])}, "`labels` must be an array of numbers or strings"),
    ],
)
def test_what_would_not_come_back_is_refused(tmp_path, changes, message):
    with pytest.raises(TypeError, match=message):
        report(**changes).save(tmp_path / "run")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"kind": "test-repor"}, r"`kind` must be one of 'test-report'; got 'test-repor'\. Did you mean 'test-report'"),
        ({"schema": 7}, r"`schema` of a 'test-report' run must be one of \[1\]; got 7\. .* use that version"),
    ],
)
def test_unknown_kinds_and_schemas_are_named(tmp_path, changes, message):
    file = report().save(tmp_path / "run") / "manifest.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))
    with pytest.raises(ValueError, match=message):
        load(tmp_path / "run")


def test_a_directory_without_a_run_is_named(tmp_path):
    for reader in (load, read_config):
        with pytest.raises(ValueError, match=r"must hold \w+\.json; got"):
            reader(tmp_path)


def test_an_older_schema_stays_readable(tmp_path):
    path = report().save(tmp_path / "old")

    @register("test-report", schema=2)
    @dataclass(frozen=True, eq=False)
    class Newer(Saved):
        seconds: float
        config: dict[str, Any]

    assert load(path) == report()
    newer = Newer(1.0, {})
    assert load(newer.save(tmp_path / "new")) == newer
    assert newer != report()


def test_register_refuses_a_class_it_cannot_serve():
    @dataclass(frozen=True)
    class Compared(Saved):
        seconds: float
        config: dict[str, Any]

    @dataclass(frozen=True, eq=False)
    class Bare(Saved):
        errors: np.ndarray

    for cls in (Compared, Bare):
        with pytest.raises(TypeError, match=r"must be a `@dataclass\(frozen=True, eq=False\)` with the fields"):
            register("other", schema=1)(cls)


def test_reports_hold_estimates(tmp_path):
    moments = Moments.of(torch.randn(100, 4, generator=torch.Generator().manual_seed(0)))

    @register("estimates", schema=1)
    @dataclass(frozen=True, eq=False)
    class Holder(Saved):
        moments: Moments
        seconds: float = 0.0
        config: dict[str, Any] = field(default_factory=dict)

    saved = Holder(moments)
    assert load(saved.save(tmp_path / "run")) == saved


def test_write_run_takes_plain_data_too(tmp_path):
    path = write_run(tmp_path / "run", "raw", 3, {"x": np.arange(3), "y": 0.1}, {}, facts={"seed": np.int64(5)})
    assert json.loads((path / "result.json").read_text()) == {"x": {"$array": "x"}, "y": 0.1}
    assert json.loads((path / "manifest.json").read_text())["seed"] == 5


def test_equal_is_strict_about_kind_and_shape():
    assert equal(math.nan, math.nan)
    assert equal({"a": (1, 2.0)}, {"a": (1, 2.0)})
    assert not equal(np.zeros(2), np.zeros((2, 1)))
    assert not equal(np.zeros(1), 0.0)
    assert not equal({"a": 1}, {"a": 1, "b": 2})
    assert not equal((1,), (1, 2))
    assert not equal(Target("a", (0.0, 1.0), Verdict.REFUTED), "a")


def test_describe_names_settings_and_tells_tensors_apart():
    assert describe({"dtype": torch.float64, "device": torch.device("cpu"), "verdict": Verdict.REFUTED}) == {
        "dtype": "torch.float64",
        "device": "cpu",
        "verdict": "REFUTED",
    }
    a, b = torch.zeros(3), torch.zeros(3)
    b[1] = 1e-30
    assert describe(a) == describe(torch.zeros(3)) != describe(b)
