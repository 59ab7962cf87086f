"""Shards: what is done is done once and stays, whoever does it and whatever is killed."""

import errno
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import warnings
from functools import partial
from pathlib import Path

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
from wm_pipelines.runtime.shards.leases import take
from wm_pipelines.runtime.shards.results import commit
from wm_pipelines.runtime.shards.rows import TYPES, check_columns, count, encode
from wm_pipelines.runtime.shards.stages import make

CONFIG = {"by": 0.5, "code": 1}


@pytest.fixture
def plan(tmp_path, files):
    """`plan(name)`: a new plan over five shards of two files."""

    def new(name="out", texts=None, size=2, **options):
        paths = files(*(texts or [range(i, i + 3) for i in range(10)]))
        options = {"root": tmp_path / "in", "config": CONFIG} | options
        return make_plan(tmp_path / name, divide(paths, size), **options)

    return new


def until(condition, seconds=30):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it never came"
        time.sleep(0.01)


def lines(log):
    """(shard, row, process) of what a `logged` stage made, in order."""
    return [tuple(line.split()) for line in log.read_text().splitlines()] if log.exists() else []


# --- rows -----------------------------------------------------------------------------------------------------------


def test_rows_of_json_lines(tmp_path):
    rows = [{"a": 1, "b": [1.5, None, {"c": "é\u2028\n"}]}, {}, {"z": True, "a": (1, 2)}]
    data, refused = encode(rows, None)
    (tmp_path / "rows.jsonl").write_bytes(data)
    assert refused == [] and count(data, None) == 3
    assert read_rows(tmp_path / "rows.jsonl") == [*rows[:2], {"z": True, "a": [1, 2]}]
    assert encode([], None) == (b"", []) and count(b"", None) == 0


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"a": float("nan")}, "`row.a` is nan"),
        ({"a": [1, {"b": float("inf")}]}, r"`row.a\[1\].b` is inf"),
        ({"a": {1: 2}}, "`row.a` has the key 1; keys are strings"),
        ({"a": 2**63}, "`row.a` is an integer out of range"),
        ({"a": b"x"}, "`row.a` is of type bytes"),
        ({"a": Path("x")}, "`row.a` is of type .*Path"),
        ({"a": "\ud800"}, "surrogates not allowed"),
        ([1], "a row must be a dict, got list"),
        (None, "a row must be a dict, got NoneType"),
    ],
)
def test_rows_that_json_would_change_are_refused_alone(row, reason):
    data, refused = encode([{"a": 1}, row, {"a": 2}], None)
    assert data == b'{"a": 1}\n{"a": 2}\n'
    assert [i for i, _ in refused] == [1] and re.search(reason, refused[0][1])


LIMITS = {"int8": (-128, 127), "uint16": (0, 65535), "int64": (-(2**63), 2**63 - 1), "uint64": (0, 2**64 - 1)}


@pytest.mark.parametrize(
    ("kind", "good", "bad"),
    [
        *((kind, [low, high, None], [low - 1, high + 1, 1.0, True, "1"]) for kind, (low, high) in LIMITS.items()),
        ("float32", [0.5, 2**24, float("inf"), None], [1e39, 2**24 + 1, "1", True]),
        ("float64", [1e300, -(2**53)], [2**53 + 1, b"1"]),
        ("bool", [True, None], [1, "x"]),
        ("string", ["", "é\u2028\U0001f600"], [b"x", 1, "\ud800"]),
        ("binary", [b"", b"\0"], ["x", [1]]),
        ("list<uint8>", [[], (1, 255), None], [[256], [None], 1, "x", [[1]]]),
        ("list<string>", [["a", ""]], [["a", 1], "ab"]),
    ],
)
def test_rows_of_parquet_keep_their_values_or_are_refused(tmp_path, kind, good, bad):
    for values in (good, []):
        data, refused = encode([{"a": value} for value in values], {"a": kind})
        (tmp_path / "rows.parquet").write_bytes(data)
        found = read_rows(tmp_path / "rows.parquet")
        assert not refused and count(data, {"a": kind}) == len(values)
        assert found == [{"a": list(v) if isinstance(v, tuple) else v} for v in values]
    rows = [{"a": value} for value in bad] + [{"b": good[0]}, {"a": good[0], "b": 1}, {}, 3]
    data, refused = encode([{"a": good[0]}, *rows], {"a": kind})
    assert count(data, {"a": kind}) == 1
    assert [i for i, _ in refused] == list(range(1, len(rows) + 1))
    assert all("`a` must be" in reason or "columns must be a" in reason for _, reason in refused)


