"""A caption into entities and relations, by rules and word lists alone: no model, nothing to download (our design).

Meant for the sentences of compositional matching: who does what to whom ("a man is sitting at a table"), what is where
("a red circle above a blue square"), and the Diorama's captions. `ComCLIPPipeline` takes any callable from a caption
to a `ParsedText`, for example one that asks a language model.
"""

import re
from collections.abc import Mapping
from typing import Any

from wm_pipelines.text.english.chunks import Chunker
from wm_pipelines.text.english.clauses import Assembly
from wm_pipelines.text.parsed import Entity, ParsedText, Relation
from wm_pipelines.text.phrasing import EMPTY

_PHOTO = re.compile(
    r"^\s*(?:an?|the)?\s*(?:photo|photograph|picture|image|view|close[- ]?up(?:\s+(?:photo|picture|view|shot))?)"
    r"\s+(?:of|showing)\s+",
    re.IGNORECASE,
)


def parse(text: str) -> ParsedText:
    """The entities and relations of an English caption.

    Entities are noun phrases: the last word is the name, those before it attributes, determiners left out, "of"
    behind a measure joins ("cup of coffee"); "the cube" after "a red cube" is the same entity. What "is", "looks",
    "seems" says of a thing is its attribute ("the car behind the tree is red"), joined and listed adjectives describe
    one thing.

    Relations are verbs as lemmas and prepositions between entities; a preposition right behind a verb belongs to it
    ("sit on a boat" is "sit"). The actor of a passive is its subject ("a cat is chased by a dog" is dog chase cat),
    with none it has no subject, or is read as an active verb before a place ("tied to a pier"). Inverted order,
    participles, questions and relative clauses give the relation of the plain sentence; 's and "whose" give "have".
    What is negated gives an entity, and neither attribute nor relation. "and" before a verb or preposition returns to
    the subject of the clause. A caption without a noun phrase gives no entity.

    Raises:
        ValueError: not a string.
    """
    if not isinstance(text, str):
        raise ValueError(f"a caption must be a string, got {text!r}")
    text = _PHOTO.sub("", text)
    if text.strip().rstrip(".").lower() == EMPTY:
        return ParsedText()
    return Assembly(Chunker(text).chunks()).read()


def parse_triplet(triplet: str) -> ParsedText:
    """Subject, verb and object of ComVG's and SVO-Probes' columns: "man,sit,table", or "('dog', 'sit', 'table')".

    Raises:
        ValueError: not three non-empty parts.
    """
    parts = split_triplet(triplet)
    entities = (Entity("e0", parts[0]), Entity("e1", parts[2]))
    return ParsedText(entities, (Relation("r0", "e0", parts[1], "e1"),))


def split_triplet(triplet: str) -> tuple[str, str, str]:
    """The three parts of a triplet in either of the forms that `parse_triplet` reads."""
    parts = [part.strip().strip("'\"").strip() for part in triplet.strip().strip("()").split(",")]
    if len(parts) != 3 or not all(parts):
        raise ValueError(f"triplet {triplet!r} must hold subject, verb and object, separated by commas")
    return parts[0], parts[1], parts[2]


def from_json(data: Mapping[str, Any]) -> ParsedText:
    """The layout that a language model gives in the authors' code.

    `{"objects": {name: {"attributes": str | list | null}}, "connections": [{"subject", "verb", "object"}]}`. An end of
    a connection that is no object is left open (None), as there; a connection without a verb is left out, as there.

    Raises:
        ValueError: another layout.
    """
    objects, connections = data.get("objects"), data.get("connections", [])
    if not isinstance(objects, Mapping) or not isinstance(connections, list):
        raise ValueError(f"a parsed caption needs 'objects' (a mapping) and 'connections' (a list), got {data!r}")
    entities, ids = [], {}
    for name, value in objects.items():
        said = (value or {}).get("attributes") if isinstance(value, Mapping | None) else None
        attributes = (said,) if isinstance(said, str) else tuple(said) if isinstance(said, list) else ()
        listed = isinstance(said, str | list | type(None))
        if not listed or not all(isinstance(attribute, str) for attribute in attributes):
            raise ValueError(f"attributes of {name!r} must be a string or a list of strings, got {said!r}")
        ids[name] = f"e{len(entities)}"
        entities.append(Entity(ids[name], name, tuple(a for a in attributes if a)))
    relations = []
    for connection in connections:
        if not isinstance(connection, Mapping):
            raise ValueError(f"connections must be mappings with subject, verb, object; got {connection!r}")
        if connection.get("verb"):
            said = [connection.get(end) for end in ("subject", "object")]
            ends = [ids.get(end) if isinstance(end, str) else None for end in said]
            relations.append(Relation(f"r{len(relations)}", ends[0], connection["verb"], ends[1]))
    return ParsedText(tuple(entities), tuple(relations))
