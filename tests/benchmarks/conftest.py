"""The scripts in `benchmarks/` as modules: they import one another from their own folder, as when they are run."""

import importlib
from pathlib import Path

import pytest


@pytest.fixture
def script(monkeypatch):
    """script(name) -> the module of benchmarks/<name>.py."""
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "benchmarks"))
    return importlib.import_module


@pytest.fixture(autouse=True)
def same_threads():
    """Scripts choose their number of threads; the tests after them keep theirs."""
    import torch

    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)