@pytest.mark.parametrize("columns", [{}, "a", {"a": "int"}, {"a": None}, {1: "int8"}, {"a": "list<list<int8>>"}])
def test_columns_that_are_refused(columns):
    with pytest.raises(ValueError, match="`columns`"):
        check_columns(columns)


def test_every_type_is_one_of_pyarrow():
    check_columns({f"{i}": kind for kind in TYPES for i in (kind, f"list<{kind}>")} | {"c": "list<bool>"})


def test_parquet_without_pyarrow(monkeypatch, plan):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(ValueError, match=r'pip install "wm-pipelines\[scale\]"'):
        plan(columns={"a": "int8"})


# --- plans ----------------------------------------------------------------------------------------------------------


def test_a_plan_is_written_once_and_opened_again(tmp_path, plan):
    first = plan(config={"b": {"x": (1, 2)}, "a": "é"})
    before = (tmp_path / "out" / "plan.json").stat()
    again = plan(config={"a": "é", "b": {"x": [1, 2]}})
    assert again == first == read_plan(tmp_path / "out", tmp_path / "in")
    after = (tmp_path / "out" / "plan.json").stat()
    assert (before.st_mtime_ns, before.st_ino) == (after.st_mtime_ns, after.st_ino)
    shutil.copytree(tmp_path / "in", tmp_path / "moved")
    assert read_plan(tmp_path / "out", tmp_path / "moved").identity == first.identity


def test_what_a_stage_is_given(tmp_path, plan):
    made = plan(config={"list": [1]})
    shard = made.shard("00004")
    assert shard.name == "00004" and shard.keys == ("08.txt", "09.txt")
    assert shard.paths == (tmp_path / "in" / "08.txt", tmp_path / "in" / "09.txt")
    shard.config["list"].append(2)
    assert made.shard("00003").config == {"list": [1]}


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"by": 0.5, "code": 2}, "`config` differs: code was 1, is 2"),
        ({"by": 0.5}, "code was 1, is gone"),
        ({"by": 0.5, "code": 1, "new": {"a": 1}}, "new is new, {'a': 1}"),
        ({"by": 1, "code": True}, "by was 0.5, is 1, code was 1, is True"),
        ({"by": [0.5], "code": 1.0}, r"by was 0.5, is \[0.5\], code was 1, is 1.0"),
        ({"by": {"x": 1}, "code": 1}, "by was 0.5, is {'x': 1}"),
    ],
)
def test_another_configuration_is_named(plan, config, message):
    plan()
    with pytest.raises(ValueError, match=message + "; start a new folder"):
        plan(config=config)


def test_other_columns_or_another_division_are_named(plan):
    plan()
    with pytest.raises(ValueError, match="`columns` were None, are {'a': 'int8'}"):
        plan(columns={"a": "int8"})
    with pytest.raises(ValueError, match=r"divide the same files otherwise, into 4 \(the plan has 5\)"):
        plan(size=3)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda root: (root / "03.txt").write_text("3\n4\n6"), "03.txt has other content"),
        (lambda root: (root / "03.txt").write_text("3"), "03.txt has 1 bytes, had 5"),
        (lambda root: (root / "03.txt").unlink(), "03.txt is gone"),
        (lambda root: (root / "99.txt").write_text("3"), "99.txt is new"),
        (lambda root: (root / "03.txt").rename(root / "033.txt"), "033.txt is new, 03.txt is gone"),
        (lambda root: [p.write_text("1") for p in root.iterdir()], "has 1 bytes, had 5, .* and 7 more"),
    ],
)
def test_changed_inputs_are_named(tmp_path, plan, stages, change, message):
    made = plan()
    times = {path: path.stat() for path in (tmp_path / "in").iterdir()}
    change(tmp_path / "in")
    for path, stat in times.items():  # a hash tells, not the time
        if path.exists():
            os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    with pytest.raises(ValueError, match=message):
        make_plan(made.folder, divide(sorted((tmp_path / "in").iterdir()), 2), root=tmp_path / "in", config=CONFIG)
    if "new" not in message:
        with pytest.raises(ValueError, match="inputs of shard 0000.* changed since the plan .*0"):
            run_stage(made, EachFile(stages.numbers))


