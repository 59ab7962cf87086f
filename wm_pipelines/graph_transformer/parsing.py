"""Graphs of texts: what a parser read becomes nodes and edges over the text's characters (arXiv 2305.00581).

The text graph is that of the question, the semantic graph that of a long context. What the paper leaves open is ours:
every mention of an entity is a node, a relation's phrase is a node that is tied to both of its ends, an attribute that
stands apart from its name ("the cube is red") is a node tied to it, and mentions of one entity are tied. What a
question asks for ("what colour") is no node unless it takes part in a relation.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from wm_pipelines.graph_transformer import mentions as m
from wm_pipelines.graph_transformer.graph import NODE_KINDS, AttentionGraph, GraphNode
from wm_pipelines.graph_transformer.tables import Table, read_rows
from wm_pipelines.runtime.readers import concise, parse_json
from wm_pipelines.text import parser as layouts
from wm_pipelines.text.english import words as w
from wm_pipelines.text.factual import read_facts
from wm_pipelines.text.parsed import Entity, ParsedText, Relation
from wm_pipelines.text.parser import parse
from wm_pipelines.text.scene_graph import SceneGraph

Parser = Callable[[str], ParsedText]
SAME = "same"  # the relation of two mentions of one entity
MAX_TEXT = 4000
"""Characters of a text, whose mentions are compared with one another; text encoders here read a tenth of that."""


def text_graph(text: str, parser: Parser = parse) -> AttentionGraph:
    """The graph of a question alone, or of any text, read sentence by sentence; without a single edge it is empty.

    Args:
        parser: sentence -> `ParsedText`; the rules by default.

    Raises:
        ValueError: not a string, or the parser gave something else.
    """
    return _whole(_read(text, parser), text)


def auto_graph(question: str, context: "str | Table | None" = None, parser: Parser = parse) -> AttentionGraph:
    """The graph of `joined_text(question, context)`: text graph of the question, semantic graph of the context or, of
    a table in its own form or as text, that of its cells, and the mentions that they share; without a single edge it
    is empty.

    Raises:
        ValueError: as `text_graph`.
    """
    graph = _read(question, parser)
    if context is not None:
        text = context.text() if isinstance(context, Table) else context
        more = context.graph() if isinstance(context, Table) else read_rows(context) or _read(context, parser)
        graph = graph.with_edges((), _echoes(question, graph, text, more)).joined(more.shifted(len(question) + 1))
    return _whole(graph, joined_text(question, context))


def _echoes(question: str, graph: AttentionGraph, context: str, other: AttentionGraph) -> list[GraphNode]:
    """Words of the question that name something of the context and are in no node: what the parser passed over."""
    words = m.words_of(question)
    free = {n for n, word in enumerate(words) if not any(a < word.end and word.start < b for a, b in _spans(graph))}
    found = []
    for phrase in dict.fromkeys(context[a:b] for a, b in _spans(other, ("entity", "cell", "header"))):
        plain = " ".join(word.text for word in m.words_of(phrase) if word.text not in m.ARTICLES)
        places = None if plain.isdigit() else m.find_words(words, plain, free)
        if places is not None:
            free -= set(range(*places))
            found.append(GraphNode(m.span_of(words, places)))
    return found


def _spans(graph: AttentionGraph, kinds: Sequence[str] = NODE_KINDS) -> list[tuple[int, int]]:
    return [node.span for node in graph.nodes if node.span is not None and node.kind in kinds]


def joined_text(question: str, context: "str | Table | None" = None) -> str:
    """The text that spans of a graph count in: the question, or question, a space, and the context."""
    if context is None:
        return question
    return f"{question} {context.text() if isinstance(context, Table) else context}"


def _whole(graph: AttentionGraph, text: str) -> AttentionGraph:
    graph = with_mentions(graph, text)
    return graph if graph.edges else AttentionGraph()


def _read(text: str, parser: Parser) -> AttentionGraph:
    """Each sentence by itself, not tied to the others."""
    if not isinstance(text, str):
        raise ValueError(f"`text` must be a string, got {text!r}")
    if len(text) > MAX_TEXT:
        raise ValueError(f"`text` has {len(text)} characters; a graph is read of up to {MAX_TEXT}")
    graph = AttentionGraph()
    for start, end in m.sentences(text):
        read = parser(text[start:end])
        if not isinstance(read, ParsedText):
            raise ValueError(f"the parser must give a ParsedText, got {type(read).__name__} for {text[start:end]!r}")
        graph = graph.joined(_sentence(read, text[start:end])[0].shifted(start))
    return graph


def place(parsed: ParsedText, text: str) -> AttentionGraph:
    """The graph of a parse of the whole text.

    Raises:
        ValueError: an entity that the text does not mention.
    """
    if not isinstance(parsed, ParsedText):
        raise ValueError(f"`parsed` must be a ParsedText, got {type(parsed).__name__}")
    graph, absent = _sentence(parsed, text)
    if absent:
        raise ValueError(f"the text does not mention {absent[0]!r}, which the graph names; the text is {text!r:.200}")
    return with_mentions(graph, text)


def _sentence(parsed: ParsedText, text: str) -> tuple[AttentionGraph, list[str]]:
    """The graph of one parse, and the entities that were not found."""
    words = m.words_of(text)
    found = m.find_entities(words, parsed.entities)
    tied = {end for relation in parsed.relations for end in (relation.subject, relation.object)}
    kept = [mention for mention in found if mention.entity in tied or not m.is_asked(words, mention)]
    nodes = [GraphNode(m.span_of(words, mention.words)) for mention in kept]
    edges: list[tuple[int, int, str]] = []
    taken = {n for mention in kept for n in range(*mention.words)}
    phrases: dict[tuple[int, int], int] = {}

    def phrase(places: tuple[int, int], kind: str) -> int:
        if places not in phrases:
            phrases[places] = len(nodes)
            nodes.append(GraphNode(m.span_of(words, places), kind=kind))
        return phrases[places]

    for relation in parsed.relations:
        subject, object, places = m.tie(words, kept, relation)
        ends = [end for end in (subject, object) if end is not None]
        if len(ends) == 2:
            edges.append((ends[0], ends[1], relation.verb))
        if places is not None and ends and not taken & set(range(*places)):
            middle = phrase(places, "relation")
            edges += [(subject, middle, "")] if subject is not None else []
            edges += [(middle, object, "")] if object is not None else []
    for n, mention in enumerate(kept):
        places = m.preposition_before(words, mention.words[0])  # whose other end the parser did not find
        if places is not None and not any(a <= places[0] < b or places[0] <= a < places[1] for a, b in phrases):
            edges += [(phrase(places, "relation"), n, "")] if not taken & set(range(*places)) else []
    free = set(range(len(words))) - taken - {n for places in phrases for n in range(*places)}
    for entity in parsed.entities:
        own = [n for n, mention in enumerate(kept) if mention.entity == entity.id]
        here = {word for n in own for word in kept[n].attributes}
        for attribute in entity.attributes if own else ():
            places = m.find_words(words, attribute, free) if attribute not in here else None
            if places is not None:
                edges.append((own[0], phrase(places, "attribute"), "is"))
        edges += [(own[0], other, SAME) for other in own[1:]]
    return AttentionGraph(tuple(nodes)).with_edges(edges), m.missing(parsed, found)


def with_mentions(graph: AttentionGraph, text: str) -> AttentionGraph:
    """The graph with its mentions of one entity tied: nouns of one lemma whose attributes do not contradict.

    "the cube" may be "a red cube" and "a blue cube", but these two differ. Numbers are no entities.
    """
    heads: list[tuple[int, str, set[str]]] = []
    for n, node in enumerate(graph.nodes):
        if node.span is not None and node.kind in ("entity", "cell", "header"):
            words = [word.text for word in m.words_of(text[slice(*node.span)])]
            words = [word for word in words if word not in m.ARTICLES and word not in m.WH] or words
            head = words.index("of") - 1 if "of" in words[1:] else len(words) - 1
            if words and not words[head].isdigit():
                heads.append((n, w.noun_lemma(words[head]), {*words[:head], *words[head + 1 :]}))
    edges = []
    for k, (i, lemma, said) in enumerate(heads):
        for j, other, also in heads[:k]:
            if lemma == other and (said <= also or also <= said):
                edges += [(j, i, SAME), (i, j, SAME)] if graph.directed else [(j, i, SAME)]
    return graph.with_edges(edges)


def with_phrases(graph: AttentionGraph, text: str) -> AttentionGraph:
    """The graph with a node for the phrase of each text edge's relation, where the text has it, tied to both ends."""
    words = m.words_of(text)
    there = {node.span: n for n, node in enumerate(graph.nodes) if node.span is not None}
    nodes, edges = [], []
    for i, j, what in graph.edges:
        ends = [_places(words, graph.nodes[n].span) for n in (i, j)]
        places = m.find_relation(words, what, ends) if what and None not in ends else None
        if places is not None:
            span = m.span_of(words, places)
            if span not in there:
                there[span] = len(graph.nodes) + len(nodes)
                nodes.append(GraphNode(span, kind="relation"))
            edges += [(i, there[span], ""), (there[span], j, "")]
    return graph.with_edges(edges, nodes)


