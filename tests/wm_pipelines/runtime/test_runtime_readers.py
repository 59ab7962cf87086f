"""Text, JSON, JSONL, CSV, YAML and arrays: what is in a value stays; what is wrong is one error."""

import csv
import json

import numpy as np
import pytest
import yaml

from wm_pipelines.runtime import readers
from wm_pipelines.runtime.files import visible

ODD = "a\u2028b\x85c\x0cd\x0be\x1cf\u2029g"  # all that `str.splitlines` takes for a line's end


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
def test_a_byte_order_mark_says_the_encoding_and_is_no_text(tmp_path, encoding):
    path = tmp_path / "a.txt"
    path.write_bytes(f"café\nzwei\r\n\n{ODD}".encode(encoding))
    assert readers.read_text(path) == f"café\nzwei\n\n{ODD}"
    assert readers.read_text(path, newline="") == f"café\nzwei\r\n\n{ODD}"
    assert readers.read_lines(path) == [(1, "café"), (2, "zwei"), (4, ODD)]
    path.write_bytes('{"ä": [1, 2.5]}'.encode(encoding))
    assert readers.read_json(path) == {"ä": [1, 2.5]}
    path.write_bytes('{"ä": 1}\n"zwei"\n'.encode(encoding))
    assert readers.read_jsonl(path) == [(1, {"ä": 1}), (2, "zwei")]
    path.write_bytes("ä,b\n1,2\n".encode(encoding))
    assert readers.read_csv(path, ["ä", "b"]) == [(2, {"ä": "1", "b": "2"})]
    path.write_bytes("ä: [1, zwei]\n".encode(encoding))
    assert readers.read_yaml(path) == {"ä": [1, "zwei"]}


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"\xff\xff\xff", "can't read .*a.txt: it is no text of UTF-8: invalid start byte at byte 0"),
        ("no mark".encode("utf-16-le"), "holds a NUL character; save it as UTF-8"),
        (b"\xff\xfea", "no text of UTF-16-LE"),
    ],
)
def test_what_is_no_text(tmp_path, data, message):
    (tmp_path / "a.txt").write_bytes(data)
    with pytest.raises(ValueError, match=message):
        readers.read_text(tmp_path / "a.txt")


def test_a_file_that_is_missing_a_folder_or_too_large(tmp_path, monkeypatch):
    with pytest.raises(ValueError, match="can't read .*none.json"):
        readers.read_json(tmp_path / "none.json")
    with pytest.raises(ValueError, match="can't read"):
        readers.read_csv(tmp_path, ["a"])
    monkeypatch.setattr(readers, "MAX_BYTES", 4)
    (tmp_path / "a.txt").write_text("12345")
    with pytest.raises(ValueError, match="a.txt: it has more than 4 bytes"):
        readers.read_text(tmp_path / "a.txt")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "Expecting property name"),
        ("", "Expecting value"),
        ("[1, NaN]", "NaN is no number of JSON"),
        ("-Infinity", "-Infinity is no number"),
        ("[1e999]", "a number is out of range"),
        ("[9223372036854775808]", "a number is out of range"),
        ("[" + "9" * 5000 + "]", "limit"),
        ('{"a": 1, "b": 2, "a": 3}', "the name 'a' is there twice"),
        ("[" * 65 + "]" * 65, "more than 64 levels"),
        ("[" * 100_000 + "]" * 100_000, "more than 64 levels"),
        ('{"a":' * 100_000, "more than 64 levels"),
    ],
)
def test_json_that_is_refused(tmp_path, text, message):
    with pytest.raises(ValueError, match=message):
        readers.parse_json(text)
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(ValueError, match=f"a.json: .*{message}"):
        readers.read_json(tmp_path / "a.json")


def test_json_that_is_not():
    data = {"a": [1, -2.5, 9223372036854775807, None, True, "\u2028"], "b": {}}
    assert readers.parse_json(json.dumps(data, ensure_ascii=False)) == data
    deep = "[" * 64 + "]" * 64
    assert json.dumps(readers.parse_json(deep)) == deep
    assert readers.parse_json("\ufeff3") == 3


def test_jsonl_ends_its_lines_at_newlines_only(tmp_path):
    path = tmp_path / "a.jsonl"
    rows = [{"a": ODD}, {"a": "line\r\nbreak"}]
    text = "".join(json.dumps(row, ensure_ascii=False) + end for row, end in zip(rows, ("\r\n", "\n"), strict=True))
    path.write_text(text + "\n  \n", encoding="utf-8", newline="")
    assert [row for _, row in readers.read_jsonl(path)] == rows
    path.write_text('{"a": 1}\n\n{"a": \n')
    with pytest.raises(ValueError, match="a.jsonl, line 3: Expecting value"):
        readers.read_jsonl(path)
    path.write_text("\n")
    with pytest.raises(ValueError, match="a.jsonl holds no line"):
        readers.read_jsonl(path)


