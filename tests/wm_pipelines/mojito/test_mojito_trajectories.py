"""Trajectory files: each format by a small sample in its own conventions, speeds, round trips, and what is refused."""

import io
import json
import os
import pickle
import tracemalloc
import zipfile

import numpy as np
import pytest
import torch

from wm_pipelines.mojito.trajectories.formats.ati import read_ati
from wm_pipelines.mojito.trajectories.formats.boxes import read_bbox, read_peekaboo, read_trailblazer
from wm_pipelines.mojito.trajectories.formats.canonical import write
from wm_pipelines.mojito.trajectories.formats.points import read_tracks, write_tracks
from wm_pipelines.mojito.trajectories.objects import MotionObject, hidden_lines, object_boxes
from wm_pipelines.mojito.trajectories.reading import (
    FORMATS,
    load_trajectory,
    objects_from_tracks,
    parse_object,
    read_trajectory,
    save_trajectory,
)

SIZE = (0.2, 0.2)
CANVAS = (100, 200)


def middles(objects, frames):
    boxes = object_boxes(objects, frames)
    return (boxes[..., :2] + boxes[..., 2:]) / 2


def canonical(**changes):
    key = {"frame": 0, "box": [0, 0, 50, 100]}
    later = {"frame": 4, "box": [50, 0, 100, 100]}
    data = {"version": 1, "canvas": list(CANVAS), "objects": [{"phrase": "red cube", "keyframes": [key, later]}]}
    return {**data, **changes}


def test_canonical_json_is_read_in_units_of_its_canvas():
    (cube,) = read_trajectory(json.dumps(canonical()))
    assert cube.phrase == "red cube"
    assert cube.frame_boxes(5)[2].tolist() == [0.25, 0.0, 0.75, 0.5]


def test_canonical_json_gives_back_what_was_written(tmp_path):
    objects = [
        MotionObject("cube", [(0.1, 0.2, 0.3, 0.4), (0.5, 0.2, 0.9, 0.4)], keyframes=[2, 9], weight=2.5, span=(2, 6)),
        MotionObject("ball", points=[(0.2 + i / 20, 1 / 3) for i in range(10)], size=(0.1, 0.3)),
        MotionObject("sky", (0, 0, 1, 0.3)),
    ]
    path = save_trajectory(objects, tmp_path / "path.json")
    again = load_trajectory(path)
    assert torch.equal(object_boxes(again, 10), object_boxes(objects, 10))
    assert [(o.phrase, o.weight, o.span) for o in again] == [
        ("cube", 2.5, (2, 6)),
        ("ball", 1.0, None),
        ("sky", 1.0, None),
    ]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["path.json"]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"version": 2}, "version 2; this package reads version 1"),
        ({"canvas": [0, 4]}, "canvas is [0, 4]"),
        ({"canvas": [4]}, "canvas is [4]; it must be 2 finite numbers"),
        ({"objects": []}, "objects is []"),
        ({"object": []}, "unknown field 'object'; did you mean 'objects'?"),
        ({"objects": [{"phrase": "cube"}]}, "objects[0] has no 'keyframes'"),
        ({"objects": [{"phrase": "cube", "keyframes": []}]}, "objects[0].keyframes is []"),
        (
            {"objects": [{"phrase": "cube", "keyframes": [{"frame": 0, "box": [0, 0, float("nan"), 9]}]}]},
            "objects[0].keyframes[0].box is [0, 0, nan, 9]; it must be 4 finite numbers",
        ),
        (
            {"objects": [{"phrase": "cube", "keyframes": [{"frame": 0, "box": [0, 0, 150, 9]}]}]},
            "objects[0].boxes has x1=1.50, outside [0, 1]",
        ),
        (
            {"objects": [{"phrase": "cube", "keyframes": [{"frame": 4, "box": [0, 0, 9, 9]}] * 2}]},
            "objects[0].keyframes[1] is 4 after 4",
        ),
        (
            {"objects": [{"phrase": "cube", "keyframes": [{"frame": "first", "box": [0, 0, 9, 9]}]}]},
            "objects[0].keyframes[0].frame is 'first'; a whole number, 0 or more",
        ),
    ],
)
def test_bad_canonical_json_is_refused_naming_the_field(changes, words):
    with pytest.raises(ValueError) as error:
        read_trajectory(json.dumps(canonical(**changes)))
    assert words in str(error.value)


def test_kjnodes_strings_double_or_single_quoted_one_path_or_several():
    one = [{"x": 20, "y": 40}, {"x": 80, "y": 160}]
    options = {"format": "kjnodes", "num_frames": 3, "size": SIZE, "canvas": CANVAS}
    for written in (json.dumps(one), str(one), json.dumps([one])):
        objects = read_trajectory(written, phrases=["cube"], **options)
        assert torch.allclose(middles(objects, 3)[0], torch.tensor([[0.2, 0.2], [0.5, 0.5], [0.8, 0.8]]))
    two = read_trajectory(str([one, one[::-1]]), phrases=["cube", "ball"], **options)
    assert torch.allclose(middles(two, 3)[1], torch.tensor([[0.8, 0.8], [0.5, 0.5], [0.2, 0.2]]))


