"""From texts, facts, dictionaries, scene graphs and tables to nodes and edges."""

import pytest
import torch

from wm_pipelines.graph_transformer.graph import AttentionGraph
from wm_pipelines.graph_transformer.parsing import (
    auto_graph,
    from_parser_dict,
    joined_text,
    read_graph,
    text_graph,
)
from wm_pipelines.graph_transformer.tables import Table, read_rows
from wm_pipelines.text.parsed import Entity, ParsedText, Relation
from wm_pipelines.text.parser import parse
from wm_pipelines.text.scene_graph import Edge, Node, SceneGraph

NOUNS = ("dog", "cat", "man", "woman", "horse", "child", "box", "bird")
RELATIONS = (("left of",) * 2, ("behind",) * 2, ("in front of",) * 2, ("chases", "chase"), ("sits on", "sit"))


def said(graph, text):
    return [text[slice(*node.span)] for node in graph.nodes if node.span]


def ties(graph, text):
    """The edges as words, each with its relation, either way round."""
    words = said(graph, text)
    return {(frozenset((words[i], words[j])), what) for i, j, what in graph.edges}


def joined(graph, text, a, b):
    words = said(graph, text)
    return any({words[i], words[j]} == {a, b} for i, j, _ in graph.edges)


@pytest.mark.parametrize("subject", NOUNS[:4])
@pytest.mark.parametrize("form", RELATIONS)
@pytest.mark.parametrize("object", NOUNS[4:])
def test_a_relation_is_tied_to_both_its_ends(subject, form, object):
    text = f"A small {subject} {'is ' if form[0] == form[1] else ''}{form[0]} the red {object}."
    graph = text_graph(text)
    a, b = f"A small {subject}", f"the red {object}"
    phrase = form[0].removesuffix(" on")
    assert (frozenset((a, b)), form[1]) in ties(graph, text)
    assert joined(graph, text, a, phrase) and joined(graph, text, phrase, b)
    kinds = dict(zip(said(graph, text), (node.kind for node in graph.nodes), strict=True))
    assert kinds[phrase] == "relation" and kinds[a] == kinds[b] == "entity"


@pytest.mark.parametrize(("one", "other"), [("dog", "dogs"), ("box", "boxes"), ("man", "men"), ("pony", "ponies")])
def test_mentions_of_one_lemma_connect_question_and_context(one, other):
    question, context = f"What is behind the {one}?", f"A cat chases two {other}. A bird sits on a fence."
    text, graph = joined_text(question, context), auto_graph(question, context)
    assert joined(graph, text, f"the {one}", f"two {other}")
    assert not joined(graph, text, f"the {one}", "A cat") and not joined(graph, text, f"the {one}", "A bird")


def test_attributes_that_contradict_keep_mentions_apart():
    question, context = "What is left of the cube?", "The red cube is behind the blue cube."
    text, graph = joined_text(question, context), auto_graph(question, context)
    assert joined(graph, text, "the cube", "The red cube") and joined(graph, text, "the cube", "the blue cube")
    assert (frozenset(("The red cube", "the blue cube")), "same") not in ties(graph, text)


def test_a_mention_of_one_sentence_finds_its_own_relation():
    text = "A red cube left of a blue cube, the red cube behind a green cone"
    graph = text_graph(text)
    assert (frozenset(("A red cube", "a blue cube")), "left of") in ties(graph, text)
    assert (frozenset(("the red cube", "a green cone")), "behind") in ties(graph, text)
    assert (frozenset(("A red cube", "the red cube")), "same") in ties(graph, text)


def test_an_attribute_that_stands_apart_is_tied_to_its_thing():
    text = "the cube is red. the sphere is blue."
    graph = text_graph(text)
    assert ties(graph, text) == {(frozenset(("the cube", "red")), "is"), (frozenset(("the sphere", "blue")), "is")}


@pytest.mark.parametrize(
    ("question", "context"),
    [
        ("What is left of the cube", "the red cube is behind the cone."),
        ("Who owns Rex?", "Rex is a dog. Ann likes Rex."),
    ],
)
def test_what_the_parser_passes_over_still_touches_the_context(question, context):
    text, graph = joined_text(question, context), auto_graph(question, context)
    own = [n for n, node in enumerate(graph.nodes) if node.span[1] <= len(question)]
    there = [n for n, node in enumerate(graph.nodes) if node.span[0] > len(question)]
    assert graph.adjacency()[own][:, there].any(), said(graph, text)


@pytest.mark.parametrize("question", ["Is there a red cube?", "What?", "How many?", "hm", "12 + 5", "", "   ", "..."])
def test_a_text_that_ties_nothing_gives_the_empty_graph(question):
    assert text_graph(question) == AttentionGraph()