def _places(words: Sequence[m.Word], span: tuple[int, int] | None) -> tuple[int, int] | None:
    inside = [n for n, word in enumerate(words) if span and word.start < span[1] and span[0] < word.end]
    return (inside[0], inside[-1] + 1) if inside else None


def from_scene_graph(scene: SceneGraph, text: str) -> AttentionGraph:
    """The graph of a scene graph: its nodes where the text mentions them, and as boxes of the picture if it has any.

    A node that is neither mentioned nor has a box takes no part. Between a phrase and a box there is no edge: across
    text and picture attention is open.
    """
    ids = {node.id: f"e{n}" for n, node in enumerate(scene.nodes)}
    entities = tuple(Entity(ids[node.id], node.name, node.attributes) for node in scene.nodes)
    ties = (Relation(f"r{n}", ids[e.subject], e.predicate, ids[e.object]) for n, e in enumerate(scene.edges))
    graph, _ = _sentence(ParsedText(entities, tuple(ties)), text)
    boxed = [node for node in scene.nodes if node.box is not None]
    places = {node.id: n for n, node in enumerate(boxed)}
    edges = [(e.subject, e.predicate, e.object) for e in scene.edges if e.subject in places and e.object in places]
    regions = AttentionGraph(
        tuple(GraphNode(modality="image", box=node.box) for node in boxed),
        tuple((places[a], places[b], what) for a, what, b in edges),
    )
    return with_mentions(graph, text).joined(regions)