def test_strings_of_atis_node_are_read_as_kjnodes(tmp_path):
    # as many points as ATI has, for it hides what comes after a shorter path
    written = json.dumps([[{"x": 20 + k / 2, "y": 40 + k} for k in range(121)]])
    wanted = read_trajectory(written, "kjnodes", **GIVEN)[0].frame_boxes(3)
    assert torch.equal(read_trajectory(written, "ati", **GIVEN)[0].frame_boxes(3), wanted)
    (tmp_path / "path.json").write_text(written)
    assert torch.equal(load_trajectory(tmp_path / "path.json", "ati", **GIVEN)[0].frame_boxes(3), wanted)


def test_a_path_of_one_point_stands_still():
    objects = read_trajectory('[{"x": 50, "y": 50}]', "kjnodes", ["sky"], 7, SIZE, CANVAS)
    assert torch.allclose(middles(objects, 7)[0], torch.tensor([0.5, 0.25]).expand(7, 2))


def test_tracks_there_and_back_with_hidden_points_bridged():
    boxes = object_boxes([MotionObject("cube", points=[(0.2, 0.5), (0.8, 0.5)], size=SIZE, keyframes=[0, 8])], 9)
    tracks = write_tracks(boxes, *CANVAS)
    assert tracks["track_path"].shape == (9, 1, 2) and tracks["track_path"][0, 0].tolist() == pytest.approx([20, 100])
    tracks["track_visibility"][3:6] = False
    tracks["track_path"][3:6] = 0
    objects = read_trajectory(tracks, "tracks", ["cube"], 9, SIZE, CANVAS)
    assert torch.allclose(object_boxes(objects, 9), boxes, atol=1e-6)


def test_several_tracks_of_one_object_are_its_middle_or_its_box():
    path = torch.tensor([[[20.0, 40.0], [40.0, 80.0]]]).expand(2, 2, 2)
    tracks = {"track_path": path, "track_visibility": torch.ones(2, 1, dtype=torch.bool)}
    objects = read_trajectory(tracks, "tracks", ["cube"], 2, SIZE, CANVAS)
    assert torch.allclose(middles(objects, 2)[0, 0], torch.tensor([0.3, 0.3]))
    objects = read_trajectory(tracks, "tracks", ["cube"], 2, None, CANVAS)
    assert torch.allclose(object_boxes(objects, 2)[0, 1], torch.tensor([0.2, 0.2, 0.4, 0.4]))


def ati_file(array, wrapped=True):
    """What ATI's editor writes: an npz as bytes, through torch.save."""
    npz = io.BytesIO()
    np.savez_compressed(npz, array=array)
    if not wrapped:
        return npz.getvalue()
    file = io.BytesIO()
    torch.save(npz.getvalue(), file)
    return file.getvalue()


@pytest.mark.parametrize("wrapped", [True, False])
def test_ati_files_are_eighths_of_pixels_over_121_points(wrapped):
    array = np.ones((2, 121, 1, 3), np.float32)
    array[0, :, 0, 0] = np.linspace(20, 80, 121)
    array[..., 1] = 100
    array[1, :, 0, 0] = 50
    array[1, 60:, 0] = 0  # the padding of a short track is not visible
    data = ati_file(8 * array, wrapped)
    tracks = read_ati(data)
    assert np.allclose(tracks[0][[0, 120]], [[20, 100], [80, 100]]) and np.isnan(tracks[1][60:]).all()
    objects = read_trajectory(data, "ati", ["cube", "ball"], 81, SIZE, CANVAS)
    assert torch.allclose(middles(objects, 81)[0, 40], torch.tensor([0.5, 0.5]))
    assert torch.allclose(middles(objects, 81)[1], torch.tensor([0.5, 0.5]).expand(81, 2))


