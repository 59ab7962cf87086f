"""The published files, the pixel measures, the twin in the miniature world and DiscEdit."""

import json

import pytest
import torch
from PIL import Image

from wm_pipelines.aurora_bench.disc_edit import disc_edit, read_disc_edit, twin_disc_items
from wm_pipelines.aurora_bench.editors import copy_source
from wm_pipelines.aurora_bench.items import EditItem, read_bench
from wm_pipelines.aurora_bench.measures import edit_score, nearer
from wm_pipelines.aurora_bench.table import score_lines, score_sheet
from wm_pipelines.aurora_bench.twin import TASKS, twin_items
from wm_pipelines.diorama.scene import COLOURS


@pytest.fixture
def bench(tmp_path):
    """`bench(*rows)`: test.json with pictures of names such as "a-16x24.png", of that size, where they exist."""

    def write(*rows):
        for row in rows:
            for name in (row.get("input"), row.get("output"), row.get("image")):
                if name and "missing" not in name:
                    width, height = map(int, name.rpartition("-")[2].removesuffix(".png").split("x"))
                    Image.new("RGB", (width, height), (len(name), 9, 200)).save(tmp_path / name)
        (tmp_path / "test.json").write_text(json.dumps(list(rows)))
        return tmp_path / "test.json"

    return write


ROW = {"input": "a-16x24.png", "output": "bb-16x24.png", "instruction": "turn it", "task": "kubric"}


def test_rows_with_and_without_outputs(bench):
    rows = [ROW, {**ROW, "output": None, "task": "clevr"}, {**ROW, "output": "", "task": "emu"}]
    no_key = {key: value for key, value in ROW.items() if key != "output"} | {"task": "epic"}
    items = read_bench(bench(*rows, no_key))
    assert [len(item.states()) for item in items] == [2, 1, 1, 1] and items[0].instructions == ("turn it",)
    assert [item.task for item in items] == ["kubric", "clevr", "emu", "epic"]
    assert items[0].states()[1].shape == (3, 24, 16) and len({item.name for item in items}) == 4
    assert [item.task for item in read_bench(bench(*rows), tasks=["emu"])] == ["emu"]


def test_pictures_of_other_sizes(bench):
    path = bench({**ROW, "output": "c-20x24.png"})
    with pytest.raises(ValueError, match=r"item '0:a-16x24.png' has pictures of 24x16 and 24x20; give `side`"):
        read_bench(path)[0].states()
    assert {tuple(state.shape) for state in read_bench(path, side=32)[0].states()} == {(3, 32, 32)}


def test_missing_pictures_are_named_and_counted(bench):
    rows = [ROW, {**ROW, "input": "missing-1.png"}, {**ROW, "output": "missing-2.png"}, {**ROW, "input": "missing-3"}]
    path = bench(*rows)
    with pytest.raises(ValueError, match=r"the picture 'missing-1.png' and 2 others of .*test.json are missing"):
        read_bench(path)
    with pytest.raises(ValueError, match=r"the picture 'missing-1.png' of .* are missing"):
        read_bench(bench(*rows[:2]))
    assert [item.name for item in read_bench(path, on_missing="skip")] == ["0:a-16x24.png"]
    with pytest.raises(ValueError, match="has no row whose pictures are there"):
        read_bench(bench(rows[1]), on_missing="skip")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"instruction": ""}, "row 0: instruction is ''"),
        ({"task": 3}, "row 0: task is 3"),
        ({"input": "../x.png"}, "row 0: a picture must be a file inside"),
        ({"output": "/etc/x.png"}, "row 0: a picture must be a file inside"),
    ],
)
def test_bad_rows(bench, change, message):
    path = bench(ROW)
    path.write_text(json.dumps([{**ROW, **change}]))
    with pytest.raises(ValueError, match=message):
        read_bench(path)


