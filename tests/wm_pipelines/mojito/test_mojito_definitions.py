"""Where each tool itself has a point or box at frame t, written down here from its formula, against our readers.

Every formula is for three lengths or more. Where a tool cuts to whole pixels, it is held to less than one of them.
"""

import io
import json
import math

import numpy as np
import pytest
import torch

from wm_pipelines.mojito.trajectories.formats.boxes import read_bbox, read_peekaboo
from wm_pipelines.mojito.trajectories.formats.points import write_tracks
from wm_pipelines.mojito.trajectories.reading import read_trajectory

LENGTHS = [8, 16, 49]
SIZE = (0.02, 0.02)


def wave(count, width, height):
    """A path of whole pixels with a turn in it, well inside the canvas."""
    x = [round(width * (0.1 + 0.8 * k / max(count - 1, 1))) for k in range(count)]
    y = [round(height * (0.5 + 0.35 * math.sin(0.9 * k))) for k in range(count)]
    return list(zip(x, y, strict=True))


def middles(objects, frames):
    boxes = torch.stack([item.frame_boxes(frames) for item in objects]).double()
    return ((boxes[..., :2] + boxes[..., 2:]) / 2).numpy()


def read(data, format, frames, canvas=None):
    """Middles `(F, 2)` of one path, in pixels of its canvas."""
    objects = read_trajectory(data, format, ["cube"], frames, SIZE, canvas)
    width, height = canvas or {"motionctrl": (1024, 1024), "tora": (256, 256), "dragnuwa": (576, 320)}[format]
    return middles(objects, frames)[0] * (width, height)


# Our own JSON: linear between keyframes, held outside.


@pytest.mark.parametrize("frames", LENGTHS)
def test_json(frames):
    keys = [(1, 10), (3, 50), (6, 20)]
    data = {
        "version": 1,
        "canvas": [100, 100],
        "objects": [
            {"phrase": "cube", "keyframes": [{"frame": f, "box": [x, 40, x + 20, 60]} for f, x in keys]},
        ],
    }
    (cube,) = read_trajectory(json.dumps(data))

    def x0(t):
        if t <= 1 or t >= 6:
            return 10 if t <= 1 else 20
        (a, xa), (b, xb) = ((1, 10), (3, 50)) if t < 3 else ((3, 50), (6, 20))
        return xa + (xb - xa) * (t - a) / (b - a)

    assert cube.frame_boxes(frames)[:, 0].tolist() == pytest.approx([x0(t) / 100 for t in range(frames)])


# FreeTraj, `plan_path`: linear between keys, beyond them on at the speed of top and left in the frame beside.


def freetraj(keys, length):
    """h0, h1, w0, w1 of each frame."""
    first, last = keys[0][0], keys[-1][0]
    path = {}
    for (a, *start), (b, *end) in zip(keys, keys[1:], strict=False):
        for t in range(a, b + 1):
            path[t] = [s + (t - a) * (e - s) / (b - a) for s, e in zip(start, end, strict=True)]
    for t in range(first - 1, -1, -1):
        dh, dw = path[first + 1][0] - path[first][0], path[first + 1][2] - path[first][2]
        path[t] = [path[t + 1][0] - dh, path[t + 1][1] - dh, path[t + 1][2] - dw, path[t + 1][3] - dw]
    for t in range(last + 1, length):
        dh, dw = path[last][0] - path[last - 1][0], path[last][2] - path[last - 1][2]
        path[t] = [path[t - 1][0] + dh, path[t - 1][1] + dh, path[t - 1][2] + dw, path[t - 1][3] + dw]
    return [path[t] for t in range(length)]


@pytest.mark.parametrize("frames", LENGTHS)
def test_freetraj(frames):
    keys = [(3, 0.2, 0.5, 0.3, 0.5), (6, 0.23, 0.6, 0.27, 0.47), (7, 0.235, 0.6, 0.27, 0.47)]
    text = "\n".join(", ".join(map(str, key)) for key in keys)
    (cube,) = read_trajectory(text, "freetraj", ["cube"], frames)
    wanted = torch.tensor([[w0, h0, w1, h1] for h0, h1, w0, w1 in freetraj(keys, frames)])
    assert torch.allclose(cube.frame_boxes(frames), wanted, atol=1e-6)


def test_freetraj_boxes_that_run_out_of_the_picture_are_refused_or_cut():
    text = "0, 0.1, 0.4, 0.0, 0.3\n7, 0.1, 0.4, 0.35, 0.65"
    (cube,) = read_trajectory(text, "freetraj", ["cube"], 15)
    assert cube.frame_boxes(15)[14].tolist() == pytest.approx([0.7, 0.1, 1.0, 0.4])
    with pytest.raises(ValueError, match=r"'cube': boxes\[15\] \(frame 15\) has x1=1.05.*keyframes are 0 to 7"):
        read_trajectory(text, "freetraj", ["cube"], 16)
    (cube,) = read_trajectory(text, "freetraj", ["cube"], 16, outside="clip")
    assert cube.frame_boxes(16)[15].tolist() == pytest.approx([0.75, 0.1, 1.0, 0.4])


