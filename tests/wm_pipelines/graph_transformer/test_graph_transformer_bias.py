"""The rules that turn graphs into an attention bias, one by one, and the properties that hold for every graph."""

import pytest
import torch

from wm_pipelines.graph_transformer.bias import Regions, compile_graphs, connect
from wm_pipelines.graph_transformer.graph import AttentionGraph, GraphNode
from wm_pipelines.graph_transformer.parsing import auto_graph, joined_text, text_graph
from wm_pipelines.graph_transformer.regions import node_regions, patch_boxes, region_adjacency
from wm_pipelines.graph_transformer.tables import Table
from wm_pipelines.graph_transformer.tokens import encode, node_pieces
from wm_pipelines.runtime.random import keyed

TEXT = "the red cube is left of the wooden table"


def words(tokenizer, own):
    return tokenizer.convert_ids_to_tokens(list(own.ids))


def spans(text, *phrases):
    return tuple(GraphNode((text.index(phrase), text.index(phrase) + len(phrase))) for phrase in phrases)


def grid(batch=1, height=3, width=3, special=1):
    boxes = torch.cat([torch.zeros(special, 4), patch_boxes(height, width)])
    return Regions(boxes.expand(batch, -1, -1), torch.ones(batch, len(boxes), dtype=torch.bool), special)


# nodes and word pieces


def test_a_node_owns_all_its_word_pieces(tokenizer, pieces):
    own = pieces(TEXT)
    owned = node_pieces(AttentionGraph(spans(TEXT, "red cube", "wooden table", "woo", "ubes"[:3])), own)
    names = words(tokenizer, own)
    assert [[names[t] for t in row.nonzero().flatten()] for row in owned] == [
        ["red", "cube"], ["wood", "##en", "table"], ["wood"], ["cube"],
    ]  # fmt: skip


