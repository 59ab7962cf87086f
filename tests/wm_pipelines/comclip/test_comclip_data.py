"""The benchmarks' layouts, decision rules and counts, on synthetic tables of the same form."""

import csv
import json

import numpy as np
import pytest
from PIL import Image

from wm_pipelines.comclip import data, metrics
from wm_pipelines.data import caption_pairs, tables
from wm_pipelines.evaluation.statistics import wilson
from wm_pipelines.text.parser import Entity


def write(path, value):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(value if isinstance(value, str) else json.dumps(value), encoding="utf-8")
    return path


def table(path, columns, rows):
    with open(path, "w", newline="") as file:
        out = csv.writer(file)
        out.writerow(columns)
        out.writerows(rows)
    return path


@pytest.fixture
def images(tmp_path):
    """Five pictures of plain colour, 1.jpg to 5.png."""
    folder = tmp_path / "pictures"
    folder.mkdir()
    for n in range(1, 6):
        suffix = "jpg" if n < 4 else "png"
        Image.new("RGB", (40, 30 + n), (40 * n, 255 - 40 * n, 60)).save(folder / f"{n}.{suffix}")
    return folder


@pytest.fixture
def comvg(tmp_path):
    rows = [
        (1, "a man is sitting at a table", "man,sit,table", "('dog', 'sit', 'table')", 1, 2, "subject", 215),
        (2, "a man is sitting at a table", "man,sit,table", "('man', 'sit', 'sofa')", 1, 3, "object", 215),
        (3, "a cat is eating the food.", "cat,eat,food", "('cat', 'sniff', 'food')", 4, 9, "verb", 7),
    ]
    return table(tmp_path / "ComVG.csv", caption_pairs.COMVG_COLUMNS, rows)


def test_comvg(comvg, images):
    examples = caption_pairs.read_comvg(comvg, images)
    assert [e.kind for e in examples] == ["subject", "object", "verb"]
    first = examples[0]
    assert first.captions == ("a man is sitting at a table",) and first.names == ("1", "2")
    assert [p.name for p in first.images] == ["1.jpg", "2.jpg"] and examples[2].images[0].name == "4.png"
    assert [e.text for e in first.parsed[0].entities] == ["man", "table"]
    assert first.parsed[0].relations[0].verb == "sit"


def test_svo_probes(tmp_path, images):
    rows = [
        ("A girl reads", "girl,read,book", "girl,hold,book", 1, 2, "False", "True", "False"),
        ("A dog sits", "dog,sit,grass", "cat,sit,grass", 3, 4, "True", "False", "False"),
    ]
    file = table(tmp_path / "svo.csv", caption_pairs.SVO_COLUMNS, rows)
    assert [e.kind for e in caption_pairs.read_svo_probes(file, images)] == ["verb", "subject"]
    file = table(tmp_path / "two.csv", caption_pairs.SVO_COLUMNS, [(*rows[0][:5], "True", "True", "False")])
    with pytest.raises(ValueError, match="two.csv, line 2: one of subj_neg, verb_neg, obj_neg must be True"):
        caption_pairs.read_svo_probes(file, images)


def test_winoground_and_vl_checklist(tmp_path, images):
    (tmp_path / "wino").mkdir()
    images.rename(tmp_path / "wino" / "images")
    row = {"id": 7, "image_0": "1", "image_1": "4", "caption_0": "a b", "caption_1": "b a", "collapsed_tag": "Object"}
    write(tmp_path / "wino" / "examples.jsonl", json.dumps(row) + "\n")
    (example,) = caption_pairs.read_winoground(tmp_path / "wino")
    assert example.kind == "Object" and example.captions == ("a b", "b a") and example.images[1].name == "4.png"
    write(tmp_path / "wino" / "examples.jsonl", json.dumps({"id": 1}))
    with pytest.raises(ValueError, match="examples.jsonl, line 1: the line lacks image_0, image_1, caption_0"):
        caption_pairs.read_winoground(tmp_path / "wino")

    file = write(tmp_path / "colour.json", [["1.jpg", {"POS": ["a red cube"], "NEG": ["a blue cube"]}]])
    (example,) = caption_pairs.read_vl_checklist(file, tmp_path / "wino" / "images")
    assert example.kind == "colour" and example.captions == ("a red cube", "a blue cube") and example.names == ("1",)
    write(file, [["1.jpg", {"POS": [], "NEG": ["x"]}]])
    with pytest.raises(ValueError, match="colour.json, line 0: POS must be a list of captions"):
        caption_pairs.read_vl_checklist(file, images)


