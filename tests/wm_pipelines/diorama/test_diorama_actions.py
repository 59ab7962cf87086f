import json
import math
import re
from dataclasses import replace

import pytest

from wm_pipelines.diorama.action_words import parse, phrase
from wm_pipelines.diorama.actions import (
    ACTIONS,
    ANGLES,
    BESIDE,
    MOVES,
    PLACES,
    Action,
    apply,
    infer,
    inverse,
    look_the_same,
    placed,
    symmetry,
)
from wm_pipelines.diorama.primitives import DIRECTIONS, TURNS, Motion
from wm_pipelines.diorama.render import render
from wm_pipelines.diorama.scene import (
    COLOURS,
    MATERIALS,
    PATTERNS,
    SHAPES,
    SIZES,
    Camera,
    Light,
    Scene,
    SceneObject,
    clear_relations,
    sample_scene,
)
from wm_pipelines.diorama.words import VOCABULARY
from wm_pipelines.runtime.random import keyed


def proposals(scene: Scene, *key) -> list[Action]:
    """Actions of every kind, whether they can be done or not."""
    rng = keyed("proposals", *key)
    ids = [o.id for o in scene.objects]
    looks = [{"shape": s, "colour": c} for s in SHAPES for c in COLOURS]
    found = [Action("swap", a, other=b) for a in ids for b in ids if a < b]
    for id in ids:
        found += [Action("move", id, d, m) for d in DIRECTIONS for m in MOVES]
        found += [Action("turn", id, d, m) for d in TURNS for m in ANGLES]
        found += [Action("recolour", id, colour=c) for c in list(COLOURS)[: 2 + id]]
        found += [Action("resize", id, size=s) for s in SIZES] + [Action("remove", id)]
    for where, other in [(p, None) for p in PLACES] + [(r, id) for r in BESIDE for id in ids]:
        kinds = {"size": tuple(SIZES), "pattern": PATTERNS, "material": MATERIALS}
        look = looks[rng.integers(len(looks))] | {k: v[rng.integers(len(v))] for k, v in kinds.items()}
        new = SceneObject(id=max(ids, default=0) + 1, **look)
        found.append(Action("add", new.id, new=placed(scene, new, where, other)))
    return found


def steps(scene: Scene, *key) -> list[tuple[Action, Scene]]:
    """The actions that can be done, with the states that they lead to."""
    found = []
    for action in proposals(scene, *key):
        try:
            found.append((action, apply(scene, action)))
        except ValueError:
            pass
    return found


@pytest.fixture(scope="module")
def worlds():
    """(scene, some of its steps) of many keys."""
    scenes = [sample_scene("actions", i, composition="all") for i in range(24)]
    return [(scene, steps(scene, i)[i % 4 :: 4]) for i, scene in enumerate(scenes)]


def visible_turn(o: SceneObject, degrees: float) -> bool:
    """Whether a turn shows and no other turn by one of `ANGLES` looks the same."""
    if o.shape != "cube" and o.pattern == "plain":
        return False
    period = {"cube": 90 if o.pattern == "plain" else 180}.get(o.shape, 60)
    return degrees % period and 2 * degrees % period != 0


def test_what_was_done_can_be_told_from_the_two_states(worlds):
    seen = set()
    for scene, done in worlds:
        for action, after in done:
            hidden = action.kind == "turn" and not visible_turn(scene.object(action.object), action.amount)
            assert infer(scene, after) == (None if hidden else action)
            seen |= set() if hidden else {(action.kind, action.direction, action.amount)}
    # nothing can go down before it went up
    expected = {("move", d, m) for d in DIRECTIONS for m in MOVES if d != "down"}
    expected |= {("turn", d, m) for d in TURNS for m in ANGLES}
    assert seen == expected | {(kind, None, None) for kind in ACTIONS if kind not in ("move", "turn")}


def test_the_way_back_leads_to_the_same_bits(worlds):
    for scene, done in worlds:
        for action, after in done:
            back = inverse(action, scene)
            assert apply(after, back).to_json() == scene.to_json()
            assert inverse(back, after) == action


