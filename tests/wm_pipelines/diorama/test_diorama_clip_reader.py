"""What the reader asks of a feature of diorama-clip: the same of a picture and of its caption."""

import torch

from wm_pipelines.diorama.clip_reader import COLOUR, SHAPE, Reader, Said, fade, said_in, shown_in, without_colours
from wm_pipelines.diorama.language import caption
from wm_pipelines.diorama.parser import parse_caption
from wm_pipelines.diorama.scene import sample_scene
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


def test_fading_keeps_the_light_and_takes_the_colour():
    pictures = torch.rand(3, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    faded = fade(pictures, torch.tensor([0.0, 0.5, 1.0]))
    weights = torch.tensor([0.299, 0.587, 0.114])[:, None, None]
    torch.testing.assert_close((faded * weights).sum(1), (pictures * weights).sum(1), rtol=0, atol=1e-5)
    assert torch.equal(faded[0], pictures[0])
    torch.testing.assert_close(faded[2], faded[2].mean(0).expand(3, 4, 4))
    spread = (pictures.amax(1) - pictures.amin(1))[1]
    torch.testing.assert_close((faded.amax(1) - faded.amin(1))[1], spread / 2)


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


def test_the_loss_asks_both_towers_and_fades_a_share():
    options = {"length": 24, "contradictions": 2, "read": 1.0, "faded": 0.5}
    task = build(Recipe(task="diorama-clip", steps=1, batch_size=24, options=options))
    said = task.loss(list(range(24)), 0, KeyedNoise(0, 0))
    said["loss"].backward()
    assert {"placed_seen", "placed_read", "contradicted"} <= set(said)
    for module in (task.clip.vision_model, task.clip.text_model, task.reader):
        assert any(p.grad is not None and p.grad.abs().sum() > 0 for p in module.parameters())
    noise = KeyedNoise(0, 0)
    faded = [task.fades(i, noise) for i in range(24)]
    assert 4 < sum(faded) < 20
    for index, fades in enumerate(faded):
        colours = any(
            "colour" in o
            for o in parse_caption(task.words(index, noise).removeprefix("a photo of ").rstrip(".")).objects
        )
        assert colours != fades and not (fades and task.false_words(index, noise))
    pictures, shown = task._pictures(list(range(24)), noise)
    same = (pictures == task.images.pictures(range(24))).flatten(1).all(1)
    assert shown == faded and [not s for s in same.tolist()] == faded