def test_csv_keeps_what_is_quoted_and_says_where_a_row_begins(tmp_path):
    path = tmp_path / "a.csv"
    rows = [["1", f"a man\nsits, {ODD}"], ["2", 'said "no"\r\nand went'], ["3", "plain"]]
    with path.open("w", encoding="utf-8-sig", newline="") as file:
        csv.writer(file).writerows([["id", "text"], *rows])
        file.write("\r\n")
    found = readers.read_csv(path, ["id", "text"])
    assert [list(row.values()) for _, row in found] == rows and [line for line, _ in found] == [2, 4, 6]


def test_a_long_csv_field_is_read_whole(tmp_path):
    (tmp_path / "a.csv").write_text(f"id,text\n1,{'a' * 200_000}\n")
    ((_, row),) = readers.read_csv(tmp_path / "a.csv", ["id", "text"])
    assert row["text"] == "a" * 200_000


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("id,word\n1,a\n", "lacks the column.s. text; it has id, word"),
        ("", "lacks the column.s. id, text"),
        ("id,text,id\n1,a,2\n", "has the column 'id' twice"),
        ("id,text\n\n", "holds no row"),
        ("id,text\n1,a man, sitting\n", "line 2: 3 values for 2 columns"),
        ("id,text\n1,a\n2\n", "line 3: no value for text"),
        ("id,text\n1, \n", "line 2: no value for text"),
        ('id,text\n1,"a man\n2,b\n', "line 2: unexpected end of data"),
        ('id,text\n1,"a" man\n', "line 2: ',' expected after '\"'"),
    ],
)
def test_csv_that_is_refused(tmp_path, text, message):
    (tmp_path / "a.csv").write_text(text)
    with pytest.raises(ValueError, match=f"a.csv,? ?{message}"):
        readers.read_csv(tmp_path / "a.csv", ["id", "text"])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: [1", "it is no YAML"),
        ("a: &x [1]\nb: *x\n", "holds an alias"),
        ("a: 1\na: 2\n", "the name 'a' is there twice"),
        ("a: .inf\n", "a number is out of range"),
        ("[" * 5000 + "]" * 5000, "more than 64 levels"),
        ("!!python/object/apply:os.getcwd []", "it is no YAML"),
    ],
)
def test_yaml_that_is_refused(text, message):
    with pytest.raises(ValueError, match=message):
        readers.parse_yaml(text)


def test_yaml_with_a_loader_of_ones_own():
    class Loader(yaml.SafeLoader):
        pass

    Loader.add_constructor("!twice", lambda loader, node: 2 * loader.construct_scalar(node))
    assert readers.parse_yaml("a: !twice ab", Loader) == {"a": "abab"}


def test_an_array_is_as_large_as_it_says(tmp_path):
    path = tmp_path / "a.npy"
    for values in (np.arange(6).reshape(2, 3), np.zeros((0, 4)), np.float32(2)):
        np.save(path, values)
        assert np.array_equal(readers.read_array(path), values)
    header = repr({"descr": "<f8", "fortran_order": False, "shape": (10**12,)}).ljust(118)[:117] + "\n"
    magic = b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little")
    path.write_bytes(magic + header.encode() + bytes(16))
    with pytest.raises(ValueError, match="a.npy: its .1000000000000,. of float64 take 8000000000000 bytes; it has 16"):
        readers.read_array(path)
    np.save(path, np.array([{}], object))
    with pytest.raises(ValueError, match="a.npy: it holds objects, which only unpickling could read"):
        readers.read_array(path)
    for data in (b"", b"text", magic, magic + b"{" * 117 + b"\n", magic + b"(" * 118):
        path.write_bytes(data)
        with pytest.raises(ValueError, match="can't read .*a.npy"):
            readers.read_array(path)


def test_what_systems_leave_in_a_folder_is_not_seen(tmp_path):
    for name in (".ipynb_checkpoints", "__MACOSX", "b", "@eaDir"):
        (tmp_path / name).mkdir()
    for name in (".DS_Store", "._0.png", "Thumbs.db", "desktop.ini", "Desktop.ini", "a.png"):
        (tmp_path / name).touch()
    assert [path.name for path in visible(tmp_path)] == ["a.png", "b"]