@pytest.mark.parametrize(
    ("shards", "message"),
    [
        ([], "`shards` is empty"),
        ([["a"], []], "`shards` has one without files, number 1"),
        (["a"], "a list with a list of files for each shard"),
        ("a", "a list with a list of files"),
        (None, "a list with a list of files"),
        ([["a"], ["b", "c"], ["d", "e", "f"]], "no file under .*in: b, c, d and 2 more"),
        ([["."]], "no file under"),
        ([["a", "a"]], "names files twice: a"),
        ([["a"], ["x/../a"]], "names files twice: a"),
        ([["../out"]], "outside of `root`"),
        ([["/etc/hostname"]], "outside of `root`.*: /etc/hostname"),
    ],
)
def test_shards_that_are_refused(tmp_path, shards, message):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a").write_text("1")
    with pytest.raises(ValueError, match=message):
        make_plan(tmp_path / "out", shards, root=tmp_path / "in", config={})
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("config", [None, [], {"a": float("nan")}, {1: 2}, {"a": {"b": {3}}}, {"a": 2**70}])
def test_configurations_that_are_refused(tmp_path, plan, config):
    with pytest.raises(ValueError, match="`config"):
        plan(config=config)
    assert not (tmp_path / "out").exists()


def test_a_folder_that_holds_something_else(tmp_path, plan):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / ".hidden").write_text("")
    (tmp_path / "out" / "film.mp4").write_text("")
    with pytest.raises(ValueError, match="holds no plan but other things, such as 'film.mp4'"):
        plan()
    (tmp_path / "out" / "film.mp4").unlink()
    plan()
    with pytest.raises(ValueError, match="`folder` is a file"):
        plan("in/00.txt")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda p: {**p, "config": {"by": 1}}, "configuration was changed after it was written"),
        (lambda p: {**p, "format": 2}, "no plan of format 1"),
        (lambda p: {**p, "shards": {}}, "it has no shards"),
        (lambda p: {**p, "shards": {"0/../..": p["shards"]["00000"]}}, "its shard '0/../..'"),
        (lambda p: {**p, "shards": {"00000": [{"path": "/a", "bytes": 1, "sha256": ""}]}}, "outside of its root"),
        (lambda p: {**p, "shards": {"00000": [{"path": "../a", "bytes": 1, "sha256": ""}]}}, "outside of its root"),
        (lambda p: {**p, "more": 1}, "more"),
        (lambda p: [], "no plan of format 1"),
        (lambda p: "{", "plan.json"),
    ],
)
def test_a_plan_that_was_changed(plan, change, message):
    made = plan()
    path = made.folder / "plan.json"
    value = change(json.loads(path.read_text()))
    path.write_text(value if isinstance(value, str) else json.dumps(value))
    with pytest.raises(ValueError, match=message) as caught:
        read_plan(made.folder, made.root)
    assert "plan.json" in str(caught.value)


def test_no_plan(tmp_path):
    with pytest.raises(ValueError, match="can't read .*plan.json"):
        read_plan(tmp_path, tmp_path)


# --- a run ----------------------------------------------------------------------------------------------------------


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
    told = [rank.communicate()[0].strip() for rank in ranks]
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


def test_stages_follow_one_another(plan, stages):
    first = plan()
    run_stage(first, EachFile(stages.numbers))
    second = make_plan(
        first.folder.parent / "second", divide(outputs(first), 2), root=first.folder, config={}, columns={"n": "int64"}
    )

    def total(shard):
        yield {"n": sum(row["twice"][0] for path in shard.paths for row in read_rows(path))}

    assert run_stage(second, total).rows == 3
    assert [row["n"] for row in plan_rows(second)] == [3 + 6 + 9 + 12, 15 + 18 + 21 + 24, 27 + 30]


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


# --- what fails -----------------------------------------------------------------------------------------------------


def test_dead_letters_of_files(plan, stages):
    made = plan(texts=[[1, 2], [3, "x"], [], ["y"], [4]])
    report = run_stage(made, EachFile(stages.numbers))
    assert (report.done, report.rows, report.failures) == (3, 3, 2)
    letters = dead_letters(made)
    assert [(d["shard"], d["key"]) for d in letters] == [("00000", "01.txt"), ("00001", "03.txt")]
    assert all(re.match(r"ValueError: invalid literal .*: '[xy]' \(shard_stages.py, line", d["reason"]) for d in letters)
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
    with pytest.raises(TooManyFailures, match=r"[67] rows, files or shards failed, `max_failures` allows 5; one is "):
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
    with pytest.raises(OSError, match="No space left on device at /scratch: the run ended, what was done stays") as caught:
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
    assert found == ["./plan.json", *(f"./shards/0000{i}/{name}" for i in range(2) for name in ("marker.json", "rows.jsonl"))]
    assert told.count("40014\t") == 2


# --- kills ----------------------------------------------------------------------------------------------------------


def test_kill_before_every_change_of_the_disk(tmp_path, plan, stages, driver, contents):
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


def test_kill_of_a_worker_in_the_middle_of_a_shard(tmp_path, plan, stages, driver, contents):
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
    assert len({pid for _, _, pid in lines(log)}) == 4


