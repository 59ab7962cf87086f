"""Edits: each operation on the Gaussians, composed, undone, saved; selection; bad operations."""

import pytest
import torch

from wm_pipelines import Scene4D
from wm_pipelines.morpho4d.operations import Target, read_operations
from wm_pipelines.morpho4d.run import edit
from wm_pipelines.morpho4d.selection import TextQuery

CUBE, BALL = slice(12, 17), slice(17, 21)


def target(words="red cube"):
    return {"query": words}


def same(a, b, rows=slice(None)):
    names = ("means", "quats", "scales", "opacities", "sh", "features", "object_id")
    return all(torch.allclose(getattr(a, n)[rows], getattr(b, n)[rows], atol=1e-5) for n in names)


def test_remove_and_extract(scene):
    gone = scene.edit({"op": "remove", "target": target()})
    assert not gone.at(1).opacities[CUBE].any() and same(gone.at(1), scene.at(1), BALL)
    alone = scene.edit({"op": "extract", "target": target()})
    assert same(alone.at(1), scene.at(1), CUBE) and not alone.at(1).opacities[BALL].any()
    assert not alone.at(1).opacities[:12].any()
    kept = scene.edit({"op": "extract", "target": target(), "background": True})
    assert same(kept.at(1), scene.at(1), slice(0, 17)) and not kept.at(1).opacities[BALL].any()


def test_recolor(scene):
    green = scene.edit("paint the ball green").at(2)
    assert torch.allclose(green.rgb[BALL], torch.tensor([0.10, 0.58, 0.16]).expand(4, 3), atol=1e-5)
    assert same(green, scene.at(2), slice(0, 17))
    dark = scene.edit({"op": "recolor", "target": target(), "rgb": [0.5, 0.5, 0.5], "mode": "multiply"})
    before = 0.5 + 0.28209479 * scene.at(0).sh[CUBE, 0]
    after = 0.5 + 0.28209479 * dark.at(0).sh[CUBE, 0]
    assert torch.allclose(after, (before / 2).clamp(0, 1), atol=1e-5)


def test_move_now_later_and_evenly(scene):
    by = torch.tensor([0.5, -1.0, 2.0])
    moved = scene.edit({"op": "move", "target": target(), "by": by.tolist(), "start": 1, "end": 3})
    for time, share in ((0, 0.0), (1, 0.0), (2, 0.5), (3, 1.0), (4, 1.0)):
        assert torch.allclose(moved.at(time).means[CUBE], scene.at(time).means[CUBE] + share * by, atol=1e-5)
        assert same(moved.at(time), scene.at(time), BALL)
    late = scene.edit({"op": "move", "target": target(), "by": by.tolist(), "start": 2})
    assert same(late.at(1.9), scene.at(1.9)) and not same(late.at(2), scene.at(2))


def test_turning_keeps_the_middle_and_the_shape(scene):
    turned = scene.edit("rotate the cube by 90 degrees").at(1).means[CUBE]
    plain = scene.at(1).means[CUBE]
    assert torch.allclose(turned.mean(0), plain.mean(0), atol=1e-5)
    a, b = plain - plain.mean(0), turned - turned.mean(0)
    assert torch.allclose(b, torch.stack([-a[:, 1], a[:, 0], a[:, 2]], dim=1), atol=1e-5)


@pytest.mark.parametrize(
    "values, expected",
    [
        ({"rate": 0.5}, {0: 0, 2: 1, 4: 2}),
        ({"rate": 3}, {0: 0, 1: 3, 4: 4}),
        ({"offset": -2}, {0: 0, 1: 0, 3: 1}),
        ({"offset": 1}, {0: 1, 4: 4}),
        ({"reverse": True}, {0: 4, 1: 3, 4: 0}),
    ],
)
def test_retime(scene, values, expected):
    other = scene.edit({"op": "retime", "target": target(), **values})
    for shown, source in expected.items():
        assert same(other.at(shown), scene.at(source), CUBE) and same(other.at(shown), scene.at(shown), BALL)


def test_set_time(scene):
    held = scene.edit("freeze the ball at frame 2")
    everything = scene.edit("freeze everything at frame 3")
    for time in (0, 3.5):
        assert same(held.at(time), scene.at(2), BALL) and same(held.at(time), scene.at(time), CUBE)
        assert same(everything.at(time), scene.at(3))


