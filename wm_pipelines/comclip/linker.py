"""Which labels of a picture an entity may refer to: by lemma and synonym, without a model (our design)."""

import re
from collections.abc import Sequence
from functools import lru_cache

from wm_pipelines.text.english import lexicon
from wm_pipelines.text.english import words as w
from wm_pipelines.text.parser import Entity, parse


def link(entity: Entity, labels: Sequence[str]) -> list[str]:
    """The labels that could refer to the entity, in their order.

    Labels that hold the entity's name and all its attributes come first and alone; without one, those whose own name
    is the same thing (lemma, synonym, or a kind of it: a "man" is a "person") and whose colour is not another.

    Args:
        labels: what was found in the picture; phrases such as dense captions are read by their first entity.
    """
    name, attributes = _name(entity.name), frozenset(map(w.noun_lemma, entity.attributes)) - w.COUNTS
    exact, loose = [], []
    for label in labels:
        head, said = _read(label)
        if not _same(name, head):
            continue
        if attributes <= said:
            exact.append(label)
        elif not (attributes & lexicon.COLOURS and said & lexicon.COLOURS and not attributes & said & lexicon.COLOURS):
            loose.append(label)
    return exact or loose


@lru_cache(maxsize=4096)
def _read(label: str) -> tuple[str, frozenset[str]]:
    """Name and attributes of a label's first entity; of "the dog's tail" that is the tail."""
    parsed = parse(label)
    owners = {r.subject for r in parsed.relations if r.verb == "have"} if re.search(r"['’]s|s['’]", label) else ()
    entities = [entity for entity in parsed.entities if entity.id not in owners] or parsed.entities
    if not entities:
        return _name(label), frozenset()
    return _name(entities[0].name), frozenset(map(w.noun_lemma, entities[0].attributes))


def _name(name: str) -> str:
    return " ".join(w.noun_lemma(word) for word in name.lower().split())


def _same(name: str, label: str) -> bool:
    if name == label:
        return True
    if any(name in group and label in group for group in lexicon.SYNONYMS):
        return True
    return label in lexicon.HYPONYMS.get(name, ())
