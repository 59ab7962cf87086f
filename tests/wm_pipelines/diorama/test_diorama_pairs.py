import json
from collections import Counter

import numpy as np
import pytest
import torch
from PIL import Image

from wm_pipelines.diorama.action_words import parse
from wm_pipelines.diorama.actions import ACTIONS, Action, apply, infer, look_the_same
from wm_pipelines.diorama.datasets import DioramaDataset
from wm_pipelines.diorama.language import caption
from wm_pipelines.diorama.pair_sheet import write_pair_sheet
from wm_pipelines.diorama.pairs import MIN_CHANGED, Chain, chain_kinds, changed_pixels, sample_chain
from wm_pipelines.diorama.render import render
from wm_pipelines.diorama.scene import HELD_OUT, Scene, is_held_out
from wm_pipelines.diorama.words import VOCABULARY


@pytest.fixture(scope="module")
def pairs() -> list[Chain]:
    return [DioramaDataset("pairs", length=35).chain(i) for i in range(35)]


@pytest.fixture(scope="module")
def held() -> list[Chain]:
    data = DioramaDataset("pairs", split="test", composition="held_out", length=10)
    return [data.chain(i) for i in range(10)]


@pytest.fixture(scope="module")
def chains() -> list[Chain]:
    return [DioramaDataset("pairs", split="val", length=5, states=4).chain(i) for i in range(5)]


def test_every_action_of_every_chain_can_be_seen_and_told(pairs, held, chains):
    for n, chain in enumerate(pairs + held + chains):
        assert len(chain.states) == len(chain.actions) + 1 == (2 if n < len(pairs) + len(held) else 4)
        out = render(chain.states, size=64, maps=("rgb", "visible"))
        for i, (action, phrase) in enumerate(zip(chain.actions, chain.phrases(n), strict=True)):
            before, after = chain.states[i : i + 2]
            assert apply(before, action).to_json() == after.to_json()
            assert infer(before, after) == action and infer(after, before) is not None
            assert parse(phrase, before) == action and set(phrase.split()) <= set(VOCABULARY)
            assert changed_pixels(*out.rgb[i : i + 2, 0]) >= MIN_CHANGED
            assert out.visible[i + 1, 0, : len(after.objects)].min() >= 0.6
        for i, state in enumerate(chain.states):
            assert 1 <= len(state.objects) <= 4
            assert not any(look_the_same(state, other) for other in chain.states[:i])


def test_an_id_names_one_object_through_a_whole_chain(chains):
    for chain in chains:
        shapes: dict[int, str] = {}
        for state in chain.states:
            assert all(shapes.setdefault(o.id, o.shape) == o.shape for o in state.objects)
        for i, action in enumerate(chain.actions):
            if action.kind == "add":
                assert not any(o.id == action.object for state in chain.states[: i + 1] for o in state.objects)


def test_what_is_held_out_is_in_neither_state_of_training_and_in_all_of_its_test(pairs, held, chains):
    assert not any(is_held_out(state) for chain in pairs + chains for state in chain.states)
    looks = [{(o.colour, o.shape) for o in state.objects} for chain in held for state in chain.states]
    assert all(look and look <= HELD_OUT for look in looks) and len(set.union(*looks)) >= 6
    assert {"recolour", "add"} <= {chain.actions[0].kind for chain in held}


def test_no_state_comes_twice_nor_in_two_splits(pairs, held, chains):
    states = [state.to_json() for chain in pairs + held + chains for state in chain.states]
    assert len(set(states)) == len(states)


def test_kinds_have_equal_chances_and_options_are_kept(pairs):
    counts = Counter(chain.actions[0].kind for chain in pairs)
    assert set(counts) == set(ACTIONS) and max(counts.values()) <= 12  # 5 expected, 2.1 the standard deviation
    begin = Counter(len(chain.states[0].objects) for chain in pairs)
    assert set(begin) == {1, 2, 3, 4} and 0.6 < (begin[1] + begin[2]) / 35 < 0.95
    some = DioramaDataset("pairs", length=5, actions=("resize", "swap"), num_objects=3, patterns=("plain",))
    found = [some.chain(i) for i in range(5)]
    assert {chain.actions[0].kind for chain in found} == {"resize", "swap"}
    assert all(len(chain.states[0].objects) == 3 for chain in found)
    assert all(o.pattern == "plain" for chain in found for o in chain.states[0].objects)
    much = sample_chain("much", 1, actions=("recolour",), min_changed=300)
    assert changed_pixels(*render(much.states, size=64).rgb[:, 0]) >= 300
    assert len(sample_chain("all", 0, composition="all", states=3).states) == 3


