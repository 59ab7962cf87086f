"""Leases: one worker has a shard, another takes it over where that one is gone."""

import json
import os
import shutil
import subprocess
import sys
import time
import warnings

import pytest

from wm_pipelines.runtime.shards import EachFile, run_stage
from wm_pipelines.runtime.shards.leases import take
from wm_pipelines.runtime.shards.results import commit
from wm_pipelines.runtime.shards.stages import make


def claim(folder, name, number=1, age=0, **changes):
    """A claim as this process would make it, with changes, its time `age` seconds ago."""
    lease = take(folder / "elsewhere", "x", "some run", 60)
    made = json.loads((folder / "elsewhere" / "x.1").read_text())
    with lease:
        pass
    path = folder / "leases" / f"{name}.{number}"
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(made | changes))
    os.utime(path, (time.time() - age, time.time() - age))
    shutil.rmtree(folder / "elsewhere")


@pytest.mark.parametrize(
    ("age", "changes", "free"),
    [
        (0, {}, False),  # this process, which lives
        (61, {}, True),  # it was silent for too long
        (0, {"pid": 2**22 + 1}, True),  # no such process
        (0, {"started": "1"}, True),  # another process has its number
        (59, {"place": "elsewhere", "pid": 1}, False),
        (61, {"place": "elsewhere", "pid": 1}, True),
        (3600, {"place": "elsewhere", "lease_s": 7200}, False),
        (0, {"place": "", "pid": 2**22 + 1}, False),  # numbers of processes mean nothing there
    ],
)
def test_who_may_take_a_lease(tmp_path, age, changes, free):
    claim(tmp_path, "00000", age=age, **changes)
    lease = take(tmp_path / "leases", "00000", "this run", 60)
    assert (lease is not None) == free
    if free:
        with lease:
            assert lease.ours() and lease.deaths("some run") == 1 and lease.deaths("this run") == 0
            assert take(tmp_path / "leases", "00000", "this run", 60) is None
        assert list((tmp_path / "leases").iterdir()) == []


def test_a_lease_that_lost_its_power_over_night(tmp_path):
    claim(tmp_path, "00000")
    (tmp_path / "leases" / "00000.1").write_bytes(b"")
    assert take(tmp_path / "leases", "00000", "this run", 60) is not None


def test_a_lease_is_renewed_while_its_worker_lives(tmp_path, until):
    with take(tmp_path, "00000", "run", 0.2):
        (path,) = tmp_path.iterdir()
        first = path.stat().st_mtime
        until(lambda: path.stat().st_mtime > first)
        assert take(tmp_path, "00000", "run", 0.2) is None
    assert list(tmp_path.iterdir()) == []


def test_one_of_many_gets_a_lease(tmp_path):
    """Eight processes at once, each time over a dead claim."""
    for i in range(20):
        claim(tmp_path, f"{i:05}", pid=2**22 + 1)
    code = (
        "import sys, time; from pathlib import Path; from wm_pipelines.runtime.shards.leases import take\n"
        "while time.time() < float(sys.argv[2]): pass\n"
        "held = [take(Path(sys.argv[1]), f'{i:05}', 'run', 60) for i in range(20)]\n"
        "print(*[i for i in range(20) if held[i]], flush=True); sys.stdin.read()"
    )
    arguments = [sys.executable, "-c", code, str(tmp_path / "leases"), str(time.time() + 1.5)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    crowd = [subprocess.Popen(arguments, **pipes) for _ in range(4)]
    held = [number for process in crowd for number in process.stdout.readline().split()]
    for process in crowd:
        process.communicate()
    assert sorted(map(int, held)) == list(range(20))


def test_two_that_make_one_shard_commit_it_once(plan, stages):
    """The first thought the second dead; it wakes up last and changes nothing, even if it made other rows."""
    made = plan()
    for part in ("leases", "shards", "failed", "tmp"):
        (made.folder / part).mkdir()
    first = take(made.folder / "leases", "00000", "run", 60)
    path = made.folder / "leases" / "00000.1"
    os.utime(path, (1, 1))
    second = take(made.folder / "leases", "00000", "run", 60)
    assert second is not None and not first.ours() and second.ours()
    ours, theirs = (make(made, "00000", stage) for stage in (EachFile(stages.numbers), lambda shard: [{"other": 1}]))
    commit(made, "00000", theirs, first)
    assert not (made.folder / "shards" / "00000").exists()
    commit(made, "00000", ours, second)
    with second:
        pass
    commit(made, "00000", theirs, first)
    again = take(made.folder / "leases", "00000", "run", 60)
    commit(made, "00000", theirs, again)  # not even with a lease
    assert (made.folder / "shards" / "00000" / "rows.jsonl").read_bytes() == ours.data
    assert list((made.folder / "tmp").iterdir()) == []


def test_what_dead_workers_left_is_cleared(plan, stages, contents):
    run_stage(plan("whole"), EachFile(stages.numbers))
    made = plan()
    claim(made.folder, "00000", pid=2**22 + 1)
    claim(made.folder, "00003", number=2, pid=2**22 + 1)
    (made.folder / "tmp" / "00000.ab" / "00000").mkdir(parents=True)
    (made.folder / "tmp" / "00000.ab" / "00000" / "rows.jsonl").write_text('{"half')
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert run_stage(made, EachFile(stages.numbers)).done == 5
    assert contents(made.folder) == contents(plan("whole").folder)


def test_a_living_worker_elsewhere_is_waited_for(plan, stages):
    made = plan()
    claim(made.folder, "00002", age=0, place="elsewhere", lease_s=0.5)
    began = time.monotonic()
    assert run_stage(made, EachFile(stages.numbers)).done == 5
    assert time.monotonic() - began > 0.3
