"""What the reader asks of a feature of diorama-clip: the same of a picture and of its caption."""

import numpy as np
import torch

from wm_pipelines.diorama.clip_reader import (
    COLOUR,
    NEAR,
    SHAPE,
    Reader,
    Said,
    draw_dye,
    dye,
    said_in,
    shown_in,
    without_colours,
)
from wm_pipelines.diorama.datasets import DioramaDataset
from wm_pipelines.diorama.language import caption
from wm_pipelines.diorama.parser import parse_caption
from wm_pipelines.diorama.scene import COLOURS, HELD_OUT, sample_scene
from wm_pipelines.training import KeyedNoise, Recipe, build


def test_a_caption_says_no_more_than_its_picture_shows():
    places = 0
    for n in range(80):
        scene = sample_scene("clip reader", n)
        shown, said = shown_in(scene), said_in(parse_caption(caption(scene, "objects", n, relations=True).text))
        assert shown.colours == said.colours and shown.shapes == said.shapes
        both_ways = set(shown.places) | {(axis, b, a, -sign) for axis, a, b, sign in shown.places}
        assert set(said.places) <= both_ways
        places += len(said.places)
    assert places > 40


def test_places_have_a_sign_for_each_axis():
    left = said_in(parse_caption("a red cube left of a blue sphere"))
    assert left.places == ((0, COLOUR.index("red"), COLOUR.index("blue"), 1),)
    behind = said_in(parse_caption("a red cube behind a blue sphere"))
    assert behind.places == ((1, COLOUR.index("red"), COLOUR.index("blue"), -1),)
    # of two red cubes none can be compared by its colour
    assert said_in(parse_caption("a small red cube left of a large red cube")).places == ()


def test_captions_lose_their_colours_and_stay_captions():
    assert without_colours("an orange cube left of a red cone") == "a cube left of a cone"
    assert without_colours("a photo of a large striped blue cube.") == "a photo of a large striped cube."
    for n in range(40):
        scene = sample_scene("clip reader colours", n)
        bare = without_colours(caption(scene, "full", n).text)
        said = parse_caption(bare)
        assert not any("colour" in thing for thing in said.objects) and "an " not in bare.replace("an other", "")
        assert said_in(said) == Said(None, frozenset(SHAPE.index(o.shape) for o in scene.objects))


def test_dyes_keep_away_from_what_is_held_out_and_reach_everything_else():
    for shape in SHAPE:
        rng = np.random.default_rng(0)
        dyes = np.stack([draw_dye(shape, rng) for _ in range(2000)])
        pure = dyes / dyes.max(1, keepdims=True)
        nearest = {
            colour: np.linalg.norm(pure - np.array(rgb) / max(rgb), axis=1).min() for colour, rgb in COLOURS.items()
        }
        for colour, distance in nearest.items():
            assert (distance > NEAR) == ((colour, shape) in HELD_OUT), (colour, shape, distance)


def test_dyed_objects_keep_their_light_and_all_else_stays():
    data = DioramaDataset(length=6, size=32)
    for n in range(6):
        item = data[n]
        made = dye(item["rgb"], item["ids"], data.scene(n), np.random.default_rng(n))
        outside = item["ids"] == 0
        assert torch.equal(made[:, outside], item["rgb"][:, outside])
        assert (made != item["rgb"]).any(0)[~outside].float().mean() > 0.9
        assert 0 <= made.min() and made.max() <= 1
        for thing in data.scene(n).objects:
            inside = item["ids"] == thing.id
            if inside.sum() < 4:
                continue
            before, after = item["rgb"][:, inside].mean(0), made[:, inside].mean(0)
            dim = after < 0.95 * after.max()  # what is as bright as it may be keeps no shade
            if dim.sum() > 8:
                assert torch.corrcoef(torch.stack([before[dim], after[dim]]))[0, 1] > 0.8


def test_the_reader_is_satisfied_by_features_that_say_it_and_by_no_others():
    reader = Reader(3 * len(COLOUR) + len(SHAPE))
    with torch.no_grad():
        reader.linear.weight.copy_(torch.eye(reader.linear.in_features))
        reader.linear.bias.zero_()
    said = [Said(frozenset({0, 1}), frozenset({2}), ((0, 0, 1, 1),)), Said(None, frozenset({3}))]
    features = -torch.ones(2, reader.linear.in_features)
    features[0, [0, 1]] = features[0, 8 + 2] = features[1, 8 + 3] = 1
    features[:, 12:] = 0
    features[0, 12 + 1] = 1  # the second colour is farther right
    right = reader(features, said)
    assert right["placed"] == 1 and right["there"] < 0.4 and right["places"] < 0.2
    wrong = reader(-features, said)
    assert wrong["placed"] == 0 and wrong["there"] > 2 and wrong["places"] > 1.5
    assert "places" not in reader(features[1:], said[1:])


def test_the_loss_asks_both_towers_and_dyes_a_share():
    options = {"length": 24, "contradictions": 2, "read": 1.0, "dyed": 0.5}
    task = build(Recipe(task="diorama-clip", steps=1, batch_size=24, options=options))
    said = task.loss(list(range(24)), 0, KeyedNoise(0, 0))
    said["loss"].backward()
    assert {"placed_seen", "placed_read", "contradicted"} <= set(said)
    for module in (task.clip.vision_model, task.clip.text_model, task.reader):
        assert any(p.grad is not None and p.grad.abs().sum() > 0 for p in module.parameters())
    noise = KeyedNoise(0, 0)
    dyed = [task.is_dyed(i, noise) for i in range(24)]
    assert 4 < sum(dyed) < 20
    for index, other in enumerate(dyed):
        colours = any(
            "colour" in o
            for o in parse_caption(task.words(index, noise).removeprefix("a photo of ").rstrip(".")).objects
        )
        assert colours != other and not (other and task.false_words(index, noise))
    pictures, shown = task.pictures(list(range(24)), noise)
    same = (pictures == task.images.pictures(range(24))).flatten(1).all(1)
    assert shown == dyed and [not s for s in same.tolist()] == dyed
