"""Rows as the bytes of a file: they keep their values or are refused."""

import re
import sys
from pathlib import Path

import pytest

from wm_pipelines.runtime.shards import read_rows
from wm_pipelines.runtime.shards.rows import TYPES, check_columns, count, encode


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
