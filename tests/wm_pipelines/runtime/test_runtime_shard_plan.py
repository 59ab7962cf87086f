"""A plan is written once; what differs from it is named before any work starts."""

import json
import os
import shutil

import pytest

from wm_pipelines.runtime.shards import EachFile, divide, make_plan, read_plan, run_stage

CONFIG = {"by": 0.5, "code": 1}


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
