"""What each of two processes runs: `accelerate launch ... two_processes.py FOLDER`."""

import atexit
import os
import shutil
import signal
import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parent))
from wave_task import WaveTask, recipe  # noqa: E402

from wm_pipelines.training import train  # noqa: E402


def one_then_twenty(folder, **fields):
    """Train one step, keep what the optimiser saw, go on to twenty."""
    for steps in (1, 20):
        chosen = recipe(steps=steps, **fields)
        train(WaveTask(chosen), chosen, folder / "run")
        if steps == 1 and int(os.environ.get("RANK", 0)) == 0:
            shutil.copytree(next((folder / "run" / "state").glob("step-*")), folder / "first")


def tell_of_the_group(file):
    file.write_text(str(torch.distributed.is_initialized()))


class Stopped(WaveTask):
    """The second process alone hears SIGTERM, in its sixth step."""

    def loss(self, indices, step, noise):
        if step == 5 and os.environ["RANK"] == "1":
            os.kill(os.getpid(), signal.SIGTERM)
        return super().loss(indices, step, noise)


if __name__ == "__main__":
    root = Path(sys.argv[1])
    # Handlers run in the reverse order: after those of the training.
    atexit.register(tell_of_the_group, root / f"group-{os.environ['RANK']}.txt")
    one_then_twenty(root, batch_size=4)
    try:
        chosen = recipe(save_every=100)
        train(Stopped(chosen), chosen, root / "stopped")
    except SystemExit as stopped:
        (root / f"rank-{os.environ['RANK']}.txt").write_text(str(stopped.code))