def test_an_action_changes_what_it_names_and_nothing_else(worlds):
    axes = {"right": (1, 0, 0), "away": (0, 1, 0), "up": (0, 0, 1), "left": (-1, 0, 0), "towards": (0, -1, 0)}
    for scene, done in worlds:
        before = scene.to_json()
        for action, after in done:
            named = {action.object, action.other}
            assert [o for o in after.objects if o.id not in named] == [o for o in scene.objects if o.id not in named]
            assert replace(after, objects=()) == replace(scene, objects=())
            if action.kind in ("add", "remove"):
                assert len(after.objects) - len(scene.objects) == (1 if action.kind == "add" else -1)
                continue
            was, now = scene.object(action.object), after.object(action.object)
            if action.kind == "swap":
                other = scene.object(action.other)
                assert (now, after.object(other.id)) == (
                    replace(was, position=other.position),
                    replace(other, position=was.position),
                )
            elif action.kind == "recolour":
                assert now == replace(was, colour=action.colour)
            elif action.kind == "resize":
                assert now == replace(was, size=action.size)
            elif action.kind == "move":
                way = [b - a for a, b in zip(was.position, now.position, strict=True)]
                assert way == pytest.approx([action.amount * c for c in axes[action.direction]])
                assert now == replace(was, position=now.position)
            else:
                sign = 1 if action.direction == "counterclockwise" else -1
                assert math.degrees(now.yaw - was.yaw) == pytest.approx(sign * action.amount)
                assert now == replace(was, yaw=now.yaw)
        assert scene.to_json() == before


def test_json_goes_both_ways(worlds):
    for _, done in worlds[:6]:
        for action, _ in done:
            text = action.to_json()
            assert Action.from_json(text) == action and Action.from_json(text).to_json() == text
            assert None not in json.loads(text).values()


def test_every_wording_is_in_the_vocabulary_and_leads_to_the_same_bits(worlds):
    wordings: dict[str, set] = {kind: set() for kind in ACTIONS}
    for n, (scene, done) in enumerate(worlds):
        for m, (action, after) in enumerate(done):
            for seed in (0, 1 + 99 * n + m, 50 + 99 * n + m):
                text = phrase(action, scene, seed)
                assert set(text.split()) <= set(VOCABULARY)
                said = parse(text, scene)
                assert said == action
                wordings[action.kind].add(text)
            assert parse(f"  {text.upper().replace(' ', '  ')}.\n", scene) == action
            assert phrase(action, scene, seed) == text
            assert apply(scene, said).to_json() == after.to_json()
    assert all(len(found) > 15 for found in wordings.values())
    text = " | ".join(set.union(*wordings.values()))
    forms = "a little to the left|left a little|far away|seen from above|replace the|one|make the|is removed"
    forms += "|swap the|in the back on the left|on the left in the back|to the right of|right of|behind|in front of"
    assert [form for form in forms.split("|") if form not in text] == []


def test_one_seed_is_the_plainest_and_others_paraphrase():
    red, blue = SceneObject(1, "cube", "red"), SceneObject(2, "sphere", "blue", "small", position=(1.5, 0.5, 0.0))
    scene = Scene((red, blue))
    plain = {
        "move the red cube a little to the left": Action("move", 1, "left", 0.5),
        "move the blue sphere away from the camera": Action("move", 2, "away", 1.0),
        "move the red cube far towards the camera": Action("move", 1, "towards", 1.5),
        "turn the red cube a little clockwise": Action("turn", 1, "clockwise", 15.0),
        "turn the red cube counterclockwise": Action("turn", 1, "counterclockwise", 30.0),
        "make the red cube orange": Action("recolour", 1, colour="orange"),
        "make the blue sphere large": Action("resize", 2, size="large"),
        "remove the blue sphere": Action("remove", 2),
        "swap the red cube and the blue sphere": Action("swap", 2, other=1),
    }
    for text, action in plain.items():
        assert phrase(action, scene) == text and parse(text, scene) == action
        assert len({phrase(action, scene, seed) for seed in range(40)}) > 4
    texts = {phrase(Action("recolour", 1, colour="orange"), scene, seed) for seed in range(60)}
    assert texts >= {"make the red cube orange", "turn the red cube orange", "replace the red cube with an orange one"}
    assert texts >= {"make the cube orange", "make the large object orange"}
    cone = SceneObject(3, "cone", "green", "small", material="shiny")
    beside = Action("add", 3, new=placed(scene, cone, "left of", 1))
    assert phrase(beside, scene) == "add a small shiny green cone left of the red cube"
    corner = Action("add", 3, new=placed(scene, replace(cone, material="matte"), "back left"))
    texts = {phrase(corner, scene, seed) for seed in range(60)}
    assert texts >= {f"add a small {m}green cone in the back on the left" for m in ("", "matte ")}
    twin = Action("add", 3, new=placed(scene, replace(blue, id=3), "left"))
    assert phrase(twin, scene) == "add another small blue sphere on the left"