# TrailBlazer, `keyframed_bbox`: a way that follows another starts in the frame after its key.


def trailblazer(keys):
    """Left, top, right, bottom of each frame up to the last key."""
    path = []
    for i, ((a, start), (b, end)) in enumerate(zip(keys, keys[1:], strict=False)):
        begin = a + (i > 0)
        for t in range(begin, b + 1):
            share = (t - begin) / (b - begin)
            path.append([(1 - share) * s + share * e for s, e in zip(start, end, strict=True)])
    return path


def trailblazer_text(keys):
    listed = [{"bbox_ratios": list(box), "frame": frame, "prompt": "A cat is running"} for frame, box in keys]
    return json.dumps({"keyframe": listed, "token_inds": [2]})


@pytest.mark.parametrize("frames", [[0, 24], [0, 4, 8], [0, 2, 9, 11, 24], [0, 1, 5, 23]])
def test_trailblazer(frames):
    keys = [(f, (0.05 * i, 0.1, 0.5 + 0.1 * (i % 3), 0.9 - 0.1 * i)) for i, f in enumerate(frames)]
    (cat,) = read_trajectory(trailblazer_text(keys), "trailblazer")
    length = frames[-1] + 1
    assert torch.allclose(cat.frame_boxes(length), torch.tensor(trailblazer(keys)), atol=1e-6)
    assert torch.equal(cat.frame_boxes(length + 5)[length:], cat.frame_boxes(length)[-1].expand(5, 4))


def test_trailblazer_there_and_back_in_nine_frames():
    keys = [(0, (0.0, 0.1, 0.2, 0.9)), (4, (0.8, 0.1, 1.0, 0.9)), (8, (0.0, 0.1, 0.2, 0.9))]
    (cat,) = read_trajectory(trailblazer_text(keys), "trailblazer")
    wanted = [0, 0.2, 0.4, 0.6, 0.8, 0.8, 0.5333333, 0.2666667, 0]
    assert cat.frame_boxes(9)[:, 0].tolist() == pytest.approx(wanted, abs=1e-6)


# KJNodes and TRACKS: point k is frame k of a clip of as many frames.


@pytest.mark.parametrize("frames", [*LENGTHS, 81])
def test_kjnodes_and_tracks_have_one_point_a_frame(frames):
    path = wave(frames, 640, 480)
    written = json.dumps([{"x": x, "y": y} for x, y in path])
    assert np.allclose(read(written, "kjnodes", frames, (640, 480)), path, atol=1e-3)
    tracks = {"track_path": torch.tensor(path).float()[:, None], "track_visibility": torch.ones(frames, 1).bool()}
    assert np.allclose(read(tracks, "tracks", frames, (640, 480)), path, atol=1e-3)
    (cube,) = read_trajectory(tracks, "tracks", ["cube"], frames, SIZE, (640, 480))
    again = write_tracks(cube.frame_boxes(frames)[None], 640, 480)["track_path"][:, 0]
    assert torch.allclose(again, torch.tensor(path).float(), atol=1e-3)


@pytest.mark.parametrize("frames", LENGTHS)
def test_kjnodes_in_a_clip_of_another_length_takes_as_long_over_the_path(frames):
    path = wave(16, 640, 480)
    written = json.dumps([{"x": x, "y": y} for x, y in path])
    at = [15 * t / (frames - 1) for t in range(frames)]
    wanted = [
        [path[int(s)][i] + (s - int(s)) * (path[min(int(s) + 1, 15)][i] - path[int(s)][i]) for i in (0, 1)] for s in at
    ]
    assert np.allclose(read(written, "kjnodes", frames, (640, 480)), wanted, atol=1e-3)


# ATI, `pad_pts` and `process_tracks`: 121 points, frame 0 the first, then of the other 120, doubled, every third.


def ati(points):
    """Point, or None where hidden, of each of 81 frames."""
    padded = [*points[:121], *[None] * (121 - len(points))]
    doubled = [point for point in padded[1:] for _ in range(2)]
    return [padded[0], *doubled[1::3]]


def ati_file(paths):
    array = np.zeros((len(paths), 121, 1, 3), np.float32)
    for n, path in enumerate(paths):
        array[n, : min(len(path), 121), 0] = [(x, y, 1) for x, y in path[:121]]
    npz, file = io.BytesIO(), io.BytesIO()
    np.savez_compressed(npz, array=8 * array)
    torch.save(npz.getvalue(), file)
    return file.getvalue()


