"""Flickr30k's two tables, on synthetic files of the same form."""

import json

import pytest

from wm_pipelines.data.flickr import find_flickr30k, read_flickr30k

PARTS = {"10.jpg": "train", "20.jpg": "test", "30.jpg": "test", "40.jpg": "val"}


def said(name):
    return [f"caption {c} of {name[0]}" for c in range(5)]


@pytest.fixture
def folder(tmp_path):
    """Both tables of the same four pictures, and the lists of their parts."""
    rows = [
        {"filename": n, "split": part, "imgid": i, "sentences": [{"raw": c, "tokens": c.split()} for c in said(n)]}
        for i, (n, part) in enumerate(PARTS.items())
    ]
    table = {"images": rows, "dataset": "flickr30k"}
    (tmp_path / "dataset_flickr30k.json").write_text(json.dumps(table), encoding="utf-8")
    lines = [f"{n}#{c}\t{text}" for n in PARTS for c, text in enumerate(said(n))]
    (tmp_path / "results_20130124.token").write_text("\n".join(lines) + "\n", encoding="utf-8")
    (tmp_path / "test.txt").write_text("20\n30.jpg\n", encoding="utf-8")
    (tmp_path / "flickr30k-images").mkdir()
    return tmp_path


@pytest.mark.parametrize("table", ["dataset_flickr30k.json", "results_20130124.token"])
def test_both_tables_say_the_same(folder, table):
    found = read_flickr30k(folder / table, folder / "flickr30k-images", "test")
    assert [p.path.name for p in found] == ["20.jpg", "30.jpg"]
    assert found[0].captions == tuple(said("20.jpg")) and found[1].path.parent.name == "flickr30k-images"


def test_the_table_and_pictures_of_a_folder(folder):
    assert [path.name for path in find_flickr30k(folder)] == ["dataset_flickr30k.json", "flickr30k-images"]
    (folder / "dataset_flickr30k.json").unlink()
    assert find_flickr30k(folder)[0].name == "results_20130124.token"
    with pytest.raises(ValueError, match="must hold dataset_flickr30k.json or results_20130124.token, and a folder"):
        find_flickr30k(folder / "flickr30k-images")


def test_a_caption_may_hold_other_line_breaks(folder):
    path = folder / "results_20130124.token"
    path.write_text(path.read_text().replace("caption 0 of 2", "caption\u20280 of 2"), encoding="utf-8")
    assert read_flickr30k(path, folder, "test")[0].captions[0] == "caption\u20280 of 2"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda rows: {"images": "x"}, 'must hold {"images"'),
        (lambda rows: {"images": [{"filename": "a.jpg"}]}, "line 0: an image needs filename, split and sentences"),
        (lambda rows: {"images": [dict(rows[1], sentences=[])]}, "line 0: '20.jpg' needs captions"),
        (lambda rows: {"images": [dict(rows[1], sentences=[{"raw": " "}])]}, "'20.jpg' needs captions"),
        (lambda rows: {"images": [rows[0], rows[1], rows[1]]}, "line 2: '20.jpg' is there twice"),
        (lambda rows: {"images": [dict(rows[1], filename="../a.jpg")]}, "must be a file inside"),
        (lambda rows: {"images": rows[:1]}, "has no picture for test"),
    ],
)
def test_malformed_json_is_named(folder, change, message):
    path = folder / "dataset_flickr30k.json"
    path.write_text(json.dumps(change(json.loads(path.read_text())["images"])), encoding="utf-8")
    with pytest.raises(ValueError, match=message):
        read_flickr30k(path, folder, "test")


@pytest.mark.parametrize(
    ("file", "text", "message"),
    [
        ("results_20130124.token", "20.jpg#0 no tab\n", "line 1: a line must be FILE#NUMBER<tab>CAPTION"),
        ("results_20130124.token", "20.jpg\tno number\n", "line 1: a line must be"),
        (
            "results_20130124.token",
            "20.jpg#0\ta\n",
            "test.txt names '30', which results_20130124.token has no caption",
        ),
        ("test.txt", "", "has no picture for test"),
    ],
)
def test_malformed_lists_are_named(folder, file, text, message):
    (folder / file).write_text(text, encoding="utf-8")
    with pytest.raises(ValueError, match=message):
        read_flickr30k(folder / "results_20130124.token", folder, "test")


def test_other_parts_and_tables_are_refused(folder):
    with pytest.raises(ValueError, match="split must be one of train, val, test, got 'dev'"):
        read_flickr30k(folder / "dataset_flickr30k.json", folder, "dev")
    with pytest.raises(ValueError, match="does not say what is train: no .*train.txt"):
        read_flickr30k(folder / "results_20130124.token", folder, "train")
    with pytest.raises(ValueError, match=r"neither a .json nor a .token table"):
        read_flickr30k(folder / "results.csv", folder, "test")
