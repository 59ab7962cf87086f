"""`fully_shard` on every decoder layer, where layers borrow factors from others that are sharded again: the gradients
of one process, in worlds of one and of two."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from peft import get_peft_model_state_dict
from torch import distributed

SCRIPT = Path(__file__).with_name("kronecker_sharded.py")


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location("kronecker_sharded", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module", params=[1, pytest.param(2, marks=pytest.mark.slow)], ids="world of {}".format)
def found(request, script, tmp_path_factory):
    """What each process of the world found; a world of one is this process."""
    folder = tmp_path_factory.mktemp("sharded")
    if request.param == 1:
        distributed.init_process_group("gloo", init_method=f"file://{folder / 'store'}", rank=0, world_size=1)
        try:
            return [script.run(0, 1)]
        finally:
            distributed.destroy_process_group()
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
    started = [
        subprocess.Popen([sys.executable, SCRIPT, folder, str(rank), "2"], env=environment, stderr=subprocess.PIPE)
        for rank in range(2)
    ]
    errors = [process.communicate(timeout=500)[1].decode() for process in started]
    assert [process.returncode for process in started] == [0, 0], errors
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(2)]


def check(found, wanted):
    assert found.keys() == wanted.keys()
    for name, gradient in wanted.items():
        error = (found[name] - gradient).norm() / gradient.norm()
        assert gradient.any() and error <= 1e-10, (name, float(error))


@pytest.mark.parametrize("case", ["factored", "dense", "biases of all layers", "no set", "recomputed", "kept whole"])
def test_gradients_over_two_steps_are_those_of_one_process(found, script, case):
    wanted = script.step(script.build(case if case in script.CASES else "factored"))
    for rank in found:
        check(rank[case], wanted)


def test_fsdp1_as_one_unit(found, script):
    wanted = script.step(script.build("factored"), steps=1)
    for rank in found:
        check(rank["FSDP1"], wanted)


def test_the_gathered_state_is_the_file_of_one_process(found, script):
    wanted = get_peft_model_state_dict(script.build("factored"))
    for rank in found:
        assert rank["state"].keys() == wanted.keys()
        assert all(torch.equal(rank["state"][name], tensor) for name, tensor in wanted.items())
