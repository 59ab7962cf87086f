"""Conflicts: each kind is found where it is, not where it isn't, and says who wins and why."""

import json

import pytest
import torch

from wm_pipelines.flexecontrol.conditions.condition import Condition
from wm_pipelines.flexecontrol.conditions.conflicts import find_conflicts
from wm_pipelines.flexecontrol.conditions.preparing import prepare
from wm_pipelines.media.conditions import depth_to_map
from wm_pipelines.text.scene_graph import Edge, Node, SceneGraph

PROMPT = "a red cube left of a blue sphere"
LEFT, RIGHT = (0, 0.25, 0.5, 0.75), (0.5, 0.25, 1, 0.75)


def outline(top: int, left: int, side: int = 24) -> torch.Tensor:
    """(3, 64, 64): a square's outline with a cross in it."""
    picture = torch.zeros(3, 64, 64)
    picture[:, top : top + side, left : left + side] = 1
    picture[:, top + 1 : top + side - 1, left + 1 : left + side - 1] = 0
    picture[:, top + side // 2, left : left + side] = 1
    return picture


def block(top: int, left: int, side: int = 24, value: float = 1.0) -> torch.Tensor:
    """(3, 64, 64): a square of one value on 0."""
    picture = torch.zeros(3, 64, 64)
    picture[:, top : top + side, left : left + side] = value
    return picture


def conflicts(*conditions: Condition, prompt: str = PROMPT, phrases=(), graph: SceneGraph | None = None):
    compiled = graph.compile(64, 64) if graph else None
    return find_conflicts(prepare(conditions, 64, 64, 16), prompt, phrases, compiled)


def kinds(*conditions: Condition, **options) -> list[str]:
    return [conflict.kind for conflict in conflicts(*conditions, **options)]


@pytest.fixture
def graph() -> SceneGraph:
    nodes = (Node("a", "cube", ("red",), box=LEFT, depth=2.0), Node("b", "sphere", ("blue",), box=RIGHT, depth=4.0))
    return SceneGraph(nodes, (Edge("a", "left of", "b"),))


def test_nothing_to_disagree():
    assert conflicts() == []
    assert conflicts(Condition("canny", outline(4, 4)), Condition("canny", outline(36, 36))) == []


def test_same_type_in_one_place():
    (found,) = conflicts(
        Condition("canny", outline(10, 10)), Condition("seg", block(40, 40)), Condition("canny", outline(16, 16))
    )
    assert (found.kind, found.indices, found.winner) == ("same_type", (0, 2), "neither")
    # 18 x 18 of 24 x 24 pixels.
    assert found.measure["overlap"] == pytest.approx(18**2 / 24**2, abs=1e-3)
    assert found.message.startswith("condition 'canny' #1 and condition 'canny' #3 overlap 56% and disagree; set ")
    assert "added" in found.reason and found.reason in found.message


def test_same_type_that_agrees():
    assert kinds(Condition("canny", outline(10, 10)), Condition("canny", outline(11, 10))) == []
    assert kinds(Condition("seg", block(10, 10)), Condition("seg", block(10, 10, value=0.8))) == []


def test_same_type_dense_maps():
    first, second = Condition("depth", block(10, 10)), Condition("depth", block(10, 10, value=0.6))
    (found,) = conflicts(first, second)
    assert found.kind == "same_type" and found.measure == {"overlap": 1.0, "difference": 0.4}


def test_same_type_the_stronger_wins():
    (found,) = conflicts(Condition("seg", block(10, 10), strength=0.5), Condition("seg", block(12, 12, value=0.3)))
    assert found.winner == "condition 'seg' #2" and "0.5 and 1" in found.reason


def test_same_type_apart_by_region():
    first, second = Condition("canny", outline(10, 10), region=LEFT), Condition("canny", outline(16, 16), region=RIGHT)
    assert kinds(first, second) == []


def test_same_type_apart_in_time():
    first, second = Condition("canny", outline(10, 10), end=0.5), Condition("canny", outline(16, 16), start=0.5)
    assert kinds(first, second) == []


def test_a_condition_without_strength_disagrees_with_nothing():
    assert kinds(Condition("canny", outline(10, 10), strength=0), Condition("canny", outline(16, 16))) == []


@pytest.mark.parametrize("edge", ["canny", "softedge", "sketch"])
@pytest.mark.parametrize("swap", [False, True])
def test_edges_against_depth(edge, swap):
    pair = [Condition(edge, outline(4, 4)), Condition("depth", block(34, 34))]
    (found,) = conflicts(*(pair[::-1] if swap else pair))
    assert found.kind == "edge_depth" and found.measure["agreement"] == 0
    assert f"condition '{edge}' #{2 if swap else 1}" in found.message and "within 2 px" in found.message


def test_edges_that_follow_depth_within_two_pixels():
    assert kinds(Condition("canny", outline(20, 20)), Condition("depth", block(22, 22))) == []
    assert kinds(Condition("canny", outline(20, 20)), Condition("depth", block(28, 28))) == ["edge_depth"]


def test_flat_depth_contradicts_no_edge():
    assert kinds(Condition("canny", outline(4, 4)), Condition("depth", block(34, 34, value=0.09))) == []


def test_lines_and_pose_are_not_expected_to_follow_depth():
    for type in ("lines", "pose"):
        assert kinds(Condition(type, outline(4, 4)), Condition("depth", block(34, 34))) == []


def test_edges_of_one_phrase_speak_about_its_place_only():
    depth = (block(4, 4) + block(34, 34)).clamp(0, 1)
    assert kinds(Condition("canny", outline(4, 4), phrase="red cube"), Condition("depth", depth)) == []
    region = torch.zeros(64, 64)
    region[:32, :32] = 1
    assert kinds(Condition("canny", outline(4, 4), region=region), Condition("depth", block(34, 34))) == []


def test_a_phrase_in_two_places():
    (found,) = conflicts(
        Condition("canny", outline(4, 4), phrase="red cube"), Condition("seg", block(36, 36), phrase="Red cube")
    )
    assert (found.kind, found.indices, found.winner) == ("phrase_in_two_places", (0, 1), "both")
    assert "'red cube'" in found.message and "in either or in each" in found.reason


def test_a_phrase_in_one_place_by_two_types():
    pair = Condition("canny", outline(4, 4), phrase="red cube"), Condition("seg", block(5, 5), phrase="red cube")
    assert kinds(*pair) == []


def test_the_same_words_twice_are_two_phrases():
    prompt = "a red cube left of a red cube"
    first = Condition("canny", outline(4, 4), phrase="red cube", span=(2, 10))
    second = Condition("canny", outline(36, 36), phrase="red cube", span=(21, 29))
    assert kinds(first, second, prompt=prompt) == []


def test_two_phrases_in_one_place():
    first = Condition("canny", outline(4, 4), phrase="red cube", region=LEFT)
    second = Condition("depth", block(20, 4), phrase="blue sphere", region=(0.1, 0.25, 0.5, 0.75))
    (found,) = [conflict for conflict in conflicts(first, second) if conflict.kind != "edge_depth"]
    assert (found.kind, found.winner) == ("phrases_overlap", "neither")
    assert found.measure["overlap"] == 1 and "100%" in found.message


def test_phrases_that_share_a_word_but_not_a_place():
    first = Condition("canny", outline(4, 4), phrase="red cube")
    second = Condition("canny", outline(36, 36), phrase="cube left")
    (found,) = conflicts(first, second)
    assert (found.kind, found.winner) == ("shared_words", "both") and "share 'cube'" in found.message


def test_an_unplaced_phrase_with_words_of_a_bound_one():
    bound = Condition("canny", outline(4, 4), phrase="red cube")
    (found,) = conflicts(bound, phrases=["cube left", "blue sphere", ("red cube", (2, 10))])
    assert (found.kind, found.winner) == ("shared_words", "condition 'canny' #1")
    assert "'cube left' has no place" in found.message


def test_a_phrase_that_is_not_in_the_prompt_is_left_to_the_pipeline():
    assert kinds(Condition("canny", outline(4, 4), phrase="green cone")) == []


@pytest.mark.parametrize("prompt", [PROMPT, "on a table the red cube and the blue sphere"])
def test_a_condition_far_from_the_graphs_box(graph, prompt):
    cube = Condition("canny", outline(16, 36, 16), phrase="red cube")
    sphere = Condition("seg", block(32, 36, 16), phrase="blue sphere")
    (found,) = conflicts(cube, sphere, prompt=prompt, graph=graph)
    assert (found.kind, found.indices, found.winner) == ("graph_place", (0,), "condition 'canny' #1")
    assert found.measure["inside"] == 0 and "node 'a'" in found.message and "not bound by the graph" in found.reason


def test_where_the_graph_draws_its_node_too_both_appear(graph):
    cube = Condition("canny", outline(16, 36, 16), phrase="red cube")
    drawn = Condition("seg", block(20, 4, 16), source="graph")
    (found,) = [c for c in conflicts(cube, drawn, graph=graph) if c.kind == "graph_place"]
    assert found.winner == "both" and "both act" in found.message
    assert "the graph's own maps show the node" in found.reason


def test_a_condition_in_the_graphs_box(graph):
    assert kinds(Condition("canny", outline(20, 4), phrase="red cube"), graph=graph) == []


def test_a_condition_in_the_place_of_another_node(graph):
    found = conflicts(Condition("canny", outline(20, 36), phrase="red cube"), graph=graph)
    assert [conflict.kind for conflict in found] == ["graph_place", "phrases_overlap"]
    assert "'a blue sphere' (node 'b' of the graph)" in found[1].message


def test_depth_against_the_graphs_order(graph):
    near_left, near_right = torch.full((64, 64), 5.0), torch.full((64, 64), 5.0)
    near_left[:, :32], near_right[:, 32:] = 1.0, 1.0
    assert kinds(Condition("depth", depth_to_map(near_left)), graph=graph) == []
    (found,) = conflicts(Condition("depth", depth_to_map(near_right)), graph=graph)
    assert (found.kind, found.winner) == ("graph_depth", "condition 'depth' #1")
    assert "nearer at node 'b' of the graph than at 'a'" in found.message


def test_depth_where_the_graph_has_no_order():
    nodes = (Node("a", "cube", ("red",), box=LEFT), Node("b", "sphere", ("blue",), box=RIGHT))
    depth = torch.linspace(1, 5, 64).expand(64, 64).flip(1)
    assert kinds(Condition("depth", depth_to_map(depth)), graph=SceneGraph(nodes)) == []


def test_the_graphs_own_maps_are_called_that():
    found = conflicts(Condition("canny", outline(4, 4)), Condition("depth", block(34, 34), source="graph"))
    assert "the graph's depth map" in found[0].message


def test_conflicts_go_into_json(graph):
    found = conflicts(Condition("canny", outline(20, 36), phrase="red cube"), graph=graph)
    read = json.loads(json.dumps([conflict.to_dict() for conflict in found]))
    assert [set(entry) for entry in read] == [{"kind", "indices", "message", "winner", "reason", "measure"}] * 2
    assert read[0]["indices"] == [0]