def test_bad_arguments_of_the_reader(bench, tmp_path):
    path = bench(ROW)
    for options, message in (
        ({"tasks": ["ag"]}, "`tasks` has 'ag'; .* has kubric"), ({"side": 4}, "`side` is 4"),
        ({"on_missing": "guess"}, "`on_missing` is 'guess'"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=message):
            read_bench(path, **options)
    path.write_text("{}")
    with pytest.raises(ValueError, match="must hold a list of rows"):
        read_bench(path)
    bad = EditItem("x", "t", ("a", "b"), lambda: [torch.zeros(3, 8, 8)] * 2)
    with pytest.raises(ValueError, match="item 'x' has 2 states for 2 instructions"):
        bad.states()


def scene(seed):
    """A source, and a truth that differs in a square."""
    generator = torch.Generator().manual_seed(seed)
    source = torch.rand(3, 20, 24, generator=generator) * 0.6
    truth = source.clone()
    truth[:, 4:10, 5:12] = source[:, 4:10, 5:12] + 0.3
    return source, truth


@pytest.mark.parametrize("seed", range(6))
def test_measures_have_known_values(seed):
    source, truth = scene(seed)
    copy, right = edit_score(source, source, truth), edit_score(source, truth, truth)
    assert (copy.change, copy.preserve, copy.copied, copy.success, copy.shown) == (0.0, 1.0, True, False, False)
    assert (right.change, right.preserve, right.copied, right.success, right.shown) == (1.0, 1.0, False, True, True)
    assert right.l1 == 0 and copy.l1 == pytest.approx(float((source - truth).abs().mean()))
    steps = [edit_score(source, source + part * (truth - source), truth) for part in (0.1, 0.3, 0.5, 0.8)]
    assert [s.change for s in steps] == pytest.approx([0.1, 0.3, 0.5, 0.8], abs=1e-4)
    assert all(s.preserve == 1.0 for s in steps)
    spoiled = truth.clone()
    spoiled[:, 12:, :] = 1 - spoiled[:, 12:, :]
    bad = edit_score(source, spoiled, truth)
    touched = ((spoiled - truth).abs().amax(0) > 0.05).float().sum() / (20 * 24 - 6 * 7)
    assert bad.change == 1.0 and bad.preserve == pytest.approx(1 - float(touched)) and not bad.success
    wrong_way = edit_score(source, (2 * source - truth).clamp(0, 1), truth)
    assert wrong_way.change == 0.0 and not wrong_way.copied
    assert nearer(truth, truth, source) and not nearer(source, truth, source)


def test_measures_without_a_truth_and_of_nothing():
    source, truth = scene(0)
    found = edit_score(source, truth)
    assert found.change == pytest.approx(42 / 480) and found.preserve == pytest.approx(1 - 42 / 480)
    assert (found.l1, found.success, found.shown) == (None, None, None) and edit_score(source, source).copied
    nothing = edit_score(source, source, source)
    assert nothing.change is None and nothing.success is False
    everything = edit_score(source, 1 - source, 1 - source)
    assert everything.preserve == 1.0 or everything.change == 1.0
    for bad, message in ((truth[:, 1:], "different sizes"), (truth[:2], r"it must be \(3, H, W\)")):
        with pytest.raises(ValueError, match=message):
            edit_score(source, bad, truth)


def test_a_later_step_is_measured_against_the_states():
    first, second = scene(1)
    third = second.clone()
    third[:, 12:16, :4] = 1 - third[:, 12:16, :4]
    stuck = edit_score(first, first, third, before=second)  # an editor that never changed anything
    assert stuck.copied and stuck.change < 0.5 and stuck.preserve == pytest.approx(1 - 42 / (480 - 16))
    assert edit_score(second, third, third, before=second).success


def test_the_table_has_every_figure():
    source, truth = scene(2)
    lines = score_lines(edit_score(source, truth, truth), edit_score(source, source, truth))
    assert lines[0] == "change 1.000   (a copy: 0.000)" and "success: yes" in lines[-1]
    with_truth = score_sheet(source, truth, truth, "turn it", lines)
    without = score_sheet(source, truth, None, "", score_lines(edit_score(source, truth), edit_score(source, source)))
    assert with_truth.width >= without.width and with_truth.size[1] > 256


@pytest.fixture(scope="module")
def twin():
    pytest.importorskip("mujoco")
    return twin_items(2, size=64)


def test_the_twin_has_every_family_with_exact_states(twin):
    assert {item.task for item in twin} == set(TASKS) and len(twin) == 10
    assert len({item.name for item in twin}) == 10
    for item in twin:
        before, after = item.states()
        score = edit_score(before, after, after)
        assert before.shape == (3, 64, 64) and score.success and score.shown, item.name
        assert not edit_score(before, before, after).shown, "the change can be seen"
        assert (item.against is not None) == (item.task == "physics")
    for item in twin:
        if item.task == "physics":
            before, after = item.states()
            assert "falls" in item.instructions[0] and nearer(after, after, item.against())
            assert not torch.equal(item.against(), before) and not nearer(item.against(), after, item.against())


def test_the_twin_is_the_same_again_and_other_splits_differ(twin):
    again = twin_items(1, tasks=("attribute", "camera"))
    known = {item.name: item for item in twin}
    for item in again:
        assert item.instructions == known[item.name].instructions
        assert all(torch.equal(a, b) for a, b in zip(item.states(), known[item.name].states(), strict=True))
    (other,) = twin_items(1, tasks=("attribute",), split="val")
    assert not torch.equal(other.states()[0], again[0].states()[0])


def test_states_in_a_row():
    (item,) = twin_items(1, tasks=("spatial",), states=3, size=32)
    states = item.states()
    assert len(item.instructions) == 2 and len(states) == 3 and states[0].shape == (3, 32, 32)
    for options, message in (
        ({"count": 0}, "`count` is 0"), ({"tasks": ("magic",)}, "`tasks` is"), ({"states": 6}, "`states` is 6"),
        ({"size": 2}, "`size` is 2"), ({"tasks": "camera"}, "`tasks` is 'camera'"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=message):
            twin_items(**{"count": 1, **options})


def paints(source, instruction, seed):
    """Knows what is there: paints a corner unless the instruction's last word is a colour in the picture."""
    colour = torch.tensor(COLOURS[instruction.split()[-1]]).float()
    colour = colour / 255 if colour.max() > 1 else colour
    hue = torch.nn.functional.normalize(source - source.mean(0, keepdim=True), dim=0)
    own = torch.nn.functional.normalize(colour - colour.mean(), dim=0)
    there = ((hue * own[:, None, None]).sum(0) > 0.98).float().mean() > 0.01
    made = source.clone()
    made[:, :8, :8] = 0.5 if there else 1.0
    return made


def test_disc_edit_tells_editors_apart():
    items = [item for item in twin_disc_items(12) if "white" not in item.true + item.demand]
    assert all(item.true.split()[:-1] == item.demand.split()[:-1] != [] for item in items)
    found = disc_edit(paints, items, samples=1)
    assert found["accuracy"] >= 0.8 and found["low"] <= found["accuracy"] <= found["high"] and found["ties"] <= 0.2
    swapped = [type(item)(item.name, item.demand, item.true, item.read) for item in items]
    assert disc_edit(paints, swapped, samples=1)["accuracy"] <= 0.2
    copied = disc_edit(copy_source, items, samples=2)
    assert (copied["accuracy"], copied["ties"], copied["n"], copied["samples"]) == (0.0, 1.0, len(items), 2)
    with pytest.raises(ValueError, match="`samples` is 0"):
        disc_edit(paints, items, samples=0)
    with pytest.raises(ValueError, match="`items` is empty"):
        disc_edit(paints, [])


def test_disc_edit_files(bench):
    rows = [
        {"input": "a-16x24.png", "prompt": "stand up", "pos": "sit down"},
        {"image": "b-16x24.png", "pos": "left", "neg": "right", "prompt": "none"},
        {"input": "c-16x24.png", "prompt": "only this"},
    ]
    found = read_disc_edit(bench(*rows), side=16)
    assert [(item.true, item.demand) for item in found] == [("sit down", "stand up"), ("left", "right")]
    assert found[0].read().shape == (3, 16, 16)
    with pytest.raises(ValueError, match="has no row with `pos`"):
        read_disc_edit(bench(rows[2]))
    with pytest.raises(ValueError, match="'missing.png' and 1 others"):
        read_disc_edit(bench({"input": "missing.png", "pos": "a", "neg": "b"}, {"input": "missing2", "pos": "a",
                                                                              "neg": "b"}))  # fmt: skip