def mirrored(scene: Scene) -> Scene:
    """Left and right exchanged. The stripes are left as they are: no turn of a striped cube is its mirror image."""
    x, y, z = scene.light.direction
    objects = (replace(o, position=(-o.position[0], *o.position[1:]), yaw=-o.yaw) for o in scene.objects)
    return replace(scene, objects=tuple(objects), light=replace(scene.light, direction=(-x, y, z)))


def mirrored_action(action: Action) -> Action:
    other = {"left": "right", "clockwise": "counterclockwise"}
    other |= {b: a for a, b in other.items()}
    if action.kind == "add":
        return replace(action, new=mirrored(Scene((action.new,))).objects[0])
    return replace(action, direction=other.get(action.direction, action.direction))


def test_a_mirrored_scene_has_the_mirrored_action(worlds):
    for scene, done in worlds:
        for _, after in done:
            found = infer(scene, after)
            assert infer(mirrored(scene), mirrored(after)) == (found and mirrored_action(found))
    scene = sample_scene("mirror", 0, num_objects=3, patterns=("plain",))
    pictures = render([scene, mirrored(scene)], size=33, maps=("rgb",)).rgb[:, 0]
    assert (pictures[0] - pictures[1].flip(-1)).abs().max() < 1e-3


def test_words_of_place_and_direction_mirror_too():
    scene = sample_scene("mirrored words", 4, num_objects=2, patterns=("plain",))
    swap = {"left": "right", "right": "left", "clockwise": "counterclockwise", "counterclockwise": "clockwise"}
    for action, _ in steps(scene, 0):
        if action.new is None or action.new.pattern == "plain":
            text = phrase(action, scene)
            turned = " ".join(swap.get(word, word) for word in text.split())
            assert look_the_same(
                mirrored(apply(scene, parse(text, scene))), apply(mirrored(scene), parse(turned, mirrored(scene)))
            )


def test_directions_are_those_of_the_camera():
    """A scene and its camera turned about the world's axis have the same actions, turned."""

    def about_z(p, angle):
        c, s = math.cos(angle), math.sin(angle)
        return (c * p[0] - s * p[1], s * p[0] + c * p[1], p[2])

    def turned(scene, angle):
        objects = tuple(replace(o, position=about_z(o.position, angle), yaw=o.yaw + angle) for o in scene.objects)
        camera = replace(
            scene.camera, eye=about_z(scene.camera.eye, angle), target=about_z(scene.camera.target, angle)
        )
        return replace(scene, objects=objects, camera=camera)

    scene = sample_scene("turned", 1, num_objects=2)
    for angle in (math.pi / 2, 2.0):
        for action, after in steps(scene, 1):
            text = phrase(action, scene, 3)
            reached = apply(turned(scene, angle), parse(text, turned(scene, angle)))
            for a, b in zip(reached.objects, turned(after, angle).objects, strict=True):
                assert a.position == pytest.approx(b.position, abs=1e-5)
                assert math.remainder(a.yaw - b.yaw, 2 * math.pi) == pytest.approx(0, abs=1e-5)


def test_symmetry_is_the_smallest_turn_that_does_not_show():
    for shape in SHAPES:
        for pattern in PATTERNS:
            o = SceneObject(1, shape, "yellow", pattern=pattern, yaw=0.4)
            period = symmetry(o)
            angles = [period * k for k in (1, 2, -1)] + [period / k for k in (2, 3)] if period else [7.0, 50.0, 131.0]
            scenes = [Scene((replace(o, yaw=o.yaw + math.radians(a)),)) for a in (0, *angles)]
            pictures = render(scenes, size=40, maps=("rgb",)).rgb[:, 0]
            changed = [int(((p - pictures[0]).abs().amax(0) > 0.05).sum()) for p in pictures[1:]]
            # a ray on the edge of a stripe may fall to either side
            assert max(changed[:3]) <= 3 and (not period or min(changed[3:]) > 15)
            assert all(look_the_same(scenes[0], s) for s in scenes[1:4])
            assert not period or not any(look_the_same(scenes[0], s) for s in scenes[4:])


