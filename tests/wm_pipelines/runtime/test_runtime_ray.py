"""Shards under Ray Data: the same bytes, whoever is killed; one cluster for all of these tests."""

import os
import signal
import sys
from functools import partial

import pytest

from wm_pipelines.runtime.shards import TooManyFailures, dead_letters, run_stage

pytestmark = pytest.mark.slow

pytest.importorskip("ray.data")


@pytest.fixture(scope="module")
def cluster(stages):
    """The cluster that `run_stage` itself would start for two workers."""
    import ray

    from wm_pipelines.runtime.ray import cluster

    with cluster(ray, 2, (0.5, 0)):
        yield ray
    assert not ray.is_initialized()


def test_actors_leave_the_same_bytes(cluster, plan, stages, contents):
    texts = [range(i, i + i % 4) for i in range(10)] + [["no number"]]
    here, ray = (plan(name, texts, columns=stages.COLUMNS) for name in ("here", "ray"))
    with pytest.warns(UserWarning, match="1 of 6 shards"):
        report = run_stage(here, stages.Numbers)
    told = []
    with pytest.warns(UserWarning, match="1 of 6 shards .*00005: ValueError: invalid literal"):
        assert run_stage(ray, stages.Numbers, "ray", 2, on_shard=lambda *counts: told.append(counts)) == report
    assert contents(here.folder) == contents(ray.folder)
    assert told == [(i, 6) for i in range(1, 7)]
    assert cluster.is_initialized()  # what we didn't start, we don't end


def test_kill_of_an_actor_and_then_of_the_driver(cluster, tmp_path, plan, stages, driver, contents, until, lines):
    texts = [range(6)] * 6
    run_stage(plan("whole", texts, 1), partial(stages.logged, log=tmp_path / "other"))
    made, log, gate = plan("out", texts, 1), tmp_path / "log", tmp_path / "gate"
    address = cluster.get_runtime_context().gcs_address
    running = driver(made.folder, made.root, "logged", "ray", 2, log, 0.1, gate, RAY_ADDRESS=address)
    until(lambda: len(lines(log)) >= 3, 200)
    shard, _, pid = lines(log)[-1]
    os.kill(int(pid), signal.SIGKILL)
    until((made.folder / "shards" / shard).exists, 200)
    assert len({p for s, _, p in lines(log) if s == shard}) == 2
    running.kill()
    running.communicate()
    gate.touch()
    before, done = len(lines(log)), {path.name for path in (made.folder / "shards").iterdir()}
    assert shard in done and "00004" not in done
    # another executor goes on; an actor that still lives is waited for
    assert run_stage(made, partial(stages.logged, log=log)).done == 6
    assert not {s for s, _, p in lines(log)[before:] if int(p) == os.getpid()} & done
    assert contents(made.folder) == contents(tmp_path / "whole")


def test_an_error_of_an_actor_is_that_of_a_worker_here(cluster, plan, stages):
    made = plan("limit", [[1, 3, 5]])
    with pytest.raises(TooManyFailures, match="3 rows, files or shards failed, `max_failures` allows 2"):
        run_stage(made, stages.odd_fail, "ray", max_failures=2)
    assert len(dead_letters(made)) == 3


def test_more_than_the_cluster_has(cluster, plan, stages):
    made = plan("gpus", [[1], [2]])
    with pytest.raises(ValueError, match="1 need 1000 GPUs, Ray has"):
        run_stage(made, stages.Numbers, "ray", 2, num_gpus=1000)
    with pytest.raises(ValueError, match="1 need 1e[+]06 CPUs, Ray has"):
        run_stage(made, stages.Numbers, "ray", 2, num_cpus=1e6)


def test_without_ray(plan, stages, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    made = plan()
    with pytest.raises(ImportError, match=r'executor "ray" needs Ray Data: pip install "wm-pipelines\[scale\]"'):
        run_stage(made, stages.Numbers, "ray")
    assert [path.name for path in made.folder.iterdir()] == ["plan.json"]


def test_a_cluster_of_ours_asks_for_a_secret(cluster):
    assert os.environ["RAY_AUTH_MODE"] == "token" and len(os.environ["RAY_AUTH_TOKEN"]) == 64


def test_a_stage_that_actors_can_not_import(cluster, tmp_path, plan, monkeypatch):
    (tmp_path / "late.py").write_text("def stage(shard):\n    return []\n")
    monkeypatch.syspath_prepend(tmp_path)
    import late

    with pytest.raises(RuntimeError, match="Ray could not run the actors: .*No module named 'late'"):
        run_stage(plan("out", [[1]]), late.stage, "ray")