def test_a_move_of_a_held_object_happens_at_the_time_that_is_shown_later(scene):
    """Operations act in the order in which they are given."""
    move = {"op": "move", "target": target(), "by": [1, 0, 0], "start": 0, "end": 4}
    hold = {"op": "set_time", "target": target(), "time": 1}
    moved_then_held, held_then_moved = scene.edit([move, hold]), scene.edit([hold, move])
    for time in (0, 2, 4):
        x = scene.at(1).means[CUBE, 0]
        assert torch.allclose(moved_then_held.at(time).means[CUBE, 0], x + 0.25, atol=1e-5)
        assert torch.allclose(held_then_moved.at(time).means[CUBE, 0], x + time / 4, atol=1e-5)


def test_duplicates_are_objects_of_their_own(scene):
    both = scene.edit("duplicate the red cube 1 m up")
    assert len(both) == len(scene) + 5 and both.names[3] == "red cube copy"
    for time in (0, 2.5):
        posed, plain = both.at(time), scene.at(time)
        assert same(posed, plain, slice(0, 21))
        assert torch.allclose(posed.means[21:], plain.means[CUBE] + torch.tensor([0.0, 0, 1]), atol=1e-5)
    alone = both.edit({"op": "remove", "target": {"object_id": 1}}).at(1)
    assert not alone.opacities[CUBE].any() and alone.opacities[21:].all()
    third = both.edit({"op": "duplicate", "target": {"object_id": 3}, "by": [0, 0, 1]})
    assert torch.allclose(third.at(1).means[26:], scene.at(1).means[CUBE] + torch.tensor([0.0, 0, 2]), atol=1e-5)


def test_scale(scene):
    big = scene.edit("make the ball twice as big").at(1)
    plain = scene.at(1)
    assert torch.allclose(big.scales[BALL], 2 * plain.scales[BALL])
    assert torch.allclose(big.means[BALL].std(0), 2 * plain.means[BALL].std(0), rtol=1e-4)
    assert torch.allclose(big.means[BALL, 2].min(), plain.means[BALL, 2].min(), atol=1e-5)


def test_directions_are_those_of_the_first_camera(scene):
    """It looks along +y."""
    ways = {"left": (-1, 0, 0), "right": (1, 0, 0), "up": (0, 0, 1), "down": (0, 0, -1), "away": (0, 1, 0)}
    for word, way in (ways | {"towards": (0, -1, 0)}).items():
        moved = scene.edit({"op": "move", "target": target(), "direction": word, "amount": 0.3}).at(0)
        shift = moved.means[CUBE] - scene.at(0).means[CUBE]
        assert torch.allclose(shift, 0.3 * torch.tensor(way).float().expand(5, 3), atol=1e-5), word


def test_edits_are_pure_logged_undone_and_saved(scene, tmp_path):
    before = {name: value.clone() for name, value in scene.gaussians.tensors().items()}
    edited = scene.edit("paint the cube blue and then duplicate the ball 1 m left; slow down the ball")
    assert all(torch.equal(value, before[name]) for name, value in scene.gaussians.tensors().items())
    assert not scene.edits and [e["operation"]["op"] for e in edited.edits] == ["recolor", "duplicate", "retime"]
    assert all(e["said"].startswith("paint") for e in edited.edits) and edited.edits[0]["chosen"] == 5
    assert same(edited.undo(3).at(2), scene.at(2)) and edited.undo(3).names == scene.names
    assert 3 in edited.undo(1).names
    with pytest.raises(ValueError, match="`count` is 4; the scene has 3 edits"):
        edited.undo(4)
    edited.save_pretrained(tmp_path)
    again = Scene4D.from_pretrained(tmp_path)
    assert again.edits == edited.edits and again.names == edited.names
    assert torch.equal(again.at(2.5).means, edited.at(2.5).means)
    assert same(again.undo(3).at(1), scene.at(1))


# --- selection -------------------------------------------------------------------------------------------------------


def test_by_words_synonyms_and_features(scene):
    assert scene.select("the ball").object_ids == [2] and scene.select("box").object_ids == [1]
    assert scene.select("floor").object_ids == [0] and scene.select("object").object_ids == [1, 2]
    chosen = scene.select("red cube", vote=False)
    assert chosen.count == 5 and chosen.margin > 0.1 and chosen.alive == 1
    assert torch.equal(chosen.mask >= 0.5, scene.select("red cube").mask >= 0.5)


