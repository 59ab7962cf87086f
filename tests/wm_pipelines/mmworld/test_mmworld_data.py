"""MMWorld's files as items in both forms, its submission, and the arithmetic of its table 3."""

import json

import pytest

from wm_pipelines.mmworld.data import DISCIPLINES, FACETS, QUESTIONS, load_mmworld, read_submission, write_submission

MP4 = b"\0\0\0\x18ftypmp42"

# Table 3 of 2406.08407 (mean of three runs, %): columns in the order of DISCIPLINES, then the printed average
TABLE = {
    "GPT-4o": (47.87, 91.14, 73.78, 83.33, 62.94, 75.53, 80.32, 62.54),
    "Claude-3.5-Sonnet": (54.58, 63.87, 59.85, 54.51, 30.99, 58.87, 59.44, 54.54),
    "GPT-4V": (36.17, 81.59, 66.52, 73.61, 55.48, 61.35, 73.49, 52.30),
    "Gemini Pro": (37.12, 76.69, 62.81, 76.74, 43.59, 69.86, 66.27, 51.02),
    "Video-LLaVA-7B": (35.91, 51.28, 56.30, 32.64, 63.17, 58.16, 49.00, 44.60),
    "VideoChat-7B": (39.53, 51.05, 30.81, 46.18, 40.56, 39.36, 44.98, 40.11),
    "ChatUniVi-7B": (24.47, 60.84, 52.00, 61.11, 46.15, 56.74, 52.61, 39.47),
    "mPLUG-Owl-7B": (29.16, 64.10, 47.41, 60.07, 23.78, 41.84, 62.25, 38.94),
    "PandaGPT-7B": (25.33, 42.66, 39.41, 38.54, 35.43, 41.84, 40.16, 32.48),
    "ImageBind-LLM-7B": (24.82, 42.66, 32.15, 30.21, 46.85, 41.49, 41.37, 31.75),
    "X-InstructBLIP-7B": (21.08, 15.85, 22.52, 28.47, 18.41, 22.34, 26.10, 21.36),
    "LWM-1M": (12.04, 17.48, 15.41, 20.49, 25.87, 21.99, 11.65, 15.39),
    "Otter-7B": (17.12, 18.65, 9.33, 6.94, 13.29, 15.96, 15.26, 14.99),
    "Video-LLaMA-2-13B": (6.15, 21.21, 22.22, 31.25, 15.38, 19.15, 24.90, 14.03),
}
RANDOM = (25.03, 25.09, 26.44, 25.00, 26.48, 30.92, 25.23, 26.31)


def micro(row):
    return sum(n * share for n, share in zip(QUESTIONS.values(), row, strict=False)) / sum(QUESTIONS.values())


def test_the_denominators():
    assert tuple(QUESTIONS.values()) == (775, 143, 225, 96, 143, 94, 83)
    assert sum(QUESTIONS.values()) == 1559 and tuple(QUESTIONS) == DISCIPLINES


@pytest.mark.parametrize("model", TABLE)
def test_every_row_of_table_3_is_a_micro_mean(model):
    assert abs(micro(TABLE[model]) - TABLE[model][7]) <= 0.011  # each column is rounded to 0.01


def test_the_row_of_chance_is_a_macro_mean():
    assert round(sum(RANDOM[:7]) / 7, 2) == RANDOM[7]
    assert round(micro(RANDOM), 2) == 25.74


def test_micro_and_macro_rank_differently():
    macro = {model: sum(row[:7]) / 7 for model, row in TABLE.items()}
    assert micro(TABLE["Claude-3.5-Sonnet"]) > micro(TABLE["GPT-4V"]) > micro(TABLE["Gemini Pro"])
    assert macro["Claude-3.5-Sonnet"] < macro["Gemini Pro"] < macro["GPT-4V"]


def question(kind="Explanation", label="b", **more):
    return {
        "type": kind,
        "question": "Why does it fall?",
        "options": {"a": "wind", "b": "a push ", "c": "heat"},
        "answer": "a push",
        "requires_domain_knowledge": True,
        "requires_audio": False,
        "requires_visual": True,
        "question_only": False,
        "correct_answer_label": label,
    } | more


