"""The demonstration: what its page and its report say, and what it says where there is no model yet."""

import json

import pytest

from wm_pipelines import hub
from wm_pipelines.video_quiz import demo as demonstration
from wm_pipelines.video_quiz.scenes import CLIPS

pytestmark = pytest.mark.slow


def test_clips_twins_and_failures_are_shown(quiz_task, tmp_path, monkeypatch):
    quiz_task().export(tmp_path / "model")
    monkeypatch.setattr(demonstration, "LENGTH", len(CLIPS))
    shown = demonstration.demo(tmp_path / "quiz", seed=4, model=tmp_path / "model")
    report = json.loads((tmp_path / "quiz" / "quiz.json").read_text())
    page = (tmp_path / "quiz" / "index.html").read_text()
    assert f"of {len(CLIPS)} questions" in shown.said and shown.page == "index.html" and len(shown.row) > 1
    assert [name for name, _ in shown.files] == [clip["gif"] for clip in report["clips"]]
    assert [clip["family"] for clip in report["clips"]] == list(CLIPS[:3])
    for clip in (*report["clips"], *report["failures"]):
        assert [a["clip"] for a in clip["answers"]][0] == "as it is" and len(clip["answers"]) > 1
        assert all(a["right"] == (a["answer"] == a["truth"]) for a in clip["answers"])
        assert all({a["answer"], a["truth"]} <= set(clip["options"]) for a in clip["answers"])
        assert (tmp_path / "quiz" / clip["gif"]).is_file() and clip["question"] in page
    assert report["failures"] and not any(clip["answers"][0]["right"] for clip in report["failures"])
    assert {row["family"] for row in report["families"]} == set(CLIPS)


def test_without_a_model_it_says_so(tmp_path, monkeypatch):
    monkeypatch.setattr(hub, "embedded_names", lambda: ["diorama-sd"])
    shown = demonstration.demo(tmp_path / "quiz")
    assert shown.said == "There is no embedded diorama-vlm yet." and not shown.files and not shown.row
    assert not (tmp_path / "quiz").exists()


@pytest.mark.parametrize("missing", ["model.safetensors"])
def test_a_folder_without_weights_is_refused(quiz_task, tmp_path, missing):
    quiz_task().export(tmp_path / "model")
    (tmp_path / "model" / missing).unlink()
    with pytest.raises((ValueError, OSError)):
        demonstration.demo(tmp_path, model=tmp_path / "model")