def test_by_box_point_and_number(scene):
    posed = scene.at(2)
    low, high = posed.means[CUBE].amin(0) - 1e-3, posed.means[CUBE].amax(0) + 1e-3
    chosen = scene.select(Target(box=(tuple(low.tolist()), tuple(high.tolist())), time=2))
    inside = ((posed.means >= low) & (posed.means <= high)).all(-1)
    assert torch.equal(chosen.mask > 0, inside) and inside[CUBE].all()
    ids = scene.render(1, [2.0]).object_ids[0]
    for found in set(ids.unique().tolist()) - {0}:
        row, column = (ids == found).nonzero()[0].tolist()
        picked = scene.select(Target(point=(column + 0.5, row + 0.5), view=1, time=2))
        assert picked.object_ids == [found]
    assert scene.select(Target(object_id=2)).object_ids == [2]


def test_a_query_that_fits_nothing_names_what_there_is(scene):
    wanted = r"query 'cup' matched 0 of 21 Gaussians \(best '.*' 0\.\d\d\); known objects: red cube, blue sphere"
    with pytest.raises(ValueError, match=wanted):
        scene.edit("remove the cup")
    with pytest.raises(ValueError, match="object 9 matched 0 of 21 Gaussians; known objects"):
        scene.edit({"op": "remove", "target": {"object_id": 9}})
    with pytest.raises(ValueError, match="`point` is"):
        scene.select(Target(point=(99, 2)))


@pytest.mark.parametrize(
    "operations, complaint",
    [
        ([], "`operations` is"),
        ("x", "no rule reads 'x'"),
        ({"op": "explode"}, "explode"),
        ({"op": "remove"}, "target"),
        ({"op": "remove", "target": {}}, "exactly one"),
        ({"op": "remove", "target": {"query": "cube", "object_id": 1}}, "exactly one"),
        ({"op": "remove", "target": {"query": "cube"}, "amount": 1}, "amount"),
        ({"op": "recolor", "target": {"query": "cube"}, "rgb": [2, 0, 0]}, "rgb"),
        ({"op": "move", "target": {"query": "cube"}}, "direction"),
        ({"op": "move", "target": {"query": "cube"}, "direction": "left"}, "go together"),
        ({"op": "move", "target": {"query": "cube"}, "by": [0, 0, float("nan")]}, "by"),
        ({"op": "move", "target": {"query": "cube"}, "by": [0, 0, 1], "start": 3, "end": 2}, "`end` is 2"),
        ({"op": "scale", "target": {"query": "cube"}, "factor": 0}, "factor"),
        ({"op": "retime", "target": {"query": "cube"}, "rate": -1}, "rate"),
        ({"op": "recolor", "target": {"query": "cube"}, "rgb": "lambda c: c"}, "rgb"),
    ],
)
def test_bad_operations_are_named(scene, operations, complaint):
    with pytest.raises(ValueError, match=complaint):
        scene.edit(operations)


def test_json_comes_back_as_it_went(scene):
    for op in scene.edit("move the cube left by 0.2 m until frame 3, then shrink the ball by 20%").edits:
        assert read_operations(op["operation"])[0].op == op["operation"]["op"]


@pytest.mark.parametrize("inside", [".", "more", "more/still"])
def test_an_edit_into_its_own_scene_is_refused_and_the_scene_loads(scene, tmp_path, inside):
    scene.save_pretrained(tmp_path / "scene")
    with pytest.raises(ValueError, match="`out`.*lies in the scene"):
        edit(tmp_path / "scene", "remove the red cube", tmp_path / "scene" / inside)
    assert len(Scene4D.from_pretrained(tmp_path / "scene")) == len(scene)


@pytest.mark.parametrize(
    ("what", "message"),
    [
        ("remove the red cube and " * 500 + "remove the red cube", "`text` has .* at most 10,000"),
        ("remove the red cube and " * 200 + "remove the red cube", "`operations` has 201"),
        ([{"op": "remove", "target": {"query": "red cube"}}] * 101, "`operations` has 101"),
        (None, "`what` is None"),
        (3, "`what` is 3"),
    ],
)
def test_commands_without_end_and_none_are_refused(scene, what, message):
    with pytest.raises(ValueError, match=message):
        scene.edit(what)


def test_what_a_parser_is_and_gives_is_looked_at(scene):
    for parser, message in (("gpt", "`parser` is 'gpt'"), (lambda command, scene: None, "`what` is None")):
        with pytest.raises(ValueError, match=message):
            scene.edit("remove the red cube", parser=parser)


@pytest.mark.parametrize("given", [{"among": "red cube"}, {"among": [3]}, {"temperature": "0.1"}, {"temperature": 0}])
def test_a_text_query_of_another_kind_is_refused(given):
    with pytest.raises(ValueError, match=f"`{next(iter(given))}`"):
        TextQuery(lambda texts: torch.zeros(len(texts), 4), **given)
