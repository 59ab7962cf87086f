import itertools
import json
import random

import pytest
import torch

from wm_pipelines.diorama.parser import parse_caption
from wm_pipelines.text.scene_graph import PREDICATES, Edge, Mask, Node, SceneGraph
from wm_pipelines.text.scene_graph_layout import MARGIN, relations_of, solve

NODES = (
    Node("a", "cube", ("red",)),
    Node("b", "sphere", ("blue",)),
    Node("c", "cone", ("green",)),
    Node("d", "cube", ("cyan",)),
)


def graph_of(*edges: str, nodes: int = 2) -> SceneGraph:
    """From edges such as "a left of b"."""
    triples = [(e[0], e[2:-2], e[-1]) for e in edges]
    return SceneGraph(NODES[:nodes], tuple(Edge(*t) for t in triples))


def holds(edge: Edge, compiled) -> bool:
    a, b = compiled.boxes[edge.subject], compiled.boxes[edge.object]
    near = compiled.depth_order.index(edge.subject) < compiled.depth_order.index(edge.object)
    x, y = (b[0] + b[2] - a[0] - a[2]) / 2, (b[1] + b[3] - a[1] - a[3]) / 2
    return {
        "left of": x > 0,
        "right of": x < 0,
        "above": y > 0,
        "below": y < 0,
        "in front of": near,
        "behind": not near,
        "on": y > 0 and abs(a[3] - b[1]) < 1e-6 and b[0] <= (a[0] + a[2]) / 2 <= b[2],
        "in": b[0] <= a[0] and b[1] <= a[1] and a[2] <= b[2] and a[3] <= b[3] and near,
    }[edge.predicate]


def assert_exchanged(graph: SceneGraph, position: int) -> None:
    """Swapping the edge exchanges boxes, masks and depth of its nodes, and moves nothing else."""
    before, after = graph.compile(32, 48), graph.swap(position).compile(32, 48)
    edge = graph.edges[position]
    for node in graph.nodes:
        other = {edge.subject: edge.object, edge.object: edge.subject}.get(node.id, node.id)
        assert after.boxes[node.id] == before.boxes[other]
        assert after.masks[node.id].equal(before.masks[other])
    assert after.depth.equal(before.depth)
    if edge.predicate in ("in front of", "behind", "in"):
        first, second = (c.depth_order.index(edge.subject) < c.depth_order.index(edge.object) for c in (before, after))
        assert first != second
    assert graph.swap(position).nodes == graph.nodes


@pytest.mark.parametrize("predicate", PREDICATES)
@pytest.mark.parametrize("order", ["ab", "ba"])
def test_swapping_an_edge_exchanges_its_two_nodes_and_nothing_else(predicate, order):
    graph = graph_of(f"{order[0]} {predicate} {order[1]}", nodes=3)
    compiled = graph.compile(32, 48)
    assert holds(graph.edges[0], compiled)
    first, second = (n for id in order for n in NODES if n.id == id)
    words = [f"a {n.attributes[0]} {n.name}" for n in (first, second, NODES[2])]
    assert compiled.caption == f"{words[0]} {predicate} {words[1]}, and {words[2]}"
    swapped = graph.swap(0).compile(32, 48)
    assert swapped.caption == f"{words[1]} {predicate} {words[0]}, and {words[2]}"
    assert_exchanged(graph, 0)


@pytest.mark.parametrize("first", PREDICATES)
@pytest.mark.parametrize("second", ["left of", "behind", "below", "on"])
def test_swapping_one_of_two_separate_edges_leaves_the_other_alone(first, second):
    for edges in ((f"a {first} b", f"d {second} c"), (f"c {first} a", f"b {second} d")):
        graph = graph_of(*edges, nodes=4)
        assert all(holds(e, graph.compile(16, 16)) for e in graph.edges)
        assert_exchanged(graph, 0)
        assert_exchanged(graph, 1)


@pytest.mark.parametrize("predicate", ["left of", "above", "in front of"])
def test_each_edge_of_a_chain_along_the_nodes_swaps_by_exchange(predicate):
    graph = graph_of(f"a {predicate} b", f"b {predicate} c", nodes=3)
    for position in (0, 1):
        assert_exchanged(graph, position)


