"""MMWorldPipeline and `wm eval mmworld`: the mean over disciplines beside that over questions, and the submission."""

import json

import numpy as np
import pytest
from typer.testing import CliRunner

from wm_pipelines.cli import app
from wm_pipelines.media.video import write_video
from wm_pipelines.mmworld.data import load_mmworld
from wm_pipelines.mmworld.pipeline import MMWorldPipeline


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Three questions about a game, right by A, and one about science, right by B."""
    folder = tmp_path_factory.mktemp("mmworld")
    videos = []
    for video, discipline, answers in (("v1", "Game", "aaa"), ("v2", "Science", "b")):
        (folder / "videos").mkdir(exist_ok=True)
        write_video([np.full((32, 32, 3), 90, np.uint8)] * 8, folder / "videos" / f"{video}.mp4")
        questions = [
            {"type": "Explanation", "question": f"What happens ({n})?", "question_only": False,
             "options": {"a": "this", "b": "that", "c": "else"}, "answer": {"a": "this", "b": "that"}[letter],
             "correct_answer_label": letter,
             "requires_domain_knowledge": n == 0, "requires_audio": False, "requires_visual": True}
            for n, letter in enumerate(answers)
        ]  # fmt: skip
        videos.append({"video_id": video, "video_url": "https://y/x", "discipline": discipline, "subdiscipline": "s",
                       "captions": [], "questions": questions})  # fmt: skip
    (folder / "mmworld.json").write_text(json.dumps(videos))
    return folder


def first(frames, prompt, options):
    return "A"


def test_macro_beside_micro_and_the_submission(data, tmp_path):
    pipe = MMWorldPipeline(first)
    pipe.set_progress_bar_config(disable=True)
    items = load_mmworld(data / "mmworld.json", videos=data / "videos")
    out = pipe(items, controls=("blind",))
    assert out.report["controls"]["full"]["score"] == 0.75 and out.report["macro"]["discipline"] == 0.5
    flags = {(f["requires_domain_knowledge"], f["question_only"]): f for f in out.report["knowledge_by_flags"]}
    assert {key: f["full"]["n"] for key, f in flags.items()} == {("yes", "no"): 2, ("no", "no"): 2}
    assert all(f["vision"]["value"] == 0 for f in flags.values())
    assert "75.0 %" in out.headline and out.headline.endswith("mean of disciplines 50.0 %")
    said = json.loads(pipe.submit(tmp_path / "submission.json", items, out).read_text())["detailed_results"]
    assert said == [{"video_id": v, "model_answer": "a"} for v in ("v1", "v1", "v1", "v2")]


def test_the_command(data, tmp_path, monkeypatch):
    (tmp_path / "mmworld_answers.py").write_text("def first(frames, prompt, options):\n    return 'A'\n")
    monkeypatch.chdir(tmp_path)
    given = ["eval", "mmworld", "--root", str(data)]
    done = CliRunner().invoke(app, [*given, "--model", "python:mmworld_answers.first", "--out", "run"])
    assert done.exit_code == 0, done.output
    assert "75.0 %" in done.output and "mean of disciplines 50.0 %" in done.output
    report = json.loads((tmp_path / "run" / "report.json").read_text())
    assert report["videos"] == 2 and report["circular"]["score"] == 0
    given += ["--videos", str(data)]  # where there are none
    failed = CliRunner().invoke(app, [*given, "--model", "python:mmworld_answers.first", "--out", "other"])
    assert failed.exit_code and "v1.mp4 not found" in str(failed.exception) and "4 of 4" in str(failed.exception)
    given[3:] = [str(data / "mmworld.json")]
    failed = CliRunner().invoke(app, [*given, "--model", "m", "--endpoint", "here:8000", "--out", "other"])
    assert failed.exit_code and "`url`" in str(failed.exception)