def from_parser_dict(data: Mapping[str, Any]) -> ParsedText:
    """What `sng_parser.parse` (SceneGraphParser) returns: "entities", and "relations" between them by position.

    Raises:
        ValueError: another layout, or a subject or object that is out of range.
    """
    entities, relations = data.get("entities"), data.get("relations", [])
    if not isinstance(entities, list) or not isinstance(relations, list):
        raise ValueError("a graph of SceneGraphParser has the lists 'entities' and 'relations'")
    things = []
    for n, entry in enumerate(entities):
        head = entry.get("head") if isinstance(entry, Mapping) else None
        if not isinstance(head, str) or not head.strip():
            raise ValueError(f"`entities`[{n}] has the head {head!r}; a text")
        modifiers = entry.get("modifiers", [])
        if not isinstance(modifiers, list) or not all(isinstance(x, Mapping) for x in modifiers):
            raise ValueError(f"`entities`[{n}] has the modifiers {modifiers!r}; a list of objects")
        said = [x.get("span") for x in modifiers if x.get("dep") != "det" and isinstance(x.get("span"), str)]
        things.append(Entity(f"e{n}", head.lower(), tuple(word.lower() for word in said)))
    ties = []
    for n, entry in enumerate(relations):
        if not isinstance(entry, Mapping):
            raise ValueError(f"`relations`[{n}] is a {type(entry).__name__}; an object")
        for role in ("subject", "object"):
            if type(entry.get(role)) is not int or not 0 <= entry[role] < len(things):
                raise ValueError(
                    f"`relations`[{n}] has the {role} {entry.get(role)!r}; index out of range, there are "
                    f"{len(things)} entities"
                )
        verb = entry.get("relation") or entry.get("lemma_relation")
        if not isinstance(verb, str) or not verb.strip():
            raise ValueError(f"`relations`[{n}] has the relation {verb!r}; a text")
        ties.append(Relation(f"r{n}", f"e{entry['subject']}", verb.lower(), f"e{entry['object']}"))
    return ParsedText(tuple(things), tuple(ties))


@concise()
def read_graph(source: Any, text: str) -> AttentionGraph:
    """A graph over `text` from any form in which people have one.

    Args:
        source: an `AttentionGraph`; a `SceneGraph`; a `ParsedText`; facts of a FACTUAL model, as text or as a list of
            (subject, relation, object); a dictionary of SceneGraphParser, of a language model ("objects",
            "connections"), or of our JSON; or a text of JSON with one of these.

    Returns:
        The graph, with the phrases of its relations and the mentions of one entity tied.

    Raises:
        ValueError: none of these, or a graph that does not fit the text.
    """
    if isinstance(source, str):
        source = read_facts(source) if source.strip().startswith("(") else _json(source)
    if isinstance(source, str):  # JSON may hold facts as a text
        source = read_facts(source)
    if isinstance(source, list | tuple):
        source = read_facts(" , ".join(_fact(n, fact) for n, fact in enumerate(source)))
    if isinstance(source, Mapping):
        source = _from_mapping(source)
    if isinstance(source, SceneGraph):
        return from_scene_graph(source, text)
    if isinstance(source, ParsedText):
        return place(source, text)
    if not isinstance(source, AttentionGraph):
        raise ValueError(f"`graph` is a {type(source).__name__}; 'auto', None, or what `read_graph` takes")
    source.check_text(text)
    return with_mentions(with_phrases(source, text), text)


def _from_mapping(data: Mapping[str, Any]) -> AttentionGraph | ParsedText | SceneGraph:
    if "entities" in data:
        return from_parser_dict(data)
    if "objects" in data:
        return layouts.from_json(data)
    first = next(iter(data.get("nodes") or []), None)
    if "scene_graph" in data or (isinstance(first, Mapping) and "id" in first):
        return SceneGraph.from_json(json.dumps(dict(data)))
    return AttentionGraph.from_dict(data)


def _json(text: str) -> Any:
    try:
        return parse_json(text)
    except ValueError as error:
        raise ValueError(f"`graph` is no JSON: {error}") from None


def _fact(n: int, fact: Any) -> str:
    if not isinstance(fact, list | tuple) or len(fact) not in (1, 3) or not all(isinstance(x, str) for x in fact):
        raise ValueError(f"`graph`[{n}] is {fact!r}; a fact is (subject, relation, object)")
    return f"( {' , '.join(fact)} )"