def test_edges_along_the_nodes_swap_by_exchange_wherever_the_others_allow_it():
    rng = random.Random(1)
    forward = ("left of", "above", "in front of")
    exact = 0
    for _ in range(60):
        pairs = rng.sample(list(itertools.combinations("abcd", 2)), rng.randint(2, 4))
        graph = graph_of(*(f"{a} {rng.choice(forward)} {b}" for a, b in pairs), nodes=4)
        slots = dict(zip("abcd", solved(graph), strict=True))
        for position, edge in enumerate(graph.edges):
            exchanged = slots | {edge.subject: slots[edge.object], edge.object: slots[edge.subject]}
            others = [e for i, e in enumerate(graph.edges) if i != position]
            if all(in_order(e.predicate, exchanged[e.subject], exchanged[e.object]) for e in others):
                assert dict(zip("abcd", solved(graph.swap(position)), strict=True)) == exchanged
                exact += 1
    assert exact > 60


def solved(graph: SceneGraph):
    relations = relations_of(graph.edges, {n.id: i for i, n in enumerate(graph.nodes)})
    slots, broken = solve(len(graph.nodes), relations, {}, {})
    assert broken == []
    return slots


def in_order(predicate: str, a, b) -> bool:
    return {"left of": a.x < b.x, "above": a.y < b.y, "in front of": a.depth < b.depth}[predicate]


def test_all_orders_without_contradiction_are_laid_out():
    rng = random.Random(0)
    orders = [p for p in PREDICATES if p not in ("on", "in")]
    laid_out = 0
    for _ in range(250):
        pairs = rng.sample(list(itertools.combinations("abcd", 2)), rng.randint(1, 5))
        edges = [f"{a} {rng.choice(orders)} {b}" for a, b in (rng.sample(pair, 2) for pair in pairs)]
        try:
            graph = graph_of(*edges, nodes=4)
        except ValueError as error:
            assert "cycle" in str(error)
            continue
        compiled = graph.compile(8, 8)
        laid_out += 1
        assert all(holds(e, compiled) for e in graph.edges)
        assert all(0 <= x0 < x1 <= 1 and 0 <= y0 < y1 <= 1 for x0, y0, x1, y1 in compiled.boxes.values())
        assert all(mask.any() for mask in compiled.masks.values())
        parse_caption(compiled.caption)
    assert laid_out > 150


@pytest.mark.parametrize(
    "edges",
    [
        ("a on b", "c on b", "c left of a"),
        ("a in b", "b on c"),
        ("a in b", "c in b", "d above b"),
        ("a in b", "d right of a", "c below a"),
        ("a on b", "b on c", "d behind c"),
    ],
)
def test_contacts(edges):
    graph = graph_of(*edges, nodes=4)
    compiled = graph.compile(64, 64)
    assert all(holds(e, compiled) for e in graph.edges)


def test_side_by_side_boxes_are_clearly_apart():
    compiled = graph_of("a left of b", "b left of c", nodes=3).compile(60, 60)
    centres = [(box[0] + box[2]) / 2 for box in compiled.boxes.values()]
    assert all(b - a >= MARGIN for a, b in itertools.pairwise(centres))
    assert sum(mask.int() for mask in compiled.masks.values()).max() == 1


@pytest.mark.parametrize(
    ("edges", "named"),
    [
        (("a left of b", "b left of a"), ["a left of b", "b left of a"]),
        (("a left of b", "a right of b"), ["a left of b", "a right of b"]),
        (("a left of b", "c behind d", "b left of c", "a right of c"), ["a left of b", "b left of c", "a right of c"]),
        (("a on b", "b above a"), ["a on b", "b above a"]),
        (("a in b", "b in a"), ["a in b", "b in a"]),
        (("a in front of b", "b in front of c", "c in front of a"), ["c in front of a"]),
    ],
)
def test_a_cycle_is_an_error_that_names_its_edges_only(edges, named):
    with pytest.raises(ValueError, match="cycle") as error:
        graph_of(*edges, nodes=4)
    assert all(name in str(error.value) for name in named)
    assert "c behind d" not in str(error.value)


def test_contradictions_of_geometry_are_named():
    with pytest.raises(ValueError, match="'a left of c'|'c left of b'|'a in b'"):
        graph_of("a in b", "a left of c", "c left of b", nodes=3).compile(8, 8)
    left, right = Node("l", "cube", (), (0.1, 0.1, 0.3, 0.3)), Node("r", "cone", (), (0.6, 0.1, 0.9, 0.3))
    with pytest.raises(ValueError, match="'r left of l'"):
        SceneGraph((left, right), (Edge("r", "left of", "l"),)).compile(8, 8)
    near, far = Node("n", "cube", depth=1.0), Node("f", "cone", depth=2.0)
    with pytest.raises(ValueError, match="'f in front of n'"):
        SceneGraph((near, far), (Edge("f", "in front of", "n"),)).compile(8, 8)


