"""VLM4D's files as items: mixed types, colliding ids, two right options, buckets, twins, missing videos."""

import json

import pytest

from wm_pipelines.evaluation.mcq.items import check_items
from wm_pipelines.vlm4d.data import bucket, inferred_type, load_vlm4d, read_question
from wm_pipelines.vlm4d.twins import offers_rotations, offers_sides, transform_ok, twin_maps

HUB = "https://huggingface.co/datasets/shijiezhou/VLM4D/resolve/main/"
SIDES = {"A": "left", "B": "right ", "C": " not moving", "D": "no car there"}
MP4 = b"\0\0\0\x18ftypmp42"


def record(number=1, video="videos_real/davis/a.mp4", choices=None, answer="left", question="Where does it move?"):
    return {"id": f"validation_{number}", "video": HUB + video, "question_type": "multiple-choice",
            "question": question, "choices": choices or SIDES, "answer": answer}  # fmt: skip


@pytest.fixture
def root(tmp_path):
    """A folder as the authors' repository has it, with videos that begin as videos do."""
    real = [record(1), record(2, choices={"A": 0, "B": 3, "C": 2, "D": 1}, answer=3, question="How many?"),
            record(923, "videos_real/ego4d/b.mp4")]  # fmt: skip
    made = [record(1, "videos_synthetic/s1.mp4"), record(2, "videos_synthetic/s2.mp4", answer="no car there")]
    (tmp_path / "data").mkdir()
    for name, records in (("real", real), ("synthetic", made)):
        (tmp_path / "data" / f"{name}_mc.json").write_text(json.dumps(records), encoding="utf-8")
        for one in records:
            path = tmp_path / one["video"].removeprefix(HUB)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(MP4)
    return tmp_path


def test_items_of_both_files(root):
    items = check_items(load_vlm4d(root))
    assert [item.uid for item in items] == [
        "vlm4d/real/validation_1", "vlm4d/real/validation_2", "vlm4d/real/validation_923",
        "vlm4d/synthetic/validation_1", "vlm4d/synthetic/validation_2",
    ]  # fmt: skip
    assert [item.facet for item in items] == ["exo", "exo", "ego", "directional", "false positive"]
    assert items[1].options == {"A": "0", "B": "3", "C": "2", "D": "1"} and items[1].right == ("B",)
    assert items[0].options["B"] == "right" and items[0].cluster == "videos_real/davis/a.mp4"
    assert items[0].video == root / "videos_real/davis/a.mp4"
    assert all("(inferred)" in item.family for item in items)
    assert [item.video for item in load_vlm4d(root, ["synthetic"], videos=False)] == [None, None]


def test_the_layout_of_the_hub(root):
    (root / "data").rename(root / "QA")
    assert len(load_vlm4d(root, videos=False)) == 5


def test_two_options_with_the_right_text_are_both_right():
    item = read_question("real", record(choices={"A": "up", "B": "down", "C": "left", "D": "left"}))
    assert item.right == ("C", "D")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"answer": "upwards"}, "`answer`"), ({"answer": None}, "`answer`"), ({"answer": True}, "`answer`"),
        ({"choices": {"A": "x", "C": "y"}}, "`choices`"), ({"choices": ["x", "y"]}, "`choices`"),
        ({"choices": {"A": "left", "B": ""}}, "B"), ({"choices": {"A": "left", "B": ["x"]}}, "B"),
        ({"id": "validation"}, "`id`"), ({"id": 3}, "`id`"), ({"question": "  "}, "`question`"),
        ({"video": "https://example.org/a.mp4"}, "`video`"), ({"video": None}, "`video`"),
        ({"video": HUB + "videos_real/../../etc/a.mp4"}, "`video`"),
    ],
)  # fmt: skip
def test_a_bad_record_is_named(root, change, said):
    path = root / "data" / "real_mc.json"
    records = json.loads(path.read_text())
    records[1] = record(2) | change
    path.write_text(json.dumps(records))
    with pytest.raises(ValueError, match=said) as error:
        load_vlm4d(root, videos=False)
    assert "question 1" in str(error.value) or "validation_2" in str(error.value)


def test_an_id_twice_in_one_file(root):
    path = root / "data" / "real_mc.json"
    path.write_text(json.dumps([record(1), record(1)]))
    with pytest.raises(ValueError, match="vlm4d/real/validation_1"):
        load_vlm4d(root, videos=False)


@pytest.mark.parametrize("data", [None, b"", b"<!doctype html>", b"version https://git-lfs.github.com/spec/v1"])
def test_a_video_that_is_missing_or_none(root, data):
    path = root / "videos_synthetic/s1.mp4"
    path.unlink()
    if data is not None:
        path.write_bytes(data)
    with pytest.raises(ValueError, match=r"vlm4d/synthetic/validation_1: videos_synthetic/s1.mp4 .*1 of 5 items"):
        load_vlm4d(root)
    with pytest.warns(UserWarning, match="1 of 5 items"):
        kept = load_vlm4d(root, on_missing="skip")
    assert [item.uid for item in kept if item.subset == "synthetic"] == ["vlm4d/synthetic/validation_2"]
    assert len(load_vlm4d(root, videos=False)) == 5