def test_orders_of_kinds_are_those_that_there_is_room_for():
    assert len(chain_kinds(4)) == 7**3
    assert chain_kinds(2, ("remove", "add")) == {("remove",): (2, 3, 4), ("add",): (1, 2, 3)}
    assert chain_kinds(3, ("remove", "add"), 4) == {("remove", "remove"): (4,), ("remove", "add"): (4,)}
    assert chain_kinds(4, ("remove",)) == {("remove",) * 3: (4,)}
    # a second swap of two objects takes the first one back, and so does a second recolouring among two colours
    assert chain_kinds(3, ("swap",)) == {("swap", "swap"): (3, 4)}
    few = chain_kinds(3, ("recolour", "resize"), 1, "held_out")
    assert few.keys() == {("recolour", "resize"), ("resize", "recolour")}
    assert chain_kinds(3, ("add", "swap"), (1,)) == {("add", "add"): (1,), ("add", "swap"): (1,)}


def test_items_have_a_picture_for_each_state():
    data = DioramaDataset("pairs", split="test", length=4, size=20, states=3)
    item = data[2]
    assert set(item) == {
        *("index", "scene", "caption", "spans", "states", "actions", "phrases"),
        *("rgb", "ids", "depth"),
    }
    assert item["scene"] == item["states"][0] == data.scene(2) and len(item["states"]) == 3
    assert (item["states"], item["actions"]) == (data.chain(2).states, data.chain(2).actions)
    assert item["phrases"] == data.chain(2).phrases(2) and len(item["phrases"]) == 2
    assert item["rgb"].shape == (3, 3, 20, 20) and item["ids"].shape == item["depth"].shape == (3, 20, 20)
    assert item["caption"] == caption(item["scene"], seed=2).text
    for i, state in enumerate(item["states"]):
        out = render(state, size=20)
        assert all(torch.equal(item[name][i], getattr(out, name)[0, 0]) for name in ("rgb", "ids", "depth"))
    small = DioramaDataset("pairs", split="test", length=4, size=8, states=3)
    assert small.chain(2) == data.chain(2)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"states": 1}, "`states` is 1; allowed: 2, 3, 4, 5"),
        ({"states": 6}, "`states` is 6"),
        ({"actions": ()}, "`actions` is \\(\\); one or more of move, turn"),
        ({"actions": "move"}, "`actions` is 'move'"),
        ({"actions": ("move", "throw")}, "`actions` is"),
        ({"num_objects": 0}, "`num_objects` is 0; pairs have 1, 2, 3, 4"),
        ({"num_objects": (1, 2), "actions": ("remove",), "states": 3}, "`actions` has 'remove'; no chain"),
        ({"num_objects": 1, "actions": ("move", "swap")}, "`actions` has 'swap'; no chain"),
        ({"num_objects": 2, "actions": ("swap",), "states": 3}, "`actions` has 'swap'; no chain"),
        ({"num_objects": 4, "actions": ("move", "add")}, "`actions` has 'add'; no chain"),
        ({"min_changed": 0}, "`min_changed` is 0"),
        ({"same_shape": True}, "`same_shape` is for the other kinds"),
    ],
)
def test_bad_options_are_refused_by_name(arguments, message):
    with pytest.raises(ValueError, match=message):
        DioramaDataset("pairs", **arguments)


def test_what_never_shows_is_no_pair(monkeypatch):
    monkeypatch.setattr("wm_pipelines.diorama.pairs.TRIES", 1)
    with pytest.raises(ValueError, match="no scene has room for recolour with .* `min_changed` 4000"):
        sample_chain("never", 0, actions=("recolour",), min_changed=4000)


def test_the_sheet_has_every_kind_and_a_chain(tmp_path, capsys):
    out = tmp_path / "new" / "out"
    paths = write_pair_sheet(out, seed=3, size=16)
    assert sorted(p.name for p in out.iterdir()) == ["pairs.gif", "pairs.json", "pairs.png"]
    assert all(p.exists() for p in paths) and len(paths) == 3
    rows = json.loads((out / "pairs.json").read_text())
    said = capsys.readouterr().out
    for row in rows:
        states = [Scene.from_json(json.dumps(state)) for state in row["states"]]
        for i, (action, phrase) in enumerate(zip(row["actions"], row["phrases"], strict=True)):
            assert apply(states[i], Action.from_json(json.dumps(action))) == states[i + 1]
            assert apply(states[i], parse(phrase, states[i])) == states[i + 1] and phrase in said
    assert [row["actions"][0]["kind"] for row in rows[:-1]] == list(ACTIONS) and len(rows[-1]["states"]) == 4
    with Image.open(out / "pairs.gif") as gif:
        assert gif.n_frames == 4 and gif.size == (16, 16)
    with Image.open(out / "pairs.png") as image:
        sheet = np.asarray(image.convert("RGB")) / 255
    first = render(Scene.from_json(json.dumps(rows[0]["states"][0])), size=16).rgb[0, 0].movedim(0, -1).numpy()
    assert np.abs(sheet[6:22, 6:22] - first).max() < 0.01
    assert (sheet[24:40, 6:100].min(-1) < 0.2).any()  # letters beneath


def test_a_file_in_the_way_is_an_error_before_anything_is_drawn(tmp_path):
    (tmp_path / "out").write_text("")
    with pytest.raises(ValueError, match="is a file"):
        write_pair_sheet(tmp_path / "out", size=8)
    assert [p.name for p in tmp_path.iterdir()] == ["out"]
