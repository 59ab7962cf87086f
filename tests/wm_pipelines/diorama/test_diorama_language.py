import re
from dataclasses import replace

import pytest

from wm_pipelines.diorama.language import DETAILS, MAX_TOKENS, Caption, caption, scene_graph
from wm_pipelines.diorama.motion import sample_motion, scene_at
from wm_pipelines.diorama.parser import SaidMotion, parse_caption
from wm_pipelines.diorama.primitives import Motion
from wm_pipelines.diorama.scene import (
    COLOURS,
    MATERIALS,
    PATTERNS,
    SHAPES,
    SIZES,
    Camera,
    Scene,
    SceneObject,
    clear_relations,
    sample_scene,
)
from wm_pipelines.diorama.words import VOCABULARY

INVERSE = {
    "left of": "right of",
    "right of": "left of",
    "behind": "in front of",
    "in front of": "behind",
    "above": "below",
    "below": "above",
}


def check(scene: Scene, said: Caption, detail: str):
    """The caption parses back to the state; returns the parse and the ids in its order."""
    parsed = parse_caption(said.text)
    ids = sorted(said.spans, key=lambda id: said.spans[id])
    assert len(ids) == len(scene.objects) == len(parsed.objects)
    assert parsed.spans == tuple(said.spans[id] for id in ids)
    for id, attributes in zip(ids, parsed.objects, strict=True):
        o = scene.object(id)
        assert all(getattr(o, kind) == value for kind, value in attributes.items())
        assert {"colour", "shape"} <= attributes.keys()
        if detail != "objects":
            state = {"size": o.size, "pattern": o.pattern, "material": o.material}
            assert {"pattern": "plain", "material": "matte"} | attributes == attributes | state
    clear = clear_relations(scene)
    for a, predicate, b in parsed.relations:
        assert (predicate, ids[a], ids[b]) in clear
    return parsed, ids


def test_vocabulary_is_closed_and_small():
    assert len(VOCABULARY) == len(set(VOCABULARY)) < 160
    for words in (SHAPES, COLOURS, SIZES, PATTERNS, MATERIALS):
        assert set(words) <= set(VOCABULARY)


def test_captions_of_many_scenes_parse_back_to_the_state():
    forms = set()
    for i in range(200):
        scene = sample_scene("language", i, composition="all")
        for detail in DETAILS:
            said = caption(scene, detail, seed=i)
            parsed, _ = check(scene, said, detail)
            words = re.findall(r"\w+", said.text)
            assert set(words) <= set(VOCABULARY) and len(words) <= MAX_TOKENS
            if detail == "full":
                forms |= {predicate for _, predicate, _ in parsed.relations}
                # two objects with a clear relation are always related
                assert len(scene.objects) != 2 or not clear_relations(scene) or len(parsed.relations) == 1
            else:
                assert parsed.relations == ()
    assert forms >= {"left of", "right of", "behind", "in front of"}


def test_the_seed_paraphrases_and_repeats():
    scene = sample_scene("paraphrase", 2, num_objects=3)
    texts = {caption(scene, "full", seed).text for seed in range(40)}
    assert len(texts) > 10
    assert caption(scene, "full", 5) == caption(scene, "full", 5)
    assert any(" to the left of " in text or " to the right of " in text for text in texts)


def pair(**second) -> Scene:
    first = SceneObject(1, "cube", "red", "small", position=(-1.2, 0.0, 0.0))
    return Scene((first, replace(first, id=2, position=(1.2, 0.0, 0.0), **second)))


def test_things_and_relations_are_said_in_all_their_forms_and_no_others():
    assert caption(Scene((SceneObject(1, "cube", "red"),)), "objects").text == "a red cube"
    scene = pair(shape="sphere", colour="blue", size="large")
    assert {caption(scene, "objects", s).text for s in range(9)} == {
        "a red cube and a blue sphere",
        "a blue sphere and a red cube",
    }
    assert {caption(scene, "objects", s, relations=True).text for s in range(30)} == {
        "a red cube left of a blue sphere",
        "a red cube to the left of a blue sphere",
        "a blue sphere right of a red cube",
        "a blue sphere to the right of a red cube",
    }
    assert caption(Scene((SceneObject(1, "cone", "orange"),)), "objects").text == "an orange cone"
    assert caption(Scene()) == Caption("an empty scene", {})
    assert parse_caption("an empty scene").objects == ()


