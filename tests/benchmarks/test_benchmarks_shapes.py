"""The flat world of the matching experiments: what a scene shows is what its caption and its boxes say."""

import numpy as np
import pytest
import torch

from wm_pipelines.runtime.random import keyed


def test_scenes_are_functions_of_their_key(script):
    shapes = script("shapes")
    one, two = ([shapes.training_scene(keyed("t", i)) for i in range(20)] for _ in range(2))
    assert one == two and len(set(one)) == 20
    pictures = shapes.render(one)
    assert torch.equal(pictures, shapes.render(two))
    assert pictures.shape == (20, 3, 32, 32) and 0 <= pictures.min() and pictures.max() <= 1


def test_boxes_relations_and_colours_are_those_of_the_pixels(script):
    shapes = script("shapes")
    for i in range(60):
        scene = shapes.counter_scene(keyed("pair", i))
        picture = shapes.render([scene])[0].permute(1, 2, 0).numpy()
        found = shapes.boxes(scene)
        (ax0, ay0, ax1, ay1), (bx0, by0, bx1, by1) = found.values()
        before = {"above": ay1 <= by0, "below": ay0 >= by1, "left of": ax1 <= bx0, "right of": ax0 >= bx1}
        assert before[scene.relation], scene
        for thing, (x0, y0, x1, y1) in zip(scene.things, found.values(), strict=True):
            near = abs(picture - shapes.COLOURS[thing.kind[0]]).max(-1) < 6 * shapes.NOISE
            inside = np.zeros_like(near)
            inside[y0:y1, x0:x1] = True
            assert (near & inside).sum() >= shapes.mask(thing).sum()
            assert (x1 - x0, y1 - y0) == (2 * thing.radius + 1,) * 2


def test_training_pairs_are_skewed_and_test_pairs_are_not(script):
    shapes = script("shapes")
    scenes = [shapes.training_scene(keyed("skew", i)) for i in range(600)]
    pairs = [[t.kind for t in s.things] for s in scenes if len(s.things) == 2]
    assert 0.25 < 1 - len(pairs) / 600 < 0.35
    fixed = [b == shapes.partner(a) or a == shapes.partner(b) for a, b in pairs]
    assert 0.85 < np.mean(fixed) < 0.95
    assert len({shapes.partner(k) for k in shapes.KINDS}) == 36
    for i in range(50):
        a, b = (t.kind for t in shapes.counter_scene(keyed("c", i)).things)
        assert b != shapes.partner(a) and a != shapes.partner(b)


def test_each_foil_is_wrong_in_one_respect(script):
    shapes = script("shapes")
    for i in range(30):
        scene = shapes.counter_scene(keyed("foil", i))
        a, b = (t.kind for t in scene.things)
        made = shapes.foils(scene, keyed("foil of", i))
        shown = {name: ([t.kind for t in foil.things], foil.relation) for name, foil in made.items()}
        assert shown["subject"][0][1] == b and shown["subject"][0][0] not in (a, b)
        assert shown["object"][0][0] == a and shown["object"][0][1] not in (a, b)
        assert shown["verb"][0] == [a, b] and shown["verb"][1] != scene.relation
        assert shown["swap"][0] == [(b[0], a[1]), (a[0], b[1])]
        assert [r for _, r in shown.values()].count(scene.relation) == 3
        assert all(foil.caption != scene.caption for foil in made.values())


def test_captions_and_bad_input(script):
    shapes = script("shapes")
    scene = shapes.place(keyed(1), [("red", "circle"), ("blue", "square")], "above", tint=2, clutter=3)
    assert scene.caption == "a red circle above a blue square" and scene.tint == 2 and len(scene.clutter) == 3
    assert shapes.place(keyed(2), [("red", "ring")]).caption == "a red ring"
    assert set(shapes.TEMPLATE.format(scene.caption).rstrip(".").split()) <= set(shapes.WORDS)
    with pytest.raises(ValueError, match="relation='over'"):
        shapes.place(keyed(1), [("red", "circle"), ("blue", "square")], "over")


def test_the_small_clip_is_trained_once(script, tmp_path):
    made = script("shapes_clip").shapes_clip(0, 2, tmp_path, batch=4)
    assert made["clip"].config.projection_dim == 64 and made["clip"].config.vision_config.patch_size == 4
    stamp = (tmp_path / "clip-0-2" / "record.json").stat().st_mtime_ns
    again = script("shapes_clip").shapes_clip(0, 2, tmp_path, batch=4)
    assert (tmp_path / "clip-0-2" / "record.json").stat().st_mtime_ns == stamp
    assert torch.equal(made["clip"].visual_projection.weight, again["clip"].visual_projection.weight)
    ids = made["tokenizer"]("a photo of a red circle above a blue square.").input_ids
    assert len(ids) == 13
