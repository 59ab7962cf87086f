import csv
import json
import pickle

import numpy as np
import pytest

from wm_pipelines.data.caption_pairs import Example
from wm_pipelines.discffusion.convert import convert_refs
from wm_pipelines.discffusion.data import read_benchmark, read_pairs, read_refcocog, read_vqa
from wm_pipelines.discffusion.evaluate import decisions, summarise
from wm_pipelines.discffusion.run import run
from wm_pipelines.media.pictures import save_image


@pytest.fixture
def shots(tmp_path, pictures):
    for n, picture in enumerate(pictures(3)):
        save_image(picture, tmp_path / f"{n}.png")
    return tmp_path


def test_pictures_and_captions_become_a_report_with_maps(shots):
    texts = ["a red cube", "a blue sphere"]
    report = run(out=shots / "out", images=[shots / "0.png", shots / "1.png"], texts=texts, timesteps=2)
    assert report == json.loads((shots / "out" / "report.json").read_text())
    assert [(row["file"], row["text"]) for row in report["pairs"]] == [
        (f"{n}.png", text) for n in (0, 1) for text in texts
    ]
    assert all(row["difference_ci95"][0] < row["difference"] < row["difference_ci95"][1] for row in report["pairs"])
    assert all((shots / "out" / row["maps"]).is_file() for row in report["pairs"])
    assert report["forwards"] == 2 * 2 * 3


def test_a_table_of_pairs_is_a_benchmark_with_clip_beside_it(shots):
    rows = [
        ("0.png", "a red cube", "image", "1.png"), ("1.png", "a red cube", "caption", "a blue cone"),
        ("9.png", "a cube", "caption", "a cone"),
    ]  # fmt: skip
    with open(shots / "pairs.csv", "w", newline="") as file:
        csv.writer(file).writerows([("image", "caption", "kind", "foil"), *rows])
    assert [(len(e.images), len(e.captions), e.kind) for e in read_pairs(shots)] == [
        (2, 1, "image"), (1, 2, "caption"), (1, 2, "caption"),
    ]  # fmt: skip
    report = run(out=shots / "out", benchmark="pairs", root=shots, clip="diorama-clip", timesteps=1)
    assert set(report["R@1"]) == {"all", "image", "caption", "paired"} and list(report["failed"]) == ["4"]
    assert set(report["R@1"]["all"]) == {"lse", "dc", "lse+dc", "diffusion classifier", "clip"}
    assert report["n"] == 3 and "disputed" in report["note"]
    assert 0 <= report["R@1"]["paired"]["lse against clip"]["p"] <= 1


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({}, "either `benchmark`"),
        ({"images": ["x"], "texts": ["y"], "benchmark": "pairs"}, "either `benchmark`"),
        ({"images": ["x"]}, "belong together"),
        ({"benchmark": "pairs"}, "needs `root`"),
        ({"benchmark": "coco", "root": "."}, "`benchmark`.*comvg"),
        ({"images": ["none.png"], "texts": ["a"]}, "none.png"),
        ({"images": ["x"], "texts": ["y"], "root": "."}, "`root` belongs"),
        ({"images": ["x"], "texts": ["y"], "clip": "diorama-clip"}, "`clip` belongs"),
        ({"images": ["x"], "texts": ["y"], "limit": 3}, "`limit` belongs"),
        ({"benchmark": "pairs", "root": ".", "limit": -1}, "`limit` is -1"),
        ({"benchmark": "pairs", "root": ".", "score": "lse"}, "`score` is for"),
    ],
)
def test_nothing_is_written_for_what_is_refused(tmp_path, given, message):
    with pytest.raises(ValueError, match=message):
        run(out=tmp_path / "out", **given)
    assert not (tmp_path / "out").exists() or not any((tmp_path / "out").iterdir())


def test_rows_of_another_kind_are_named(tmp_path):
    (tmp_path / "pairs.csv").write_text("image,caption,kind,foil\na.png,a cube,both,b.png\n")
    with pytest.raises(ValueError, match="line 2.*kind"):
        read_pairs(tmp_path)


def refs(count):
    return [
        {"image_id": n, "split": "val" if n < count - 1 else "train", "sentences": [{"sent": f"thing {n}"}]}
        for n in range(count)
    ]


