import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent


@pytest.fixture(scope="session")
def wave():
    """The module with the small task that training tests share."""
    spec = importlib.util.spec_from_file_location("wave_task", HERE / "wave_task.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def run_script():
    """Run a script of this folder in a process of its own, one thread, no progress."""

    def run(name, *arguments, launcher=(), check=True, **variables):
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "WM_PROGRESS": "0", **variables}
        command = [sys.executable, *launcher, str(HERE / name), *map(str, arguments)]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=900, check=False)
        if check and done.returncode:
            raise AssertionError(f"{command} ended with {done.returncode}:\n{done.stderr[-3000:]}")
        return done

    return run


@pytest.fixture(autouse=True)
def quiet(monkeypatch):
    monkeypatch.setenv("WM_PROGRESS", "0")