@pytest.mark.parametrize("seed", range(12))
def test_pieces_are_those_that_share_a_character(tokenizer, seed):
    rng = keyed("pieces", seed)
    vocabulary = ["red", "wooden", "cubes", "riding", "cat", "horse", "zzz", "the", "é", "?", "Wood"]
    said = [vocabulary[i] for i in rng.integers(len(vocabulary), size=12)]
    text = " ".join(said)
    question, context = text[: text.index(" ", len(text) // 2)], text[text.index(" ", len(text) // 2) + 1 :]
    own = encode(tokenizer, question, context, 99)
    assert own.text == text
    a, b = sorted(rng.integers(0, len(text) + 1, 2).tolist())
    if not text[a:b].strip():
        return
    row = node_pieces(AttentionGraph((GraphNode((a, b)),)), own)[0]
    for t, (start, end) in enumerate(own.offsets):
        assert bool(row[t]) == bool(set(range(start, end)) & set(range(a, b)))


def test_spans_beyond_the_text_or_the_cut_are_named(tokenizer, pieces):
    with pytest.raises(ValueError, match=r"node 1 has the span \(0, 41\), beyond the text of 40 characters"):
        node_pieces(AttentionGraph((GraphNode((0, 3)), GraphNode((0, 41)))), pieces(TEXT))
    with pytest.raises(ValueError, match=r"`question` has 12 tokens; the model takes 8; .*truncate=True"):
        pieces(TEXT, limit=8)
    cut = pieces(TEXT, limit=8, truncate=True)
    assert len(cut) == 8
    nodes = AttentionGraph(spans(TEXT, "red cube", "left of", "the", "is", "wooden table"))
    with pytest.raises(ValueError, match="node 4 'wooden table' lies beyond token 8"):
        node_pieces(nodes, cut)
    assert node_pieces(AttentionGraph(nodes.nodes[:4]), cut).any(1).all()
    with pytest.raises(ValueError, match="node 0 ' ' has no token"):
        node_pieces(AttentionGraph((GraphNode((3, 4)),)), pieces(TEXT))


def test_a_context_is_cut_and_the_question_is_kept(pieces):
    question, context = "what is left of the cube?", "the red cube is left of the blue sphere."
    own = pieces(question, context, limit=15, truncate=True)
    assert len(own) == 15 and own.kept == ((0, 25), (26, 26 + len("the red cube is left")))
    with pytest.raises(ValueError, match="node 0 'blue sphere' lies beyond token 15"):
        node_pieces(AttentionGraph(spans(own.text, "blue sphere")), own)
    with pytest.raises(ValueError, match="`question` alone has 10 tokens"):
        pieces(question, context, limit=9, truncate=True)


def test_a_tokenizer_without_offsets_is_refused():
    class Slow:
        is_fast = False

    with pytest.raises(ValueError, match="`tokenizer` is a Slow without offsets"):
        encode(Slow(), "x", None, 9)


# rules 1 to 4, 6


def cells(bias, tokenizer, own, a, b, index=0):
    """Whether the tokens `a` and `b` see each other: both ways, or as a pair where they differ."""
    names = words(tokenizer, own)
    i, j = names.index(a), names.index(b)
    there, back = bool(bias.allowed[index, i, j]), bool(bias.allowed[index, j, i])
    return there if there == back else (there, back)


def test_rule_1_tokens_connect_within_a_node_and_along_an_edge(tokenizer, pieces):
    own = pieces(TEXT)
    nodes = spans(TEXT, "red cube", "wooden table", "left of")
    bias = compile_graphs([AttentionGraph(nodes, ((0, 2),))], [own])
    assert cells(bias, tokenizer, own, "red", "cube") and cells(bias, tokenizer, own, "wood", "##en")
    assert cells(bias, tokenizer, own, "red", "left") and cells(bias, tokenizer, own, "cube", "of")
    for a in ("red", "cube", "left", "of"):
        assert cells(bias, tokenizer, own, a, "##en") is False
    directed = compile_graphs([AttentionGraph(nodes, ((0, 2),), directed=True)], [own])
    assert cells(directed, tokenizer, own, "red", "left") == (True, False)


def test_rule_2_a_relation_phrase_connects_to_both_its_ends(tokenizer, pieces):
    own = pieces(TEXT)
    bias = compile_graphs([text_graph(TEXT)], [own])
    for end in ("cube", "table"):
        assert cells(bias, tokenizer, own, "left", end) and cells(bias, tokenizer, own, "of", end)


def test_rule_3_what_is_in_no_node_sees_all_and_each_itself(tokenizer, pieces):
    own = pieces("[MASK] red cube is left of the table", "a cat")
    graph = AttentionGraph((GraphNode((0, 15)), *spans(own.text, "table", "cat")))
    bias = compile_graphs([graph], [own])
    names = words(tokenizer, own)
    for t, name in enumerate(names):
        free = name in ("[CLS]", "[SEP]", "[MASK]", "is", "left", "of", "the", "a")
        assert bool(bias.allowed[0, t].all()) == bool(bias.allowed[0, :, t].all()) == free
        assert bool(bias.opened[0, t]) == free
    assert bool(bias.allowed[0].diagonal().all())


@pytest.mark.parametrize(
    ("question", "context", "tied"),
    [
        ("what is behind the cube?", "the red cubes are left of the dog.", True),
        ("what is behind the blue cube?", "the red cube is left of the dog.", False),
        ("what is behind the cube?", "the cat is left of the dog.", False),
    ],
)
def test_rule_4_repeated_mentions_connect(tokenizer, pieces, question, context, tied):
    own = pieces(question, context)
    bias = compile_graphs([auto_graph(question, context)], [own])
    at = own.offsets.index((question.index("cube"), question.index("cube") + 4))
    others = [t for t, (a, _) in enumerate(own.offsets) if own.text[a:].startswith(("cu", "cat"))]
    other = next(t for t in others if own.offsets[t][0] > len(question))
    assert bool(bias.allowed[0, at, other]) == bool(bias.allowed[0, other, at]) == tied


def test_rule_5_cells_of_a_table(tokenizer, pieces):
    table = Table(("name", "age"), (("ann", "7"), ("bob", "9")))
    own = pieces("what?", table.text())
    bias = compile_graphs([auto_graph("what?", table)], [own])
    for a, b, tied in (
        ("ann", "7", True), ("ann", "bob", True), ("7", "9", True), ("bob", "9", True), ("ann", "9", False),
        ("7", "bob", False), ("name", "ann", True), ("age", "7", True), ("name", "7", False), ("age", "ann", False),
    ):  # fmt: skip
        assert cells(bias, tokenizer, own, a, b) is tied, (a, b)


def test_rule_6_padding_is_seen_by_none(pieces):
    own = [pieces(TEXT), pieces("the cat"), pieces("red cube", "a dog behind a cat and a horse")]
    regions = grid(3)
    valid = regions.valid.clone()
    valid[1, 5:] = False
    bias = compile_graphs([text_graph(TEXT), None, text_graph(own[2].text)], own, Regions(regions.boxes, valid, 1))
    for b, text in enumerate(own):
        there = torch.cat([torch.arange(bias.text_length) < len(text), valid[b]])
        assert torch.equal(bias.valid[b], there)
        assert not bias.allowed[b][:, ~there].any()
        assert bool((bias.additive()[b, 0][:, ~there] == -torch.inf).all())
        assert bool(bias.allowed[b].any(1).all())


def test_rule_7_regions():
    boxes = patch_boxes(3, 4)
    full = region_adjacency(boxes)
    assert bool(full.all()) and full.shape == (12, 12)
    near = region_adjacency(boxes, "knn", neighbours=2, directed=True)
    assert bool((near.sum(1) == 3).all())
    centres = (boxes[:, :2] + boxes[:, 2:]) / 2
    for v in range(12):
        apart = (centres - centres[v]).norm(dim=1)
        assert apart[near[v]].max() <= apart[~near[v]].min() + 1e-6
    both = region_adjacency(boxes, "knn", neighbours=2)
    assert torch.equal(both, near | near.T)
    assert bool(region_adjacency(boxes, "knn", neighbours=99).all())
    over = torch.tensor([[0.0, 0, 0.5, 0.5], [0.25, 0, 0.75, 0.5], [0.6, 0.6, 1, 1]])
    assert region_adjacency(over, "iou").tolist() == [[True, True, False], [True, True, False], [False, False, True]]
    assert torch.equal(region_adjacency(over, "iou", overlap=0.4), torch.eye(3).bool())
    given = torch.zeros(3, 3)
    given[0, 2] = given[2, 0] = 1
    assert torch.equal(region_adjacency(over, given), given.bool() | torch.eye(3).bool())
    with pytest.raises(ValueError, match="asymmetric"):
        region_adjacency(over, torch.ones(3, 3).triu())
    for options in ({"regions": "all"}, {"regions": "knn", "neighbours": 0}, {"regions": "iou", "overlap": 1}):
        with pytest.raises(ValueError, match="`(regions|neighbours|overlap)`"):
            region_adjacency(over, **options)


def test_rule_7_a_supplied_scene_graph(pieces):
    nodes = [GraphNode(modality="image", box=box) for box in ((0, 0, 0.5, 0.5), (0.5, 0.5, 1, 1), (0.5, 0, 1, 0.5))]
    owned = node_regions(AttentionGraph(tuple(nodes)), patch_boxes(4, 4))
    assert [row.nonzero().flatten().tolist() for row in owned] == [[0, 1, 4, 5], [10, 11, 14, 15], [2, 3, 6, 7]]
    bias = compile_graphs([AttentionGraph(tuple(nodes), ((0, 1),))], [pieces("a cat")], grid(1, 4, 4))
    block = bias.allowed[0, -16:, -16:]
    assert block[0, 5] and block[0, 10] and not block[0, 2] and not block[10, 7]
    assert bool(block[8].all()) and bool(block[:, 8].all())  # of no node
    assert bool(bias.allowed[0, -17].all()) and bool(bias.allowed[0, :, -17].all())  # the whole picture's token
    small = GraphNode(modality="image", box=(0.30, 0.30, 0.31, 0.31))
    tiny = node_regions(AttentionGraph((small,)), patch_boxes(4, 4))
    assert tiny.nonzero().tolist() == [[0, 5]]
    with pytest.raises(ValueError, match="node 0 is region 16; index out of range, there are 16"):
        node_regions(AttentionGraph((GraphNode(modality="image", region=16),)), patch_boxes(4, 4))


def test_across_text_and_picture_all_is_open(pieces):
    text = f"{TEXT}. the cat is behind the dog"
    regions = AttentionGraph(tuple(GraphNode(modality="image", region=n) for n in range(3)), ((0, 1),))
    bias = compile_graphs([text_graph(text).joined(regions)], [pieces(text)], grid())
    length = bias.text_length
    assert bool(bias.allowed[0, :length, length:].all()) and bool(bias.allowed[0, length:, :length].all())
    assert not bool(bias.allowed[0, :length, :length].all()) and not bool(bias.allowed[0, length:, length:].all())


# properties


@pytest.mark.parametrize("seed", range(16))
def test_no_row_is_empty_whatever_the_graph(pieces, seed):
    rng = keyed("rows", seed)
    text = " ".join(["cube", "is", "red", "wooden", "dog", "?"][i] for i in rng.integers(6, size=rng.integers(1, 14)))
    own = pieces(text)
    starts = [a for a, b in own.offsets if a < b]
    nodes = tuple(GraphNode((a, int(rng.integers(a + 1, len(text) + 1)))) for a in rng.choice(starts, 3).tolist())
    edges = tuple((int(i), int(j)) for i, j in rng.integers(0, 3, (2, 2)))
    bias = compile_graphs([AttentionGraph(nodes, edges, bool(seed % 2)), None], [own, pieces("a cat is red")], grid(2))
    additive = bias.additive()
    assert additive.shape == (2, 1, *bias.allowed.shape[1:]) and set(additive.unique().tolist()) <= {0.0, -torch.inf}
    assert bool(bias.allowed.any(2).all())
    there = bias.valid[:, :, None] & torch.eye(bias.valid.shape[1]).bool()
    assert bool(bias.allowed[there].all())
    assert not torch.isnan(torch.softmax(additive, -1)).any()
    for dtype in (torch.float16, torch.bfloat16, torch.float64):
        assert bias.additive(dtype).dtype == dtype and torch.equal(bias.additive(dtype).float(), additive)


def test_an_empty_graph_is_the_padding_mask(pieces):
    own = [pieces(TEXT), pieces("a cat")]
    empty, none = compile_graphs([AttentionGraph()] * 2, own, grid(2)), compile_graphs([None] * 2, own, grid(2))
    keys = none.valid[:, None, :].expand_as(none.allowed)
    assert torch.equal(empty.allowed, keys) and torch.equal(none.allowed, keys)
    assert bool((none.density == 1).all())


def test_an_example_is_compiled_alike_in_any_batch(pieces):
    own = [pieces(TEXT), pieces("the dog chases the cat", "the cat rides the horse. the horse is red.")]
    graphs = [text_graph(one.text) for one in own]
    many = compile_graphs(graphs, own)
    for b, one in enumerate(own):
        alone = compile_graphs([graphs[b]], [one])
        assert torch.equal(many.allowed[b, : len(one), : len(one)], alone.allowed[0])
        assert many.density[b] == alone.density[0]


@pytest.mark.parametrize("seed", range(6))
def test_a_random_graph_has_the_same_density_and_other_cells(pieces, seed):
    question, context = "what is left of the red cube?", "the red cube is behind the cat. the dog chases the horse."
    own = pieces(question, context)
    bias = compile_graphs([auto_graph(question, context)], [own], grid(), "knn", 2)
    other = bias.randomised(seed)
    assert torch.equal(bias.density, other.density) and not torch.equal(bias.allowed, other.allowed)
    assert torch.equal(other.allowed, other.allowed.transpose(1, 2))
    assert torch.equal(other.allowed, bias.randomised(seed).allowed)
    assert not torch.equal(other.allowed, bias.randomised(seed + 1).allowed)
    length = bias.text_length
    for block in (slice(0, length), slice(length, None)):
        assert int(bias.allowed[0, block, block].sum()) == int(other.allowed[0, block, block].sum())
    opened = bias.opened[0]
    assert bool(other.allowed[0][opened].all()) and bool(other.allowed[0].diagonal().all())


def test_numbers_of_graphs_texts_and_pictures_must_agree(pieces):
    with pytest.raises(ValueError, match="`graphs` has 2 entries for 1 texts"):
        compile_graphs([None, None], [pieces("a cat")])
    with pytest.raises(ValueError, match="1 texts and 2 pictures; graphs and images must match"):
        compile_graphs([None], [pieces("a cat")], grid(2))


def test_connecting_is_symmetric_when_the_adjacency_is():
    for seed in range(8):
        rng = keyed("connect", seed)
        member = torch.from_numpy(rng.random((4, 9)) < 0.3)
        adjacency = torch.from_numpy(rng.random((4, 4)) < 0.3)
        adjacency = adjacency | adjacency.T | torch.eye(4).bool()
        found, free = connect(member, adjacency)
        for p in range(9):
            for q in range(9):
                pairs = [(i, j) for i in range(4) for j in range(4) if member[i, p] and member[j, q]]
                wanted = any(adjacency[i, j] for i, j in pairs) or bool(free[p] or free[q]) or p == q
                assert bool(found[p, q]) == wanted


def test_a_plot_shows_the_matrix_and_the_picture(tokenizer, pieces, picture):
    question = "is the red cube left of the table?"
    own = pieces(question)
    regions = (GraphNode(modality="image", box=(0, 0, 0.4, 0.9)), GraphNode(modality="image", region=8))
    graph = text_graph(question).joined(AttentionGraph(regions, ((0, 1, "left of"),)))
    bias = compile_graphs([graph, None], [own, pieces("a cat")], grid(2), names=[words(tokenizer, own), ["a"]])
    drawn = bias.plot(0, picture(0))
    assert drawn.mode == "RGB" and drawn.width > 600 and len(set(drawn.resize((64, 32)).tobytes())) > 20
    assert drawn.tobytes() != bias.plot(1, picture(0)).tobytes() != bias.plot(1).tobytes()
    with pytest.raises(ValueError, match="`index` is 2; 0 to 1"):
        bias.plot(2)
    text_only = compile_graphs([text_graph(joined_text(question))], [own])
    assert text_only.plot().tobytes() != drawn.tobytes()
