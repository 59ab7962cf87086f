"""Trajectory files: each format by a small sample in its own conventions, speeds, round trips, and what is refused."""

import io
import json
import os
import pickle
import zipfile

import numpy as np
import pytest
import torch

from wm_pipelines.mojito.formats.ati import read_ati
from wm_pipelines.mojito.formats.boxes import read_bbox, read_peekaboo, read_trailblazer
from wm_pipelines.mojito.formats.points import read_tracks, write_tracks
from wm_pipelines.mojito.objects import MotionObject, object_boxes
from wm_pipelines.mojito.trajectories import (
    FORMATS,
    load_trajectory,
    objects_from_tracks,
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
    written = json.dumps([[{"x": 20, "y": 40}, {"x": 80, "y": 160}]])
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


def test_motionctrl_files_of_lines_need_their_canvas_said():
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
    assert read_bbox((10, 20, 50, 100), "cube", CANVAS)[0].frame_boxes(3)[2].tolist() == pytest.approx(
        [0.1, 0.1, 0.6, 0.6]
    )
    (cut,) = read_bbox((80, 20, 50, 100), "cube", CANVAS, outside="clip")
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
