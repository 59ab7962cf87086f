"""`wm run kadaptation`: folders in, a table, a report and a classifier out, or one line that says why not."""

import csv
import json

import pytest

from wm_pipelines import cli
from wm_pipelines.media.pictures import save_image


def call(monkeypatch, *arguments):
    """Exit status of `wm run kadaptation ARGUMENTS`."""
    monkeypatch.setattr("sys.argv", ["wm", "run", "kadaptation", *map(str, arguments)])
    with pytest.raises(SystemExit) as stopped:
        cli.main()
    return stopped.value.code or 0


@pytest.fixture
def folders(pictures, tmp_path):
    """`shots/<colour>/*.png` and `more/*.png`."""
    for i, (picture, name) in enumerate(zip(*pictures, strict=True)):
        place = tmp_path / "shots" / name if i < 9 else tmp_path / "more"
        place.mkdir(parents=True, exist_ok=True)
        save_image(picture, place / f"{i}.png")
    (tmp_path / "shots" / ".hidden").mkdir()
    (tmp_path / "more" / ".hidden").write_text("left out")
    return tmp_path


def test_fit_classify_and_use_again(monkeypatch, folders, as_embedded, pictures, capsys):
    shots, more, out = folders / "shots", folders / "more", folders / "out"
    options = ["--n", 4, "--epochs", 40, "--validation", shots]
    assert call(monkeypatch, more, "--train", shots, "--out", out, *options) == 0, capsys.readouterr().err
    report = json.loads((out / "report.json").read_text())
    assert report["classes"] == ["blue", "green", "red"] and report["fit"]["pictures"] == 9
    assert report["fit"]["recipe"]["epochs"] == 40 and "validation_accuracy" in report["fit"]["history"][-1]
    files = [str(more / f"{i}.png") for i in (10, 11, 9)]  # in the order of their names
    assert [row["file"] for row in report["predictions"]] == files
    rows = list(csv.DictReader((out / "predictions.csv").open()))
    assert [row["label"] for row in rows] == [row["label"] for row in report["predictions"]]
    assert sum(float(rows[0][name]) for name in report["classes"]) == pytest.approx(1, abs=1e-5)
    assert f"{files[0]}: {rows[0]['label']}" in capsys.readouterr().out

    again = folders / "again"
    assert call(monkeypatch, more / "9.png", "--model", out / "model", "--out", again) == 0
    second = json.loads((again / "report.json").read_text())["predictions"]
    assert second[0]["probs"] == pytest.approx(report["predictions"][2]["probs"], abs=1e-5)
    assert not (again / "model").exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "give train, pictures, or both"),
        (["--validation", "DIR/shots", "DIR/more"], "validation chooses an epoch of a fit"),
        (["--train", "DIR/absent"], "absent' is not a folder"),
        (["--train", "DIR/more"], "more' has 0 sub-folders; a classifier needs at least 2"),
        (["--train", "DIR/lonely"], "lonely' has 1 sub-folders"),
        (["--train", "DIR/hollow"], "blue' holds no picture"),
        (["--train", "DIR/deep"], "blue' holds the folder 'inner'"),
        (["--train", "DIR/shots", "--base", "no-such-clip"], "'no-such-clip' is not an embedded checkpoint"),
        (["--train", "DIR/shots", "--n", "5"], "n=5 does not divide in_features=24"),
        (["--train", "DIR/shots", "--template", "a photo"], "templates has 'a photo'"),
        (["--train", "DIR/shots", "--template", "a picture of {}", "--n", "4"], "the word 'picture'"),
        (["DIR/absent.png"], "no picture at "),
        (["DIR/text.png"], "is not a picture that Pillow can read"),
        (["DIR/shots"], "shots' holds the folder"),
        (["DIR/more", "--model", "no-such"], "'no-such' is not an embedded checkpoint"),
        (["DIR/more", "--out", "DIR/text.png"], "is a file; name a folder"),
    ],
)
def test_refusals_are_one_line_and_leave_nothing(monkeypatch, folders, as_embedded, capsys, arguments, words):
    for name in ("lonely/red", "hollow/red", "hollow/blue", "deep/red", "deep/blue/inner"):
        (folders / name).mkdir(parents=True)
    (folders / "text.png").write_text("words")
    (folders / "deep" / "red" / "0.png").write_bytes((folders / "more" / "9.png").read_bytes())
    places = [] if "--out" in arguments else ["--out", folders / "out"]
    assert call(monkeypatch, *(a.replace("DIR", str(folders)) for a in arguments), *places) == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1 and words in lines[0], lines
    assert not (folders / "out").exists()
