"""A stage over shards: the same bytes under every executor, and what fails is written down."""

import errno
import re
import shutil
import subprocess

import pytest

from wm_pipelines.runtime.random import keyed
from wm_pipelines.runtime.shards import (
    EachFile,
    Failed,
    TooManyFailures,
    dead_letters,
    divide,
    make_plan,
    outputs,
    plan_rows,
    read_plan,
    read_rows,
    run_stage,
)
from wm_pipelines.runtime.shards.results import forget_failed

CONFIG = {"by": 0.5, "code": 1}


@pytest.mark.parametrize(("case", "columns"), [(0, False), (1, True)])
def test_every_executor_leaves_the_same_bytes(tmp_path, files, stages, driver, contents, case, columns):
    draw = keyed("shards", case, columns)
    texts = [draw.integers(-99, 99, draw.integers(0, 6)).tolist() for _ in range(draw.integers(3, 12))]
    texts[draw.integers(len(texts))] = ["no number"]  # fails Numbers' shard whole
    shards = divide(files(*texts), int(draw.integers(1, 4)))
    options = {"root": tmp_path / "in", "config": CONFIG, "columns": stages.COLUMNS if columns else None}
    made = {name: make_plan(tmp_path / name, shards, **options) for name in ("here", "processes", "ranks")}
    ranks = [
        driver(tmp_path / "ranks", tmp_path / "in", "Numbers", "ranks", RANK=str(rank), WORLD_SIZE="2")
        for rank in range(2)
    ]
    reports = {}
    for name, workers in (("here", 1), ("processes", 2)):
        with pytest.warns(UserWarning, match="1 of .* shards of .* failed, .*ValueError: invalid literal"):
            reports[name] = run_stage(made[name], stages.Numbers, name, workers)
    told = [re.sub(r"skipped=\d+", "skipped=0", rank.communicate()[0].strip()) for rank in ranks]
    # a rank that starts later skips what the other one had done by then
    assert reports["here"] == reports["processes"] and told == [str(reports["here"])] * 2
    whole = contents(tmp_path / "here")
    assert contents(tmp_path / "processes") == whole == contents(tmp_path / "ranks")
    assert len(whole) == 2 + 2 * reports["here"].done and reports["here"].done == len(shards) - 1
    expected = [row for shard in shards for row in self_made(stages, shard)]
    assert list(plan_rows(made["ranks"], skip_failed=True)) == expected


def self_made(stages, shard):
    try:
        return [row for path in shard for row in stages.numbers(path, CONFIG)]
    except ValueError:
        return []


@pytest.mark.parametrize(("executor", "workers"), [("here", 1), ("processes", 2)])
def test_a_failure_that_a_later_run_takes_back_is_waited_for(tmp_path, files, stages, executor, workers):
    shards = divide(files([1], ["no number"], [2]), 1)
    plan = make_plan(tmp_path / "out", shards, root=tmp_path / "in", config=CONFIG)
    counts = []

    def taken_back(settled, of):
        counts.append(settled)
        if counts.count(of) == 1 and settled == of:  # another rank begins when this one has just ended
            forget_failed(plan)

    with pytest.warns(UserWarning, match="1 of 3 shards of .* failed"):
        found = run_stage(plan, stages.Numbers, executor, workers, on_shard=taken_back)
    assert (found.done, len(found.failed)) == (2, 1) and max(counts) == 3


def test_stages_follow_one_another(tmp_path, plan, stages, monkeypatch):
    plan()
    monkeypatch.chdir(tmp_path)
    first = read_plan("out", "in")
    run_stage(first, EachFile(stages.numbers))
    second = make_plan("second", divide(outputs(first), 2), root="out", config={}, columns={"n": "int64"})

    def total(shard):
        yield {"n": sum(row["twice"][0] for path in shard.paths for row in read_rows(path))}

    assert run_stage(second, total).rows == 3
    assert [row["n"] for row in plan_rows(second)] == [3 + 6 + 9 + 12, 15 + 18 + 21 + 24, 27 + 30]


@pytest.mark.parametrize("columns", [None, {"a": "list<int8>"}])
def test_a_stage_may_use_one_row_again(plan, columns):
    def again(shard):
        row = {"a": [0]}
        for _ in range(3):
            row["a"][0] += 1
            yield row

    for name, stage in (("one", again), ("two", EachFile(lambda path, config: again(path)))):
        made = plan(name, [[1]], columns=columns)
        run_stage(made, stage)
        assert [row["a"] for row in plan_rows(made)] == [[1], [2], [3]]


def test_progress(plan, stages):
    told = []
    run_stage(plan(), EachFile(stages.numbers), on_shard=lambda *counts: told.append(counts))
    assert told == [(i, 5) for i in range(1, 6)]
    shutil.rmtree(plan().folder / "shards" / "00002")
    told.clear()
    report = run_stage(plan(), EachFile(stages.numbers), on_shard=lambda *counts: told.append(counts))
    assert told == [(5, 5)] and report.skipped == 4
    run_stage(plan("two"), EachFile(stages.numbers), "processes", 2, on_shard=lambda *counts: told.append(counts))
    assert told[-1] == (5, 5)


