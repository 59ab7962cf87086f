"""Kill a training run again and again. `python kill_driver.py random|every FOLDER`; prints one line of JSON.

Imports and first calls are paid once: every run is a fork of this process, killed for real.
"""

import json
import os
import random
import signal
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
import wave_task  # noqa: E402

from wm_pipelines.training import train  # noqa: E402

CHANGES = {"open", "os.rename", "os.remove", "os.mkdir", "os.rmdir", "shutil.rmtree"}


def fork(folder, recipe, kill_at=None):
    """Train in a child; `kill_at` = n: it kills itself just before its n-th change of the run's folder."""
    child = os.fork()
    if child:
        return child
    status = 1
    try:
        if kill_at is not None:
            left = kill_at

            def hook(event, arguments):
                nonlocal left
                if event in CHANGES and arguments and str(folder) in str(arguments[0]):
                    left -= 1
                    if left <= 0:
                        os.kill(os.getpid(), signal.SIGKILL)

            sys.addaudithook(hook)
        train(wave_task.WaveTask(recipe), recipe, folder)
        status = 0
    except BaseException as error:  # the parent reports it; a fork must never return into the parent's code
        print(repr(error), file=sys.stderr)
    finally:
        os._exit(status)


def finish(child):
    """Exit status of a child; below 0: the signal that ended it."""
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def at_random(root):
    """20 kills at random moments of a run that saves at every step."""
    recipe = wave_task.recipe(steps=100, save_every=1)
    begin = time.monotonic()
    assert finish(fork(root / "whole", recipe)) == 0
    whole = time.monotonic() - begin
    clock, kills, folders = random.Random(7), 0, [root / "killed-1"]
    while kills < 20:
        child = fork(folders[-1], recipe)
        time.sleep(clock.uniform(0, whole / 8))
        os.kill(child, signal.SIGKILL)
        status = finish(child)
        if status == 0:  # on a fast machine the run may end first: kill the next one
            folders.append(root / f"killed-{len(folders) + 1}")
            continue
        assert status == -signal.SIGKILL, status
        kills += 1
    return {"kills": kills, "runs": len(folders), "status": finish(fork(folders[-1], recipe))}


def at_every_change(root):
    """Kill just before each change of the disk that a run of two saves makes, from the first to the last."""
    recipe = wave_task.recipe(steps=4, save_every=2)
    assert finish(fork(root / "whole", recipe)) == 0
    runs = []
    while True:
        folder = root / f"killed-{len(runs) + 1}"
        status = finish(fork(folder, recipe, kill_at=len(runs) + 1))
        if status == 0:
            return {"kills": len(runs), "statuses": runs}
        assert status == -signal.SIGKILL, status
        runs.append(finish(fork(folder, recipe)))


if __name__ == "__main__":
    warm = wave_task.recipe(steps=1)
    train(wave_task.WaveTask(warm), warm, Path(sys.argv[2]) / "warm")
    mode = {"random": at_random, "every": at_every_change}[sys.argv[1]]
    print(json.dumps(mode(Path(sys.argv[2]))))
