"""A command's folder: whole with its report, or as it was."""

import json

import pytest

from wm_pipelines.runtime.claims import check_new_folder
from wm_pipelines.runtime.reports import REPORT, report_folder, write_json


def test_what_the_block_adds_is_in_the_report(tmp_path):
    report = {"pairs": []}
    with report_folder(tmp_path / "out", report) as folder:
        (folder / "a.txt").write_text("a")
        report["pairs"].append("ü")
    assert json.loads((tmp_path / "out" / REPORT).read_text(encoding="utf-8")) == {"pairs": ["ü"]}
    assert (tmp_path / "out" / "a.txt").read_text() == "a"


def test_a_block_that_fails_leaves_nothing(tmp_path):
    with pytest.raises(RuntimeError), report_folder(tmp_path / "out", {}) as folder:
        (folder / "a.txt").write_text("a")
        raise RuntimeError
    assert list(tmp_path.iterdir()) == []


def test_a_report_that_is_no_json_leaves_the_earlier_one(tmp_path):
    write_json(tmp_path / REPORT, {"n": 1})
    with pytest.raises(TypeError), report_folder(tmp_path, {"n": object()}):
        pass
    assert [path.name for path in tmp_path.iterdir()] == [REPORT]
    assert json.loads((tmp_path / REPORT).read_text()) == {"n": 1}


def test_a_new_folder_holds_nothing(tmp_path):
    (tmp_path / "empty").mkdir()
    for name in ("none", "empty"):
        assert check_new_folder(tmp_path / name) == tmp_path / name
    (tmp_path / "empty" / "a").touch()
    for name in ("empty", "empty/a"):
        with pytest.raises(ValueError, match="exists and is not empty; choose another"):
            check_new_folder(tmp_path / name)
