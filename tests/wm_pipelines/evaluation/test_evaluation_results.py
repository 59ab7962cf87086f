"""Tables and reports of a classifier: what is written, when, and that it is written as a whole."""

import csv
import json
from pathlib import Path

import pytest
import torch
from PIL import Image

from wm_pipelines.evaluation.results import prediction_rows, write_results

NAMES = ["a cat", "a dog"]


def rows():
    probs = torch.tensor([[0.25, 0.75], [0.9999999, 1e-7]])
    return prediction_rows([Path("x/1.png"), Path("2.png")], NAMES, ["a dog", "a cat"], probs)


def test_table_and_report_say_the_same(tmp_path):
    report = {"predictions": rows(), "note": "größer"}
    write_results(tmp_path / "out", report, NAMES, pictures={"shown.png": Image.new("RGB", (2, 2))})
    assert json.loads((tmp_path / "out" / "report.json").read_text(encoding="utf-8")) == report
    table = list(csv.DictReader((tmp_path / "out" / "predictions.csv").open()))
    assert table == [
        {"file": "x/1.png", "label": "a dog", "a cat": "0.25", "a dog": "0.75"},
        {"file": "2.png", "label": "a cat", "a cat": "1.0", "a dog": "0.0"},
    ]
    assert Image.open(tmp_path / "out" / "shown.png").size == (2, 2) and not (tmp_path / "out" / "model").exists()


def test_without_predictions_there_is_no_table_and_an_error_leaves_nothing(tmp_path):
    write_results(tmp_path / "out", {"predictions": []}, NAMES)
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["report.json"]
    with pytest.raises(TypeError):
        write_results(tmp_path / "new", {"predictions": rows(), "bad": {1, 2}}, NAMES)
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