def test_malformed_tables_are_named(tmp_path, images, comvg):
    with pytest.raises(ValueError, match="can't read .*absent.csv"):
        caption_pairs.read_comvg(tmp_path / "absent.csv", images)
    with pytest.raises(ValueError, match="lacks the column.s. neg_value, sentence_id"):
        caption_pairs.read_comvg(table(tmp_path / "a.csv", caption_pairs.COMVG_COLUMNS[:6], [["x"] * 6]), images)
    with pytest.raises(ValueError, match="holds no row"):
        caption_pairs.read_comvg(table(tmp_path / "a.csv", caption_pairs.COMVG_COLUMNS, []), images)
    with pytest.raises(ValueError, match="line 2: triplet 'man,sit' must hold subject"):
        row = (1, "s", "man,sit", "n", 1, 2, "verb", 3)
        caption_pairs.read_comvg(table(tmp_path / "a.csv", caption_pairs.COMVG_COLUMNS, [row]), images)
    with pytest.raises(ValueError, match="line 2: no value for sentence"):
        row = (1, "", "man,sit,table", "n", 1, 2, "verb", 3)
        caption_pairs.read_comvg(table(tmp_path / "a.csv", caption_pairs.COMVG_COLUMNS, [row]), images)


def test_layouts_of_the_authors_scripts_also_encoded_twice(tmp_path):
    parsed = {"objects": {"person": {"attributes": "young"}}, "connections": []}
    for name, value in (("once", parsed), ("twice", json.dumps(parsed))):
        read = data.read_parsed(write(tmp_path / f"{name}.json", value))
        assert [e.text for e in read.entities] == ["young person"]
    dense = {"a man in a hat": [[0, 0, 9, 9], [1, 1, 3, 3]]}
    assert data.read_dense_captions(write(tmp_path / "d.json", json.dumps(dense))) == dense
    link = data.read_matches(write(tmp_path / "m.json", {"person": ["a man in a hat"], "boat": []}))
    assert link(Entity("e0", "person"), []) == ["a man in a hat"]
    assert link(Entity("e1", "boat"), []) == [] and link(Entity("e2", "dog"), []) == []
    names = [
        data.match_file("m", "5", sentence_id="3"), data.match_file("m", "5", row="3"),
        data.match_file("m", "1", row="3", caption="0"),
    ]  # fmt: skip
    assert [path.name for path in names] == [
        "sentence_3_image_5.json", "row_3_image_5.json", "3_caption0_image1.json",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("read", "value", "words"),
    [
        (data.read_parsed, "[]", "must be an object, got list"),
        (data.read_parsed, '{"objects": []}', "needs 'objects'"),
        (data.read_dense_captions, "[1]", "must map dense captions"),
        (data.read_matches, '{"man": "a man"}', "must map entities to lists"),
        (tables.read_json, "{", "bad.json: Expecting"),
        (tables.read_json, '"{"', "bad.json: Expecting"),
    ],
)
def test_malformed_layouts_are_refused(tmp_path, read, value, words):
    with pytest.raises(ValueError, match="bad.json") as error:
        read(write(tmp_path / "bad.json", value))
    assert words in str(error.value)


def test_decision_rules():
    own, foil = np.array([0.5, 0.5, 0.2, np.nan]), np.array([0.4, 0.5, 0.3, 0.1])
    scores = np.stack([own, foil], 1)
    assert metrics.choose(scores).tolist() == [True, False, False, False]  # a tie is wrong, so is a failure
    assert metrics.ties(scores) == 1
    # s[i][c]: text asks for the right caption of each image, image for the right image of each caption
    text_only = [[0.9, 0.8], [0.2, 0.3]]
    image_only = [[0.9, 0.95], [0.2, 0.99]]
    found = metrics.winoground(np.array([[[0.9, 0.1], [0.2, 0.8]], text_only, image_only, [[0.5, 0.5], [0.5, 0.5]]]))
    assert found["text"].tolist() == [True, True, False, False]
    assert found["image"].tolist() == [True, False, True, False]
    assert found["group"].tolist() == [True, False, False, False]
    assert metrics.by_kind(np.array([True, False, True]), ["a", "a", "b"]) == {
        "all": {"accuracy": pytest.approx(2 / 3), "ci95": list(wilson(2, 3)), "n": 3},
        "a": {"accuracy": 0.5, "ci95": list(wilson(1, 2)), "n": 2},
        "b": {"accuracy": 1.0, "ci95": list(wilson(1, 1)), "n": 1},
    }
    assert metrics.recall([[3, 1], [2, 0], []], [1, 2, 0], (1, 2)) == {"R@1": 1 / 3, "R@2": 2 / 3}
    for bad in (lambda: metrics.choose(np.zeros((0, 2))), lambda: metrics.winoground(np.zeros((3, 2)))):
        with pytest.raises(ValueError, match="scores must have shape"):
            bad()
    with pytest.raises(ValueError, match="they must be equal and above 0"):
        metrics.recall([], [])


