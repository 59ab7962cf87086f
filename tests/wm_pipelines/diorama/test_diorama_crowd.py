import itertools
import math
import re

import pytest
import torch

from wm_pipelines.diorama.datasets import DioramaDataset, RenderedImages
from wm_pipelines.diorama.language import DETAILS, caption, scene_graph
from wm_pipelines.diorama.motion import sample_motion
from wm_pipelines.diorama.parser import parse_caption
from wm_pipelines.diorama.render import render
from wm_pipelines.diorama.scene import COLOURS, HELD_OUT, SHAPES, Scene, SceneObject, is_held_out, sample_scene


@pytest.fixture(scope="module")
def crowds() -> list[Scene]:
    kinds = itertools.product((5, 6, 7, 8), ("train", "all"))
    return [sample_scene("crowd test", n, num_objects=n, composition=c) for n, c in kinds]


def test_as_many_objects_as_asked_that_do_not_touch(crowds):
    for scene, n in zip(crowds, (5, 5, 6, 6, 7, 7, 8, 8), strict=True):
        assert [o.id for o in scene.objects] == list(range(1, n + 1))
        assert len({(o.colour, o.shape) for o in scene.objects}) == n
        for a, b in itertools.combinations(scene.objects, 2):
            assert math.dist(a.position[:2], b.position[:2]) >= a.half_width + b.half_width - 1e-6
    assert sample_scene("crowd test", 6, num_objects=6) == crowds[2]
    assert not any(is_held_out(s) for s in crowds[::2])
    held = sample_scene("crowd test", num_objects=6, composition="held_out")
    assert {(o.colour, o.shape) for o in held.objects} <= HELD_OUT
    sizes = [o.size for s in crowds for o in s.objects]
    assert 0 < sizes.count("large") < len(sizes) / 2


def test_all_of_a_crowd_are_seen_well(crowds):
    out = render(crowds, size=128, maps=("visible", "amodal_boxes", "ids"))
    for i, scene in enumerate(crowds):
        n = len(scene.objects)
        assert out.visible[i, 0, :n].min() >= 0.6
        box = out.amodal_boxes[i, 0, :n]
        assert (box[:, 2:] - box[:, :2]).min() * 64 >= 6 and box.min() >= 0 and box.max() <= 1
        assert set(out.ids[i].unique().tolist()) == set(range(n + 1))
        assert len(scene_graph(scene).nodes) == n


def test_captions_of_crowds_are_short_enough_true_and_read_back(crowds):
    for i, scene in enumerate(crowds):
        scene = sample_motion(scene, "crowd test", i)
        for detail, relations, seed in itertools.product(DETAILS, (None, True, False), range(2)):
            said = caption(scene, detail, seed, relations)
            assert len(re.findall(r"[^\s,]+|,", said.text)) <= 75
            read = parse_caption(said.text)
            assert len(read.objects) == len(scene.objects)
            id_at = {span: id for id, span in said.spans.items()}
            for words, span in zip(read.objects, read.spans, strict=True):
                assert all(getattr(scene.object(id_at[span]), kind) == word for kind, word in words.items())


def test_a_caption_of_very_many_objects_drops_their_attributes():
    looks = list(itertools.product(COLOURS, SHAPES))[:15]
    many = [SceneObject(n + 1, s, c, "small", "striped", "shiny", (n / 4, 0.0, 0.0)) for n, (c, s) in enumerate(looks)]
    said = caption(Scene(tuple(many)), "full")
    assert len(re.findall(r"[^\s,]+|,", said.text)) <= 75 and "striped" not in said.text
    assert len(parse_caption(said.text).objects) == 15
    assert "striped" in caption(Scene(tuple(many[:8])), "full").text


def test_data_sets_hold_crowds():
    data = DioramaDataset(length=2, size=16, num_objects=(6, 7), composition="all", split="val")
    images = RenderedImages(data, progress=False)
    for i in range(2):
        assert len(data[i]["scene"].objects) in (6, 7) and torch.equal(images.ids[i].long(), data[i]["ids"])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_objects": 9}, "`num_objects` is 9; allowed: 0 to 8"),
        ({"num_objects": (2, 12)}, "`num_objects`"),
        ({"num_objects": -1}, "`num_objects`"),
        ({"num_objects": 7, "same_shape": True}, "`num_objects` is 7; a shape has 6 colours"),
    ],
)
def test_too_many_are_refused_by_name(options, message):
    with pytest.raises(ValueError, match=message):
        sample_scene("crowd test", **options)


def test_no_room_is_an_error(monkeypatch):
    monkeypatch.setattr("wm_pipelines.diorama.scene.TRIES", 20)
    with pytest.raises(ValueError, match="no room for `num_objects` 8 with `min_pixels` 24"):
        sample_scene("crowd test", num_objects=8, min_pixels=24.0)


def test_as_many_of_one_shape_as_there_are_colours():
    scene = sample_scene("crowd test", num_objects=6, same_shape=True)
    assert len({o.shape for o in scene.objects}) == 1 and len({o.colour for o in scene.objects}) == 6


def test_one_to_four_objects_are_drawn_as_ever():
    scene = sample_scene("count", 1, num_objects=4)
    looks = [(o.colour, o.shape, o.size, o.position[0]) for o in scene.objects]
    assert looks == [
        ("red", "sphere", "small", -1.0905593633651733),
        ("white", "cube", "large", -0.15437191724777222),
        ("orange", "cylinder", "large", 0.7167468667030334),
        ("cyan", "cube", "small", -1.6851681470870972),
    ]