def nested():
    return [
        {
            "video_id": "v1",
            "video_url": "https://example.org/v1",
            "discipline": "Art & Sports",
            "subdiscipline": "Dance",
            "captions": ["x"],
            "questions": [question(), question("counterfactual thinking", "c", answer="heat")],
        },
        {
            "video_id": "v2",
            "video_url": "",
            "discipline": "Tech & Engineering",
            "subdiscipline": "Cars",
            "captions": [],
            "questions": [question("Future Prediction", options={"a": "yes", "b": "no"}, answer="no")],
        },
    ]


def flat():
    rows = []
    for video in nested():
        shared = {key: video[key] for key in ("video_id", "discipline")}
        rows += [
            shared | {key: q[key] for key in ("question", "options", "answer", "correct_answer_label")}
            for q in video["questions"]
        ]
    return rows


@pytest.fixture
def files(tmp_path):
    (tmp_path / "nested.json").write_text(json.dumps(nested()))
    (tmp_path / "flat.json").write_text(json.dumps(flat()))
    (tmp_path / "flat.jsonl").write_text("".join(json.dumps(row) + "\n" for row in flat()))
    return tmp_path


@pytest.mark.parametrize("form", ["nested.json", "flat.json", "flat.jsonl"])
def test_both_forms_give_the_same_questions(files, form):
    items = load_mmworld(files / form)
    assert [item.uid for item in items] == ["mmworld/main/v1-0", "mmworld/main/v1-1", "mmworld/main/v2-0"]
    assert [item.right for item in items] == [("B",), ("C",), ("B",)]
    assert [item.cluster for item in items] == ["v1", "v1", "v2"]
    assert items[0].options == {"A": "wind", "B": "a push", "C": "heat"} and len(items[2].options) == 2
    disciplines = [item.annotations["discipline"] for item in items]
    assert disciplines == ["Sports & Arts", "Sports & Arts", "Tech & Engineering"]


def test_facets_and_flags(files):
    items = load_mmworld(files / "nested.json")
    assert [item.facet for item in items] == ["Explanation", "Counterfactual", "Future"]
    assert items[0].annotations["requires_domain_knowledge"] is True and items[0].annotations["question_only"] is False
    assert items[0].annotations["subdiscipline"] == "Dance"
    bare = load_mmworld(files / "flat.json")
    assert [item.facet for item in bare] == ["", "", ""] and bare[0].annotations["requires_audio"] is None


def test_subsets_tell_ids_apart(files):
    uids = {
        load_mmworld(files / "flat.json", subset)[0].uid for subset in ("main", "synthetic_audio", "synthetic_visual")
    }
    assert len(uids) == 3
    with pytest.raises(ValueError, match="`subset`"):
        load_mmworld(files / "flat.json", "synthetic")


@pytest.mark.parametrize("name", ["Sports & Arts", "art & sports", "ART", "Sports and Arts"])
def test_names_of_disciplines(tmp_path, name):
    rows = flat()
    rows[0]["discipline"] = name
    (tmp_path / "x.json").write_text(json.dumps(rows))
    assert load_mmworld(tmp_path / "x.json")[0].annotations["discipline"] == "Sports & Arts"


def test_an_unknown_type_is_kept_and_said(tmp_path):
    rows = nested()
    rows[0]["questions"][0]["type"] = "Causal leap"
    (tmp_path / "x.json").write_text(json.dumps(rows))
    with pytest.warns(UserWarning, match="'Causal leap'"):
        assert load_mmworld(tmp_path / "x.json")[0].facet == "Causal leap"
    assert "Causal leap" not in FACETS


