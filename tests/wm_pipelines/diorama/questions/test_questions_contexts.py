"""Contexts, read by a reader of the tests' own: what they lead to, and what they do not give away."""

import re
from collections import Counter

import numpy as np
import pytest
from scipy.stats import chisquare

from wm_pipelines.diorama.questions import FAMILIES, Knobs, sample_question
from wm_pipelines.diorama.questions.contexts import FILLERS, Clue, context_for, draw_clue
from wm_pipelines.runtime.random import keyed

KINDS = ("facts", "table", "graph")
ABOUT_ONE = ("colour", "shape", "size", "where", "same", "two_hops")
TOLD = ("lookup", "lookup_two_hops")


def read(context) -> list[dict]:
    """The rows as dictionaries: of a table by header, else anchor, relation (or "link"), object."""
    rows = []
    for start, end in context.rows:
        row = re.sub(rf"^({'|'.join(FILLERS)}) ", "", context.text[start:end]).rstrip(".")
        if context.kind == "table":
            cells = row.partition(": ")[2].split("; ")
            rows.append(dict(cell.split(" is ") for cell in cells))
        elif match := re.fullmatch(r"(?:the )?(\w+) (?:is a friend of|was near) (?:the )?(\w+)", row):
            rows.append({"anchor": match[1], "relation": "link", "object": match[2]})
        elif context.kind == "facts":
            anchor, relation, thing = row.split(" ", 2)
            rows.append({"anchor": anchor, "relation": relation, "object": thing})
        else:
            thing, anchor = row.split(" was ")
            relation, anchor = re.fullmatch(r"(left of|behind|above) the (\w+)", anchor).groups()
            rows.append({"anchor": anchor, "relation": relation, "object": thing})
    return rows


def resolved(context, kind: str, anchor: str, relation: str) -> str:
    """What the only row of an anchor and a relation leads to."""
    rows = read(context)
    if kind == "table":
        found = [row["object"] for row in rows if row["name"] == anchor]
    else:
        found = [row["object"] for row in rows if (row["anchor"], row["relation"]) == (anchor, relation)]
    assert len(found) == 1
    return found[0]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ABOUT_ONE)
def test_the_context_names_the_object_that_the_question_means(name, kind):
    for n in range(4):
        item = sample_question(name, "context", n, context=kind)
        question, program = item.question, item.question.program
        target = resolved(question.context, *program["clue"])
        words = [w for w in target.split()[1:] if w != "object"]
        assert item.clip.find(words) == item.clip.find(program["object"])
        # the question does not say which object it is; it needs the context, and the context does not say the answer
        compared = f"compared with the {program.get('other', [''])[-1]}"
        assert f"the {words[0]}" not in question.text.replace(compared, "")
        assert program["clue"][1] in question.text
        assert question.prior < 1 and question.full_text == f"{question.context.text} {question.text}"


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", TOLD)
def test_the_context_says_the_answer_to_who_reads_it(name, kind):
    for n in range(10):
        question = sample_question(name, "told", n, context=kind).question
        clue, partner, column = (question.program[key] for key in ("clue", "partner", "column"))
        rows = read(question.context)
        if kind == "table" and name == "lookup":
            answer = next(row[column] for row in rows if row["name"] == clue[1])
        elif kind == "table":
            price = next(row["price"] for row in rows if row["name"] == clue[1])
            (answer,) = [row["name"] for row in rows if row["price"] == price and row["name"] != clue[1]]
        else:
            anchor = clue[1]
            if name == "lookup_two_hops":  # the question names the partner alone
                assert anchor not in question.text
                links = [{row["anchor"], row["object"]} for row in rows if row["relation"] == "link"]
                (pair,) = [link for link in links if partner in link]
                (anchor,) = pair - {partner}
            answer = resolved(question.context, kind, anchor, clue[2])
        assert answer == question.right and question.prior == 1
        assert len(question.context.needed) == (1 if name == "lookup" else 2)