def test_given_boxes_masks_and_depths_stay_and_the_rest_goes_around_them():
    mask = torch.zeros(10, 20, dtype=torch.bool)
    mask[2:5, 1:4] = True
    nodes = (
        Node(1, "cube", ("red",), box=(0.5, 0.4, 0.75, 0.8), depth=3.0),
        Node(2, "sphere", ("blue",)),
        Node(3, "cone", ("green",), mask=Mask.from_tensor(mask), depth=5.0),
        Node(4, "cube", ("cyan",)),
    )
    edges = (Edge(2, "right of", 1), Edge(2, "behind", 1), Edge(2, "in front of", 3), Edge(4, "on", 1))
    compiled = SceneGraph(nodes, edges).compile(10, 20)
    assert compiled.boxes[1] == (0.5, 0.4, 0.75, 0.8)
    assert compiled.boxes[3] == (0.05, 0.2, 0.2, 0.5)
    assert compiled.masks[3].equal(mask)
    assert all(holds(e, compiled) for e in edges)
    assert compiled.depth_order.index(1) < compiled.depth_order.index(2) < compiled.depth_order.index(3)
    assert compiled.depth[mask].unique().tolist() == [5.0]
    assert compiled.depth[0, 0] == torch.inf


def test_the_depth_map_shows_the_nearest_node():
    nodes = (Node(1, "cube", box=(0, 0, 1, 1), depth=4.0), Node(2, "cone", box=(0.25, 0.25, 0.75, 0.75), depth=2.0))
    compiled = SceneGraph(nodes).compile(8, 8)
    assert compiled.depth.dtype == torch.float32 and compiled.masks[1].dtype == torch.bool
    assert compiled.depth_order == [2, 1]
    assert compiled.depth[4, 4] == 2.0 and compiled.depth[0, 0] == 4.0
    assert compiled.masks[1].all() and compiled.masks[2].sum() == 16


@pytest.mark.parametrize(
    ("edges", "text"),
    [
        ((), "a red cube, a blue sphere and a green cone"),
        (("a left of b", "b left of c"), "a red cube left of a blue sphere left of a green cone"),
        (("a left of b", "a behind c"), "a red cube left of a blue sphere and behind a green cone"),
        (("a left of c", "b left of c"), "a red cube left of a green cone, and a blue sphere left of the cone"),
        (("a left of b", "b left of c", "a left of c"), "a red cube left of a blue sphere left of a green cone"),
        (("a left of b", "b right of a"), "a red cube left of a blue sphere, and a green cone"),
        (("b on a",), "a blue sphere on a red cube, and a green cone"),
    ],
)
def test_captions_are_those_of_the_grammar(edges, text):
    graph = graph_of(*edges, nodes=3)
    compiled = graph.compile(8, 8)
    assert compiled.caption == text
    by_colour = {"red": "a", "blue": "b", "green": "c"}
    parsed = parse_caption(text)
    ids = [by_colour[o["colour"]] for o in parsed.objects]
    assert [compiled.spans[id] for id in ids] == list(parsed.spans)
    assert {(ids[a], p, ids[b]) for a, p, b in parsed.relations} <= {
        (e.subject, e.predicate, e.object) for e in graph.edges
    }
    for node in graph.nodes:
        start, end = compiled.spans[node.id]
        assert text[start:end] == f"a {node.attributes[0]} {node.name}"


def test_references_are_short_and_never_ambiguous():
    nodes = (
        Node(1, "cube", ("red",)),
        Node(2, "cube", ("small", "red")),
        Node(3, "cone", ("green",)),
        Node(4, "cube", ("red",)),
    )
    edges = [(1, "left of", 2), (3, "behind", 1), (4, "behind", 3), (3, "left of", 2), (2, "behind", 4)]
    graph = SceneGraph(nodes, tuple(Edge(*e) for e in edges))
    caption = graph.compile(8, 8).caption
    assert caption == (
        "a red cube left of a small red cube, a green cone behind the red cube, and another red cube behind the cone "
        "left of the small red cube behind the second red cube"
    )
    assert [(a + 1, p, b + 1) for a, p, b in parse_caption(caption).relations] == [
        (1, "left of", 2),
        (3, "behind", 1),
        (4, "behind", 3),
        (3, "left of", 2),
        (2, "behind", 4),
    ]


def test_words_of_any_language_model_are_fine_and_spans_are_exact():
    nodes = (Node("t", "oak table", ("old", "worn-out")), Node("k", "Äpfel", ("neun",)))
    compiled = SceneGraph(nodes, (Edge("k", "on", "t"),)).compile(16, 16)
    assert compiled.caption == "a neun Äpfel on an old worn-out oak table"
    assert [compiled.caption[slice(*compiled.spans[i])] for i in "tk"] == ["an old worn-out oak table", "a neun Äpfel"]


