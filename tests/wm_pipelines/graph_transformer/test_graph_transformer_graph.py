"""The record of a graph: its JSON, its adjacency, and what it refuses."""

import json

import pytest
import torch

from wm_pipelines.graph_transformer.graph import AttentionGraph, GraphNode
from wm_pipelines.runtime.random import keyed


def random_graph(seed, directed=False):
    rng = keyed("graph", seed)
    nodes = [GraphNode((int(a), int(a) + 1 + int(b))) for a, b in rng.integers(0, 9, (rng.integers(1, 7), 2))]
    nodes += [GraphNode(modality="image", box=(0.1, 0.2, 0.1 * k + 0.2, 0.9)) for k in range(rng.integers(0, 4))]
    nodes += [GraphNode(modality="image", region=int(k)) for k in rng.integers(0, 9, rng.integers(0, 3))]
    edges = [(int(i), int(j), f"r{i}") for i, j in rng.integers(0, len(nodes), (rng.integers(0, 9), 2))]
    return AttentionGraph(tuple(nodes), tuple(edges), directed)


@pytest.mark.parametrize("seed", range(20))
def test_json_comes_back_equal(seed):
    graph = random_graph(seed, directed=seed % 2 == 1)
    assert AttentionGraph.from_json(graph.to_json()) == graph
    assert AttentionGraph.from_dict(json.loads(graph.to_json())) == graph


def test_the_interchange_layout_is_read():
    text = '{"nodes": [{"span": [0, 4], "modality": "text"}, {"span": [5, 9]}], "edges": [[0, 1, "left of"], [1, 0]]}'
    graph = AttentionGraph.from_json(text)
    assert [node.span for node in graph.nodes] == [(0, 4), (5, 9)]
    assert graph.edges == ((0, 1, "left of"), (1, 0, ""))
    assert set(json.loads(graph.to_json())["nodes"][0]) == {"span", "modality"}


@pytest.mark.parametrize("seed", range(10))
def test_edges_hold_both_ways_unless_directed(seed):
    plain, directed = random_graph(seed), random_graph(seed, True)
    assert torch.equal(plain.adjacency(), plain.adjacency().T) and bool(plain.adjacency().diagonal().all())
    assert torch.equal(plain.adjacency(), directed.adjacency() | directed.adjacency().T)
    for i, j, _ in directed.edges:
        assert directed.adjacency()[i, j]
    apart = {edge[:2] for edge in directed.edges if edge[0] != edge[1]}
    assert int(directed.adjacency().sum()) == len(directed.nodes) + len(apart)


@pytest.mark.parametrize("directed", [False, True])
def test_a_matrix_makes_the_same_graph(directed):
    graph = random_graph(3, directed)
    again = AttentionGraph.from_adjacency(graph.nodes, graph.adjacency().int().tolist(), directed)
    assert torch.equal(again.adjacency(), graph.adjacency())


def test_an_asymmetric_matrix_needs_directed():
    nodes = [GraphNode((0, 1)), GraphNode((2, 3))]
    with pytest.raises(ValueError, match=r"`adjacency` is asymmetric at \(0, 1\).*directed=True"):
        AttentionGraph.from_adjacency(nodes, [[0, 1], [0, 0]])
    assert AttentionGraph.from_adjacency(nodes, [[0, 1], [0, 0]], directed=True).edges == ((0, 1, ""),)
    for wrong in ([[0, 1]], [[0, 2], [2, 0]], "x", [[0.5, 0], [0, 0]]):
        with pytest.raises(ValueError, match="`adjacency`"):
            AttentionGraph.from_adjacency(nodes, wrong)


def test_parts_and_joins_keep_edges():
    left, right = random_graph(1), random_graph(2)
    both = left.joined(right)
    size = len(left.nodes)
    assert torch.equal(both.adjacency()[:size, :size], left.adjacency())
    assert torch.equal(both.adjacency()[size:, size:], right.adjacency())
    assert not both.adjacency()[:size, size:].any()
    texts = [n for n, node in enumerate(both.nodes) if node.modality == "text"]
    assert torch.equal(both.part("text").adjacency(), both.adjacency()[texts][:, texts])
    assert [n.span for n in left.part("text").shifted(7).nodes] == [
        (a + 7, b + 7) for a, b in (n.span for n in left.part("text").nodes)
    ]


@pytest.mark.parametrize(
    ("data", "said"),
    [
        ({"nodes": [{"span": [0, 4]}], "edges": [[0, 1]]}, r"`edges`\[0\] names node 1; index out of range.* 1 nodes"),
        ({"nodes": [{"span": [0, 4]}], "edges": [[-1, 0]]}, "out of range"),
        ({"nodes": [{"span": [0, 4]}], "edges": [[0]]}, r"`edges`\[0\]"),
        ({"nodes": [{"span": [0, 4]}], "edges": [[0, True]]}, r"`edges`\[0\]"),
        ({"nodes": [{"span": [0, 4]}], "edges": [[0, 0, 5]]}, "relation 5"),
        ({"nodes": [{"span": [4, 4]}]}, r"`nodes`\[0\]: `span`"),
        ({"nodes": [{"span": [-1, 4]}]}, "`span`"),
        ({"nodes": [{"span": [0, 4.5]}]}, "`span`"),
        ({"nodes": [{"modality": "sound", "span": [0, 1]}]}, "`modality`.*'sound'.*text, image"),
        ({"nodes": [{"modality": "image", "box": [0, 0, 2, 1]}]}, "`box`"),
        ({"nodes": [{"modality": "image", "box": [0.5, 0, 0.5, 1]}]}, "`box`"),
        ({"nodes": [{"modality": "image", "region": -1}]}, "`region`"),
        ({"nodes": [{"modality": "image"}]}, "either"),
        ({"nodes": [{"span": [0, 1], "box": [0, 0, 1, 1]}]}, "text node"),
        ({"nodes": [{"span": [0, 1], "kind": "verb"}]}, "`kind`"),
        ({"nodes": [{"span": [0, 1], "words": "x"}]}, "unknown field 'words'"),
        ({"nodes": {}}, "`nodes` is a dict; a list"),
        ({"node": []}, "unknown field 'node'"),
        ({"directed": 1}, "`directed` is 1"),
        ([], "JSON object"),
    ],
)
def test_what_is_no_graph_is_refused(data, said):
    with pytest.raises(ValueError, match=said):
        AttentionGraph.from_json(json.dumps(data))


def test_text_that_is_no_json_is_refused():
    with pytest.raises(ValueError, match="a graph is JSON"):
        AttentionGraph.from_json("{nodes")