def test_chance_of_the_decision_rules():
    scores = np.random.default_rng(0).random((20_000, 2, 2))
    found = {name: values.mean() for name, values in metrics.winoground(scores).items()}
    assert found == {
        "text": pytest.approx(0.25, abs=0.01), "image": pytest.approx(0.25, abs=0.01),
        "group": pytest.approx(1 / 6, abs=0.01),
    }  # fmt: skip
    assert metrics.choose(scores[:, 0]).mean() == pytest.approx(0.5, abs=0.015)


def test_examples_are_scored_and_none_is_dropped(pipe, comvg, images):
    from wm_pipelines.comclip.evaluate import score_examples, summarise

    pipe.vocabulary = None
    examples = caption_pairs.read_comvg(comvg, images)
    boxes = {"1": {"a man": [[2, 2, 20, 25]], "wooden table": [[10, 8, 38, 29]]}, "2": {"a man": [[2, 2, 20, 25]]}}
    scores = score_examples(
        pipe, examples, grounding=lambda e, i: boxes.get(e.names[i], {}),
        linking=lambda e, i, c: (lambda entity, labels: ["absent"]) if e.id == "2" and i == 1 else None,
    )  # fmt: skip
    assert list(scores["failed"]) == [2] and scores["failed"][2].startswith("3: ") and "9" in scores["failed"][2]
    assert np.isnan(scores["score"][2]).all() and np.isfinite(scores["score"][:2]).all()
    assert scores["detector"][:2, :, 0].tolist() == [[1.0, 0.5], [1.0, 0.0]]
    assert scores["failures"]["missing box"] == 3
    report = summarise(examples, scores)
    assert report["n"] == 3 and report["failed"] == 1
    assert report["detector"]["all"] == {"accuracy": pytest.approx(2 / 3), "ci95": list(wilson(2, 3)), "n": 3}
    assert (
        report["score"]["verb"] == {"accuracy": 0.0, "ci95": list(wilson(0, 1)), "n": 1} and "ties" in report["score"]
    )
    one = pipe(
        Image.open(images / "1.jpg"), examples[0].captions[0], boxes["1"], examples[0].parsed[0],
    )  # fmt: skip
    assert scores["score"][0, 0, 0] == pytest.approx(float(one.score), rel=1e-6)
    twice = [examples[0], examples[2], examples[2]]  # rows of one id are failures of their own
    assert summarise(twice, score_examples(pipe, twice, grounding=lambda e, i: {}))["failed"] == 2
    with pytest.raises(ValueError, match="not one image is there"):
        score_examples(pipe, caption_pairs.read_comvg(comvg, images / "absent"))


@pytest.mark.filterwarnings("ignore:no box for:UserWarning")
def test_flickr_candidates_are_ranked_anew(pipe, tmp_path, images):
    from wm_pipelines.comclip.evaluate import rerank

    names = ["1.jpg", "2.jpg", "3.jpg", "4.png"]
    rows = [
        {"image": n, "sentence": f"a {c} cube", "clip_baseline": [[(i + k) % 4, 0.3 - k / 10] for k in range(3)]}
        for i, (n, c) in enumerate(zip(names, ("red", "blue", "green", "yellow"), strict=True))
    ]
    rows[3]["clip_baseline"] = [[0, 0.3], [1, 0.2], [2, 0.1]]
    queries, files = data.read_flickr(write(tmp_path / "f.json", rows), images)
    found = rerank(pipe, queries, files, boxes=lambda path: {})
    assert found["baseline"] == {"R@1": 0.75, "R@5": 0.75, "R@10": 0.75} and found["n"] == 4
    assert found["score"]["R@5"] == 0.75 and found["failed"] == {}  # re-ranking adds no candidate
    pixels = [Image.open(files[i]) for i in queries[0].order]
    best = int(pipe(pixels, queries[0].caption, [{}] * 3).score.argmax())
    assert (found["score"]["R@1"] > 0) or best != 0
    files[0].unlink()
    assert set(rerank(pipe, queries, files, boxes=lambda path: {})["failed"]) == {"0", "2", "3"}
    rows[0]["clip_baseline"] = [[0, 1.0], [0, 0.5]]
    with pytest.raises(ValueError, match="line 0: clip_baseline must name different rows from 0 to 3"):
        data.read_flickr(write(tmp_path / "f.json", rows), images)
    with pytest.raises(ValueError, match=r"refusing pickled f.pkl; convert it with `wm convert"):
        data.read_flickr(tmp_path / "f.pkl", images)