def test_no_video_at_all_is_an_error_either_way(root):
    for path in root.rglob("*.mp4"):
        path.unlink()
    for way in ("error", "skip"):
        with pytest.raises(ValueError, match="5 of 5"):
            load_vlm4d(root, on_missing=way)


@pytest.mark.parametrize("subsets", [[], ["real", "real"], ["all"], "real"])
def test_bad_subsets(root, subsets):
    with pytest.raises(ValueError, match="`subsets`"):
        load_vlm4d(root, subsets)


def test_bad_on_missing_and_no_file(root, tmp_path):
    with pytest.raises(ValueError, match="`on_missing`"):
        load_vlm4d(root, on_missing="ignore")
    with pytest.raises(ValueError, match="real_mc.json"):
        load_vlm4d(tmp_path / "nothing")


def test_buckets_are_the_authors():
    assert [bucket("real", n, "left") for n in (1, 922, 923)] == ["exo", "exo", "ego"]
    said = ["no", "No dog there", "not moving", "north", "none"]
    assert [bucket("synthetic", 5, answer) for answer in said] == ["false positive"] * 2 + ["directional"] * 3


@pytest.mark.parametrize(
    ("question", "options", "answer", "kind"),
    [
        ("How many dogs run?", ["two", "three"], "two", "counting"),
        ("Which number is it?", ["2", "3"], "2", "counting"),
        ("Where is it going?", ["left", "no bus there"], "no bus there", "false positive"),
        ("Where is it going?", ["left", "there are no cars in the video"], "there are no cars in the video",
         "false positive"),
        ("Does it spin?", ["yes", "not"], "yes", "rotational"),
        ("Which way?", ["clockwise", "left"], "left", "rotational"),
        ("Which way does it turn?", ["left", "no turn"], "no turn", "rotational"),
        ("Which way does it go?", ["left", "right"], "left", "translational"),
    ],
)  # fmt: skip
def test_types_by_words(question, options, answer, kind):
    assert inferred_type(question, options, answer) == kind


def test_maps_of_twins():
    options = {"A": "Left", "B": "right", "C": "towards the camera", "D": "away from the camera"}
    maps = twin_maps("Where does the car on the left go?", options)
    assert maps["mirror"] == {
        "Left": "right", "right": "Left", "towards the camera": "towards the camera",
        "away from the camera": "away from the camera",
        "Where does the car on the left go?": "Where does the car on the right go?",
    }  # fmt: skip
    assert [maps["reverse"][text] for text in options.values()] == [
        "right", "Left", "away from the camera", "towards the camera"
    ]  # fmt: skip
    assert twin_maps("Where?", {"A": "left", "B": "up"}) == {}


def test_what_becomes_no_option_has_no_twin():
    options = {"A": "left", "B": "right", "C": "up", "D": "not moving"}
    maps = twin_maps("Where does it go?", options)
    assert maps["reverse"]["up"] is None and maps["mirror"]["up"] == "up"
    item = read_question("real", record(choices=options, answer="up"))
    assert item.twin("reverse") is None and item.twin("mirror") == ("Where does it move?", ("C",))


def test_rotations_in_every_spelling():
    for other in ("counter-clockwise", "counterclockwise", "Counter clockwise", "anti-clockwise", "anticlockwise"):
        options = {"A": "clockwise", "B": other, "C": "not spinning"}
        assert offers_rotations(options) and not offers_sides(options)
        for name in ("mirror", "reverse"):
            maps = twin_maps("Which way does it spin?", options)[name]
            assert [maps[text] for text in options.values()] == [other, "clockwise", "not spinning"]


def test_a_twin_of_a_twin_is_the_item():
    options = {"A": "right", "B": "clockwise", "C": "left", "D": "counter-clockwise"}
    for question in ("Does the left wheel go left or right?", "Which way?", "What is left of the car moving towards?"):
        maps = twin_maps(question, options)
        for name in ("mirror", "reverse"):
            assert all(maps[name][maps[name][text]] == text for text in options.values())
        mirrored = maps["mirror"][question]
        assert twin_maps(mirrored, options)["mirror"][mirrored] == question


def test_a_question_that_asks_where_it_moves_towards_stays_as_it_is():
    options = {"A": "left", "B": "right"}
    for question in ("What is it moving towards?", "What direction is the bus moving towards from here?"):
        assert twin_maps(question, options)["reverse"][question] == question


def test_words_that_warn():
    sides = {"A": "left", "B": "right"}
    assert transform_ok("Which way does the car go?", sides) == {"mirror": True, "reverse": True}
    assert transform_ok("Which hand is it?", sides) == {"mirror": False, "reverse": False}
    assert transform_ok("Where does it go after that?", sides) == {"mirror": True, "reverse": False}
