"""A caption into entities and relations, by rules and word lists alone: no model, nothing to download (our design).

Meant for the sentences of compositional matching: who does what to whom ("a man is sitting at a table"), what is where
("a red circle above a blue square"), and the Diorama's captions. `ComCLIPPipeline` takes any callable from a caption
to a `ParsedText`, for example one that asks a language model.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from wm_pipelines.text import words as w
from wm_pipelines.text.phrasing import EMPTY

_TOKEN = re.compile(r"[^\W_]+(?:[-'’][^\W_]+)*|[,.;:!?]")
_PHOTO = re.compile(
    r"^\s*(?:an?|the)?\s*(?:photo|photograph|picture|image|view|close-?up)\s+(?:of|showing)\s+", re.IGNORECASE
)


@dataclass(frozen=True)
class Entity:
    """A thing that the caption names. `text`, attributes then name, is what the matcher reads ("young person")."""

    id: str
    name: str
    attributes: tuple[str, ...] = ()

    @property
    def text(self) -> str:
        return " ".join((*self.attributes, self.name))


@dataclass(frozen=True)
class Relation:
    """What ties two entities, by their ids; `verb` is a lemma ("sit") or a preposition ("left of").

    `object` is None for a verb without one ("a dog runs"), `subject` where the caption has none ("riding a horse").
    """

    id: str
    subject: str | None
    verb: str
    object: str | None = None


@dataclass(frozen=True)
class ParsedText:
    """A caption's entities and relations. Ids are what tells components apart: equal texts never collapse.

    Raises:
        ValueError: an id that occurs twice, a relation with an unknown end, or an empty name or verb.
    """

    entities: tuple[Entity, ...] = ()
    relations: tuple[Relation, ...] = ()

    def __post_init__(self) -> None:
        ids = [part.id for part in (*self.entities, *self.relations)]
        for id in ids:
            if ids.count(id) > 1:
                raise ValueError(f"id {id!r} occurs {ids.count(id)} times in a parsed text; ids must differ")
        known = {entity.id for entity in self.entities}
        for entity in self.entities:
            if not entity.name.strip():
                raise ValueError(f"entity {entity.id!r} has the empty name {entity.name!r}")
        for relation in self.relations:
            if not relation.verb.strip():
                raise ValueError(f"relation {relation.id!r} has the empty verb {relation.verb!r}")
            for end in (relation.subject, relation.object):
                if end is not None and end not in known:
                    raise ValueError(f"relation {relation.id!r} names {end!r}; entities are {sorted(known)}")


def parse(text: str) -> ParsedText:
    """The entities and relations of an English caption.

    Entities are noun phrases: the last word is the name, those before it attributes, determiners left out, "of" joins
    ("cup of coffee"); "the cube" after "a red cube" is the same entity. Relations are verbs as lemmas and prepositions
    between entities; a preposition right behind a verb belongs to it ("sit on a boat" is "sit"). "and" before a verb
    or preposition returns to the subject of the clause. A caption without a noun phrase gives no entity.

    Raises:
        ValueError: not a string.
    """
    if not isinstance(text, str):
        raise ValueError(f"a caption must be a string, got {text!r}")
    text = _PHOTO.sub("", text)
    if text.strip().rstrip(".").lower() == EMPTY:
        return ParsedText()
    return _Assembly().read(_Chunker(text).chunks())


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
        attributes = (said,) if isinstance(said, str) else tuple(said or ())
        if not all(isinstance(attribute, str) for attribute in attributes):
            raise ValueError(f"attributes of {name!r} must be a string or a list of strings, got {said!r}")
        ids[name] = f"e{len(entities)}"
        entities.append(Entity(ids[name], name, tuple(a for a in attributes if a)))
    relations = []
    for connection in connections:
        if not isinstance(connection, Mapping):
            raise ValueError(f"connections must be mappings with subject, verb, object; got {connection!r}")
        if connection.get("verb"):
            ends = (ids.get(connection.get("subject")), ids.get(connection.get("object")))
            relations.append(Relation(f"r{len(relations)}", ends[0], connection["verb"], ends[1]))
    return ParsedText(tuple(entities), tuple(relations))


@dataclass(frozen=True)
class _Chunk:
    """`kind` is np, verb, prep, joint, stop, aux, rel, pronoun or camera."""

    kind: str
    text: str = ""
    words: tuple[str, ...] = ()
    definite: bool = False
    ordinal: int | None = None
    form: str = ""


class _Chunker:
    """Splits a caption into noun phrases, verbs and what stands between them, from left to right."""

    def __init__(self, text: str):
        self.tokens = [token.lower().replace("’", "'") for token in _TOKEN.findall(text)]

    def chunks(self) -> list[_Chunk]:
        found: list[_Chunk] = []
        i = 0
        while i < len(self.tokens):
            before = found[-1] if found else None
            chunk, i = self._next(i, before)
            if chunk is not None:
                found.append(chunk)
        return found

    def _next(self, i: int, before: _Chunk | None) -> tuple[_Chunk | None, int]:
        token = self.tokens[i]
        kind = before.kind if before else ""
        if token in w.DIRECTIONS and kind == "verb" and not self._preposition(i):
            return None, i + 1
        if token == "to" and self._at(i + 1) in w.VERBS and self._at(i + 1) not in w.DETERMINERS:
            return _Chunk("verb", self._at(i + 1), form="base"), i + 2
        preposition = self._preposition(i)
        if preposition:
            return _Chunk("prep", preposition[0]), i + preposition[1]
        if token in ".;:!?,":
            return _Chunk("stop" if token != "," else "joint", token), i + 1
        for kind_of, listed in (
            ("joint", w.JOINTS),
            ("aux", w.AUXILIARIES),
            ("rel", w.RELATIVES),
            ("pronoun", w.SUBJECT_PRONOUNS | w.OBJECT_PRONOUNS),
        ):
            if token in listed and not (token == "that" and not before):
                return _Chunk(kind_of, token), i + 1
        if token in w.ADVERBS:
            return None, i + 1
        verb = self._verb_here(i, (), False, kind)
        if verb:
            return _Chunk("verb", verb[0], form=verb[1]), i + 1
        return self._noun_phrase(i)

    def _noun_phrase(self, i: int) -> tuple[_Chunk | None, int]:
        start, words = i, list[str]()
        determined = definite = False
        ordinal = None
        while i < len(self.tokens):
            token = self.tokens[i]
            if not words and token in w.DETERMINERS:
                determined, definite = True, definite or token == "the"
                if token in w.COUNTS:
                    words.append(token)
            elif determined and not words and token in w.ORDINALS:
                ordinal = w.ORDINALS[token]
            elif token == "of" and words and self._at(i + 1):
                words.append(token)
            elif words and words[-1] == "of" and token in w.DETERMINERS:
                pass
            elif self._ends(i) or self._verb_here(i, tuple(words), determined, "np" if words else ""):
                break
            else:
                words.append(token)
            i += 1
        if definite and words == ["camera"]:
            return _Chunk("camera"), i
        if not words:
            return None, max(i, start + 1)
        return _Chunk("np", words=tuple(words), definite=definite, ordinal=ordinal), i

    def _ends(self, i: int) -> bool:
        token = self.tokens[i]
        return (
            token in w.DETERMINERS | w.AUXILIARIES | w.RELATIVES | w.JOINTS | w.ADVERBS
            or token in w.SUBJECT_PRONOUNS | w.OBJECT_PRONOUNS
            or token in ",.;:!?"
            or bool(self._preposition(i))
        )

    def _preposition(self, i: int) -> tuple[str, int] | None:
        for said, text in w.PREPOSITIONS:
            if tuple(self.tokens[i : i + len(said)]) == said:
                return text, len(said)
        return None

    def _at(self, i: int) -> str:
        return self.tokens[i] if i < len(self.tokens) else ""

    def _closed(self, i: int) -> bool:
        """Whether nothing that could be the second half of a compound stands at `i`."""
        return i >= len(self.tokens) or self._ends(i) or self.tokens[i] in w.DIRECTIONS

    def _verb_here(self, i: int, words: tuple[str, ...], determined: bool, before: str) -> tuple[str, str] | None:
        """Lemma and form if the token is a verb where it stands.

        Args:
            words: of the noun phrase that it would end. before: kind of what stands before it.
        """
        token, known = self.tokens[i], w.verb_lemma(self.tokens[i])
        if token in w.NOT_VERBS or token in w.ADJECTIVES or (words and words[-1] == "of"):
            return None
        if before == "aux":
            if known:
                return known
            return (w.guessed_lemma(token), "ing") if token.endswith(("ing", "ed")) else None
        if not words:
            if determined or before not in ("np", "pronoun", "rel", "joint", "camera", ""):
                return None
            if before in ("", "joint"):  # "riding a horse", "and holds a cup", but not "and horses"
                open_to_right = self._closed(i + 1)
                return known if known and open_to_right and (known[1] != "base" or before) else None
            return known
        if words[-1] in w.ADJECTIVES or words[-1] in w.COUNTS:
            return None
        moves = w.noun_lemma(words[-1]) in w.MOVERS
        if known:
            lemma, form = known
            following = w.verb_lemma(self._at(i + 1))
            if following and following[1] in ("s", "ing") and not moves:
                return None  # "a water drop hits": the noun comes first
            if form == "ing":
                return None if self._at(i + 1) in w.COMPOUND_HEADS and not moves else known
            if form == "past":
                return known if moves or self._closed(i + 1) else None
            if form == "base":
                return known if moves or not determined or self._at(i + 1) in w.DETERMINERS else None
            return known if moves or (self._closed(i + 1) and self._at(i + 1) not in ("", ",", ".")) else None
        if token.endswith("ing") and len(token) > 4 and self._closed(i + 1):
            return w.guessed_lemma(token), "ing"
        if token.endswith(("s", "ed")) and len(token) > 3 and self._at(i + 1) in w.DETERMINERS:
            return w.guessed_lemma(token), "s"
        return None


@dataclass
class _Assembly:
    """Entities and relations out of chunks."""

    entities: list[Entity] = field(default_factory=list)
    relations: list[Relation] = field(default_factory=list)
    subjects: list[str] = field(default_factory=list)
    nearest: str | None = None
    pending: tuple[list[str], str, bool] | None = None  # who, what, whether it is a verb
    last: tuple[list[str], str] | None = None  # the last verb that has an object, and who does it

    def read(self, chunks: list[_Chunk]) -> ParsedText:
        joined = helped = False
        for n, chunk in enumerate(chunks):
            following = chunks[n + 1].kind if n + 1 < len(chunks) else ""
            if chunk.kind == "np":
                self._np(chunk, joined, helped, following)
            elif chunk.kind == "verb":
                self._verb(chunk, joined, helped)
            elif chunk.kind == "prep":
                self._prep(chunk.text, joined)
            elif chunk.kind == "pronoun":
                self._pronoun(chunk.text)
            elif chunk.kind == "rel":
                self.subjects = [self.nearest] if self.nearest else []
            elif chunk.kind == "camera":
                self._close()
                if not joined and self.last is None and not self.relations:
                    self.subjects = []
                self.nearest = None
                if following in ("verb", "aux"):
                    self.subjects = []
            elif chunk.kind == "stop":
                self._close()
                self.subjects, self.last = [], None
            elif chunk.kind == "joint":
                self._close()
            joined, helped = chunk.kind == "joint", chunk.kind == "aux"
        self._close()
        return ParsedText(tuple(self.entities), tuple(self.relations))

    def _np(self, chunk: _Chunk, joined: bool, helped: bool, following: str) -> None:
        if helped and len(chunk.words) == 1 and chunk.words[0] in w.ADJECTIVES and self.nearest:
            self._describe(chunk.words[0])  # "the cube is red"
            return
        id = self._entity(chunk)
        if self.pending:
            who, what, is_verb = self.pending
            self.pending = None
            self._relate(who, what, id)
            self.last = (who, what) if is_verb else None
        elif not self.relations_of_clause():
            self.subjects.append(id)
        elif joined and (following in ("verb", "aux") or self.last is None):
            self.subjects, self.last = [id], None
        elif self.last:
            self._relate(*self.last, id)
        self.nearest = id

    def relations_of_clause(self) -> bool:
        """Whether the clause's subject already has a relation."""
        return any(relation.subject in self.subjects for relation in self.relations)

    def _verb(self, chunk: _Chunk, joined: bool, helped: bool) -> None:
        self._close()
        participle = chunk.form in ("ing", "past") and not helped and not joined
        who = [self.nearest] if participle and self.nearest else list(self.subjects)
        if participle and (self.nearest in self.subjects or self._moves(self.subjects) > self._moves(who)):
            who = list(self.subjects)  # "a man wearing a red shirt playing tennis": shirts don't play
        self.pending, self.last = (who, chunk.text, True), None

    def _moves(self, ids: list[str]) -> bool:
        names = [entity.name for entity in self.entities if entity.id in ids]
        return any(w.noun_lemma(name) in w.MOVERS for name in names)

    def _prep(self, text: str, joined: bool) -> None:
        if self.pending:
            return  # "sit on", "looking at": the verb says it
        who = self.subjects[:1] if joined else [self.nearest] if self.nearest else []
        if who:
            self.pending = (who, text, False)

    def _pronoun(self, text: str) -> None:
        if self.pending:
            who, what, is_verb = self.pending
            others = [entity.id for entity in self.entities if entity.id not in who]
            if others:
                self.pending = None
                self._relate(who, what, others[-1])
                self.last = (who, what) if is_verb else None
                self.nearest = others[-1]
        elif self.subjects:
            self.nearest = self.subjects[0]

    def _close(self) -> None:
        """A verb that found no object stands alone; a preposition that found none is dropped."""
        if self.pending and self.pending[2]:
            self._relate(self.pending[0], self.pending[1], None)
        self.pending = None

    def _relate(self, who: list[str], what: str, object: str | None) -> None:
        if not who and object is None:
            return
        for subject in who or [None]:
            if subject != object:
                self.relations.append(Relation(f"r{len(self.relations)}", subject, what, object))

    def _entity(self, chunk: _Chunk) -> str:
        words = list(chunk.words)
        head = words.index("of") - 1 if "of" in words[1:] else len(words) - 1
        name, attributes = " ".join(words[head:]), tuple(words[:head])
        if chunk.definite:
            known = [
                entity.id
                for entity in self.entities
                if entity.name == name and set(attributes) <= set(entity.attributes)
            ]
            taken = self.pending[0] if self.pending else []
            known = [id for id in known if chunk.ordinal is not None or id not in taken]
            if known:
                return known[chunk.ordinal or 0] if abs(chunk.ordinal or 0) < len(known) else known[-1]
        id = f"e{len(self.entities)}"
        self.entities.append(Entity(id, name, attributes))
        return id

    def _describe(self, attribute: str) -> None:
        for n, entity in enumerate(self.entities):
            if entity.id == self.nearest and attribute not in entity.attributes:
                self.entities[n] = Entity(entity.id, entity.name, (*entity.attributes, attribute))