@pytest.mark.parametrize("kind", ["text", "file"])
@pytest.mark.parametrize("count", [1, 2, 60, 120, 121, 122, 200])
def test_ati(count, kind):
    path = [(100 + 4 * k, 50 + k) for k in range(count)]
    data = json.dumps([{"x": x, "y": y} for x, y in path]) if kind == "text" else ati_file([path])
    (cube,) = read_trajectory(data, "ati", ["cube"], 81, SIZE, (2000, 1000))
    ours = middles([cube], 81)[0] * (2000, 1000)
    seen, last = ati(path), path[min(count, 121) - 1]
    for t, point in enumerate(seen):
        # of odd frames, between two points, ATI takes the earlier one
        step = (2, 0.5) if t % 2 else (0, 0)
        assert np.all(np.abs(ours[t] - (point or last)) <= np.add(step, 1e-3)), t
    assert (cube.hidden or []) == [t for t, point in enumerate(seen) if point is None]


def test_ati_strings_of_sixty_points_over_81_frames():
    data = json.dumps([{"x": 100 + 4 * k, "y": 500} for k in range(60)])
    (cube,) = read_trajectory(data, "ati", ["cube"], 81, SIZE, (2000, 1000))
    assert (middles([cube], 81)[0, [20, 40, 80], 0] * 2000).tolist() == pytest.approx([220, 336, 336], abs=1e-3)
    assert cube.hidden == list(range(40, 81))


@pytest.mark.parametrize("frames", LENGTHS)
def test_ati_point_k_is_at_k_of_120_of_any_clip(frames):
    data = json.dumps([{"x": 100 + 4 * k, "y": 500} for k in range(121)])
    wanted = [100 + 4 * 120 * t / (frames - 1) for t in range(frames)]
    assert np.allclose(read(data, "ati", frames, (2000, 1000))[:, 0], wanted, atol=1e-3)


# MotionCtrl and Tora. `read_points` takes every (K // F)-th line and of them F; `process_points` makes F of K points.


