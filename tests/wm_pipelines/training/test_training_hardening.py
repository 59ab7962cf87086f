"""What the user or the machine does to a run ends with one line, and the last good state stays."""

import gc
import os
import resource
import signal
import subprocess
import sys
import time

import pytest
import torch

from wm_pipelines import cli
from wm_pipelines.runtime.claims import claimed

pytestmark = pytest.mark.slow

DRIVER = """
import sys
sys.path.insert(0, {here!r})
import wave_task
from pathlib import Path
from wm_pipelines import cli, training
training.tasks = lambda: {{"wave": "wave_task.WaveTask"}}
training.recipes = lambda: {{"wave": Path({recipe!r})}}
sys.argv = ["wm", "train", "wave", "--out", {out!r}, *{rest!r}]
cli.main()
"""


@pytest.fixture
def wm_train(tmp_path):
    """`wm_train(*arguments)`: the command in a process of its own."""
    recipe = tmp_path / "wave.yaml"
    recipe.write_text("task: wave\nsteps: 100000\nbatch_size: 4\nlr: 0.01\nlog_every: 1\nsave_every: 100000\n")

    def start(*rest):
        code = DRIVER.format(
            here=os.path.dirname(__file__), recipe=str(recipe), out=str(tmp_path / "run"), rest=list(rest)
        )
        return subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.PIPE, text=True)

    return start


def test_ctrl_c_saves_the_state_and_says_so_in_one_line(wm_train, tmp_path):
    child = wm_train()
    log = tmp_path / "run" / "log.jsonl"
    while not (log.exists() and log.read_text().count("\n") > 2):
        assert child.poll() is None, child.stderr.read()
        time.sleep(0.05)
    child.send_signal(signal.SIGINT)
    said = [line for line in child.communicate()[1].splitlines() if not line.startswith("wave ")]
    assert child.returncode == 130
    assert len(said) == 1 and "its state is saved in" in said[0]
    assert list((tmp_path / "run" / "state").glob("step-*/state.json"))


def test_a_learning_rate_beyond_all_measure_ends_with_one_line(wm_train):
    child = wm_train("--set", "lr=1e30", "--set", "steps=50")
    said = [line for line in child.communicate()[1].splitlines() if not line.startswith("wave ")]
    assert child.returncode == 2
    assert len(said) == 1 and "is not finite at step" in said[0]


def test_a_full_disk_leaves_the_last_good_state(wave, tmp_path):
    recipe = wave.recipe(save_every=4)

    def full(step, line):
        if step == 4:  # what follows can't be written: no file may have more bytes
            resource.setrlimit(resource.RLIMIT_FSIZE, (400, resource.RLIM_INFINITY))

    child = os.fork()
    if not child:
        gc.disable()  # what the threads of earlier tests held can't be freed without them
        torch.set_num_threads(1)  # which are not here
        status = 1
        try:
            wave.train(wave.WaveTask(recipe), recipe, tmp_path / "run", on_log=lambda s, line: full(s - 1, line))
        except OSError as error:
            status = 0 if "the last saved state is of step 4" in str(error) else 2
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert [path.name for path in (tmp_path / "run" / "state").iterdir()] == ["step-00000004"]
    for folder in ("run", "whole"):
        wave.train(wave.WaveTask(recipe), recipe, tmp_path / folder)
    made = [(tmp_path / folder / "export" / "model.safetensors").read_bytes() for folder in ("run", "whole")]
    assert made[0] == made[1]


def test_a_folder_that_another_run_holds_is_refused_before_the_data_are_made(tmp_path, monkeypatch, capsys):
    from wm_pipelines import training

    monkeypatch.setattr(training, "build", lambda recipe: pytest.fail("the task was built"))
    monkeypatch.setattr(sys, "argv", ["wm", "train", "diorama-judge", "--out", str(tmp_path / "run")])
    (tmp_path / "run").mkdir()
    holder = os.fork()
    if not holder:
        with claimed(tmp_path / "run"):
            (tmp_path / "held").touch()
            signal.pause()
    while not (tmp_path / "held").exists():
        time.sleep(0.01)
    try:
        with pytest.raises(SystemExit) as ended:
            cli.main()
    finally:
        os.kill(holder, signal.SIGKILL)
        os.waitpid(holder, 0)
    assert ended.value.code == 2
    assert "in use by another run" in capsys.readouterr().err
