import importlib.util
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def token_models():
    """The module `token_models.py`."""
    path = Path(__file__).parents[1] / "dynamics" / "token_models.py"
    spec = importlib.util.spec_from_file_location("token_models", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