@pytest.mark.parametrize("executor", ["here", "processes"])
def test_kill_of_the_driver(tmp_path, plan, stages, driver, contents, executor):
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


def test_a_worker_that_sleeps_longer_than_its_lease(tmp_path, plan, stages, driver, contents):
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


# --- leases and markers ---------------------------------------------------------------------------------------------


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


def test_a_lease_is_renewed_while_its_worker_lives(tmp_path):
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


def rows_of(folder, name="00001"):
    return folder / "shards" / name / "rows.jsonl"


def marker_of(folder, name="00001", **changes):
    path = folder / "shards" / name / "marker.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


DAMAGES = {
    "rows cut": lambda f: rows_of(f).write_bytes(rows_of(f).read_bytes()[:-1]),
    "rows altered": lambda f: rows_of(f).write_bytes(rows_of(f).read_bytes().replace(b"2", b"3", 1)),
    "rows added": lambda f: rows_of(f).write_bytes(rows_of(f).read_bytes() + b"{}\n"),
    "rows empty": lambda f: rows_of(f).write_bytes(b""),
    "rows gone": lambda f: rows_of(f).unlink(),
    "rows a folder": lambda f: (rows_of(f).unlink(), rows_of(f).mkdir()),
    "marker gone": lambda f: (f / "shards" / "00001" / "marker.json").unlink(),
    "marker cut": lambda f: (f / "shards" / "00001" / "marker.json").write_text('{"plan": "'),
    "marker empty": lambda f: (f / "shards" / "00001" / "marker.json").write_text(""),
    "marker binary": lambda f: (f / "shards" / "00001" / "marker.json").write_bytes(b"\xff\0"),
    "marker a list": lambda f: (f / "shards" / "00001" / "marker.json").write_text("[]"),
    "marker, one more field": lambda f: marker_of(f, more=1),
    "marker, rows": lambda f: marker_of(f, rows=4),
    "marker, words": lambda f: marker_of(f, rows="six", bytes=None),
    "marker, hash": lambda f: marker_of(f, sha256="0" * 64),
    "marker, letters": lambda f: marker_of(f, letters=0),
    "letters gone": lambda f: (f / "failed" / "00001.jsonl").unlink(),
    "letters altered": lambda f: (f / "failed" / "00001.jsonl").write_text('{"shard": "00001", "key": "", "reason": ""}\n'),
    "letters binary": lambda f: (f / "failed" / "00001.jsonl").write_bytes(b"\xff\n"),
    "a folder without files": lambda f: (shutil.rmtree(f / "shards" / "00001"), (f / "shards" / "00001").mkdir()),
    "a file": lambda f: (shutil.rmtree(f / "shards" / "00001"), (f / "shards" / "00001").write_text("")),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_shard_is_made_again_and_no_other(tmp_path, plan, stages, contents, damage):
    made = plan(texts=[[1], [2], [3, 4], ["x"], [5]])
    report = run_stage(made, EachFile(stages.numbers))
    whole = contents(made.folder)
    times = {path: path.stat().st_mtime_ns for path in (made.folder / "shards").glob("*/*")}
    DAMAGES[damage](made.folder)
    with pytest.warns(UserWarning, match=r"shard 00001 of .* is made again: (its|rows.jsonl|it has)"):
        again = run_stage(made, EachFile(stages.numbers))
    assert (again.damaged, again.skipped, again.rows, again.failures) == (("00001",), 2, report.rows, 1)
    assert contents(made.folder) == whole
    assert all(path.stat().st_mtime_ns == t for path, t in times.items() if path.parent.name != "00001")


def test_a_damaged_shard_of_parquet(plan, stages, contents):
    made = plan(columns=stages.COLUMNS)
    run_stage(made, EachFile(stages.numbers))
    whole = contents(made.folder)
    path = made.folder / "shards" / "00001" / "rows.parquet"
    path.write_bytes(path.read_bytes()[:-4])
    marker_of(made.folder, "00002", rows=7)
    with pytest.warns(UserWarning, match="made again"):
        assert run_stage(made, EachFile(stages.numbers)).damaged == ("00001", "00002")
    assert contents(made.folder) == whole


def test_shards_of_another_plan_are_refused(tmp_path, plan, stages):
    run_stage(one := plan("one"), EachFile(stages.numbers))
    two = plan("two", config={"by": 2})
    shutil.copytree(one.folder / "shards", two.folder / "shards")
    with pytest.raises(ValueError, match="00000/marker.json belongs to another plan"):
        run_stage(two, EachFile(stages.numbers))
    assert len(list((two.folder / "shards").iterdir())) == 5


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
