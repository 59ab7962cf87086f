"""How the checks of the Triton kernels run: in an interpreter, on tensors that hold NaN until something is written."""

import math
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch


@pytest.fixture
def interpret() -> Callable[[Path], None]:
    """Runs checks in a process of its own: Triton decides when a kernel is defined whether to interpret it."""

    def run(checks: Path) -> None:
        command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", str(checks)]
        environment = {**os.environ, "TRITON_INTERPRET": "1", "CUDA_VISIBLE_DEVICES": ""}
        root = Path(__file__).parents[2]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, cwd=root)
        assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
        assert " passed" in done.stdout and "skipped" not in done.stdout

    return run


@pytest.fixture
def poison(monkeypatch):
    """Every tensor that the launchers make is filled with NaN first, so an element that no kernel writes shows."""

    def fill(plain):
        def made(*args, **kwargs):
            found = plain(*args, **kwargs)
            return found.fill_(math.nan) if found.is_floating_point() else found

        return made

    monkeypatch.setattr(torch.Tensor, "new_empty", fill(torch.Tensor.new_empty))
    monkeypatch.setattr(torch, "empty_like", fill(torch.empty_like))
