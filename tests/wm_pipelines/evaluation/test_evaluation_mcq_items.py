"""Items and rows: what is refused, and files that a crash left half written."""

import dataclasses
import json

import numpy as np
import pytest

from wm_pipelines.evaluation.mcq.items import Item, check_items
from wm_pipelines.evaluation.mcq.rows import Row, RowFile, encode, read_rows

GIVEN = {
    "source": "s",
    "subset": "t",
    "id": "1",
    "question": "Which?",
    "options": {"A": "one", "B": "two", "C": "three"},
    "answer": "B",
}
ROW = Row("s/t/1", "v", "m", "direct", "full", 3, ("B",), "B")


def test_text_is_normalised():
    item = Item(**{**GIVEN, "question": " Wie\u0301? ", "options": {"A": "one ", "B": " e\u0301"}})
    assert item.question == "Wi\u00e9?" and item.options == {"A": "one", "B": "\u00e9"}
    assert item.uid == "s/t/1" == item.cluster and item.right == ("B",)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"question": "  "}, "`question`"),
        ({"question": 7}, "`question` is 7"),
        ({"options": {"A": "one"}}, "`options`"),
        ({"options": {"A": "one", "C": "two"}}, "in order, A, B"),
        ({"options": dict(zip("ABCDEF", "uvwxyz", strict=True))}, "two to five"),
        ({"options": {"A": "one", "B": 2}}, r"`options\[B\]` is 2"),
        ({"answer": "D"}, "`answer` is 'D'; it must be among the options, A, B, C"),
        ({"answer": "two"}, "among the options"),
        ({"options": {"A": "two", "B": "two", "C": "three"}}, "option A has the text of the right one, 'two'"),
        ({"also_right": ("B",)}, "`also_right`"),
        ({"also_right": ("A", "C")}, "not all options"),
        ({"fps": 0}, "`fps`"),
        ({"transforms": {"turn": {}}}, "named mirror or reverse"),
        ({"transforms": {"mirror": {"one": "one", "two": "two"}}}, "it lacks 'three'"),
        ({"transforms": {"mirror": {"one": "one", "two": "four", "three": None}}}, "leads to 'four'"),
        ({"video": np.zeros((2, 3, 4))}, r"float64 \(2, 3, 4\)"),
        ({"video": 3}, "`video` is 'int'"),
    ],
)
def test_bad_items_are_refused_by_name(change, words):
    with pytest.raises(ValueError, match=words):
        Item(**{**GIVEN, **change})


def test_two_right_options_are_both_right():
    item = Item(**{**GIVEN, "options": {"A": "two", "B": "two", "C": "three"}, "also_right": ("A",)})
    assert item.right == ("B", "A") and item.letters_of("two") == ("A", "B")


def test_twins():
    texts = {"one": "three", "three": "one", "two": None, "Which?": "What?"}
    item = Item(**{**GIVEN, "answer": "A", "transforms": {"mirror": texts, "reverse": None}})
    assert item.twin("mirror") == ("What?", ("C",)) and item.twin("mirror", "B") is None
    assert item.twin("reverse") is None
    with pytest.raises(ValueError, match="`transform`"):
        item.twin("shuffle")


def test_uids_must_differ_and_files_of_two_sources_may_share_ids():
    one, other = Item(**GIVEN), Item(**{**GIVEN, "subset": "u"})
    assert check_items([one, other]) == [one, other]
    with pytest.raises(ValueError, match="'s/t/1' twice"):
        check_items([one, other, one])
    with pytest.raises(ValueError, match="empty"):
        check_items([])


def test_rows_go_through_json():
    full = dataclasses.replace(
        ROW,
        shift=1,
        probabilities=(0.2, 0.5, 0.3),
        frame_indices=(0, 3),
        annotations={"flag": True},
        raw="B \u2014 \u00e9\n",
        decided=False,
    )
    for row in (ROW, full, dataclasses.replace(ROW, letter=None, error="timeout")):
        assert Row.from_dict(json.loads(encode(row))) == row and encode(row).count("\n") == 1
    assert full.correct and full.said == "C" and not dataclasses.replace(ROW, letter=None).correct


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"right": ["D"]}, "`right`"),
        ({"letter": "F"}, "`letter`"),
        ({"options": 1}, "`options`"),
        ({"shift": -1}, "`shift`"),
        ({"model": ""}, "`model`"),
        ({"letter": "B", "error": "timeout"}, "None where there is an `error`"),
        ({"correct": False}, "`correct`"),
        ({"probabilities": [1.0]}, "3 numbers"),
        ({"other": 1}, "unknown field 'other'"),
    ],
)
def test_bad_rows_are_refused(change, words):
    with pytest.raises(ValueError, match=words):
        Row.from_dict({**ROW.to_dict(), **change})
    with pytest.raises(ValueError, match="lacks the field 'uid'"):
        Row.from_dict({k: v for k, v in ROW.to_dict().items() if k != "uid"})


@pytest.mark.parametrize("kept", [1, 20, -2, -1])
def test_what_a_crash_left_half_written_is_cut_off(tmp_path, kept):
    path, half = tmp_path / "rows.jsonl", encode(dataclasses.replace(ROW, uid="s/t/3", raw="é")).encode()[:-1]
    with RowFile(path) as file:
        file.append(ROW)
        file.append(dataclasses.replace(ROW, uid="s/t/2"))
    with open(path, "ab") as file:
        file.write(half[:kept])
    assert [row.uid for row in read_rows(path)] == ["s/t/1", "s/t/2"]
    with RowFile(path) as file:
        assert [row.uid for row in file.rows] == ["s/t/1", "s/t/2"]
        file.append(dataclasses.replace(ROW, uid="s/t/4"))
    assert [row.uid for row in read_rows(path)] == ["s/t/1", "s/t/2", "s/t/4"]


def test_a_broken_line_in_the_middle_is_named(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text(encode(ROW) + '{"uid": \n' + encode(ROW), encoding="utf-8")
    with pytest.raises(ValueError, match="line 2"):
        read_rows(path)