@pytest.mark.parametrize("kind", ["size", "pattern", "material"])
def test_equal_colour_and_shape_are_told_apart_where_they_differ(kind):
    value = {"size": "large", "pattern": "striped", "material": "shiny"}[kind]
    scene = pair(**{kind: value})
    said = caption(scene, "objects", relations=True)
    parsed, ids = check(scene, said, "objects")
    assert parsed.objects[ids.index(2)][kind] == value
    assert parsed.objects[0] != parsed.objects[1]


def test_twins_are_another_one_and_keep_their_own_spans():
    said = caption(pair(), "objects", relations=True)
    assert re.fullmatch(r"a red cube (to the )?(left|right) of another red cube", said.text)
    first = min(said.spans, key=lambda id: said.spans[id])
    assert said.text[slice(*said.spans[first])] == "a red cube"
    assert first == (1 if "left" in said.text else 2)
    assert len(parse_caption(said.text).objects) == 2


def test_relations_have_a_margin_and_an_inverse():
    for i in range(30):
        clear = clear_relations(sample_scene("relations", i, num_objects=4, composition="all"))
        for predicate, a, b in clear:
            assert (INVERSE[predicate], b, a) in clear
            assert (predicate, b, a) not in clear
    near = Scene((SceneObject(1, "cube", "red"), SceneObject(2, "cube", "blue", position=(0.3, 0.1, 0.0))))
    assert clear_relations(near) == set()
    assert parse_caption(caption(near).text).relations == ()


def mover(id: int, x: float, *motion: Motion, **fields) -> SceneObject:
    looks = {"shape": SHAPES[id % 4], "colour": list(COLOURS)[id]}
    return SceneObject(id, **(looks | fields), position=(x, 0.0, 0.0), motion=motion)


def test_motion_words():
    red = mover(1, -1.2, Motion("translate", 0, 8, "right", 0.5), Motion("stop", 8, 12), shape="cube", colour="red")
    blue = SceneObject(2, "sphere", "blue", position=(1.2, 0, 0))
    texts = {caption(Scene((red, blue)), "full", s).text for s in range(30)}
    assert "a large red cube left of a large blue sphere, moving right, then stopping" in texts
    assert "a large blue sphere right of a large red cube moving right, then stopping" in texts
    assert "moving" not in caption(Scene((red, blue)), "attributes").text
    alone = Scene((red,), Camera(motion=(Motion("orbit", 0, 15, "clockwise", 0.1),)))
    text = "a large red cube moving right, then stopping, and the camera orbiting clockwise"
    assert text in {caption(alone, seed=s).text for s in range(9)}


def test_motions_of_many_scenes_parse_back_to_the_state():
    kinds = set()
    for i in range(40):
        scene = sample_motion(sample_scene("spoken motion", i), "spoken motion", i, camera=i % 3 == 0)
        said = caption(scene, "full", seed=i)
        parsed, ids = check(scene, said, "full")
        assert len(re.findall(r"\w+|,", said.text)) <= MAX_TOKENS
        for id, motions in zip(ids, parsed.motions, strict=True):
            state = scene.object(id).motion
            assert [m.kind for m in motions] == [m.kind for m in state]
            assert [m.direction for m in motions] == [m.direction for m in state]
            assert [m.joint for m in motions] == ["", "then"][: len(state)]
            assert [None if m.about is None else ids[m.about] for m in motions] == [m.about for m in state]
            kinds |= {m.kind for m in motions}
        assert [(m.kind, m.direction) for m in parsed.camera] == [(m.kind, m.direction) for m in scene.camera.motion]
    assert kinds >= {"translate", "turn", "bounce", "stop"}


def test_while_and_orbits_parse_back():
    red = mover(1, -1.0, Motion("orbit", 0, 9, "clockwise", 1.0, about=2), Motion("turn", 3, 9, "clockwise", 1.0))
    scene = Scene((red, mover(2, 1.0, Motion("translate", 2, 5, (1, 1, 0), 0.2))))
    for seed in range(12):
        said = caption(scene, "full", seed)
        parsed, ids = check(scene, said, "full")
        index = ids.index(1)
        assert parsed.motions[index] == (
            SaidMotion("orbit", "clockwise", ids.index(2)),
            SaidMotion("turn", "clockwise", joint="while"),
        )
        assert parsed.motions[1 - index] == (SaidMotion("translate"),)