def test_a_class_is_made_once_in_each_worker_and_not_where_nothing_is_left(tmp_path, plan, stages, monkeypatch):
    (tmp_path / "marks").mkdir()
    monkeypatch.setenv("SHARD_MARKS", str(tmp_path / "marks"))
    for workers, expected in ((2, (1, 2)), (1, (0,))):
        for mark in (tmp_path / "marks").iterdir():
            mark.unlink()
        run_stage(plan(), stages.Numbers, "processes", workers)
        marks = [path.name.split("-")[0] for path in (tmp_path / "marks").iterdir()]
        assert len(marks) == len(set(marks)) and len(marks) in expected


def test_unfinished_outputs_are_refused(plan, stages):
    made = plan()
    with pytest.raises(ValueError, match="shard 00000 of .* is not done yet"):
        outputs(made)
    with pytest.raises(ValueError, match="not done yet"):
        list(plan_rows(made, skip_failed=True))
    run_stage(made, EachFile(stages.numbers))
    (made.folder / "shards" / "00001" / "rows.jsonl").write_text("{}\n")
    with pytest.raises(ValueError, match="shard 00001 .* rows were altered"):
        list(plan_rows(made))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"executor": "slurm"}, "`executor` must be one of here, processes, ranks, ray, got 'slurm'"),
        ({"executor": None}, "`executor`"),
        ({"workers": 0}, "`workers` must be an integer of at least 1, got 0"),
        ({"workers": True}, "`workers`"),
        ({"workers": 1.5, "executor": "processes"}, "`workers`"),
        ({"workers": 2}, "`workers` is 2, but executor 'here' is one process"),
        ({"workers": 2, "executor": "ranks"}, "its launcher starts"),
        ({"max_failures": -1}, "`max_failures` must be an integer of at least 0"),
        ({"lease_s": 0}, "`lease_s` must be above 0"),
        ({"lease_s": float("nan")}, "`lease_s`"),
        ({"num_gpus": 1}, "`num_gpus` is for executor 'ray'"),
        ({"num_gpus": -1, "executor": "ray"}, "`num_gpus` must be a number of at least 0"),
        ({"stage": 3}, "`stage` must be a function"),
        ({"stage": Failed}, "`stage` Failed is a class whose objects can't be called"),
        ({"stage": lambda shard: [], "executor": "processes"}, "`stage` .*lambda.* can't be sent to another process"),
        ({"stage": lambda shard: [], "executor": "ray"}, "define it at the top of a module"),
        ({"executor": "ranks"}, "RANK and WORLD_SIZE"),
    ],
)
def test_arguments_that_are_refused(plan, stages, change, message):
    made = plan()
    options = {"stage": EachFile(stages.numbers)} | change
    with pytest.raises(ValueError, match=message):
        run_stage(made, **options)
    assert [path.name for path in made.folder.iterdir()] == ["plan.json"]


@pytest.mark.parametrize(("rank", "size"), [("2", "2"), ("-1", "2"), ("0", "0"), ("0", ""), ("x", "1")])
def test_ranks_that_are_none(plan, stages, monkeypatch, rank, size):
    monkeypatch.setenv("RANK", rank)
    monkeypatch.setenv("WORLD_SIZE", size)
    with pytest.raises(ValueError, match=f"they are '{rank}' and '{size}'"):
        run_stage(plan(), EachFile(stages.numbers), "ranks")


@pytest.mark.parametrize("size", [0, -1, 1.5, None])
def test_sizes_of_shards_that_are_refused(size):
    with pytest.raises(ValueError, match="`size`"):
        divide(["a"], size)


def test_dead_letters_of_files(plan, stages):
    made = plan(texts=[[1, 2], [3, "x"], [], ["y"], [4]])
    report = run_stage(made, EachFile(stages.numbers))
    assert (report.done, report.rows, report.failures) == (3, 3, 2)
    letters = dead_letters(made)
    assert [(d["shard"], d["key"]) for d in letters] == [("00000", "01.txt"), ("00001", "03.txt")]
    told = r"ValueError: invalid literal .*: '[xy]' \(shard_stages.py, line"
    assert all(re.match(told, letter["reason"]) for letter in letters)
    assert [row["id"] for row in plan_rows(made)] == ["00.txt/0", "00.txt/1", "04.txt/0"]