def test_what_is_asked_for_is_no_node():
    text = "What colour is the cube left of the sphere?"
    assert "colour" not in " ".join(said(text_graph(text), text))
    text = "Which animal sits on the mat?"
    assert joined(text_graph(text), text, "animal", "the mat")


@pytest.mark.parametrize("text", ["dog", "a dog\nbehind a cat", "a\tcube behind a dog", "é à behind a dog", "x" * 300])
def test_spans_lie_in_the_text_and_on_words(text):
    for node in text_graph(text).nodes:
        word = text[slice(*node.span)]
        assert word and word == word.strip()


def test_another_parser_is_asked_sentence_by_sentence():
    asked = []

    def parser(text):
        asked.append(text)
        return parse(text)

    auto_graph("Is the dog here? It is.", "A cat runs; a dog sleeps", parser)
    assert [text.strip() for text in asked] == ["Is the dog here?", "It is.", "A cat runs;", "a dog sleeps"]
    with pytest.raises(ValueError, match="ParsedText, got str"):
        text_graph("a dog", lambda text: text)
    with pytest.raises(ValueError, match="`text` must be a string"):
        text_graph(5)


FACTS = "( pigs , fly on , sky ) , ( pigs , have , wings ) , ( wings , is , black )"
PIGS = "Two pigs are flying on the sky with black wings."


@pytest.mark.parametrize(
    "source", [FACTS, [("pigs", "fly on", "sky"), ("pigs", "have", "wings"), ("wings", "is", "black")], f'"{FACTS}"']
)
def test_facts_of_factual_models_are_read(source):
    graph = read_graph(source, PIGS)
    assert (frozenset(("Two pigs", "the sky")), "fly on") in ties(graph, PIGS)
    assert (frozenset(("Two pigs", "black wings")), "have") in ties(graph, PIGS)
    assert joined(graph, PIGS, "Two pigs", "flying on")


SNG = {
    "entities": [
        {"span": "A woman", "head": "woman", "lemma_head": "woman", "modifiers": [{"dep": "det", "span": "A"}]},
        {"span": "the old piano", "head": "piano", "modifiers": [{"dep": "amod", "span": "old"}]},
        {"span": "the room", "head": "room", "modifiers": []},
    ],
    "relations": [
        {"subject": 0, "relation": "playing", "lemma_relation": "play", "object": 1},
        {"subject": 0, "relation": "in", "lemma_relation": "in", "object": 2},
    ],
}


def test_dictionaries_of_scene_graph_parser_are_read():
    text = "A woman is playing the old piano in the room."
    graph = read_graph(SNG, text)
    assert (frozenset(("A woman", "the old piano")), "playing") in ties(graph, text)
    assert (frozenset(("A woman", "the room")), "in") in ties(graph, text)
    import json

    assert read_graph(json.dumps(SNG), text) == graph


def test_our_json_gets_its_phrases_and_mentions():
    text = "the cube is left of the sphere. the spheres are red"
    data = {"nodes": [{"span": [0, 8]}, {"span": [20, 30]}, {"span": [32, 43]}], "edges": [[0, 1, "left of"]]}
    graph = read_graph(data, text)
    assert joined(graph, text, "the cube", "left of") and joined(graph, text, "left of", "the sphere")
    assert joined(graph, text, "the sphere", "the spheres")
    assert read_graph(graph, text) == graph  # nothing is added twice


def test_a_scene_graph_gives_phrases_and_boxes():
    scene = SceneGraph(
        (
            Node("a", "cube", ("red",), box=(0.0, 0.2, 0.3, 0.6)),
            Node("b", "sphere", ("blue",), box=(0.5, 0.2, 0.9, 0.6)),
            Node("c", "cone"),
        ),
        (Edge("a", "left of", "b"), Edge("c", "behind", "b")),
    )
    text = "Is the red cube left of the blue sphere?"
    graph = read_graph(scene, text)
    assert (frozenset(("the red cube", "the blue sphere")), "left of") in ties(graph.part("text"), text)
    assert [node.box for node in graph.part("image").nodes] == [scene.nodes[0].box, scene.nodes[1].box]
    assert graph.part("image").edges == ((0, 1, "left of"),)
    assert read_graph(scene.to_json(), text) == graph


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("( pigs , fly on )", "FACTUAL"),
        ("( cows , eat , grass )", "does not mention 'cows'"),
        ([("a", "b")], r"`graph`\[0\]"),
        ("{", "no JSON"),
        ({"nodes": [{"span": [0, 999]}]}, r"node 0 has the span \(0, 999\), beyond the text of 48 characters"),
        ({"entities": [{"head": "pigs"}], "relations": [{"subject": 0, "object": 1}]}, "out of range"),
        ({"entities": [{"head": ""}]}, r"`entities`\[0\]"),
        ({"entities": 3}, "SceneGraphParser"),
        (5, "`graph` is a int"),
    ],
)
def test_what_fits_no_form_or_not_the_text_is_refused(source, message):
    with pytest.raises(ValueError, match=message):
        read_graph(source, PIGS)


