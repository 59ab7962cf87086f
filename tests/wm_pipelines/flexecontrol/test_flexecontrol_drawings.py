"""Conditions as people bring them: what a drawing keeps of a scene, and that its numbers come from their key alone."""

import copy

import cv2
import numpy as np
import pytest
import torch

from wm_pipelines.diorama.datasets import DioramaDataset, RenderedImages
from wm_pipelines.diorama.parser import parse_caption
from wm_pipelines.diorama.scene import COLOURS, SHAPES, Camera, rough_boxes
from wm_pipelines.flexecontrol.training import drawings
from wm_pipelines.flexecontrol.training.scenes import SCENE_DEFAULTS, CloserScenes, DioramaScenes
from wm_pipelines.media.conditions import SPARSE
from wm_pipelines.runtime.random import keyed
from wm_pipelines.training import KeyedNoise

KINDS = ("canny", "lines", "softedge", "sketch", "depth", "seg")


@pytest.fixture(scope="module")
def scenes():
    return RenderedImages(DioramaDataset(length=24, num_objects=(1, 2, 3), name="drawn"), progress=False)


def drawing(scenes, index, *key):
    """A drawing of scene `index % 24`, keyed by `index` and `key`."""
    i = index % 24
    looks = {o.id: (o.shape, COLOURS[o.colour]) for o in scenes.scenes[i].objects}
    picture, ids = scenes.rgb[i].permute(1, 2, 0).numpy(), scenes.ids[i].numpy()
    return drawings.draw(picture, ids, looks, keyed("drawn", index, *key))


def only(monkeypatch, medium, **shares):
    monkeypatch.setattr(drawings, "MEDIA", {medium: 1.0})
    for name, value in {"PHOTOGRAPHED": 0.0, "MISSING": 0.0, **shares}.items():
        monkeypatch.setattr(drawings, name, value)


def near(mask, pixels):
    return cv2.dilate(mask.astype(np.uint8), np.ones((2 * pixels + 1,) * 2, np.uint8)) > 0


def boundary(ids):
    """Both sides of every line between two places."""
    steps = np.zeros(ids.shape, bool)
    down, across = ids[1:] != ids[:-1], ids[:, 1:] != ids[:, :-1]
    steps[1:] |= down
    steps[:-1] |= down
    steps[:, 1:] |= across
    steps[:, :-1] |= across
    return steps


def test_a_contour_is_the_outline_of_its_mask(scenes):
    for i in range(24):
        for k in np.unique(scenes.ids[i])[1:]:
            mask = scenes.ids[i].numpy() == k
            line = drawings.contour(mask)
            assert line.shape == (drawings.POINTS, 2)
            canvas = np.zeros(mask.shape, np.uint8)
            drawings.fill(canvas, line, 1.0, 1)
            assert ((canvas > 0) & mask).sum() / ((canvas > 0) | mask).sum() > 0.8
            inside = near(boundary(mask.astype(int)), 1)
            x, y = np.clip(line.astype(int), 0, 63).T
            assert inside[y, x].mean() > 0.95


@pytest.mark.parametrize(("shape", "share"), [("sphere", 0.785), ("cone", 0.5), ("cylinder", 0.93), ("cube", 0.95)])
def test_a_plain_figure_fills_its_box_as_its_shape_does(shape, share):
    filled = []
    for key in range(30):
        line = drawings.figure(shape, (8, 12, 40, 48), keyed("figure", shape, key)) * 4
        canvas = np.zeros((256, 256), np.uint8)
        drawings.fill(canvas, line, 1.0, 1)
        (x0, y0), (x1, y1) = line.min(0), line.max(0)
        assert 0 < x0 < x1 < 256 and np.abs([(x0 + x1) / 2 - 96, (y0 + y1) / 2 - 120]).max() < 16
        assert 100 < x1 - x0 < 200 and 100 < y1 - y0 < 200
        filled.append(canvas.sum() / ((x1 - x0) * (y1 - y0)))
    assert np.median(filled) == pytest.approx(share, abs=0.08)