def test_the_label_counts_where_the_text_is_another(tmp_path):
    rows = flat()
    rows[0]["answer"] = "a gentle push"
    (tmp_path / "x.json").write_text(json.dumps(rows))
    with pytest.warns(UserWarning, match="1 of 3 questions"):
        assert load_mmworld(tmp_path / "x.json")[0].right == ("B",)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"correct_answer_label": "d"}, "`correct_answer_label`"),
        ({"correct_answer_label": 1}, "label"),
        ({"options": {"a": "x"}}, "`options`"),
        ({"options": ["x", "y"]}, "`options`"),
        ({"options": {"a": "x", "c": "y"}}, "`options`"),
        ({"options": dict.fromkeys("abcdef", "x")}, "`options`"),
        ({"correct_answer_label": None, "answer": "rain"}, "`answer`"),
        ({"discipline": "Cooking"}, "`discipline`"),
        ({"discipline": None}, "`discipline`"),
        ({"video_id": ""}, "`video_id`"),
        ({"question": None}, "`question`"),
        ({"requires_audio": "yes"}, "`requires_audio`"),
    ],
)
def test_a_bad_question_is_named(tmp_path, change, said):
    rows = flat()
    rows[1] |= change
    (tmp_path / "x.json").write_text(json.dumps(rows))
    with pytest.raises(ValueError, match=said):
        load_mmworld(tmp_path / "x.json")


def test_a_column_that_a_question_does_not_use(tmp_path):
    rows = flat()
    rows[2]["options"] |= {"c": None, "d": None}
    (tmp_path / "x.json").write_text(json.dumps(rows))
    assert list(load_mmworld(tmp_path / "x.json")[2].options) == ["A", "B"]


def test_videos_in_folders_and_missing_ones(files):
    videos = files / "videos"
    (videos / "v1").mkdir(parents=True)
    (videos / "v1" / "clip.mp4").write_bytes(MP4)
    with pytest.raises(ValueError, match="mmworld/main/v2-0: v2.mp4 not found .* 1 of 3 items"):
        load_mmworld(files / "flat.json", videos=videos)
    with pytest.warns(UserWarning, match="1 of 3"):
        assert len(load_mmworld(files / "flat.json", videos=videos, on_missing="skip")) == 2
    (videos / "v2.mp4").write_bytes(MP4)
    assert [item.video.name for item in load_mmworld(files / "flat.json", videos=videos)] == ["clip.mp4"] * 2 + [
        "v2.mp4"
    ]
    (videos / "v1" / "other.mp4").write_bytes(MP4)
    with pytest.raises(ValueError, match="2 videos for 'v1'"):
        load_mmworld(files / "flat.json", videos=videos)


def test_a_submission_round_trips(files):
    items = load_mmworld(files / "nested.json")
    letters = dict(zip((item.uid for item in items), ("A", None, "B"), strict=True))
    path = write_submission(files / "s.json", items, letters)
    results = json.loads(path.read_text())["detailed_results"]
    assert results[0] == {"video_id": "v1", "model_answer": "a"} and [r["video_id"] for r in results] == [
        "v1",
        "v1",
        "v2",
    ]
    assert list(read_submission(path, items).values()) == ["a", "", "b"]


def test_bad_submissions(files):
    items = load_mmworld(files / "nested.json")
    whole = {item.uid: "A" for item in items}
    for letters, said in (
        (dict(list(whole.items())[:2]), "lacks"),
        (whole | {"x": "A"}, "no item"),
        (whole | {items[2].uid: "C"}, "options"),
    ):
        with pytest.raises(ValueError, match=said):
            write_submission(files / "s.json", items, letters)
    assert not (files / "s.json").exists()
    answers = [{"video_id": v, "model_answer": "a"} for v in ("v1", "v1", "v2")]
    for results, said in (
        (answers[:1] + answers[2:], "1 answers for video 'v1', of 2"),
        (answers + answers[:1], "3 ans"),
        (answers + [{"video_id": "v9", "model_answer": "a"}], "v9"),
        ([{}], "result 0"),
        ({}, "submission"),
    ):
        (files / "bad.json").write_text(json.dumps({"detailed_results": results} if results != {} else {}))
        with pytest.raises(ValueError, match=said):
            read_submission(files / "bad.json", items)