def test_a_dictionary_becomes_what_any_parser_gives():
    parsed = from_parser_dict(SNG)
    assert parsed.entities[1] == Entity("e1", "piano", ("old",))
    assert parsed.relations[1] == Relation("r1", "e0", "in", "e2")
    assert isinstance(parsed, ParsedText)


TABLES = [
    Table(("name", "age"), (("Ann", "7"), ("Bob", "9"))),
    Table(("city", "river", "height"), (("Bern", "Aare", "540 m"), ("Köln", "", "53 m"), ("Bern", "Rhine", "1"))),
    Table(("x",), (("1",),)),
]


@pytest.mark.parametrize("table", TABLES)
def test_cells_connect_along_rows_columns_and_headers(table):
    text, graph = table.text(), table.graph()
    places = {}
    for row, cells in enumerate(table.rows):
        at = text.index(f"row {row + 1}: ")
        for column, (name, cell) in enumerate(zip(table.header, cells, strict=True)):
            at = text.index(f"{name} is ", at)
            places["header", row, column] = (at, at + len(name))
            if cell:
                places["cell", row, column] = (at + len(name) + 4, at + len(name) + 4 + len(cell))
    nodes = {node.span: n for n, node in enumerate(graph.nodes)}
    assert len(nodes) == len(graph.nodes) == len(places)
    matrix = graph.adjacency()
    for (kind, row, column), span in places.items():
        for (other, r, c), second in places.items():
            cells = kind == other == "cell" and (row == r or column == c)
            headed = kind != other and row == r and column == c
            headers = kind == other == "header" and column == c
            assert bool(matrix[nodes[span], nodes[second]]) == (cells or headed or headers or span == second)


@pytest.mark.parametrize("table", TABLES[:2])
@pytest.mark.parametrize("form", [str, lambda text: text.replace("; row", ". row")])
def test_a_table_is_known_by_its_text(table, form):
    text = form(table.text())
    assert read_rows(text) == table.graph()
    question = "what is the row?"
    assert auto_graph(question, text) == auto_graph(question, table)


@pytest.mark.parametrize("text", ["the row is red.", "row 1: a dog", "row 1: a is b; a cat runs.", "a row 1: x is y;"])
def test_other_texts_are_no_tables(text):
    assert read_rows(text) is None


def test_rows_may_have_their_columns_in_any_order():
    graph = read_rows("row one: name is ann; price is two. row two: price is six; name is bob.")
    ties = {(i, j): what for i, j, what in graph.edges}
    assert ties[1, 7] == "same column" and ties[3, 5] == "same column" and ties[1, 3] == "same row"
    assert (1, 5) not in ties and (3, 7) not in ties


def test_a_table_as_context_is_touched_by_the_question():
    text, graph = joined_text("How old is Ann?", TABLES[0]), auto_graph("How old is Ann?", TABLES[0])
    assert text == "How old is Ann? row 1: name is Ann; age is 7; row 2: name is Bob; age is 9;"
    own = next(n for n, node in enumerate(graph.nodes) if text[slice(*node.span)] == "Ann" and node.span[0] < 15)
    cell = next(n for n, node in enumerate(graph.nodes) if text[slice(*node.span)] == "Ann" and node.span[0] > 15)
    assert graph.adjacency()[own, cell]
    assert int(graph.adjacency()[own].sum()) == 2


def test_a_table_is_read_from_csv_and_checked(tmp_path):
    (tmp_path / "t.csv").write_text("name,age\nAnn,7\nBob,\n", encoding="utf-8")
    assert Table.from_csv(tmp_path / "t.csv") == Table(("name", "age"), (("Ann", "7"), ("Bob", "")))
    for header, rows in (((), ()), (("a",), ()), (("a",), (("1", "2"),)), (("",), (("1",),)), (("a",), ((1,),))):
        with pytest.raises(ValueError):
            Table(header, rows)


def test_directed_graphs_keep_their_direction_and_mentions_both():
    text = "the dog chases the cat. the cats"
    data = {"nodes": [{"span": [0, 7]}, {"span": [15, 22]}, {"span": [24, 32]}], "edges": [[0, 1, "chase"]]}
    matrix = read_graph({**data, "directed": True}, text).adjacency()
    assert matrix[0, 1] and not matrix[1, 0] and matrix[1, 2] and matrix[2, 1]
    assert matrix[0, 3] and matrix[3, 1] and not matrix[3, 0]
    assert torch.equal(read_graph(data, text).adjacency(), matrix | matrix.T)
