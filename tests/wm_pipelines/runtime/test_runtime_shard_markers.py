"""Shards that were done and are not what was written: made again, or refused."""

import json
import shutil

import pytest

from wm_pipelines.runtime.shards import EachFile, run_stage


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
    "letters altered": lambda f: (f / "failed" / "00001.jsonl").write_text('{"key": ""}\n'),
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