def test_refcocog_has_nine_sentences_of_other_pictures(tmp_path, wm):
    (tmp_path / "refs(google).p").write_bytes(pickle.dumps(refs(13), protocol=2))
    said = wm("convert", "refcocog", tmp_path / "refs(google).p", tmp_path / "refs.json")
    assert said.startswith("13 references in ")
    found = read_refcocog(tmp_path)
    assert len(found) == 12
    for n, example in enumerate(found):
        assert example.captions[0] == f"thing {n}" and len(set(example.captions)) == 10
        assert example.images[0].name.startswith(f"COCO_train2014_{n:012d}")
    assert read_refcocog(tmp_path) == found != read_refcocog(tmp_path, seed=1)
    (tmp_path / "refs.json").write_text(json.dumps(refs(4)))
    with pytest.raises(ValueError, match="fewer than 10"):
        read_refcocog(tmp_path)


def test_a_pickle_that_calls_is_no_table(tmp_path):
    class Bad:
        def __reduce__(self):
            return (open, (str(tmp_path / "mark"), "w"))

    (tmp_path / "bad.p").write_bytes(pickle.dumps(Bad()))
    with pytest.raises(ValueError, match="holds no references of RefCOCOg"):
        convert_refs(tmp_path / "bad.p", tmp_path / "refs.json")
    (tmp_path / "bad.p").write_bytes(pickle.dumps([{"image_id": float("inf"), "split": "val", "sentences": []}]))
    with pytest.raises(ValueError, match="holds no references of RefCOCOg: OverflowError"):
        convert_refs(tmp_path / "bad.p", tmp_path / "refs.json")
    assert not (tmp_path / "mark").exists() and not (tmp_path / "refs.json").exists()


def test_vqa_asks_with_the_right_answer_first(tmp_path):
    answers = [f"answer {n}" for n in range(15)] + ["yes", "no"]
    told = [
        {"question_id": n, "answer_type": "other" if n < 15 else "yes/no", "multiple_choice_answer": a}
        for n, a in enumerate(answers)
    ]
    asked = [{"question_id": n, "image_id": 5, "question": "what is it?"} for n in range(17)]
    (tmp_path / "v2_OpenEnded_mscoco_val2014_questions.json").write_text(json.dumps({"questions": asked}))
    path = tmp_path / "v2_mscoco_val2014_annotations.json"
    path.write_text(json.dumps({"annotations": told}))
    found = read_vqa(tmp_path)
    assert len(found) == 15
    for n, example in enumerate(found):
        assert example.captions[0] == f"what is it? answer {n}" and len(set(example.captions)) == 10
        assert not any(text.endswith(("yes", "no")) for text in example.captions)
    path.write_text(json.dumps({"answers": told}))
    with pytest.raises(ValueError, match="annotations"):
        read_benchmark("vqa", tmp_path)


def test_ties_are_wrong():
    assert decisions(np.array([[1.0, 1.0]])) == {"R@1": False}
    assert decisions(np.array([[1.0], [0.5]])) == {"R@1": True}
    assert decisions(np.array([[1.0, *[2.0] * 4, *[0.0] * 5]])) == {"R@1": False, "R@5": True}
    assert decisions(np.array([[1.0, *[1.0] * 5]])) == {"R@1": False, "R@5": False}
    assert decisions(np.array([[2.0, 1.0], [1.0, 2.0]])) == {"text": True, "image": True, "group": True}
    assert decisions(np.array([[2.0, 2.0], [1.0, 2.0]])) == {"text": False, "image": False, "group": False}


def test_what_failed_counts_as_wrong():
    examples = [Example(str(n), "a", (), ("x", "y")) for n in range(2)]
    report = summarise(examples, [{"lse": np.array([[1.0, 0.0]])}, None])
    assert report["R@1"]["all"]["lse"]["accuracy"] == 0.5
    with pytest.raises(ValueError, match="not one"):
        summarise(examples, [None, None])


@pytest.mark.parametrize("model", ["diorama-judge", "flexecontrol"])
def test_what_is_no_base_is_named(tmp_path, shots, model):
    with pytest.raises(ValueError, match=f"`model` '{model}' is.*text-to-image base"):
        run(out=tmp_path / "out", images=[shots / "0.png"], texts=["a red cube"], model=model)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"token_mask": "words"}, "^`token_mask`"),
        ({"timesteps": 0}, "^`timesteps`"),
        ({"size": (60, 60)}, "^`size`"),
        ({"seed": -1, "timesteps": 1}, "not one.*first: `seed`"),
    ],
)
def test_a_benchmark_says_why_nothing_could_be_scored(shots, options, message):
    (shots / "pairs.csv").write_text("image,caption,kind,foil\n0.png,a red cube,image,1.png\n")
    with pytest.raises(ValueError, match=message):
        run(out=shots / "out", benchmark="pairs", root=shots, **options)
    assert not (shots / "out" / "report.json").exists()