def read_points(points, frames):
    if len(points) > frames:
        points = points[:: len(points) // frames]
    return points[:frames]


def process_points(points, frames):
    if len(points) >= frames:
        return [*points[:: len(points) // frames][: frames - 1], points[-1]]
    gaps = len(points) - 1
    each, more = divmod(frames - len(points), gaps)
    made = []
    for i in range(gaps):
        (x0, y0), (x1, y1) = points[i], points[i + 1]
        count = each + (i < more)
        made.append((x0, y0))
        made += [
            (int(x0 + j / (count + 1) * (x1 - x0)), int(y0 + j / (count + 1) * (y1 - y0))) for j in range(1, count + 1)
        ]
    return [*made, points[-1]]


def within_a_pixel(ours, tool):
    """The tool's whole pixels are ours cut off."""
    left_over = np.asarray(ours) - np.asarray(tool)
    return (left_over > -1e-3).all() and (left_over < 1).all()


COUNTS = [2, 3, 7, 16, 31, 48, 205]


@pytest.mark.parametrize("frames", LENGTHS)
@pytest.mark.parametrize("count", COUNTS)
def test_motionctrl_json(count, frames):
    path = wave(count, 1024, 1024)
    ours = read(json.dumps(path), "motionctrl", frames)
    assert within_a_pixel(ours, process_points(path, frames))


@pytest.mark.parametrize("format", ["motionctrl", "tora"])
@pytest.mark.parametrize("frames", LENGTHS)
@pytest.mark.parametrize("count", COUNTS)
def test_lines_of_motionctrl_and_tora(count, frames, format):
    path = wave(count, 256, 256)
    text = "\n".join(f"{x}, {y}" for x, y in path)
    wanted = process_points(read_points(path, frames), frames)
    assert within_a_pixel(read(text, format, frames, (256, 256)), wanted)
    (cube,) = read_trajectory(text, format, ["cube"], frames, SIZE)  # the canvas is known
    assert within_a_pixel(middles([cube], frames)[0] * 256, wanted)


def test_motionctrl_lines_are_in_256_and_its_json_in_1024():
    for text, scale in (("64,128\n128,64\n", 1), ("[[256, 512], [512, 256]]", 4)):
        (cube,) = read_trajectory(text, "motionctrl", ["cube"], 2, SIZE)
        assert np.allclose(middles([cube], 2)[0], [(0.25, 0.5), (0.5, 0.25)], atol=1e-6), scale


# DragNUWA, `interpolate_trajectory`: PCHIP through the points at equal times. As Bezier curves: the inner control
# points lie a third of the slope away; slopes are harmonic means, none where the way turns.


def pchip(values, frames):
    rises = [b - a for a, b in zip(values, values[1:], strict=False)]

    def end(near, far):
        slope = (3 * near - far) / 2
        if slope * near <= 0:
            return 0.0
        return 3 * near if near * far <= 0 and abs(slope) > 3 * abs(near) else slope

    if len(rises) == 1:
        slopes = [rises[0]] * 2
    else:
        inner = [2 / (1 / a + 1 / b) if a * b > 0 else 0.0 for a, b in zip(rises, rises[1:], strict=False)]
        slopes = [end(rises[0], rises[1]), *inner, end(rises[-1], rises[-2])]
    found = []
    for t in range(frames):
        s = t / (frames - 1) * len(rises)
        k = min(int(s), len(rises) - 1)
        curve = [values[k], values[k] + slopes[k] / 3, values[k + 1] - slopes[k + 1] / 3, values[k + 1]]
        while len(curve) > 1:  # de Casteljau
            curve = [a + (s - k) * (b - a) for a, b in zip(curve, curve[1:], strict=False)]
        found.append(curve[0])
    return found


@pytest.mark.parametrize("frames", [8, 14, 25])
@pytest.mark.parametrize("count", [2, 3, 5, 14, 30])
def test_dragnuwa(count, frames):
    path = wave(count, 576, 320)
    ours = read(json.dumps([path]), "dragnuwa", frames)
    wanted = np.stack([pchip([p[i] for p in path], frames) for i in (0, 1)], axis=-1)
    assert np.allclose(ours, wanted, atol=1e-3)


def test_dragnuwas_curve_as_scipy_draws_it():
    path = [(0, 0), (100, 20), (120, 200), (60, 200)]
    wanted = [0, 55.451895, 93.411079, 108.824101, 117.97862, 118.425656, 97.609329, 60]  # PchipInterpolator
    ours = read_trajectory(json.dumps([path]), "dragnuwa", ["cube"], 8, SIZE, outside="clip")[0]
    assert np.allclose(ours.frame_boxes(8)[1:, 2] * 576 - 0.01 * 576, wanted[1:], atol=1e-3)


@pytest.mark.parametrize(
    ("format", "data"),
    [("motionctrl", "[[512, 256]]"), ("motionctrl", "128, 64"), ("tora", "128, 64"), ("dragnuwa", "[[[288, 80]]]")],
)
def test_a_single_point_stands_still(format, data):
    objects = read_trajectory(data, format, ["cube"], 5, SIZE)
    assert np.allclose(middles(objects, 5)[0], [(0.5, 0.25)] * 5, atol=1e-6)


# Peekaboo, `get_mask_from_bb`: frame t is rows y0 to y1 and columns x0 to x1 of box t; LaSOT has x0, x1, y0, y1.


@pytest.mark.parametrize("frames", [8, 16, 24])
@pytest.mark.parametrize("order", ["xyxy", "xxyy"])
def test_peekaboo(frames, order):
    boxes = [(0.01 * t, 0.2 + 0.01 * t, 0.3 + 0.01 * t, 0.6 + 0.005 * t) for t in range(frames)]
    listed = [(x0, y0, x1, y1) if order == "xyxy" else (x0, x1, y0, y1) for x0, y0, x1, y1 in boxes]
    record = {"id": 1, "caption": "A deer standing.", "subject": "deer", "bboxes": listed}
    (found,) = read_peekaboo(json.dumps([record]), order=order)
    assert torch.allclose(found.objects[0].frame_boxes(frames), torch.tensor(boxes))


# BBOX: of core x, y, width, height; of KJNodes' points editor corners; box t for frame t.


@pytest.mark.parametrize("frames", LENGTHS)
@pytest.mark.parametrize("kind", ["core", "xywh", "xyxy", "tensor"])
def test_bbox(frames, kind):
    corners = [(10 + 2 * t, 20 + t, 60 + 3 * t, 120 + t) for t in range(frames)]
    sized = [(x0, y0, x1 - x0, y1 - y0) for x0, y0, x1, y1 in corners]
    data, box_format = {
        "core": ([dict(zip(("x", "y", "width", "height"), box, strict=True)) for box in sized], None),
        "xywh": (sized, "xywh"),
        "xyxy": (corners, "xyxy"),
        "tensor": (torch.tensor(corners).half(), "xyxy"),
    }[kind]
    (cube,) = read_bbox(data, "cube", (256, 200), box_format=box_format, num_frames=frames)
    wanted = torch.tensor(corners) / torch.tensor([256, 200, 256, 200])
    assert torch.allclose(cube.frame_boxes(frames), wanted, atol=1e-6)
