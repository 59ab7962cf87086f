"""A shared A in two processes: its gradient, summed over layers and averaged over both, is that of one process."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

pytestmark = pytest.mark.slow

SCRIPT = Path(__file__).with_name("kronecker_two_processes.py")


def test_two_processes_have_the_gradients_of_one(tmp_path):
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
    started = [
        subprocess.Popen([sys.executable, SCRIPT, tmp_path, str(rank)], env=environment, stderr=subprocess.PIPE)
        for rank in (0, 1)
    ]
    errors = [process.communicate(timeout=300)[1].decode() for process in started]
    assert [process.returncode for process in started] == [0, 0], errors
    spec = importlib.util.spec_from_file_location("kronecker_two_processes", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    one = module.gradients(module.build(), slice(0, 8))
    two = [torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in (0, 1)]
    kinds = sorted(name.split("kronecker_")[1] for name in one)
    assert kinds == ["a_in.default", "a_out.default", "bias.default", *["u.default"] * 2, *["v.default"] * 2]
    for name, gradient in one.items():
        assert torch.equal(two[0][name], two[1][name])
        error = (two[0][name] - gradient).norm() / gradient.norm()
        assert gradient.any() and error <= 1e-6, (name, float(error))
