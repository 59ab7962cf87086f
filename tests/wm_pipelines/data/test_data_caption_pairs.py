"""Tables of captions as spreadsheets and editors leave them: values stay whole, rows that are not are named."""

import csv
import io
import json

import pytest

from wm_pipelines.comclip import data
from wm_pipelines.data import caption_pairs, flickr

ODD = "a\u2028b\x85c\x0cd"


def table(path, columns, *rows):
    text = io.StringIO(newline="")
    csv.writer(text).writerows([columns, *rows])
    path.write_bytes(b"\xef\xbb\xbf" + text.getvalue().encode())
    return path


def test_captions_of_comvg_keep_their_line_breaks(tmp_path):
    rows = [
        (n, sentence, "man,sit,chair", "man,stand,chair", 1, 2, "verb", 1)
        for n, sentence in enumerate(("a man\nsits", "a man,\r\nsitting", ODD, 'a "man"'))
    ]
    found = caption_pairs.read_comvg(table(tmp_path / "c.csv", caption_pairs.COMVG_COLUMNS, *rows), tmp_path)
    assert [example.captions[0] for example in found] == ["a man\nsits", "a man,\r\nsitting", ODD, 'a "man"']
    assert [example.id for example in found] == ["0", "1", "2", "3"]


def test_svo_rows_keep_their_numbers_after_a_caption_of_two_lines(tmp_path):
    rows = [("a\ngirl", "girl,read,book", "girl,hold,book", 1, 2, "False", "True", "False")] * 2
    found = caption_pairs.read_svo_probes(table(tmp_path / "s.csv", caption_pairs.SVO_COLUMNS, *rows), tmp_path)
    assert [(example.id, example.captions) for example in found] == [("0", ("a\ngirl",)), ("1", ("a\ngirl",))]
    broken = table(tmp_path / "s.csv", caption_pairs.SVO_COLUMNS, rows[0], (*rows[1][:6], "False", "False"))
    with pytest.raises(ValueError, match="s.csv, line 4: one of subj_neg, verb_neg, obj_neg must be True"):
        caption_pairs.read_svo_probes(broken, tmp_path)


def test_a_comma_that_is_not_quoted_is_named(tmp_path):
    (tmp_path / "c.csv").write_text(
        ",".join(caption_pairs.COMVG_COLUMNS) + '\n1,a man, sitting,"man,sit,chair","man,stand,chair",1,2,verb,1\n'
    )
    with pytest.raises(ValueError, match="c.csv, line 2: 9 values for 8 columns; quote those with ','"):
        caption_pairs.read_comvg(tmp_path / "c.csv", tmp_path)


def winoground(folder, *rows, end="\n\n"):
    lines = "\n".join(json.dumps(row, ensure_ascii=False) for row in rows) + end
    (folder / "examples.jsonl").write_bytes(b"\xef\xbb\xbf" + lines.encode())
    return folder


ROW = {"id": 0, "image_0": "x", "image_1": "y", "caption_0": ODD, "caption_1": "b a"}


@pytest.mark.parametrize("end", ["", "\n", "\n\n", "\r\n"])
def test_winoground_keeps_what_is_in_its_captions(tmp_path, end):
    found = caption_pairs.read_winoground(winoground(tmp_path, ROW, {**ROW, "id": 1}, end=end))
    assert [(example.id, example.captions) for example in found] == [("0", (ODD, "b a")), ("1", (ODD, "b a"))]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ([1], "line 1: the line must be an object, got list"),
        ({**ROW, "caption_0": 5}, r"line 1: the captions must be strings, got \(5, 'b a'\)"),
        ({**ROW, "image_0": "../../secret"}, "line 1: a picture must be a file inside"),
        ({**ROW, "image_0": "/etc/passwd"}, "line 1: a picture must be a file inside"),
    ],
)
def test_winoground_names_a_line_that_is_none(tmp_path, row, message):
    with pytest.raises(ValueError, match=f"examples.jsonl, {message}"):
        caption_pairs.read_winoground(winoground(tmp_path, row))


def test_flickrs_token_file_with_a_mark_and_odd_captions(tmp_path):
    (tmp_path / "t.token").write_bytes(f"\ufeff1.jpg#0\t{ODD} \r\n1.jpg#1\tb\n\n".encode())
    (tmp_path / "test.txt").write_bytes("\ufeff1.jpg\r\n\r\n".encode())
    (found,) = flickr.read_flickr30k(tmp_path / "t.token", tmp_path, "test")
    assert found.captions == (ODD, "b")


def test_an_order_of_fractions_is_refused(tmp_path):
    rows = [{"image": "a", "sentence": "x", "clip_baseline": [[order, 0.5]]} for order in (0, 0.7)]
    (tmp_path / "f.json").write_text(json.dumps(rows))
    with pytest.raises(ValueError, match="f.json, line 1: clip_baseline must be pairs of a row's number and a cosine"):
        data.read_flickr(tmp_path / "f.json", tmp_path)
    (tmp_path / "f.json").write_text(json.dumps([{**rows[0], "image": "../a"}]))
    with pytest.raises(ValueError, match="f.json, line 0: a picture must be a file inside"):
        data.read_flickr(tmp_path / "f.json", tmp_path)
