"""Two processes compute what one does with twice the micro-batches."""

import importlib.util
import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

pytestmark = pytest.mark.slow

# accelerate's `--cpu` starts a single process unless MPI is there; `--multi_gpu` is torchrun, with or without a GPU.
LAUNCH = ["-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2", "--num_machines", "1"]
LAUNCH += ["--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port", "0"]


@pytest.fixture(scope="module")
def two(run_script, tmp_path_factory):
    folder = tmp_path_factory.mktemp("two")
    run_script("two_processes.py", folder, launcher=LAUNCH, ACCELERATE_USE_CPU="true", GLOO_SOCKET_IFNAME="lo")
    return folder


@pytest.fixture(scope="module")
def one(tmp_path_factory):
    path = Path(__file__).with_name("two_processes.py")
    spec = importlib.util.spec_from_file_location("two_processes", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    folder = tmp_path_factory.mktemp("one")
    module.one_then_twenty(folder, batch_size=4, grad_accum=2)
    return folder


def test_first_gradients_agree(one, two):
    # After one step AdamW's first moment is (1 - beta1) times the gradient.
    ours, theirs = (load_file(folder / "first" / "optimizer.safetensors") for folder in (one, two))
    assert ours.keys() == theirs.keys()
    compared = 0
    for name, mine in ours.items():
        if name.startswith("exp_avg.") and mine.abs().max() > 0:
            error = (mine - theirs[name]).norm() / mine.norm()
            assert error <= 1e-6, (name, float(error))
            compared += 1
    assert compared == 4


def test_losses_agree_over_twenty_steps(one, two):
    ours, theirs = (
        [json.loads(line) for line in (folder / "run" / "log.jsonl").read_text().splitlines()] for folder in (one, two)
    )
    assert [line["step"] for line in ours] == [line["step"] for line in theirs] == list(range(1, 21))
    losses = torch.tensor([[a["loss"], b["loss"]] for a, b in zip(ours, theirs, strict=True)])
    torch.testing.assert_close(losses[:, 1], losses[:, 0], rtol=1e-5, atol=0)
    assert len(set(losses[:, 0].tolist())) == 20
    assert [line["first_index"] for line in ours] == [line["first_index"] for line in theirs]


def test_record_names_the_processes(two):
    record = json.loads((two / "run" / "record.json").read_text())
    assert "2 processes" in record["hardware"]


def test_a_signal_to_one_process_stops_both_after_the_step(two):
    assert [(two / f"rank-{rank}.txt").read_text() for rank in (0, 1)] == ["143", "143"]
    state = json.loads((two / "stopped" / "state" / "step-00000006" / "state.json").read_text())
    assert state["step"] == 6 and state["processes"] == 2


def test_the_group_is_left_before_the_interpreter_ends(two):
    assert [(two / f"group-{rank}.txt").read_text() for rank in (0, 1)] == ["False", "False"]


def test_another_number_of_processes_is_refused(wave, two):
    recipe = wave.recipe(save_every=100)
    with pytest.raises(ValueError, match="2 processes, this run has 1"):
        wave.train(wave.WaveTask(recipe), recipe, two / "stopped")
