import importlib.util
from pathlib import Path

import pytest


def module_of(path):
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def token_models():
    """The module `token_models.py`."""
    return module_of(Path(__file__).parents[1] / "dynamics" / "token_models.py")


@pytest.fixture(scope="session")
def tiny_editor():
    """The module `tiny_editor.py`."""
    return module_of(Path(__file__).with_name("tiny_editor.py"))