def test_json_round_trip_is_exact_and_versioned():
    mask = torch.zeros(3, 5, dtype=torch.bool)
    mask[0, 0] = mask[2, 4] = True
    nodes = (
        Node(1, "cube", ("red",), (0.125, 0.25, 0.5, 1.0), Mask.from_tensor(mask), 2.5),
        Node("two", "sphere", box=(0.1, 0.2, 0.3, 0.4)),
    )
    graph = SceneGraph(nodes, (Edge(1, "behind", "two"), Edge(1, "left of", "two")))
    again = SceneGraph.from_json(graph.to_json())
    assert again == graph
    assert again.nodes[0].mask.to_tensor().equal(mask)
    assert json.loads(graph.to_json())["scene_graph"] == 1
    assert SceneGraph.from_json('{"nodes": [{"id": "a", "name": "cube"}]}') == SceneGraph((Node("a", "cube"),))
    assert SceneGraph.from_json(SceneGraph().to_json()).compile(2, 2).caption == "an empty scene"


@pytest.mark.parametrize("fill", [False, True])
def test_masks_round_trip(fill):
    for seed in range(5):
        mask = torch.rand(7, 3, generator=torch.Generator().manual_seed(seed)) < 0.5
        mask[0, 0] = fill
        assert Mask.from_tensor(mask).to_tensor().equal(mask)
    assert Mask.from_tensor(torch.full((2, 2), fill)).to_tensor().equal(torch.full((2, 2), fill))


NODE = {"id": "a", "name": "cube"}
OTHER = {"id": "b", "name": "cone"}


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ("{", "is JSON"),
        ([], "JSON object"),
        ({"scene_graph": 2}, "version is 2"),
        ({"node": []}, "unknown field 'node'"),
        ({"nodes": {}}, "`nodes` is a dict"),
        ({"nodes": ["a"]}, "a Node is a JSON object"),
        ({"nodes": [NODE | {"colour": "red"}]}, "unknown field 'colour' in Node"),
        ({"nodes": [{"attributes": ["red"]}]}, "a Node needs id and name"),
        ({"nodes": [{"id": "a"}]}, "name"),
        ({"nodes": [NODE, NODE]}, "'a' twice"),
        ({"nodes": [NODE | {"id": True}]}, "`id` is True"),
        ({"nodes": [NODE | {"name": " "}]}, "`name` of node 'a'"),
        ({"nodes": [NODE | {"attributes": "red"}]}, "`attributes` of node 'a'"),
        ({"nodes": [NODE | {"box": [0, 0, 1]}]}, "`box` of node 'a'"),
        ({"nodes": [NODE | {"box": [0.5, 0, 0.2, 1]}]}, "x0 < x1"),
        ({"nodes": [NODE | {"box": [0, 0, 1.5, 1]}]}, "x0 < x1"),
        ({"nodes": [NODE | {"depth": -1}]}, "`depth` of node 'a'"),
        ({"nodes": [NODE | {"mask": {"height": 2, "width": 2, "runs": [3]}}]}, "`runs`"),
        ({"nodes": [NODE | {"mask": {"height": 2, "width": 2, "runs": [4]}}]}, "is empty"),
        ({"nodes": [NODE], "edges": [{"subject": "a", "predicate": "left of", "object": "b"}]}, "node 'b'"),
        ({"nodes": [NODE, OTHER], "edges": [{"subject": "a", "predicate": "near", "object": "b"}]}, "'near'; allowed"),
        ({"nodes": [NODE], "edges": [{"subject": "a", "predicate": "on", "object": "a"}]}, "both 'a'"),
        ({"nodes": [NODE, OTHER], "edges": [{"subject": "a", "predicate": "on", "object": "b"}] * 2}, "twice"),
        ({"nodes": [NODE], "edges": [{"subject": "a", "predicate": "on"}]}, "object"),
    ],
)
def test_bad_graphs_are_refused_by_name(data, message):
    with pytest.raises(ValueError, match=message):
        SceneGraph.from_json(data if isinstance(data, str) else json.dumps(data))


def test_bad_sizes_and_masks_are_refused():
    with pytest.raises(ValueError, match="`height` is 0"):
        graph_of("a on b").compile(0, 8)
    with pytest.raises(ValueError, match="bool"):
        Mask.from_tensor(torch.zeros(2, 2))
    with pytest.raises(ValueError, match="Mask.from_tensor"):
        Node("a", "cube", mask=torch.ones(2, 2, dtype=torch.bool))
    assert graph_of("a on b").compile(1, 1).masks["a"].shape == (1, 1)


def test_the_example_of_the_docstring():
    import doctest

    from wm_pipelines.text import scene_graph

    result = doctest.testmod(scene_graph)
    assert result.attempted > 0 and result.failed == 0