def test_dead_letters_of_rows_and_shards(plan, stages):
    made = plan(texts=[[2, 3], [4, 9], [7], [6, 5]], size=1)
    with pytest.warns(UserWarning, match="1 of 4 shards .* failed, 00002: KeyError: 'seven'.* tried again"):
        report = run_stage(made, stages.odd_fail)
    assert (report.done, report.failed, report.rows, report.failures) == (3, ("00002",), 3, 4)
    assert [(d["shard"], d["key"]) for d in dead_letters(made)] == [
        ("00000", "00.txt/3"),
        ("00001", "row 1"),
        ("00002", None),
        ("00003", "03.txt/5"),
    ]
    with pytest.raises(ValueError, match="shard 00002 of .* failed"):
        outputs(made)
    assert [row["value"] for row in plan_rows(made, skip_failed=True)] == [2, 4, 6]


def test_a_shard_that_failed_is_tried_again_by_the_next_run(tmp_path, plan, contents):
    made = plan(texts=[[1], [2]], size=1)

    def sometimes(shard):
        if shard.name == "00001" and not (tmp_path / "well").exists():
            raise ConnectionError("the server is away")
        yield {"key": shard.keys[0]}

    for _ in range(2):
        with pytest.warns(UserWarning, match="the server is away"):
            assert run_stage(made, sometimes).failed == ("00001",)
    (tmp_path / "well").touch()
    report = run_stage(made, sometimes)
    assert (report.done, report.failed, report.skipped, report.failures) == (2, (), 1, 0)
    run_stage(again := plan("again", texts=[[1], [2]], size=1), sometimes)
    assert contents(made.folder) == contents(again.folder)


def test_a_stage_that_fails_everywhere_is_an_error(plan):
    for stage in (lambda shard: 1 / 0, lambda shard: None, lambda: []):
        with pytest.raises(RuntimeError, match="5 of 5 shards of .* failed, 00000: .*Error.*None was done"):
            run_stage(plan(), stage)


@pytest.mark.parametrize(("executor", "workers"), [("here", 1), ("processes", 2)])
def test_the_limit_on_failures(plan, stages, executor, workers):
    made = plan(texts=[[1, 3], [5, 2]] + [[11, 13]] * 20, size=1)
    # each worker looks after each of its shards: from five on, each of two may add the two rows of another
    with pytest.raises(TooManyFailures, match=r"[6-9] rows, files or shards failed, `max_failures` allows 5; one is "):
        run_stage(made, stages.odd_fail, executor, workers, max_failures=5)
    assert len(dead_letters(made)) >= 6 and len(list((made.folder / "shards").iterdir())) < 6
    with pytest.raises(TooManyFailures):
        run_stage(made, stages.odd_fail, max_failures=5)
    report = run_stage(made, stages.odd_fail, max_failures=43)
    assert (report.done, report.failures, report.rows) == (22, 43, 1)


@pytest.mark.parametrize(("executor", "workers"), [("here", 1), ("processes", 2)])
def test_a_class_that_can_not_be_made(plan, stages, executor, workers):
    made = plan()
    with pytest.raises(RuntimeError, match=r"`stage` Broken could not be made: OSError\('no such model'\)"):
        run_stage(made, stages.Broken, executor, workers)
    assert dead_letters(made) == []


@pytest.mark.parametrize(("executor", "workers"), [("here", 1), ("processes", 2)])
def test_a_full_disk_of_the_stage_ends_the_run(plan, stages, contents, executor, workers):
    made = plan()
    told = "No space left on device at /scratch: the run ended, what was done stays"
    with pytest.raises(OSError, match=told) as caught:
        run_stage(made, stages.full, executor, workers)
    assert caught.value.errno == errno.ENOSPC
    assert {path.split("/")[0] for path in contents(made.folder)} <= {"plan.json", "shards", "failed", "leases", "tmp"}
    assert not [path for path in contents(made.folder) if path.startswith(("tmp/", "leases/", "failed/"))]


def small_disk(folder):
    """What runs a command where `folder` is a disk of 100 kB; None where this system doesn't allow it."""
    prefix = ["unshare", "-rm", "sh", "-c", f'mount -t tmpfs -o size=100k none "{folder}" && exec "$@"', "sh"]
    try:
        done = subprocess.run([*prefix, "true"], capture_output=True, check=False)
    except OSError:
        return None
    return prefix if done.returncode == 0 else None


def test_a_disk_that_is_really_full(tmp_path, plan, driver):
    made = plan()
    disk = tmp_path / "disk"
    disk.mkdir()
    prefix = small_disk(disk)
    if prefix is None:
        pytest.skip("needs unshare and a tmpfs")
    look = f"cp {made.folder}/plan.json {disk}; $@; cd {disk}; find . -type f | sort; du -b */*/*l* | sort"
    told, errors = driver(disk, made.root, "large", "here", prefix=[*prefix, "sh", "-c", look, "sh"]).communicate()
    assert errors.count("Error") == 1 and f"No space left on device at {disk}" in errors.splitlines()[-1]
    found = [line for line in told.splitlines() if line.startswith("./")]
    whole = [f"./shards/0000{i}/{name}" for i in range(2) for name in ("marker.json", "rows.jsonl")]
    assert found == ["./plan.json", *whole]
    assert told.count("40014\t") == 2