@pytest.mark.parametrize("kind", KINDS)
def test_place_and_frequency_in_the_context_give_nothing_away(kind):
    objects = ["the cube", "the sphere", "the cone", "the cylinder"]
    places, counts, hits = Counter(), Counter(), Counter()
    for n in range(600):
        rng = keyed("place", kind, n)
        clue, target = draw_clue(rng, kind), objects[int(rng.integers(4))]
        context = context_for(rng, clue, target, objects, 6)
        (needed,) = context.needed
        rows = read(context)
        assert len(rows) == 6 and rows[needed]["object"] == target
        assert target == resolved(context, kind, clue.anchor, clue.relation)
        places[needed] += 1
        often = Counter(row["object"] for row in rows)
        assert max(often.values()) - min(often.values()) <= 1 and set(often) == set(objects)
        counts[often[target]] += 1
        hits["first"] += rows[0]["object"] == target
        hits["last"] += rows[-1]["object"] == target
        hits["most"] += often.most_common(1)[0][0] == target
    assert chisquare([places[i] for i in range(6)]).pvalue > 1e-4, places
    for guess, count in hits.items():
        assert abs(count - 150) < 4 * np.sqrt(600 * 0.25 * 0.75), (guess, count)
    assert chisquare([counts[1], counts[2]]).pvalue > 1e-4  # two objects of four are said twice: that tells nothing


@pytest.mark.parametrize("kind", ["facts", "graph"])
def test_half_a_question_is_not_enough(kind):
    """Other rows share the anchor with another relation, and the relation with another anchor."""
    for n in range(20):
        rng = keyed("half", kind, n)
        clue = draw_clue(rng, kind)
        rows = read(context_for(rng, clue, "the cube", ["the cube", "the cone", "the sphere"], 6))
        assert sum(row["anchor"] == clue.anchor for row in rows) >= 2
        assert sum(row["relation"] == clue.relation for row in rows) >= 2
        assert len({(row["anchor"], row["relation"]) for row in rows}) == 6


@pytest.mark.parametrize("rows", [4, 7, 12])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", [*ABOUT_ONE[:1], *TOLD])
def test_rows_are_as_many_as_asked_for_and_spans_are_exact(name, kind, rows):
    question = sample_question(name, "rows", 1, context=kind, knobs=Knobs(rows=rows)).question
    context = question.context
    least = 4 + 2 * (name == "lookup_two_hops" and kind != "table") + (name == "lookup_two_hops" and kind == "table")
    assert len(context.rows) == max(rows, least if name != "colour" else 4)
    assert all(context.text[a:b].endswith(".") and context.text[a : b - 1].count(".") == 0 for a, b in context.rows)
    assert " ".join(context.text[a:b] for a, b in context.rows) == context.text
    graph = question.full_graph()
    for node in graph["nodes"]:
        a, b = node["span"]
        word = question.full_text[a:b]
        assert word and word == word.strip() and node["modality"] == "text"
        assert (question.full_text + " ")[b] in " .?;:" and (" " + question.full_text)[a] == " "
    assert all(0 <= i < len(graph["nodes"]) > j >= 0 and i != j for i, j, _ in graph["edges"])
    assert len({tuple(sorted(edge[:2])) for edge in graph["edges"]}) == len(graph["edges"])


def test_the_graph_joins_what_the_rows_say():
    question = sample_question("colour", "edges", 3, context="facts").question
    context, words = question.context, []
    for i, j, label in context.graph.edges:
        a, b = (context.text[slice(*context.graph.nodes[k])] for k in (i, j))
        words.append((a, b, label))
    for row in read(context):
        assert (row["anchor"], row["relation"], "subject") in words
        assert (row["relation"], row["object"], "object") in words
    table = sample_question("colour", "edges", 3, context="table").question.context
    labels = Counter(label for *_, label in table.graph.edges)
    rows = len(table.rows)
    assert labels == {"header": 3 * rows, "row": 3 * rows, "column": 3 * rows * (rows - 1) // 2}


def test_without_a_context_there_is_no_graph():
    question = sample_question("colour", "bare", 0).question
    assert question.context is None and question.full_text == question.text
    assert question.full_graph() == {"nodes": [], "edges": []}
    assert not FAMILIES["count"].contexts and not FAMILIES["translation"].contexts


def test_a_clue_says_its_object_without_naming_it():
    from wm_pipelines.diorama.questions.wording import Wording

    for clue, text in (
        (Clue("facts", "anna", "likes"), "the object that anna likes"),
        (Clue("graph", "door", "left of"), "the object that was left of the door yesterday"),
        (Clue("table", "anna", "object"), "the object of anna"),
    ):
        wording = Wording()
        clue.say(wording)
        assert wording.text == text