def test_every_shape_of_the_world_has_its_figure():
    lines = [drawings.figure(shape, (0, 0, 20, 20), keyed("same")) for shape in SHAPES]
    assert all(np.abs(a - b).max() > 1 for n, a in enumerate(lines) for b in lines[:n])


@pytest.mark.parametrize("medium", ["flat", "pen", "marks", "solids"])
def test_a_drawing_has_its_shape_its_range_and_repeats(scenes, medium, monkeypatch):
    only(monkeypatch, medium, PHOTOGRAPHED=0.5)
    for i in range(5):
        a, b, other = drawing(scenes, i), drawing(scenes, i), drawing(scenes, i, "again")
        shown, else_ = (d.marks if d.photo is None else d.photo for d in (a, other))
        assert not torch.equal(shown, else_)
        assert (a.photo is None) == (medium == "marks") and (a.marks is None) == (medium != "marks")
        assert a.ids.dtype == np.uint8 and np.array_equal(a.ids, b.ids)
        for kind in KINDS:
            depth = scenes.depth[i].float()
            made, again = (drawings.drawn_map(kind, d, depth, keyed("map", kind), i) for d in (a, b))
            assert made.shape == (3, 64, 64) and made.dtype == torch.float32
            assert 0 <= made.min() and made.max() <= 1 and torch.equal(made, again)


@pytest.mark.parametrize(("medium", "reach"), [("marks", 5), ("pen", 6), ("flat", 3)])
def test_only_outlines_are_drawn(scenes, medium, reach, monkeypatch):
    """No inner edge, no floor, no shadow: every mark lies near the border of a drawn place, and nearly every border
    has its mark. `reach`: half a pen, both of its sides, and what two rounds differ by."""
    only(monkeypatch, medium, FIGURES=0.5)
    covered = []
    for i in range(24):
        made = drawing(scenes, i)
        marks = drawings.drawn_map("canny", made, scenes.depth[i % 24].float(), keyed("m"))[0].numpy() > 0.3
        border = boundary(np.pad(made.ids, 1))[1:-1, 1:-1]
        assert not (marks & ~near(border, reach)).any()
        if border.any():
            covered.append((border & near(marks, reach)).sum() / border.sum())
    assert np.mean(covered) > 0.9


def test_things_are_drawn_where_they_stand(scenes, monkeypatch):
    only(monkeypatch, "pen")
    overlaps, away = [], []
    for i in range(24):
        true, made = scenes.ids[i % 24].numpy(), drawing(scenes, i).ids
        for k in np.unique(made)[1:]:
            a, b = true == k, made == k
            overlaps.append((a & b).sum() / (a | b).sum())
            if not ({1, 62} & set(np.concatenate(np.nonzero(near(a, 1))).tolist())):  # the frame cuts nothing off
                away.append(np.abs(np.argwhere(a).mean(0) - np.argwhere(b).mean(0)).max())
    assert np.mean(overlaps) > 0.6 and np.median(away) < 2 and np.quantile(away, 0.9) < 5


def test_one_of_several_may_be_missing(scenes, monkeypatch):
    only(monkeypatch, "marks", MISSING=1.0)
    for i in range(24):
        present = len(np.unique(scenes.ids[i])) - 1
        assert len(np.unique(drawing(scenes, i).ids)) - 1 == (present - 1 if present > 1 else present)


def test_gaps_leave_a_part_of_the_way_out():
    circle = drawings.figure("sphere", (12, 12, 52, 52), keyed("circle"))
    for share in (0.1, 0.5):
        whole, open_ = np.zeros((2, 64, 64), np.uint8)
        drawings.stroke(whole, circle, 1.0, 255, keyed("stroke"), 1.0)
        drawings.stroke(open_, circle, 1.0, 255, keyed("stroke"), 1.0, share)
        assert 0.3 * share < 1 - (open_ > 127).sum() / (whole > 127).sum() < share + 0.1


def test_rough_depth_is_never_inverted(scenes):
    for i in range(24):
        ids, depth = scenes.ids[i], scenes.depth[i].float()
        for key in range(3):
            made = drawings.rough_depth(depth, ids, keyed("rough", i, key))
            assert made.shape == (3, 64, 64) and 0 <= made.min() and made.max() <= 1
            around = torch.from_numpy(near(ids.numpy() > 0, 6)) & (ids == 0)  # of about the same distance
            assert made[0][ids > 0].mean() > made[0][around].mean() - 0.05