class Trap:
    """Makes a folder when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (self.path,)


def test_pickles_in_ati_files_are_never_run(tmp_path):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("archive/data.pkl", pickle.dumps(Trap(str(tmp_path / "sprung")), protocol=2))
    with pytest.raises(ValueError, match="holds more than bytes .* mkdir"):
        read_ati(file.getvalue())
    assert not (tmp_path / "sprung").exists()


def test_ati_files_with_anything_but_bytes_are_not_read():
    file = io.BytesIO()
    torch.save({"array": torch.zeros(2)}, file)
    with pytest.raises(ValueError, match="holds more than bytes"):
        read_ati(file.getvalue())
    with pytest.raises(ValueError, match="it is no zip archive"):
        read_ati(b"not a zip")
    with pytest.raises(ValueError, match=r"float64 \(2, 5\)"):
        read_ati(ati_file(np.zeros((2, 5))))
    objects = np.empty(1, dtype=object)
    with pytest.raises(ValueError, match="allow_pickle=False"):
        read_ati(ati_file(objects, wrapped=False))


@pytest.mark.parametrize(
    ("format", "data", "last"),
    [
        ("motionctrl", "[[256, 512], [768, 512]]", (0.75, 0.5)),
        ("tora", "64, 128\n192, 128\n", (0.75, 0.5)),
        ("dragnuwa", "[[[144, 160], [432, 160]]]", (0.75, 0.5)),
    ],
)
def test_formats_with_a_canvas_of_their_own(format, data, last):
    objects = read_trajectory(data, format, ["cube"], 3, SIZE)
    assert torch.allclose(middles(objects, 3)[0], torch.tensor([[0.25, 0.5], [0.5, 0.5], last]))


def test_motionctrl_files_of_lines_may_have_their_canvas_said():
    objects = read_trajectory("64, 128\n192, 128\n", "motionctrl", ["cube"], 2, SIZE, (256, 256))
    assert torch.allclose(middles(objects, 2)[0, 1], torch.tensor([0.75, 0.5]))


def test_freetraj_lines_are_rows_before_columns():
    (cube,) = read_trajectory("0, 0.1, 0.4, 0.2, 0.5\n15, 0.6, 0.9, 0.2, 0.5", "freetraj", ["cube"])
    assert torch.allclose(cube.frame_boxes(16)[0], torch.tensor([0.2, 0.1, 0.5, 0.4]))
    assert torch.allclose(cube.frame_boxes(16)[15], torch.tensor([0.2, 0.6, 0.5, 0.9]))


TRAILBLAZER = """
keyframe:
- {bbox_ratios: [0.0, 0.35, 0.3, 0.65], frame: 0, prompt: A white cat is running}
- {bbox_ratios: [0.7, 0.35, 1.0, 0.65], frame: 24, prompt: A white cat is running}
token_inds: [2, 3]
"""


def test_trailblazer_keys_are_left_top_right_bottom_and_tokens_count_words_from_one():
    read = read_trailblazer(TRAILBLAZER)
    assert read.prompt == "A white cat is running" and read.objects[0].phrase == "white cat"
    assert torch.allclose(read.objects[0].frame_boxes(25)[24], torch.tensor([0.7, 0.35, 1.0, 0.65]))
    assert read_trajectory(TRAILBLAZER, "trailblazer", ["cat"])[0].phrase == "cat"


def test_peekaboo_records_have_a_box_for_each_frame():
    records = [{"id": 1, "caption": "A deer standing.", "subject": "Deer", "bboxes": [[0.1, 0.2, 0.5, 0.6]] * 16}]
    (read,) = read_peekaboo(json.dumps(records))
    assert read.prompt == "A deer standing." and read.objects[0].frame_boxes(16).shape == (16, 4)


def test_bbox_of_core_and_of_kjnodes():
    core = [{"x": 10, "y": 20, "width": 50, "height": 100}] * 3
    assert read_bbox(core, "cube", CANVAS)[0].frame_boxes(3)[2].tolist() == pytest.approx([0.1, 0.1, 0.6, 0.6])
    kjnodes = read_bbox((10, 20, 50, 100), "cube", CANVAS, box_format="xywh")
    assert kjnodes[0].frame_boxes(3)[2].tolist() == pytest.approx([0.1, 0.1, 0.6, 0.6])
    (cut,) = read_bbox((80, 20, 50, 100), "cube", CANVAS, outside="clip", box_format="xywh")
    assert cut.frame_boxes(1)[0].tolist() == pytest.approx([0.8, 0.1, 1.0, 0.6])
    with pytest.raises(ValueError, match="BBOX, frame 1 is"):
        read_bbox([(1, 2, 3, 4), (1, 2, 3)], "cube", CANVAS)


def test_speeds():
    # A short way, a pause, and a long way.
    track = np.array([(20, 100), (30, 100), (30, 100), (80, 100)], dtype=float)

    def xs(speed):
        return middles(objects_from_tracks([track], ["cube"], 7, SIZE, CANVAS, speed), 7)[0, :, 0].tolist()

    assert xs("points") == pytest.approx([0.2, 0.25, 0.3, 0.3, 0.3, 0.55, 0.8])
    assert xs("constant") == pytest.approx([0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8])
    assert xs([0, 0, 1, 0.5]) == pytest.approx([0.2, 0.2, 0.2, 0.5, 0.8, 0.65, 0.5])


def test_clip_moves_points_to_the_border_and_cuts_boxes():
    track = np.array([(-20, 100), (100, 100)], dtype=float)
    (cube,) = objects_from_tracks([track], ["cube"], 2, SIZE, CANVAS, outside="clip")
    assert torch.allclose(cube.frame_boxes(2), torch.tensor([[0.0, 0.4, 0.1, 0.6], [0.9, 0.4, 1.0, 0.6]]))


PATH = '[{"x": 20, "y": 40}, {"x": 80, "y": 160}]'
GIVEN = {"phrases": ["cube"], "num_frames": 3, "size": SIZE, "canvas": CANVAS}


@pytest.mark.parametrize(
    ("data", "format", "options", "words"),
    [
        ("x", "svg", {}, f"format 'svg' is unknown; choose from {', '.join(FORMATS)}"),
        ("{", "json", {}, "the trajectory is not JSON: Expecting property name"),
        ("{'x", "kjnodes", GIVEN, "coord_str is not JSON:"),
        ("[]", "kjnodes", GIVEN, "must hold at least one path"),
        ('[{"x": 1}]', "kjnodes", GIVEN, 'track 0, point 0 is "{\'x\': 1}"; it must be {"x": number'),
        ('[{"x": 1, "y": NaN}]', "kjnodes", GIVEN, "track 0, point 0"),
        (PATH, "kjnodes", {**GIVEN, "canvas": None}, "needs canvas (its numbers are pixels of the canvas"),
        (PATH, "kjnodes", {**GIVEN, "num_frames": None}, "needs num_frames"),
        (PATH, "kjnodes", {**GIVEN, "phrases": None}, "needs phrases"),
        (PATH, "kjnodes", {**GIVEN, "phrases": ["a", "b"]}, "2 phrases for 1 paths"),
        (PATH, "kjnodes", {**GIVEN, "size": None}, "size is needed"),
        (PATH, "kjnodes", {**GIVEN, "size": [SIZE, SIZE]}, "size has 2 entries for 1 objects"),
        (PATH, "kjnodes", {**GIVEN, "size": (0.7, 0.2)}, "objects[0].points[0] has x0=-0.15, outside [0, 1]"),
        (
            PATH,
            "kjnodes",
            {**GIVEN, "canvas": (64, 64)},
            "tracks[0], point 1 is (80.00, 160.00), outside the canvas 64",
        ),
        (PATH, "kjnodes", {**GIVEN, "canvas": 512}, "canvas is 512; it must be two numbers"),
        (PATH, "kjnodes", {**GIVEN, "speed": "fast"}, "speed='fast'; choose from points, constant"),
        (PATH, "kjnodes", {**GIVEN, "speed": [0, 2]}, "speed runs from 0 to 2"),
        (PATH, "kjnodes", {**GIVEN, "outside": "wrap"}, "outside='wrap'"),
        ({"track_path": torch.zeros(2, 2)}, "tracks", GIVEN, "track_path has shape (2, 2)"),
        ({"path": 1}, "tracks", GIVEN, "TRACKS must be a dict with track_path"),
        ("1, 2\n3", "tora", GIVEN, "line 2 is '3'; it must be two numbers"),
        ("1, nan", "tora", GIVEN, "line 1 is '1, nan'; both numbers must be finite"),
        ("0, 1, 2", "freetraj", {"phrases": ["cube"]}, "line 1 is '0, 1, 2'; it must be `frame, h0, h1, w0, w1`"),
        ("0, 0, 1, 0, 1", "freetraj", {}, "needs phrases"),
        ("0, 0, 1, 0, 1", "freetraj", {"phrases": ["cube"], "size": SIZE}, "has no use for size"),
        ("a: [", "trailblazer", {}, "the trajectory is not YAML"),
        (TRAILBLAZER.replace("running}\ntoken", "sleeping}\ntoken"), "trailblazer", {}, "keyframe[1].prompt is"),
        (TRAILBLAZER.replace("[2, 3]", "[2, 4]"), "trailblazer", {}, "token_inds is [2, 4]"),
        (TRAILBLAZER.replace("frame: 0", "frame: -7"), "trailblazer", {}, "keyframe[0].frame is -7; a whole number"),
    ],
)
def test_bad_data_and_options_are_refused(data, format, options, words):
    with pytest.raises(ValueError) as error:
        read_trajectory(data, format, **options)
    assert words in str(error.value)


def test_visible_points_must_be_numbers_and_tracks_must_be_seen():
    path = torch.tensor([[[1.0, float("nan")]], [[1.0, 2.0]]])
    with pytest.raises(ValueError, match="track 0, frame 0"):
        read_tracks({"track_path": path})
    with pytest.raises(ValueError, match="track 0 is never visible"):
        read_tracks({"track_path": path, "track_visibility": torch.zeros(2, 1)})


def test_files_that_are_missing_empty_or_no_text_are_named(tmp_path):
    with pytest.raises(ValueError, match="no file at .*missing.json.*the file is missing"):
        load_trajectory(tmp_path / "missing.json")
    (tmp_path / "empty.json").touch()
    with pytest.raises(ValueError, match="has 0 bytes"):
        load_trajectory(tmp_path / "empty.json")
    (tmp_path / "photo.json").write_bytes(b"\xff\xd8\xff\xe0")
    with pytest.raises(ValueError, match="photo.json' is no text of UTF-8"):
        load_trajectory(tmp_path / "photo.json")
    (tmp_path / "bad.json").write_text("[1")
    with pytest.raises(ValueError, match="bad.json': the trajectory is not JSON"):
        load_trajectory(tmp_path / "bad.json")
    with pytest.raises(ValueError, match="use the suffix .json"):
        save_trajectory([MotionObject("cube", (0, 0, 1, 1))], tmp_path / "path.txt")


# Boxes in lists say nothing of what they are, dicts name it.

DRAWN = [(100, 100, 200, 200), (300, 50, 400, 250)]


def test_lists_of_boxes_are_asked_about_and_dicts_are_not():
    for data in (DRAWN[0], DRAWN[:1], torch.tensor(DRAWN), np.float16(DRAWN), json.dumps(DRAWN)):
        with pytest.raises(ValueError, match="BBOX, frame 0 .* say which by box_format='xywh' or 'xyxy'"):
            read_bbox(data, "cube", (512, 512))
    corners = read_bbox(DRAWN[:1], "cube", (512, 512), box_format="xyxy")[0].frame_boxes(2)[1]
    assert corners.tolist() == pytest.approx([100 / 512, 100 / 512, 200 / 512, 200 / 512])
    sized = read_bbox(DRAWN[:1], "cube", (512, 512), box_format="xywh")[0].frame_boxes(2)[1]
    assert sized.tolist() == pytest.approx([100 / 512, 100 / 512, 300 / 512, 300 / 512])


@pytest.mark.parametrize(
    "named",
    [
        {"x": 100, "y": 100, "width": 100, "height": 150, "metadata": {}},
        {"x0": 100, "y0": 100, "x1": 200, "y1": 250},
        {"x1": 100.0, "y1": 100, "x2": 200, "y2": 250, "label": "cube"},
        {"xmin": 100, "ymin": 100, "xmax": 200, "ymax": 250},
        {"left": 100, "top": 100, "right": 200, "bottom": 250},
        {"startX": 200, "startY": 100, "endX": 100, "endY": 250},  # drawn from the right
        {"x": np.int64(100), "y": torch.tensor(100), "width": torch.tensor(100.0).bfloat16(), "height": np.half(150)},
    ],
)
@pytest.mark.parametrize("box_format", [None, "xywh", "xyxy"])
def test_boxes_that_name_their_sides_are_what_they_say(named, box_format):
    (cube,) = read_bbox([named], "cube", (512, 512), box_format=box_format)
    wanted = torch.tensor([100, 100, 200, 250]) / 512
    assert torch.allclose(cube.frame_boxes(1)[0], wanted)


def test_one_box_for_each_drawn_thing_is_not_one_for_each_frame():
    cube, ball = read_bbox(DRAWN, ["cube", "ball"], (512, 512), box_format="xyxy", num_frames=16)
    assert (cube.phrase, ball.phrase) == ("cube", "ball")
    assert torch.equal(ball.frame_boxes(16), torch.tensor(DRAWN[1]).expand(16, 4) / 512)
    with pytest.raises(ValueError, match="BBOX has 2 boxes for 16 frames: .* as many phrases as boxes"):
        read_bbox(DRAWN, "cube", (512, 512), box_format="xyxy", num_frames=16)
    over_time = [[DRAWN[0], DRAWN[1]], [DRAWN[1], DRAWN[0]]]  # for each frame the boxes of both
    cube, ball = read_bbox(over_time, ["cube", "ball"], (512, 512), box_format="xyxy", num_frames=2)
    assert torch.equal(ball.frame_boxes(2)[1], cube.frame_boxes(2)[0])


@pytest.mark.parametrize(
    ("data", "options", "words"),
    [
        ([(10, 10, 5, 20)], {}, "BBOX, frame 0: boxes has x1<=x0 (0.05<=0.10)"),
        ([(10, 10, 20, 20), (10, 10, 20, 250)], {}, "BBOX, frame 1: boxes has y1=1.25, outside [0, 1]"),
        ([(10, 10, float("nan"), 20)], {}, "BBOX, frame 0 is [10, 10, nan, 20]; its sides must be finite numbers"),
        ([(10, 10, True, 20)], {}, "its sides must be finite numbers"),
        ([(10, 10, "15", 20)], {}, "its sides must be finite numbers"),
        ([(0.1, 0.1, 0.5, 0.5)], {}, "look like fractions, but canvas is 100 x 200"),
        ([{"x": 1, "y": 2}], {}, "must have x, y, width, height, or two corners"),
        ([], {}, "BBOX is []; it must be a list of boxes"),
        ("no", {}, "BBOX is not JSON"),
        ([[]], {}, "BBOX, frame 0 has 0 boxes for 1 phrases"),
        (None, {}, "BBOX is None"),
        ([(10, 10, 20, 20)], {"box_format": "cxcywh"}, "box_format='cxcywh'; choose from xywh, xyxy"),
        ([(10, 10, 20, 20)], {"outside": "wrap"}, "outside='wrap'"),
        ([(-30, 10, -20, 20)], {"outside": "clip"}, "BBOX, frame 0: boxes has x1<=x0 (0.00<=0.00)"),
    ],
)
def test_bad_boxes_are_refused_naming_the_frame(data, options, words):
    with pytest.raises(ValueError) as error:
        read_bbox(data, "cube", CANVAS, **{"box_format": "xyxy", **options})
    assert words in str(error.value)


def peekaboo(*boxes, **changes):
    return {"id": 1, "caption": "A deer standing.", "subject": "Deer", "bboxes": [list(b) for b in boxes], **changes}


GOOD = (0.1, 0.2, 0.5, 0.6)
LASOT = (0.04, 0.48, 0.29, 0.52)  # x0, x1, y0, y1: also a box of x0, y0, x1, y1
TELLING = (0.35, 0.48, 0.29, 0.52)


def test_peekaboos_orders():
    records = json.dumps([peekaboo(LASOT), peekaboo(LASOT, TELLING)])
    read = read_peekaboo(records, order="xxyy")
    assert read[1].objects[0].frame_boxes(2)[1].tolist() == pytest.approx([0.35, 0.29, 0.48, 0.52])
    with pytest.raises(ValueError) as error:
        read_peekaboo(records)
    for words in ("record 1: 'Deer': boxes[1] (frame 1) has x1<=x0 (0.29<=0.35)", "it fits order='xxyy'"):
        assert words in str(error.value)
    with pytest.raises(ValueError, match="order='yxyx'; choose from xyxy, xxyy"):
        read_peekaboo(records, order="yxyx")


def test_peekaboos_sets_can_be_read_without_their_bad_records():
    records = json.dumps([peekaboo(GOOD), peekaboo(GOOD, (0.5, 0.5, 0.5, 0.5)), peekaboo(GOOD, GOOD)])
    assert [found.record for found in read_peekaboo(records, broken="skip")] == [0, 2]
    with pytest.raises(ValueError, match="record 1: 'Deer': boxes.1. .frame 1. has x1<=x0"):
        read_peekaboo(records)
    over = json.dumps([peekaboo((0.1, 0.2, 1.003, 0.6))])
    assert read_peekaboo(over, outside="clip")[0].objects[0].frame_boxes(1)[0, 2] == 1
    with pytest.raises(ValueError, match="none of the 1 records"):
        read_peekaboo(over, broken="skip")


@pytest.mark.parametrize(
    ("record", "words"),
    [
        (peekaboo(GOOD, (0.1, 0.2, 1.003, 0.6)), "record 1: 'Deer': boxes[1] (frame 1) has x1=1.003, outside [0, 1]"),
        (peekaboo((0.1, float("nan"), 0.5, 0.6)), "record 1: 'Deer': boxes[0] (frame 0) has y0=nan"),
        (peekaboo((10, 20, 50, 60)), "record 1: 'Deer': boxes[0] (frame 0) has x0=10.00"),
        (peekaboo((0.1, 0.2, 0.5)), "record 1: bboxes has shape (1, 3)"),
        (peekaboo(GOOD, (0.1, 0.2, 0.5)), "record 1: bboxes has rows of different lengths"),
        (peekaboo(("0.1", "0.2", "0.5", "0.6")), "record 1: bboxes holds something that is no number"),
        (peekaboo(), "record 1: bboxes has shape (0,)"),
        (peekaboo(GOOD, bboxes=None), "record 1: bboxes is None"),
        (peekaboo(GOOD, subject=" "), "record 1: subject is ' '"),
        ({"caption": "A deer."}, "record 1 has no 'subject'"),
        (3, "record 1 has no 'caption'"),
    ],
)
def test_bad_records_of_peekaboo_are_named(record, words):
    with pytest.raises(ValueError) as error:
        read_peekaboo(json.dumps([peekaboo(GOOD), record]))
    assert words in str(error.value)


# All kinds of numbers, in all of the interface.


@pytest.mark.parametrize("kind", [np.int64, np.uint8, torch.tensor, np.array], ids=["i8", "u1", "torch", "array"])
def test_whole_numbers_of_any_kind(kind):
    options = {**GIVEN, "num_frames": kind(3), "canvas": [kind(100), kind(200)]}
    assert torch.equal(
        read_trajectory(PATH, "kjnodes", **options)[0].frame_boxes(kind(3)),
        read_trajectory(PATH, "kjnodes", **GIVEN)[0].frame_boxes(3),
    )
    keyframes, span = [kind(0), kind(2)], (kind(0), kind(4))
    item = MotionObject("cube", [(0, 0, 0.5, 1), (0.5, 0, 1, 1)], keyframes=keyframes, span=span)
    again = read_trajectory(save(item))[0]
    assert again.span == (0, 4) and torch.equal(again.frame_boxes(3), item.frame_boxes(kind(3)))
    assert parse_object("cube=0,0,1,1>0,0,0.5,1", kind(4)).keyframes == [0, 3]
    assert len(read_trajectory("0,0,1,0,1\n1,0,1,0,1", "freetraj", ["c"], kind(3))[0].frame_boxes(3)) == 3


def save(item):
    return write([item])


@pytest.mark.parametrize("kind", [torch.bfloat16, torch.float16, torch.float32, torch.float64])
def test_tensors_of_any_precision(kind):
    boxes = torch.tensor([(0.25, 0.125, 0.5, 0.75)] * 3, dtype=kind)
    wanted = boxes.float()
    for given in (boxes, list(boxes), [tuple(box) for box in boxes], boxes.clone().requires_grad_()):
        assert torch.equal(MotionObject("cube", given).frame_boxes(3), wanted)
    points = torch.tensor([(0.5, 0.25)] * 3, dtype=kind)
    size, weight = torch.tensor((0.5, 0.25), dtype=kind), torch.tensor(2.0, dtype=kind)
    item = MotionObject("cube", points=points, size=size, weight=weight)
    assert item.frame_boxes(3)[0].tolist() == [0.25, 0.125, 0.75, 0.375]
    assert read_trajectory(save(item))[0].weight == 2
    path = torch.tensor([[[40.0, 100.0]], [[60.0, 120.0]]], dtype=kind)
    found = read_trajectory({"track_path": path}, "tracks", ["cube"], 2, size, torch.tensor((100.0, 200), dtype=kind))
    assert found[0].frame_boxes(2)[:, 0].tolist() == pytest.approx([0.15, 0.35])
    profile = torch.tensor([0, 1.0], dtype=kind)
    assert read_trajectory(PATH, "kjnodes", **{**GIVEN, "speed": profile})[0].frame_boxes(3).isfinite().all()


@pytest.mark.parametrize(
    "count", [3.0, np.float64(3), True, np.True_, torch.tensor(True), "3", 0, -1, 10**12, torch.ones(2)]
)
def test_what_is_no_number_of_frames_is_refused(count):
    for call in (
        lambda: read_trajectory(PATH, "kjnodes", **{**GIVEN, "num_frames": count}),
        lambda: MotionObject("cube", (0, 0, 1, 1)).frame_boxes(count),
        lambda: parse_object("cube=0,0,1,1", count),
        lambda: read_trajectory("0,0,1,0,1", "freetraj", ["c"], count),
        lambda: read_bbox([0, 0, 50, 50], "cube", CANVAS, box_format="xyxy", num_frames=count),
    ):
        with pytest.raises(ValueError, match="num_frames="):
            call()


def test_splines_in_a_list_of_texts():
    back = json.dumps(json.loads(PATH)[::-1])
    options = {**GIVEN, "phrases": ["cube", "ball"]}
    cube, ball = read_trajectory([PATH, back.replace('"', "'")], "kjnodes", **options)
    assert torch.equal(cube.frame_boxes(3), ball.frame_boxes(3).flip(0))
    assert len(read_trajectory([PATH, back], "ati", **options)) == 2
    with pytest.raises(ValueError, match=r"coord_str\[1\] is not JSON"):
        read_trajectory([PATH, "[{"], "kjnodes", **options)


# What files may begin with, hold and claim.


@pytest.mark.parametrize(
    ("format", "text", "options"),
    [
        ("json", json.dumps(canonical()), {}),
        ("freetraj", "0, 0, 1, 0, 1\r\n4, 0, 1, 0, 1\r\n", {"phrases": ["cube"]}),
        ("trailblazer", TRAILBLAZER, {}),
        ("kjnodes", PATH, GIVEN),
        ("ati", PATH, GIVEN),
        ("motionctrl", "64, 128\r\n192, 128\r\n", {**GIVEN, "canvas": None}),
        ("motionctrl", "[[256, 512], [768, 512]]", {**GIVEN, "canvas": None}),
        ("tora", "\n64, 128\n\n192, 128", {**GIVEN, "canvas": None}),
        ("dragnuwa", "[[[144, 160], [432, 160]]]", {**GIVEN, "canvas": None}),
    ],
)
def test_a_byte_order_mark_is_no_content(tmp_path, format, text, options):
    frames = 25
    (tmp_path / "plain").write_bytes(text.encode())
    (tmp_path / "marked").write_bytes(b"\xef\xbb\xbf" + text.encode())
    options = {**options, "num_frames": frames} if "num_frames" in options else options
    wanted = load_trajectory(tmp_path / "plain", format, **options)[0].frame_boxes(frames)
    assert torch.equal(load_trajectory(tmp_path / "marked", format, **options)[0].frame_boxes(frames), wanted)
    assert torch.equal(read_trajectory("\ufeff" + text, format, **options)[0].frame_boxes(frames), wanted)


def test_peekaboos_sets_may_have_one_too():
    assert len(read_peekaboo("\ufeff" + json.dumps([peekaboo(GOOD)]))) == 1


def npz_of(header, content=b"", version=(1, 0)):
    """An npz whose array has this header."""
    header = header.encode() + b"\n"
    data = b"\x93NUMPY" + bytes(version) + len(header).to_bytes(2 if version == (1, 0) else 4, "little") + header
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("array.npy", data + content)
    return file.getvalue()


def header(shape, descr="'<f4'", fortran=False):
    return f"{{'descr': {descr}, 'fortran_order': {fortran}, 'shape': {shape}, }}"


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (npz_of(header((2_000_000, 121, 1, 3))), "float32 (2000000, 121, 1, 3); it must be numbers"),
        (npz_of(header((10**30, 121, 1, 3))), "it must be numbers (N, 121, 1, 3), N from 1 to 10000"),
        (npz_of(header((0, 121, 1, 3))), "N from 1 to 10000"),
        (npz_of(header((-1, 121, 1, 3))), "N from 1 to 10000"),
        (npz_of(header((1, 121, 1, 3))), "ends after 0 of the 1452 bytes"),
        (npz_of(header((1, 121, 1, 3), "'|O'"), bytes(4000)), "for pickle (allow_pickle=False)"),
        (npz_of(header((1, 121, 1, 3), "'<U9999999'"), bytes(4000)), "it must be numbers"),
        (npz_of(header((1, 121, 1, 3), "[('a', '<f4')]"), bytes(4000)), "it must be numbers"),
        (npz_of(header((1, 121, 1, 3), "'<c8'"), bytes(4000)), "it must be numbers"),
        (npz_of(header((1, 121, 1, 3), "'|b1'"), bytes(4000)), "it must be numbers"),
        (npz_of("(" * 3000), "no header that can be read"),
        (npz_of("{"), "no header that can be read"),
        (npz_of(header((1, 121, 1, 3)), version=(9, 9)), "no header that can be read"),
        (npz_of(header((1, 121, 1, 3)), bytes(70 * 2**20)), "at most"),
        (ati_file(np.full((1, 121, 1, 3), np.nan)), "track 0 is never visible"),
        (ati_file(np.array([(np.inf, 0, 8)] * 121).reshape(1, 121, 1, 3)), "track 0, frame 0 is [inf, 0.0]"),
        (ati_file(np.ones((1, 121, 1, 3)))[:-40], "is no ATI file (an npz in a .pth)"),
        (b"", "it is no zip archive"),
        (b"[" * 100_000, "too deep"),
    ],
)
def test_ati_files_are_refused_before_memory_is_taken_for_them(data, words):
    tracemalloc.start()
    try:
        with pytest.raises(ValueError) as error:
            read_ati(data)
        assert words in str(error.value)
        assert tracemalloc.get_traced_memory()[1] < 40 * 2**20
    finally:
        tracemalloc.stop()


def test_ati_arrays_may_have_any_numbers_in_any_order():
    array = np.ones((2, 121, 1, 3)) * (160, 320, 8)
    for dtype in ("<f2", ">f4", "<f8", "<u2", "|u1", ">i4"):
        for given in (array.clip(0, 255) if dtype == "|u1" else array, np.asfortranarray(array)):
            if dtype != "|u1":
                assert read_ati(ati_file(given.astype(dtype)))[1][120].tolist() == [20, 40]
    assert read_ati(ati_file((array / 8).astype("|u1") * 8))[0][0].tolist() == [20, 8]


def test_damaged_ati_files_never_give_anything_but_a_value_error():
    whole = ati_file(np.ones((1, 121, 1, 3)) * (160, 320, 8))
    generator = np.random.default_rng(0)
    for _ in range(200):
        damaged = bytearray(whole)
        for at in generator.integers(0, len(whole), 8):
            damaged[at] = generator.integers(0, 256)
        try:
            read_ati(bytes(damaged))
        except ValueError:
            pass


@pytest.mark.parametrize(
    ("format", "text", "words"),
    [
        ("json", "[" * 50_000, "too deep"),
        ("kjnodes", "[" * 50_000 + "]" * 50_000, "too deep"),
        ("dragnuwa", '{"a":' * 50_000, "too deep"),
        ("trailblazer", "[" * 50_000, "too deep"),
        ("trailblazer", "- " * 20_000, "too deep"),
        ("trailblazer", "a: &a {b: 1}\nkeyframe: {<<: [*a, *a]}", "it merges dicts"),
        ("trailblazer", "keyframe: !!timestamp x", "not YAML that can be read"),
        ("trailblazer", "keyframe: !!python/object:os.system {}", "not YAML"),
        ("trailblazer", "a" * 2**21, "has 2097152 characters"),
        ("kjnodes", '[{"x": 1' + "0" * 5000 + ', "y": 1}]', "a number of too many digits"),
        ("kjnodes", '[{"x": 1' + "0" * 400 + ', "y": 1}]', "track 0, point 0"),
        ("kjnodes", '[{"x": 1e999, "y": 1}]', "track 0, point 0"),
        ("kjnodes", '[{"x": 5, "x": 6, "y": 1}]', "has 'x' twice in one object"),
        ("kjnodes", '[{"x": "5", "y": 1}]', "track 0, point 0"),
        ("kjnodes", '[{"x": 0.2, "y": 0.3}, {"x": 0.7, "y": 0.3}]', "look like fractions, but canvas is 100 x 200"),
        ("motionctrl", "[[0.2, 0.4], [0.5, 0.5]]", "look like fractions"),
        ("motionctrl", "300, 20", "tracks[0], point 0 is (300.00, 20.00), outside the canvas 100 x 200"),
        ("tora", "1_0, 20", "line 1 is '1_0, 20'"),
        ("tora", "١, 20", "line 1 is"),
        ("tora", "1, 2\u20283, 4", "line 1 is"),
        ("tora", "", "the path has no point"),
        ("freetraj", "0, 0, 1, 0, 1\n0, 0, 1, 0, 1", "'cube': keyframes[1] is 0 after 0"),
        ("freetraj", "4, 0, 1, 0, 1\n0, 0, 1, 0, 1", "'cube': keyframes[1] is 0 after 4"),
        ("freetraj", "0, 0, 1, nan, 1", "'cube': boxes[0] (frame 0) has x0=nan"),
        ("freetraj", "0, 0, 50, 0, 50", "'cube': boxes[0] (frame 0) has x1=50.00, outside [0, 1]"),
        ("freetraj", "7, 0.5, 0.1, 0, 1", "'cube': boxes[0] (frame 7) has y1<=y0 (0.10<=0.50)"),
        ("freetraj", "99999999, 0, 1, 0, 1", "a clip has at most 1000000 frames"),
        ("trailblazer", TRAILBLAZER.replace("24", "0"), "keyframe[1].frame is 0 after 0; they must rise"),
        ("trailblazer", TRAILBLAZER.replace("frame: 0", "frame: 3"), "the first key of TrailBlazer is at frame 0"),
        ("trailblazer", TRAILBLAZER.replace("0.7,", "1.7,"), "keyframe[1] (frame 24): boxes has x1<=x0"),
        ("trailblazer", TRAILBLAZER.replace("0.7,", ".nan,"), "keyframe[1] (frame 24): boxes has x0=nan"),
        ("trailblazer", TRAILBLAZER.replace("1.0, 0.65", "70, 65"), "keyframe[1] (frame 24): boxes has x1=70.00"),
        ("json", json.dumps(canonical()).replace("50", "0.5").replace("100", "1").replace("[1, 200]", "[100, 200]"),
         "look like fractions, but canvas is 100 x 200"),
        ("json", json.dumps(canonical()).replace('"frame": 4', '"frame": 1' + "0" * 40), "at most 1000000 frames"),
    ],
)  # fmt: skip
def test_hostile_and_mistaken_texts_are_one_value_error(tmp_path, format, text, words):
    options = {"phrases": ["cube"]} if format == "freetraj" else GIVEN if format not in ("json", "trailblazer") else {}
    with pytest.raises(ValueError) as error:
        read_trajectory(text, format, **options)
    assert words in str(error.value) and len(str(error.value)) < 600
    if text:
        (tmp_path / "path").write_text(text, encoding="utf-8")
        with pytest.raises(ValueError, match="path'"):
            load_trajectory(tmp_path / "path", format, **options)


def test_frames_without_a_target_are_kept_and_told():
    path = torch.full((9, 2, 2), 50.0)
    shown = torch.ones(9, 2, dtype=torch.bool)
    shown[3:6, 0] = shown[8, 0] = False
    tracks = {"track_path": path, "track_visibility": shown}
    cube, ball = read_trajectory(tracks, "tracks", ["cube", "ball"], 9, SIZE, CANVAS)
    assert cube.hidden == [3, 4, 5, 8] and ball.hidden is None
    (line,) = hidden_lines([ball, cube], 9)
    assert line.startswith('objects[1] ("cube") has no target in frames 3 to 5, 8: ')
    assert read_trajectory(save(cube))[0].hidden == [3, 4, 5, 8]
    (both,) = read_trajectory(tracks, "tracks", ["cube"], 9, SIZE, CANVAS)  # one of two paths is a target
    assert both.hidden is None
    tracks["track_visibility"] = shown[:, :1]
    (even,) = read_trajectory(tracks, "tracks", ["cube"], 9, SIZE, CANVAS, "constant")
    assert even.hidden is None  # along the path there are no times
