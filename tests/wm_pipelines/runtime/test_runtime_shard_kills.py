"""Workers and drivers that are killed or stopped: nothing is lost, and what was done is not done again."""

import json
import os
import signal
from functools import partial
from pathlib import Path

import pytest

from wm_pipelines.runtime.shards import run_stage

pytestmark = pytest.mark.slow


def test_kill_before_every_change_of_the_disk(tmp_path, plan, stages, driver, contents, lines):
    texts = [[1, 2], ["x"], [5]]
    made = plan(texts=texts, size=1)
    log = tmp_path / "log"
    with pytest.warns(UserWarning, match="1 of 3"):
        run_stage(made, partial(stages.logged, log=log))
    whole, rows = contents(made.folder), {row for _, row, _ in lines(log)}
    fresh = plan("fresh", texts=texts, size=1)
    told, errors = driver("kills", fresh.folder, fresh.root, log).communicate()
    runs = json.loads(told)
    assert len(runs) > 50, "the run changes the disk more often than that"
    for number, run in enumerate(runs, 1):
        assert (run["status"], run["again"]) == (-signal.SIGKILL, 0), errors
        assert contents(fresh.folder.with_name(f"fresh-{number}")) == whole, f"killed before change {number}"
        made_by_both = lines(Path(f"{log}-{number}"))
        again = {shard for shard, _, _ in made_by_both[run["lines"] :]}
        assert not again & set(run["done"]), "what was done is done again"
        assert {row for _, row, _ in made_by_both} == rows
    assert {len(run["done"]) for run in runs} == {0, 1, 2}


def test_kill_of_a_worker_in_the_middle_of_a_shard(tmp_path, plan, stages, driver, contents, until, lines):
    run_stage(plan("whole", texts=[range(6)] * 6, size=1), partial(stages.logged, log=tmp_path / "other"))
    made = plan(texts=[range(6)] * 6, size=1)
    log = tmp_path / "log"
    running = driver(made.folder, made.root, "logged", "processes", 2, log, 0.04)
    killed = []
    for wait in (3, 12):
        until(lambda wait=wait: len(lines(log)) >= wait)
        shard, _, pid = lines(log)[-1]
        os.kill(int(pid), signal.SIGKILL)
        killed.append((shard, pid))
    told, errors = running.communicate()
    assert running.returncode == 0 and "done=6" in told and "rows=36" in told, errors
    assert contents(made.folder) == contents(tmp_path / "whole")
    made_by = {}
    for shard, row, pid in lines(log):
        made_by.setdefault(shard, {}).setdefault(pid, []).append(row)
    for shard, workers in made_by.items():
        assert len(workers) == 1 + sum(shard == s for s, _ in killed)  # again where its worker died, and only there
        assert len(list(workers.values())[-1]) == 6
    # two that were killed and whoever did the rest: on a busy machine a worker may find nothing left to do
    assert {pid for _, pid in killed} < {pid for _, _, pid in lines(log)}


@pytest.mark.parametrize("executor", ["here", "processes"])
def test_kill_of_the_driver(tmp_path, plan, stages, driver, contents, until, lines, executor):
    workers = 1 if executor == "here" else 2
    run_stage(plan("whole", texts=[range(5)] * 8, size=1), partial(stages.logged, log=tmp_path / "other"))
    made = plan(texts=[range(5)] * 8, size=1)
    log = tmp_path / "log"
    for wait in (4, 17):
        running = driver(made.folder, made.root, "logged", executor, workers, log, 0.03)
        until(lambda wait=wait: len(lines(log)) >= wait)
        running.kill()
        running.wait()
        pids = {int(pid) for _, _, pid in lines(log)}
        until(lambda pids=pids: not any(alive(pid) for pid in pids))  # its workers end with it
        done = {path.name for path in (made.folder / "shards").iterdir()}
        before = len(lines(log))
    running = driver(made.folder, made.root, "logged", executor, workers, log, 0)
    told, errors = running.communicate()
    assert running.returncode == 0 and f"skipped={len(done)}" in told, errors
    assert 0 < len(done) < 8 and not {shard for shard, _, _ in lines(log)[before:]} & done
    assert contents(made.folder) == contents(tmp_path / "whole")


def alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def test_a_worker_that_sleeps_longer_than_its_lease(tmp_path, plan, stages, driver, contents, until, lines):
    """Stopped in the middle of a shard, and woken when another has done it."""
    run_stage(plan("whole", texts=[range(4)] * 3, size=1), partial(stages.logged, log=tmp_path / "other"))
    made = plan(texts=[range(4)] * 3, size=1)
    log = tmp_path / "log"
    running = driver(made.folder, made.root, "logged", "processes", 2, log, 0.05, LEASE="0.3")
    until(lambda: len(lines(log)) >= 3)
    shard, _, pid = lines(log)[-1]
    os.kill(int(pid), signal.SIGSTOP)
    try:
        until(lambda: (made.folder / "shards" / shard).exists())
    finally:
        os.kill(int(pid), signal.SIGCONT)
    told, errors = running.communicate()
    assert running.returncode == 0 and "done=3" in told, errors
    assert len([row for s, row, _ in lines(log) if s == shard]) > 4
    assert contents(made.folder) == contents(tmp_path / "whole")


def test_a_shard_that_kills_its_workers_has_failed(plan, stages):
    made = plan(texts=[[1], [7], [2], [3]], size=1)
    with pytest.warns(UserWarning, match="00001: 3 workers died in the middle of it"):
        report = run_stage(made, stages.deadly, "processes", 2)
    assert (report.done, report.failed, report.rows) == (3, ("00001",), 3)


def test_workers_that_end_without_a_word(plan, stages):
    with pytest.raises(RuntimeError, match="a worker ended with exit code 0 before all was done"):
        run_stage(plan(), stages.leaves, "processes", 2)
