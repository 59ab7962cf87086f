"""`wm run cpl`: fit, classify and explain from files; what is refused before anything is written."""

import json

import pytest
from PIL import Image
from typer.testing import CliRunner

from wm_pipelines.cli import app
from wm_pipelines.cpl.run import run


@pytest.fixture
def files(tiny_clip, tmp_path):
    """A CLIP folder and two class folders of two pictures."""
    for part in tiny_clip.values():
        part.save_pretrained(tmp_path / "clip")
    for name, colour in (("red", (220, 30, 30)), ("blue", (30, 30, 220))):
        (tmp_path / "train" / name).mkdir(parents=True)
        for n in range(2):
            Image.new("RGB", (32, 32), colour).save(tmp_path / "train" / name / f"{n}.png")
    return tmp_path


def test_fit_classify_explain(files):
    red, blue = files / "train" / "red" / "0.png", files / "train" / "blue" / "0.png"
    words = [
        "run", "cpl", str(red), "--train", str(files / "train"), "--base", str(files / "clip"), "--out",
        str(files / "out"), "--epochs", "1", "--batch-size", "4", "--class-name", "red", "--class-name", "green",
        "--explain", f"{red}=red", "--explain", f"{blue}=blue",
    ]  # fmt: skip
    result = CliRunner().invoke(app, words, catch_exceptions=False)
    assert result.exit_code == 0 and "entries swapped" in result.output
    report = json.loads((files / "out" / "report.json").read_text())
    assert report["fit"]["pictures"] == 4 and report["fit"]["negatives"] == {"red": "blue", "blue": "red"}
    assert set(report["predictions"][0]["probs"]) == {"red", "green"}
    assert {p.name for p in (files / "out").iterdir()} == {
        "model", "report.json", "predictions.csv", "explanation.png",
    }  # fmt: skip
    assert (files / "out" / "predictions.csv").read_text().splitlines()[0] == "file,label,red,green"
    assert (files / "out" / "model" / "diffusion_pytorch_model.safetensors").is_file()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "there is nothing to do"),
        ({"pictures": ["x.png"]}, "class_names is empty"),
        ({"pictures": ["x.png"], "class_names": ["a"]}, "no picture at 'x.png'"),
        ({"pictures": ["x.png"], "class_names": ["a", "a"]}, "class_names has 'a' more than once"),
        ({"train": "missing"}, "'missing' is not a folder"),
        ({"explain": ["a.png=cat"]}, "explain needs two of FILE=NAME, got 1"),
        ({"explain": ["a.png", "b.png=cat"]}, "explain 'a.png' must have the form FILE=NAME"),
    ],
)
def test_refused_before_anything_is_written(tmp_path, arguments, message):
    with pytest.raises(ValueError, match=message):
        run(**arguments, out=tmp_path / "out")
    assert not (tmp_path / "out").exists()