@pytest.mark.filterwarnings("ignore:no box for:UserWarning")
def test_flickr_candidates_are_found_by_plain_similarity(pipe, tmp_path, images):
    """Without candidates in the file they are those that the pipeline's own re-ranking takes."""
    from wm_pipelines.comclip.evaluate import rerank

    names = ["1.jpg", "2.jpg", "3.jpg", "4.png", "5.png"]
    captions = [f"a {c} cube" for c in ("red", "blue", "green", "yellow", "purple")]
    rows = [{"image": n, "sentence": c} for n, c in zip(names, captions, strict=True)]
    queries, files = data.read_flickr(write(tmp_path / "f.json", rows), images)
    assert [q.order for q in queries] == [None] * 5
    found = rerank(pipe, queries, files, boxes=lambda path: {}, top_k=2)
    pixels = [Image.open(path) for path in files]
    with pytest.warns(UserWarning):
        ranked = pipe.rerank(pixels, captions, [{}] * 5, top_k=2)
    first = [
        metrics.recall(order[:, :2].tolist(), range(5), (1, 2)) for order in (ranked.order, ranked.baseline_order)
    ]
    assert [found[name]["R@1"] for name in ("score", "baseline")] == [f["R@1"] for f in first]
    assert [found[name]["R@5"] for name in ("score", "baseline")] == [f["R@2"] for f in first]  # two candidates only
    similarity = pipe.similarity(pixels, captions)
    np.testing.assert_allclose(similarity, pipe.matrix(pixels, captions, [{}] * 5).baseline, rtol=1e-6)

    files[4].unlink()  # nobody's candidate, and its own caption's miss
    again = rerank(pipe, queries, files, boxes=lambda path: {}, top_k=4)
    assert list(again["unread"]) == [str(files[4])] and again["failed"] == {} and again["n"] == 5
    assert again["baseline"]["R@5"] == 0.8
    refused = [*queries[:4], data.Query("long", "cube " * 90, 4)]
    again = rerank(pipe, refused, files, boxes=lambda path: {}, top_k=4)
    assert list(again["failed"]) == ["long"] and "tokens" in again["failed"]["long"]
    with pytest.raises(ValueError, match="top_k must be an integer of at least 1, got 0"):
        rerank(pipe, queries, files, top_k=0)
    with pytest.raises(ValueError, match="not one image can be read"):
        rerank(pipe, queries, [tmp_path / "x.jpg"] * 5)


def test_flickr_tables_with_captions_alone(tmp_path, images):
    rows = [
        {"filename": f"{n}.jpg", "split": "test" if n > 1 else "train", "sentences": [{"raw": f"a {n}"}, {"raw": "b"}]}
        for n in (1, 2, 3)
    ]
    file = write(tmp_path / "dataset_flickr30k.json", {"images": rows})
    queries, files = data.read_flickr(file, images)
    assert [(q.id, q.caption, q.truth, q.order) for q in queries] == [("2#0", "a 2", 0, None), ("3#0", "a 3", 1, None)]
    assert [f.name for f in files] == ["2.jpg", "3.jpg"]
    assert [q.truth for q in data.read_flickr(file, images, each=2)[0]] == [0, 0, 1, 1]
    with pytest.raises(ValueError, match="2.jpg has 2 captions, each=3"):
        data.read_flickr(file, images, each=3)
    write(tmp_path / "results_20130124.token", "3.jpg#0\ta cube\n")
    write(tmp_path / "val.txt", "3\n")
    queries, files = data.read_flickr(tmp_path / "results_20130124.token", images, "val")
    assert [q.caption for q in queries] == ["a cube"] and files == [images / "3.jpg"]