# ---- the source that uses them ----


@pytest.fixture(scope="module")
def source():
    """source(**options): twelve scenes, six with one shape."""

    def encode(pictures):
        return (torch.zeros(len(pictures), 4, 16, 16),) * 2

    first = DioramaScenes({**SCENE_DEFAULTS, "length": 12, "objects": [2, 3]}, encode)

    def with_options(**options):
        other = copy.copy(first)
        other.options = {**first.options, **options}
        return other

    return with_options


def test_without_drawings_nothing_changes(source):
    plain, indices, noise = source(), [3, 0, 7], KeyedNoise(0, 5)
    masks = plain.masks(indices)
    maps, places = plain.batch_maps(indices, masks, noise)
    assert torch.equal(places, masks)
    for kind in KINDS:
        assert torch.equal(maps(kind, indices), plain.maps(kind, indices, set()))


def test_a_share_of_a_batch_is_drawn_by_sample_and_step_alone(source):
    half, indices, noise = source(drawn=0.5), list(range(12)), KeyedNoise(0, 5)
    masks = half.masks(indices)
    maps, places = half.batch_maps(indices, masks, noise)
    exact = half.maps("canny", indices, set())
    redrawn = (maps("canny", indices) != exact).flatten(1).any(1)
    plain = torch.tensor([all(o.pattern == "plain" for o in scene.objects) for scene in half.scenes])
    assert 0 < redrawn.sum() < plain.sum() and not (redrawn & ~plain).any()  # nobody draws stripes
    assert torch.equal((places != masks).flatten(1).any(1), redrawn)
    again, other = half.batch_maps([7, 2], masks[[7, 2]], noise), half.batch_maps(indices, masks, KeyedNoise(0, 6))
    for kind in KINDS:
        assert torch.equal(again[0](kind, [7, 2]), maps(kind, [7, 2]))
    assert not torch.equal(other[0]("canny", indices), maps("canny", indices))
    assert torch.equal(again[1], places[[7, 2]])


def test_all_drawn_regions_hold_what_was_drawn(source):
    whole, noise = source(drawn=1.0), KeyedNoise(1, 0)
    indices = list(range(12))
    masks = whole.masks(indices)
    maps, places = whole.batch_maps(indices, masks, noise)
    made = whole.redrawn(indices, noise)
    assert len(made) >= 4
    for i, drawing_ in made.items():
        for k in np.unique(drawing_.ids)[1:]:
            assert places[i, k - 1][torch.from_numpy(drawing_.ids == k)].all()
        if drawing_.marks is not None:
            assert all(torch.equal(maps(kind, [i])[0], drawing_.marks) for kind in KINDS if kind in SPARSE)


def test_relations_are_said_as_often_as_asked(source):
    told, never = source(relations=1.0), source()
    pairs = [[s.caption(i, keyed("caption", i)) for i in range(12)] for s in (told, never)]
    related = [[bool(parse_caption(text).relations) for text, _ in row] for row in pairs]
    assert sum(related[0]) >= 5 and not any(related[1])
    for i, (text, spans) in enumerate(pairs[0]):
        for o in told.scenes[i].objects:
            assert o.colour in text[slice(*spans[o.id])] and o.shape in text[slice(*spans[o.id])]


def test_closer_scenes_show_all_their_objects_larger():
    near_by, far = (CloserScenes(share, length=40, num_objects=(1, 2), name="closer") for share in (1.0, 0.0))
    grown = []
    for i in range(40):
        a, b = near_by.scene(i), far.scene(i)
        assert a.objects == b.objects and b.camera == Camera()
        boxes = rough_boxes(a)
        assert boxes.min() > 0 and boxes.max() < 1
        grown.append(np.prod(boxes[0, 2:] - boxes[0, :2]) / np.prod(rough_boxes(b)[0, 2:] - rough_boxes(b)[0, :2]))
    assert np.median(grown) > 1.3 and np.min(grown) > 0.9 and np.max(grown) < 6