def pair(**second) -> Scene:
    first = SceneObject(1, "sphere", "red", "small", position=(-1.2, 0.0, 0.0))
    return Scene((first, replace(first, id=2, **{"position": (1.2, 0.0, 0.0), **second})))


def test_nothing_is_inferred_where_nothing_shows_or_more_than_one_thing_happened():
    scene = pair(colour="blue")
    assert infer(scene, scene) is None
    for action in (Action("turn", 1, "clockwise", 15.0), Action("turn", 2, "counterclockwise", 30.0)):
        assert infer(scene, apply(scene, action)) is None
    assert infer(pair(), apply(pair(), Action("swap", 1, other=2))) is None
    assert infer(pair(), replace(pair(), objects=pair().objects[::-1])) is None
    striped = pair(pattern="striped")
    assert infer(striped, apply(striped, Action("turn", 2, "clockwise", 30.0))) is None
    assert infer(striped, apply(striped, Action("turn", 2, "clockwise", 15.0))) is not None
    cube = Scene((SceneObject(1, "cube", "red"),))
    for degrees in (90, 180, 270):
        assert infer(cube, Scene((replace(cube.objects[0], yaw=math.radians(degrees)),))) is None
    both = apply(apply(scene, Action("recolour", 1, colour="green")), Action("recolour", 2, colour="white"))
    assert infer(scene, both) is None
    moved = replace(scene.objects[0], position=(-1.2, 0.3, 0.0))
    assert infer(scene, replace(scene, objects=(moved, scene.objects[1]))) is None
    assert infer(scene, replace(scene, objects=())) is None
    after = apply(scene, Action("remove", 1))
    for change in ({"camera": Camera(fov_deg=50)}, {"light": Light(ambient=0.2)}, {"fps": 9.0}):
        assert infer(scene, replace(after, **change)) is None
    assert infer(scene, replace(scene, objects=(replace(scene.objects[0], shape="cone"), scene.objects[1]))) is None


def test_rounding_does_not_hide_an_action():
    scene = pair(position=(0.3, 0.1, 0.0), yaw=0.7, shape="cube")
    for action, after in steps(scene, 2):
        off = tuple(replace(o, position=tuple(c + 1e-8 for c in o.position), yaw=o.yaw + 1e-8) for o in after.objects)
        if action.kind not in ("add", "turn"):
            assert infer(scene, replace(after, objects=off)) == action
        assert look_the_same(apply(after, inverse(action, scene)), scene)


@pytest.mark.parametrize(
    ("action", "message"),
    [
        (Action("remove", 7), "no object 7; this scene has [1, 2]"),
        (Action("swap", 1, other=7), "no object 7"),
        (Action("recolour", 1, colour="red"), "the small red sphere (object 1) is red already"),
        (Action("resize", 1, size="small"), "is small already"),
        (Action("move", 1, "left", 1.5), "the small red sphere (object 1) would leave the picture"),
        (Action("move", 1, "down", 0.5), "would sink into the floor"),
        (Action("move", 1, "right", 1.5), "would meet the small blue sphere (object 2)"),
        (Action("add", 2, new=SceneObject(2, "cone", "red")), "there is an object 2 already"),
        (Action("add", 3, new=SceneObject(3, "cone", "red", position=(1.0, 0.2, 0.0))), "would meet"),
        (Action("add", 3, new=SceneObject(3, "cone", "red", position=(0.0, -9.0, 0.0))), "would leave the picture"),
        (Action("add", 3, new=SceneObject(3, "cone", "red", position=(0.0, -6.4, 2.9))), "would leave the picture"),
    ],
)
def test_what_can_not_be_done_is_refused(action, message):
    scene = pair(colour="blue", position=(0.6, 0.0, 0.0))
    with pytest.raises(ValueError, match=re.escape(message)):
        apply(scene, action)
    with pytest.raises(ValueError, match=re.escape(message)):
        inverse(action, scene)


