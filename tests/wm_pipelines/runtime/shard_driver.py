"""Runs a stage in a process of its own.

    python shard_driver.py FOLDER ROOT STAGE EXECUTOR [WORKERS [LOG PAUSE [GATE]]]

`kills FOLDER ROOT LOG` instead kills a run, in forks of this process, just before each change of the disk.
"""

import json
import os
import signal
import sys
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
import shard_stages  # noqa: E402

from wm_pipelines.runtime.shards import read_plan, run_stage  # noqa: E402

CHANGES = {"os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.link", "shutil.rmtree"}


def fork(work, kill_at=0):
    """Exit status of `work` in a child that kills itself just before its `kill_at`-th change of any disk."""
    child = os.fork()
    if child:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    try:
        left = kill_at

        def hook(event, arguments):
            nonlocal left
            if event in CHANGES or event == "open" and arguments[2] & (os.O_WRONLY | os.O_RDWR):
                left -= 1
                if left == 0:
                    os.kill(os.getpid(), signal.SIGKILL)

        if kill_at:
            sys.addaudithook(hook)
        work()
        os._exit(0)
    except BaseException as error:  # a fork must never return into the parent's code
        print(repr(error), file=sys.stderr)
    finally:
        os._exit(1)


def kills(folder, root, log):
    """How many runs were killed; each was then run to its end, in `<folder>-1`, `<folder>-2`, ..."""
    source = (folder / "plan.json").read_bytes()
    runs = []
    while True:
        number = len(runs) + 1
        copy = folder.with_name(f"{folder.name}-{number}")
        copy.mkdir()
        (copy / "plan.json").write_bytes(source)
        stage = partial(shard_stages.logged, log=f"{log}-{number}")

        def work(copy=copy, stage=stage):
            run_stage(read_plan(copy, root), stage)

        status = fork(work, number)
        done = sorted(path.name for path in (copy / "shards").glob("*")) if (copy / "shards").exists() else []
        if status == 0:
            return runs
        runs.append({"status": status, "done": done, "lines": lines(f"{log}-{number}"), "again": fork(work)})


def lines(log):
    return len(Path(log).read_text(encoding="utf-8").splitlines()) if Path(log).exists() else 0


def main(folder, root, name, executor, workers="1", log=None, pause="0", gate=None):
    stage = getattr(shard_stages, name)
    if log:
        stage = partial(stage, log=log, pause=float(pause), gate=gate)
    lease_s = float(os.environ.get("LEASE", 60))
    print(run_stage(read_plan(folder, root), stage, executor, int(workers), lease_s=lease_s))


if __name__ == "__main__":
    if sys.argv[1] == "kills":
        print(json.dumps(kills(*map(Path, sys.argv[2:]))))
    else:
        main(*sys.argv[1:])
