"""A text as a scene graph: what it holds, what it can't, and the answers of the three arms side by side."""

import pytest

from wm_pipelines.graph_transformer.compare import ARMS, answer_rows, answer_three_ways
from wm_pipelines.graph_transformer.drawing import draw_graph
from wm_pipelines.graph_transformer.parsing import read_graph, text_graph
from wm_pipelines.graph_transformer.scene_graphs import scene_graph_of
from wm_pipelines.text.parser import parse
from wm_pipelines.text.scene_graph import SceneGraph


@pytest.mark.parametrize(
    ("text", "nodes", "edges", "left"),
    [
        ("a red cube left of a blue sphere", ["cube", "sphere"], ["cube left of sphere"], []),
        ("a cup on top of a table under a lamp", ["cup", "table", "lamp"], ["cup on table", "table below lamp"], []),
        ("the dog chases the cat behind the house", ["dog", "cat", "house"], ["cat behind house"], ["dog chase cat"]),
        ("a cat left of another cat", ["cat", "cat_2"], ["cat left of cat_2"], []),
        ("a dog runs", ["dog"], [], ["dog run ?"]),
        ("", [], [], []),
    ],
)
def test_things_and_places_are_kept_and_the_rest_is_told(text, nodes, edges, left):
    scene, said = scene_graph_of(parse(text))
    assert [node.id for node in scene.nodes] == nodes
    assert [str(edge) for edge in scene.edges] == edges and said == left
    assert SceneGraph.from_json(scene.to_json()) == scene


def test_a_contradiction_is_told_and_left_out():
    scene, said = scene_graph_of(parse("a cube left of a sphere, the sphere left of the cube"))
    assert len(scene.edges) == 1 and len(said) == 1 and "cycle" in said[0]


def test_attributes_come_along_and_the_graph_is_that_of_the_text():
    text = "a small red cube is left of a blue sphere"
    scene, _ = scene_graph_of(parse(text))
    assert [node.attributes for node in scene.nodes] == [("small", "red"), ("blue",)]
    assert read_graph(scene, text) == text_graph(text)


def test_a_preview_shows_the_text():
    one, other = (draw_graph(text_graph(text), text) for text in ("a cat on a mat", "a dog on a mat"))
    assert one.mode == "RGB" and one.size == other.size and one.tobytes() != other.tobytes()
    assert draw_graph(text_graph(""), "").tobytes() != one.tobytes()


def test_the_arms_stand_side_by_side(vilt_pipe, picture):
    text, context = "is the cat left of the dog?", "the man is behind the horse."
    outputs = answer_three_ways(vilt_pipe, picture(), text, context, seed=2)
    assert tuple(outputs) == ARMS and outputs["graph"].attentions and outputs["random"].attentions is None
    rows = answer_rows(outputs, vilt_pipe.answers, 0, 1)
    assert rows[0]["answer"] == outputs["graph"].answers[0]
    leaders = {outputs[arm].answers[0] for arm in ARMS}
    assert {row["answer"] for row in rows} == leaders
    whole = answer_rows(outputs, vilt_pipe.answers, 0, 9)
    for arm in ARMS:
        assert abs(sum(row[arm] for row in whole) - 1) < 1e-4
