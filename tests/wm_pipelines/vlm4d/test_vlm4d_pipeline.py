"""VLM4DPipeline and `wm eval vlm4d`, on a folder made as the authors' is."""

import json

import numpy as np
import pytest
from typer.testing import CliRunner

from wm_pipelines.cli import app
from wm_pipelines.evaluation.mcq.rows import read_rows
from wm_pipelines.media.video import write_video
from wm_pipelines.vlm4d.data import load_vlm4d
from wm_pipelines.vlm4d.pipeline import VLM4DPipeline


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """Two questions about each of two clips, real and synthetic: to the left and to the right."""
    folder = tmp_path_factory.mktemp("vlm4d")
    (folder / "QA").mkdir()
    hub = "https://huggingface.co/datasets/shijiezhou/VLM4D/resolve/main/"
    records = {"real": [], "synthetic": []}
    for number, (subset, place) in enumerate((("real", "videos_real/davis"), ("synthetic", "videos_synthetic"))):
        for way in ("left", "right"):
            clip = np.zeros((10, 32, 32, 3), np.uint8)
            for t in range(10):
                x = 2 * t if way == "right" else 24 - 2 * t
                clip[t, 12:20, x : x + 8] = 255
            path = folder / place / f"{way}.mp4"
            path.parent.mkdir(parents=True, exist_ok=True)
            write_video(list(clip), path)
            choices = dict(zip("ABCD", np.roll(["left", "right", "up", "no motion"], number).tolist(), strict=True))
            records[subset].append(
                {"id": f"validation_{len(records[subset]) + 1}", "video": f"{hub}{place}/{way}.mp4", "answer": way,
                 "question_type": "multiple-choice", "question": "Which way does the square go?", "choices": choices}
            )  # fmt: skip
    for subset, found in records.items():
        (folder / "QA" / f"{subset}_mc.json").write_text(json.dumps(found))
    return folder


def sees(frames, prompt, options):
    if frames is None:
        return "A"
    first, last = (np.argwhere(frame.max(-1) > 128).mean(0)[1] for frame in (frames[0], frames[-1]))
    return next(letter for letter, text in options.items() if text == ("right" if last > first else "left"))


def test_columns_and_pairs(root, tmp_path):
    pipe = VLM4DPipeline(sees)
    pipe.set_progress_bar_config(disable=True)
    out = pipe(load_vlm4d(root), controls=("blind", "mirror", "reverse"), out=tmp_path / "run")
    assert {name: figure["score"] for name, figure in out.report["columns"].items()} == {
        "exo": 1.0, "real": 1.0, "directional": 1.0, "synthetic": 1.0,
    }  # fmt: skip
    assert out.report["pairs"]["mirror"]["score"] == out.report["pairs"]["reverse"]["score"] == 1
    assert "mirror 100.0 %" in out.headline and "blind 25.0 %" in out.headline


def test_the_command(root, tmp_path, monkeypatch):
    (tmp_path / "vlm4d_answers.py").write_text(f"import sys\nsys.path.append({str(__file__.rsplit('/', 1)[0])!r})\n"
                                               "from test_vlm4d_pipeline import sees\n")  # fmt: skip
    monkeypatch.chdir(tmp_path)
    given = ["eval", "vlm4d", "--root", str(root), "--model", "python:vlm4d_answers.sees", "--out", "run"]
    done = CliRunner().invoke(app, [*given, "--controls", "blind, mirror", "--limit", "3"])
    assert done.exit_code == 0, done.output
    assert "100.0 %" in done.output and "pairs mirror 100.0 %" in done.output
    assert len(read_rows(tmp_path / "run" / "rows.jsonl")) == 9
    again = CliRunner().invoke(app, [*given, "--controls", "none", "--subset", "real"])
    assert again.exit_code == 0 and "of 2;" in again.output
    for wrong, words in (
        (["--controls", "blurred"], "`controls`"),
        (["--subset", "imagined"], "`subsets`"),
        (["--workers", "2"], "--workers"),
        (["--num-frames", "40", "--out", "other"], "pad='repeat'"),
        (["--protocol", "loglik"], "another protocol"),
    ):
        failed = CliRunner().invoke(app, [*given, *wrong])
        assert failed.exit_code and words in str(failed.exception), wrong
    (root / "videos_real" / "davis" / "left.mp4").rename(tmp_path / "left.mp4")
    try:
        failed = CliRunner().invoke(app, [*given, "--out", "gone"])
        assert "validation_1" in str(failed.exception) and "1 of 4 items" in str(failed.exception)
        assert not (tmp_path / "gone").exists()
    finally:
        (tmp_path / "left.mp4").rename(root / "videos_real" / "davis" / "left.mp4")
