"""What the trajectory editor does to a trajectory, without a browser: its model under Node.js, held against Python.

And the route that it asks: any format in, our own JSON out, one clear error for what can't be read.
"""

import json
import random
import shutil
import subprocess
from importlib import import_module
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).parents[2] / "web" / "js"


@pytest.fixture(scope="module")
def node(tmp_path_factory):
    """`node(script, value)`: what a script makes of `value`; the models of paths and regions are `m` and `r`."""
    binary = shutil.which("node")
    if binary is None:
        pytest.skip("Node.js is not on the PATH: nothing to run the editor's model in")
    folder = tmp_path_factory.mktemp("node")
    shutil.copytree(SCRIPTS, folder / "js")
    (folder / "package.json").write_text('{"type": "module"}')

    def run(script, value):
        (folder / "run.mjs").write_text(
            'import * as m from "./js/trajectory/model.js";\nimport * as r from "./js/region/shapes.js";\n'
            'import * as g from "./js/graph/model.js";\n'
            'import { History } from "./js/shared/history.js";\n'
            'import { readFileSync } from "node:fs";\n'
            'const value = JSON.parse(readFileSync(0, "utf8"));\n'
            f"const found = (() => {{ {script} }})();\nprocess.stdout.write(JSON.stringify(found));\n"
        )
        done = subprocess.run([binary, folder / "run.mjs"], input=json.dumps(value), capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    return run


def made(seed, objects=3, frames=16):
    """Objects with keyframes at random frames."""
    draw = random.Random(seed)
    found = []
    for n in range(objects):
        keys = []
        for frame in sorted(draw.sample(range(frames), draw.randint(1, 5))):
            w, h = draw.uniform(0.1, 0.5), draw.uniform(0.1, 0.5)
            x, y = draw.uniform(0, 1 - w), draw.uniform(0, 1 - h)
            keys.append({"frame": frame, "box": [x, y, x + w, y + h]})
        found.append({"phrase": f"thing {n}", "keyframes": keys})
    return found


def frame_boxes(text, frames=16):
    from wm_pipelines.mojito.trajectories.reading import read_trajectory

    return [item.frame_boxes(frames) for item in read_trajectory(text)]


@pytest.mark.parametrize("canvas", [[1, 1], [64, 64], [832, 480]])
def test_what_the_editor_writes_is_read_as_the_boxes_that_it_shows(node, canvas):
    for seed in range(5):
        objects = made(seed)
        script = """const boxes = value.objects.map((o) => [...Array(16).keys()].map((f) => m.boxAt(o, f)));
        return [m.write(value.objects, value.canvas), boxes];"""
        text, shown = node(script, {"objects": objects, "canvas": canvas})
        tolerance = 6e-5 if canvas == [1, 1] else 0.006 / min(canvas)
        for ours, theirs in zip(frame_boxes(text), shown, strict=True):
            assert abs(ours.double() - ours.new_tensor(theirs).double()).max() < tolerance


def test_fields_that_the_editor_does_not_show_are_kept(node):
    item = {**made(1)[0], "weight": 2.5, "span": [3, 9], "hidden": [2, 3], "phrase": 'a "blå" thing'}
    text = node("return m.write(value, [1, 1]);", [item])
    kept = json.loads(text)["objects"][0]
    assert {name: kept[name] for name in ("weight", "span", "hidden", "phrase")} == {
        name: item[name] for name in ("weight", "span", "hidden", "phrase")
    }


@pytest.mark.parametrize("seed", range(4))
def test_each_act_leaves_a_trajectory_that_python_reads(node, seed):
    acts = "reverse smooth duplicate in out in-out linear points drop all".split()
    script = """return value.acts.map((act) => { const o = JSON.parse(JSON.stringify(value.object));
      if (act === "reverse") m.reverse(o); else if (act === "smooth") m.smooth(o);
      else if (act === "duplicate") return m.write([o, m.duplicate(o, "b")], [1, 1]);
      else if (act === "drop") m.dropKey(o, o.keyframes[0].frame);
      else if (act === "all") m.movePath(o, 5, -5);
      else if (act === "points") m.followPoints(o, [[-0.2, 0.1], [0.5, 0.9], [1.3, 0.2]], 16, o.keyframes[0].box);
      else m.ease(o, act);
      return m.write([o], [1, 1]); });"""
    for text in node(script, {"object": made(seed, 1)[0], "acts": acts}):
        assert all(boxes.shape == (16, 4) for boxes in frame_boxes(text))


def test_reversed_and_eased_paths_are_what_they_say(node):
    straight = {"phrase": "a", "keyframes": [{"frame": 0, "box": [0, 0.4, 0.2, 0.6]},
                                             {"frame": 15, "box": [0.8, 0.4, 1, 0.6]}]}  # fmt: skip
    script = """return ["linear", "in", "out", "in-out", "reverse"].map((act) => {
      const o = JSON.parse(JSON.stringify(value)); if (act === "reverse") m.reverse(o); else m.ease(o, act);
      return m.write([o], [1, 1]); });"""
    texts = dict(zip(("linear", "in", "out", "in-out", "reverse"), node(script, straight), strict=True))
    at = {name: frame_boxes(text)[0][:, 0] / 0.8 for name, text in texts.items()}
    t = at["linear"].new_tensor([frame / 15 for frame in range(16)])
    eased = {"linear": t, "in": t**2, "out": t * (2 - t), "in-out": t * t * (3 - 2 * t), "reverse": 1 - t}
    for name, expected in eased.items():
        assert abs(at[name] - expected).max() < 0.005, name
    assert len(json.loads(texts["linear"])["objects"][0]["keyframes"]) == 2  # thinned to what says it


def test_a_drawn_way_is_gone_evenly(node):
    """Points at uneven distances: the middle of the box goes equal ways from frame to frame."""
    points = [[0.2, 0.2], [0.22, 0.2], [0.3, 0.2], [0.8, 0.2], [0.8, 0.7]]
    script = """const o = {phrase: "a"}; m.followPoints(o, value, 16, [0.1, 0.1, 0.3, 0.3]);
    return [m.write([o], [1, 1]), m.speeds(o, 16)];"""
    text, speeds = node(script, points)
    boxes = frame_boxes(text)[0]
    middles = (boxes[:, :2] + boxes[:, 2:]) / 2
    assert middles[0].tolist() == pytest.approx([0.2, 0.2], abs=0.002)
    assert middles[-1].tolist() == pytest.approx([0.8, 0.7], abs=0.002)
    steps = (middles[1:] - middles[:-1]).norm(dim=1)
    corner = int(steps.argmin())  # the chord across the corner is the only shorter one
    even = [step for n, step in enumerate(steps.tolist()) if n != corner]
    assert max(even) - min(even) < 0.004 and speeds == pytest.approx(steps.tolist(), abs=1e-3)


@pytest.mark.parametrize("grid", [(4, 4), (8, 8), (3, 12)])
def test_what_the_editor_calls_thin_is_what_a_run_reports(node, grid):
    from wm_pipelines.mojito.trajectories.conflicts import find_conflicts

    for seed in range(8):
        (item,) = made(seed, 1)
        text, thin = node("return [m.write([value.o], [1, 1]), m.thinFrames(value.o, 16, value.grid)];",
                          {"o": item, "grid": grid})  # fmt: skip
        from wm_pipelines.mojito.trajectories.reading import read_trajectory

        objects = read_trajectory(text)
        said = find_conflicts("a thing 0", objects, objects[0].frame_boxes(16)[None], [grid])
        assert bool(thin) == any("its box covers" in line for line in said)


def test_a_shape_holds_the_places_that_its_mask_does(node):
    """The painter's hit test and Python's mask wind alike, also where a shape crosses itself."""
    from wm_pipelines.media.regions import read_regions, region_mask

    draw = random.Random(5)
    for _ in range(6):
        shapes = [{"polygon": [[draw.random(), draw.random()] for _ in range(draw.randint(3, 9))]}]
        x, y = draw.uniform(0, 0.5), draw.uniform(0, 0.5)
        shapes.append({"box": [x, y, x + draw.uniform(0.1, 0.5), y + draw.uniform(0.1, 0.5)]})
        script = """return [r.write(value), value.map((s) => [...Array(40 * 40).keys()].map((n) =>
          r.contains(s, [(n % 40 + 0.5) / 40, (Math.floor(n / 40) + 0.5) / 40])))];"""
        text, held = node(script, shapes)
        read = read_regions(text)
        for shape, inside in zip(read, held, strict=True):
            mask = region_mask([shape], 40, 40).flatten()
            # Where a border runs through a pixel its middle may be on either side, and a sliver may miss all samples.
            whole = (mask == 0) | (mask == 1)
            alike = (mask > 0.5) == mask.new_tensor(inside).bool()
            assert alike[whole].float().mean() > 0.995 and whole.float().mean() > 0.7


def test_a_moved_shape_stays_in_the_picture(node):
    shapes = [{"box": [0.1, 0.2, 0.4, 0.5]}, {"polygon": [[0.5, 0.5], [0.9, 0.6], [0.6, 0.9]]}]
    moved = node("return value.map((s) => [r.movedShape(s, 3, 0.1), r.movedShape(s, -3, -3)]);", shapes)
    assert moved[0] == [{"box": [0.7, 0.3, 1, 0.6]}, {"box": [0, 0, 0.3, 0.3]}]
    assert moved[1][0]["polygon"] == [[0.6, 0.6], [1, 0.7], [0.7, 1]]
    assert moved[1][1]["polygon"] == [[0, 0], [0.4, 0.1], [0.1, 0.4]]


def test_a_graph_is_written_as_python_reads_it(node):
    from wm_pipelines.text.scene_graph import SceneGraph

    nodes = [{"id": 1, "name": "cube", "attributes": ["small", "red"], "box": [0.1, 0.1, 0.4, 0.4], "depth": 2.5},
             {"id": "b", "name": 'b"ll'}]  # fmt: skip
    edges = [{"subject": 1, "predicate": "left of", "object": "b"}]
    text = node("return g.write(value);", {"nodes": nodes, "edges": edges})
    assert SceneGraph.from_json(text) == SceneGraph.from_json(json.dumps({"nodes": nodes, "edges": edges}))
    script = """return [g.freeId(value), g.sayable("  old  red cube "), g.sayable(" "),
      g.changed(value.nodes[0], g.sayable("ball")), g.write({nodes: [], edges: []})];"""
    free, said, nothing, other, empty = node(script, {"nodes": nodes, "edges": edges})
    assert free == "a" and said == {"attributes": ["old", "red"], "name": "cube"} and nothing is None
    assert other == {"id": 1, "name": "ball", "box": [0.1, 0.1, 0.4, 0.4], "depth": 2.5}
    assert SceneGraph.from_json(empty) == SceneGraph()


def test_undo_and_redo(node):
    script = """const h = new History(3); let now = 0; const seen = [];
    for (const next of [1, 2, 3, 4, 5]) { h.keep(now); now = next; }
    const go = (found) => { if (found !== null) now = found; seen.push(now); };
    go(h.undo(now)); go(h.undo(now)); go(h.redo(now)); go(h.undo(now)); go(h.undo(now)); go(h.undo(now));
    h.keep(now); now = 9; go(h.redo(now)); go(h.undo(now)); return seen;"""
    assert node(script, None) == [4, 3, 4, 3, 2, 2, 9, 2]


@pytest.fixture(scope="module")
def routes(wm_nodes):
    return import_module(f"{wm_nodes.__name__}._shared.routes")


def test_a_question_is_answered_or_refused_by_one_sentence(routes, monkeypatch):
    def half(asked):
        return {"half": routes.number_of(asked, "n") / 2}

    monkeypatch.setitem(routes.ANSWERS, "half", half)
    assert routes.answer("half", b'{"n": 3}') == (200, {"half": 1.5})
    assert routes.answer("other", b"{}")[0] == 404
    for body in (b"", b"[]", b"{", b"\xff", b'{"n": NaN}', b"{}", b'{"n": true}', b'{"n": "3"}', b"[" * 100_000,
                 b'{"n": 1, "n": 2}', b'{"n": 1e999}'):  # fmt: skip
        status, found = routes.answer("half", body)
        assert status == 400 and list(found) == ["error"] and 5 < len(found["error"]) < 400, body
