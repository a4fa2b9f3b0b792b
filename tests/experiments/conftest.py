"""Experiments are scripts: tests import them by name, as a script finds its neighbours."""

import importlib
import sys
from pathlib import Path

import pytest

EXPERIMENTS = Path(__file__).parents[2] / "experiments"


@pytest.fixture
def experiment(monkeypatch):
    """Import an experiment by name; it is forgotten after the test."""
    monkeypatch.syspath_prepend(str(EXPERIMENTS))
    before = set(sys.modules)
    yield importlib.import_module
    for name in set(sys.modules) - before:
        if (EXPERIMENTS / f"{name}.py").exists():
            del sys.modules[name]
