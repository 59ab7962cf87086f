"""The scripts in `benchmarks/` as modules: they import one another from their own folder, as when they are run."""

import importlib
from pathlib import Path

import pytest


@pytest.fixture
def script(monkeypatch):
    """script(name) -> the module of benchmarks/<name>.py."""
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "benchmarks"))
    return importlib.import_module