def test_a_solid_may_stand_over_another_and_grow_only_where_there_is_room():
    near = pair(position=(0.0, 0.3, 0.0))
    assert apply(near, Action("move", 1, "up", 1.0)).object(1).position == (-1.2, 0.0, 1.0)
    over = apply(apply(near, Action("move", 1, "up", 1.0)), Action("move", 1, "right", 1.0))
    assert over.object(1).position == pytest.approx((-0.2, 0.0, 1.0))
    with pytest.raises(ValueError, match="would meet"):
        apply(over, Action("move", 1, "down", 0.5))
    tight = Scene((SceneObject(1, "cube", "red", "small"), SceneObject(2, "cone", "blue", position=(1.65, 0.0, 0.0))))
    with pytest.raises(ValueError, match="would meet"):
        apply(tight, Action("resize", 1, size="large"))
    assert apply(tight, Action("resize", 2, size="small")).object(2).radius == 0.5


def test_motions_go_on_from_the_new_place_and_orbits_keep_their_centre():
    scene = pair(motion=(Motion("orbit", 0, 4, "clockwise", 0.5, about=1),))
    moved = apply(scene, Action("move", 2, "towards", 0.5))
    assert moved.object(2).motion == scene.object(2).motion
    with pytest.raises(ValueError, match=re.escape("(object 1) can't be removed: the small red sphere")):
        apply(scene, Action("remove", 1))
    gone = apply(scene, Action("remove", 2))
    assert apply(gone, inverse(Action("remove", 2), scene)) == scene
    with pytest.raises(ValueError, match="no words say"):
        phrase(Action("add", 2, new=scene.object(2)), gone)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"kind": "throw"}, "`kind` is 'throw'; allowed: move, turn"),
        ({"kind": "move", "direction": "left"}, "`amount` of 'move' is None"),
        ({"kind": "move", "direction": "left", "amount": 0.7}, "`amount` is 0.7; allowed: 0.5, 1.0, 1.5"),
        ({"kind": "move", "direction": "left", "amount": True}, "`amount` is True"),
        ({"kind": "move", "direction": "clockwise", "amount": 0.5}, "`direction` is 'clockwise'; allowed: left"),
        ({"kind": "turn", "direction": "left", "amount": 15.0}, "`direction` is 'left'; allowed: clockwise"),
        ({"kind": "turn", "direction": "clockwise", "amount": 0.5}, "`amount` is 0.5; allowed: 15.0, 30.0"),
        ({"kind": "recolour", "colour": "pink"}, "`colour` is 'pink'; allowed: red"),
        ({"kind": "resize", "size": "huge"}, "`size` is 'huge'; allowed: small, large"),
        ({"kind": "remove", "colour": "red"}, "`colour` of 'remove' is 'red'"),
        ({"kind": "remove", "object": 0}, "`object` is 0"),
        ({"kind": "remove", "object": None}, "`object` of 'remove' is None"),
        ({"kind": "swap", "other": 1}, "`other` is 1, the `object` itself"),
        ({"kind": "swap", "other": "2"}, "`other` is '2'"),
        ({"kind": "add"}, "`new` of 'add' is None"),
        ({"kind": "add", "new": SceneObject(2, "cone", "red")}, "it must be a SceneObject with the id 1"),
        ({"kind": "add", "new": "a red cube"}, "it must be a SceneObject with the id 1"),
    ],
)
def test_an_action_has_the_fields_of_its_kind(fields, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        Action(**{"object": 1, **fields})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"kind": "remove", "object": 1}', "`diorama` version is None"),
        ('{"diorama": 1, "kind": "remove", "object": 1, "who": 2}', "unknown field 'who'"),
        ('{"diorama": 1, "object": 1}', "field 'kind' is missing"),
        ('{"diorama": 1, "kind": "add", "object": 1, "new": {"id": 1, "shape": "cone"}}', "field 'colour' is missing"),
        ('["remove"]', "an action is a JSON object"),
    ],
)
def test_json_of_something_else_is_refused(text, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        Action.from_json(text)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("remove the red cone", "'the red cone' is not there; there is a small plain matte red sphere, a small"),
        ("remove the sphere", "'the sphere' fits 2 objects; there is a small plain matte red sphere, a small"),
        ("remove the red sphere right of the blue sphere", "'the red sphere right of the blue sphere' is not there"),
        ("remove the rad sphere", "'rad' is not a word of this language; the nearest is 'red'"),
        ("remove", "expected a noun phrase such as 'small red cube' at the end, after 'remove'"),
        ("remove the red", "expected a noun phrase"),
        ("remove the red red sphere", "expected a noun phrase"),
        ("remove the red sphere the blue sphere", "expected the end before 'the'"),
        ("remove the red sphere. remove", "expected the end before 'remove'"),
        ("move the red sphere", "expected one of to the left, left"),
        ("move the red sphere clockwise", "expected one of to the left, left"),
        ("turn the red sphere left", "expected one of clockwise"),
        ("turn the red sphere far clockwise", "expected one of clockwise"),
        ("make the red sphere shiny", "expected a colour or a size before 'shiny'"),
        ("turn the red sphere small", "expected one of clockwise"),
        ("replace the red sphere with blue", "expected 'with a' before 'with'"),
        ("replace the red sphere with a blue cube", "expected 'one' before 'cube'"),
        ("swap the red sphere", "expected 'and' or 'with' at the end"),
        ("swap the red sphere with the red sphere", "the `object` itself"),
        ("the red sphere is moving", "expected 'is removed' before 'is'"),
        ("add a red cube", "a new object needs size, colour and shape; 'red cube' has no size"),
        ("add a small red object in front", "'small red object' has no shape"),
        ("add a small red cube", "expected where: on the left, on the right, in front, in the back, left of"),
        (
            "add a small red cube on the left on the right",
            "no place of the frame is both on the left and on the right",
        ),
        ("add a small red cube in front in front", "no place of the frame is both"),
        ("add a small red cube behind the cone", "'the cone' is not there"),
        ("add small red cube in front", "expected 'a', 'an' or 'another'"),
        ("push the red sphere", "expected move, turn, make, replace, remove, add, swap or an object that is removed"),
        ("", "expected move, turn"),
    ],
)
def test_what_no_action_says_is_refused(text, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        parse(text, pair(colour="blue"))
    if "the red cone" in text:
        with pytest.raises(ValueError, match="there is nothing"):
            parse(text, Scene())


def test_twins_are_told_apart_by_what_differs_or_by_a_relation():
    assert phrase(Action("remove", 1), pair(size="large")) == "remove the small red sphere"
    assert phrase(Action("remove", 1), pair(pattern="striped")) == "remove the plain red sphere"
    assert phrase(Action("remove", 2), pair(material="shiny")) == "remove the shiny red sphere"
    blue = SceneObject(3, "cube", "blue", position=(0.0, 0.0, 0.0))
    scene = replace(pair(), objects=(*pair().objects, blue))
    for id, word in ((1, "left of"), (2, "right of")):
        texts = {phrase(Action("remove", id), scene, seed) for seed in range(30)}
        assert f"remove the small plain matte red sphere {word} the blue cube" in texts
        assert all(parse(text, scene) == Action("remove", id) for text in texts)
    with pytest.raises(ValueError, match="no words tell object 1 from another small plain matte red sphere"):
        phrase(Action("remove", 1), pair())
    behind = replace(scene, objects=(*scene.objects[:1], replace(scene.objects[1], position=(-1.2, 1.5, 0.0)), blue))
    assert parse("make the red sphere behind the blue cube white", behind) == Action("recolour", 2, colour="white")


def test_additions_that_words_do_not_say_are_refused():
    scene = pair(colour="blue")
    cone = SceneObject(3, "cone", "green", position=(0.1, 0.2, 0.0))
    with pytest.raises(ValueError, match=re.escape("no words say that a cone is added at (0.1, 0.2, 0.0)")):
        phrase(Action("add", 3, new=cone), scene)
    with pytest.raises(ValueError, match="gets the id 3, this one has 5"):
        phrase(Action("add", 5, new=placed(scene, replace(cone, id=5), "front")), scene)
    with pytest.raises(ValueError, match="`where` is 'above'; allowed: left of"):
        placed(scene, cone, "above", 1)
    with pytest.raises(ValueError, match="`where` is 'middle'; allowed: left, right, front"):
        placed(scene, cone, "middle")
    empty = Scene()
    new = parse("add a large striped white cube in front on the right", empty)
    assert new.object == 1 and apply(empty, new).objects == (new.new,)


def test_an_addition_is_where_its_words_say(worlds):
    said = set()
    for scene, done in worlds:
        for action, after in done:
            for other in scene.objects if action.kind == "add" else ():
                for relation in BESIDE:
                    if placed(scene, action.new, relation, other.id) == action.new:
                        assert (relation, action.object, other.id) in clear_relations(after)
                        said.add(relation)
    assert said == set(BESIDE)