def test_the_longest_caption_stays_within_the_text_encoder():
    def long(id, about):
        motion = (
            Motion("orbit", 0, 4, "counterclockwise", 0.3, about=about),
            Motion("translate", 4, 8, "towards", 0.2),
            Motion("turn", 8, 12, "counterclockwise", 0.2),
            Motion("stop", 12, 16),
        )
        if about is None:
            motion = motion[1:]
        looks = {"pattern": "striped", "material": "shiny", "shape": "cube", "colour": "red"}
        return mover(id, 1.1 * id - 2.75, *motion, **looks)

    camera = Camera(motion=(Motion("pan", 0, 8, "left", 0.1), Motion("stop", 8, 12)))
    scene = Scene((long(1, None), long(2, 1), long(3, 1), long(4, 2)), camera)
    for seed in range(20):
        said = caption(scene, "full", seed)
        assert len(re.findall(r"\w+|,", said.text)) <= MAX_TOKENS
        check(scene, said, "full")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a red cubes left of", "expected a noun phrase"),
        ("a rad cube", "'rad' is not a word of this language; the nearest is 'red'"),
        ("a red cube left a blue sphere", "expected a predicate"),
        ("a red cube, a blue cube, the cube moving left", "'the cube' may be any of 2"),
        ("a red cube and the second red cube", "refers to nothing"),
        ("a red small small cube", "expected a noun phrase"),
        ("a red cube moving left and moving right", "expected a noun phrase"),
        ("a red cube, the camera bouncing", "expected one of panning"),
        ("", "expected a noun phrase"),
        ("then stopping", "expected a noun phrase"),
        ("an empty scene, moving left", "something that moves"),
    ],
)
def test_what_is_outside_the_grammar_is_refused(text, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        parse_caption(text)


def test_free_order_case_missing_articles_and_references_are_read():
    parsed = parse_caption("Red small cube to the left of blue sphere. ")
    assert parsed.objects[0] == {"colour": "red", "size": "small", "shape": "cube"}
    assert parsed.objects[1] == {"colour": "blue", "shape": "sphere"}
    assert parsed.relations == ((0, "left of", 1),)
    text = "a red cube, another red cube, and the second red cube behind the first red cube"
    assert parse_caption(text).relations == ((1, "behind", 0),)


def test_unknown_detail_is_refused():
    with pytest.raises(ValueError, match="`detail` is 'everything'"):
        caption(Scene(), "everything")


def test_scene_graph_says_what_the_picture_shows():
    from wm_pipelines.diorama.render import render

    for i in range(6):
        scene = sample_motion(sample_scene("graph", i, num_objects=(2, 3, 4)), "graph", i)
        t = 7.0
        graph = scene_graph(scene, t, size=48)
        out = render(scene, (t,), 48, maps=("ids", "boxes", "depth"))
        clear = clear_relations(scene_at(scene, t))
        compiled = graph.compile(48, 48)
        for n, o in enumerate(scene.objects):
            node = next(node for node in graph.nodes if node.id == o.id)
            seen = out.ids[0, 0] == o.id
            assert node.mask.to_tensor().equal(seen) and compiled.masks[o.id].equal(seen)
            assert node.box == pytest.approx(out.boxes[0, 0, n].tolist())
            assert {o.size, o.colour, o.shape} <= {*node.attributes, node.name}
            assert 0 < node.depth - out.depth[0, 0][seen].min() < 1.0
        for edge in graph.edges:
            assert edge.predicate in ("left of", "right of", "in front of", "behind", "above")
            assert (edge.predicate, edge.subject, edge.object) in clear
        said = {frozenset((e.subject, e.object)) for e in graph.edges}
        assert said == {frozenset((a, b)) for _, a, b in clear}
        parsed = parse_caption(compiled.caption)
        order = sorted(compiled.spans, key=lambda id: compiled.spans[id])
        for (a, predicate, b), attributes in zip(parsed.relations, parsed.objects, strict=False):
            assert (predicate, order[a], order[b]) in clear
            assert attributes["colour"] in COLOURS
        assert [scene.object(id).colour for id in order] == [o["colour"] for o in parsed.objects]


def test_scene_graph_of_nothing_and_of_what_is_not_seen():
    assert scene_graph(Scene()).compile(8, 8).caption == "an empty scene"
    away = SceneObject(2, "cube", "blue", position=(0.0, 40.0, 0.0))
    behind = SceneObject(3, "sphere", "green", position=(0.0, -9.0, 0.0))
    graph = scene_graph(Scene((SceneObject(1, "cube", "red"), away, behind)), size=16)
    assert [n.id for n in graph.nodes] == [1]
