"""What a caption says: its entities and relations."""

from collections import Counter
from dataclasses import dataclass


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
        for id, times in Counter(ids).items():
            if times > 1:
                raise ValueError(f"id {id!r} occurs {times} times in a parsed text; ids must differ")
        known = {entity.id for entity in self.entities}
        for entity in self.entities:
            if not isinstance(entity.name, str) or not entity.name.strip():
                raise ValueError(f"entity {entity.id!r} has the empty name {entity.name!r}")
        for relation in self.relations:
            if not isinstance(relation.verb, str) or not relation.verb.strip():
                raise ValueError(f"relation {relation.id!r} has the empty verb {relation.verb!r}")
            for end in (relation.subject, relation.object):
                if end is not None and end not in known:
                    raise ValueError(f"relation {relation.id!r} names {end!r}; entities are {sorted(known)}")
