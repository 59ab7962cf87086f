"""Where a text mentions what a parser read in it: entities and relations as spans of characters (our design).

Parsers give words, not places, so that any can be used; the places are found by lemma.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from wm_pipelines.graph_transformer.graph import Span
from wm_pipelines.text.english import words as w
from wm_pipelines.text.parsed import Entity, ParsedText, Relation
from wm_pipelines.text.phrasing import ORDINALS

_WORD = re.compile(r"[^\W_]+(?:[-'’][^\W_]+)*")
_SENTENCE = re.compile(r"[^.;!?\n]+[.;!?]*")
ARTICLES = w.DETERMINERS | w.POSSESSIVES | w.COUNTS | frozenset(ORDINALS) | {"last"}
WH = frozenset("what which whose how who whom".split())
FAR = 10_000  # more words than lie between any two
MOST_BEFORE = 8  # words that may stand between an article and its noun


@dataclass(frozen=True)
class Word:
    """A word in small letters, and its characters (start, end) in the text."""

    text: str
    start: int
    end: int


@dataclass(frozen=True)
class Mention:
    """A place where a text names an entity.

    Args:
        entity: its id. words: positions (first, last + 1) of its words. attributes: those that are said right here.
    """

    entity: str
    words: tuple[int, int]
    attributes: tuple[str, ...] = ()


def sentences(text: str) -> list[Span]:
    """(start, end) of each sentence; full stops, semicolons, question marks and line ends close one."""
    return [match.span() for match in _SENTENCE.finditer(text) if _WORD.search(match.group())]


def words_of(text: str) -> list[Word]:
    """The words of a text. The possessive 's is left out of its word."""
    found = []
    for match in _WORD.finditer(text):
        said = re.sub(r"['’]s?$", "", match.group(), flags=re.IGNORECASE)
        found.append(Word(said.lower(), match.start(), match.start() + len(said)))
    return found


def span_of(words: Sequence[Word], places: tuple[int, int]) -> Span:
    """Characters of words first to last + 1."""
    return words[places[0]].start, words[places[1] - 1].end


def same_noun(a: str, b: str) -> bool:
    """Whether two nouns have one lemma."""
    return a == b or w.noun_lemma(a) == w.noun_lemma(b)


def find_entities(words: Sequence[Word], entities: Sequence[Entity]) -> list[Mention]:
    """Every mention of the entities among the words of one sentence, in their order.

    Entities of one name are told apart by the attributes that stand before it, else by the order of their mentions.
    """
    said = {entity.id: set(_split(" ".join(entity.attributes))) for entity in entities}
    taken: set[int] = set()
    given: set[str] = set()
    found = []
    for name in sorted({entity.name.lower() for entity in entities}, key=lambda name: -len(_split(name))):
        own = [entity for entity in entities if entity.name.lower() == name]
        attributes = set().union(*(said[entity.id] for entity in own))
        for first in _occurrences(words, _split(name)):
            last = first + len(_split(name))
            if taken & set(range(first, last)):
                continue
            begin, before = _reach(words, first, attributes, taken)
            entity = _which(own, said, before, given, any(words[n].text == "the" for n in range(begin, first)))
            given.add(entity.id)
            taken |= set(range(begin, last))
            found.append(Mention(entity.id, (begin, last), tuple(before)))
    return sorted(found, key=lambda mention: mention.words)


def find_words(words: Sequence[Word], phrase: str, free: set[int]) -> tuple[int, int] | None:
    """The first place of a phrase among words of which all are in `free`; None without one."""
    wanted = _split(phrase)
    for first in _occurrences(words, wanted) if wanted else []:
        if set(range(first, first + len(wanted))) <= free:
            return first, first + len(wanted)
    return None


def find_relation(words: Sequence[Word], verb: str, ends: Sequence[tuple[int, int]]) -> tuple[int, int] | None:
    """The place of a verb, by its lemma, or of a preposition, in any of its wordings; the nearest to its ends.

    Args:
        ends: words of the mentions that it ties; it never lies within one.
    """
    inside = {n for end in ends for n in range(*end)}
    places = [place for place in _relation_places(words, verb) if not inside & set(range(*place))]
    if not places:
        return None
    return min(places, key=lambda place: (sum(_distance(place, end) for end in ends), place))


def tie(
    words: Sequence[Word], mentions: Sequence[Mention], relation: Relation
) -> tuple[int | None, int | None, tuple[int, int] | None]:
    """Which mentions a relation ties, by position, and where its phrase stands: those that lie nearest together."""
    subjects = [n for n, mention in enumerate(mentions) if mention.entity == relation.subject] or [None]
    objects = [n for n, mention in enumerate(mentions) if mention.entity == relation.object] or [None]
    best = (float("inf"), None, None, None)
    for a in subjects:
        for b in objects:
            ends = [mentions[n].words for n in (a, b) if n is not None]
            place = find_relation(words, relation.verb, ends) if ends else None
            apart = _distance(ends[0], ends[-1]) if ends else 0
            near = sum(_distance(place, end) for end in ends) if place else FAR + apart
            if near < best[0]:
                best = (near, a, b, place)
    return best[1:]


def preposition_before(words: Sequence[Word], first: int) -> tuple[int, int] | None:
    """The place of the longest preposition that ends right before the word at `first`; None without one."""
    before = [word.text for word in words[:first]]
    said = [said for said, _ in w.PREPOSITIONS if said == tuple(before[-len(said) :])]
    return (first - max(map(len, said)), first) if said else None


def is_asked(words: Sequence[Word], mention: Mention) -> bool:
    """Whether a mention is what a question asks for: "what colour", "how many"."""
    first = mention.words[0]
    return any(words[n].text in WH for n in range(max(0, first - 1), mention.words[1]))


def missing(parsed: ParsedText, mentions: Sequence[Mention]) -> list[str]:
    """Words of the entities that are not mentioned."""
    there = {mention.entity for mention in mentions}
    return [entity.text for entity in parsed.entities if entity.id not in there]


def _split(text: str) -> list[str]:
    return [word.text for word in words_of(text)]


def _occurrences(words: Sequence[Word], wanted: Sequence[str]) -> list[int]:
    starts = range(len(words) - len(wanted) + 1)
    return [i for i in starts if wanted and all(same_noun(words[i + k].text, word) for k, word in enumerate(wanted))]


def _reach(words: Sequence[Word], first: int, attributes: set[str], taken: set[int]) -> tuple[int, list[str]]:
    """Where the noun phrase begins whose name is at `first`, and its attributes."""
    begin, before = first, []
    for n in range(first - 1, max(-1, first - 1 - MOST_BEFORE), -1):
        word = words[n].text
        if n in taken or words[n + 1].start - words[n].end > 3:
            break
        if word in attributes:
            begin, before = n, [word, *before]
        elif word in ARTICLES:
            begin = n
        elif word != "and" or not before:
            break
    return begin, before


def _which(
    own: Sequence[Entity], said: dict[str, set[str]], before: Sequence[str], given: set[str], definite: bool
) -> Entity:
    fitting = [entity for entity in own if set(before) <= said[entity.id]] or list(own)
    exact = [entity for entity in fitting if set(before) == said[entity.id]]
    fresh = [entity for entity in fitting if entity.id not in given]
    known = [entity for entity in fitting if entity.id in given]
    if definite and known:
        return known[0]
    for choice in ([e for e in exact if e in fresh], fresh, exact):
        if choice:
            return choice[0]
    return fitting[0]


def _relation_places(words: Sequence[Word], verb: str) -> list[tuple[int, int]]:
    verb = verb.lower()
    forms = [said for said, text in w.PREPOSITIONS if text == verb]
    forms += [tuple(_split(verb))] if tuple(_split(verb)) not in forms else []
    places = []
    for said in sorted(forms, key=lambda said: -len(said)):
        for i in range(len(words) - len(said) + 1):
            if said and all(_same_verb(words[i + k].text, word) for k, word in enumerate(said)):
                if not any(a <= i and i + len(said) <= b for a, b in places):
                    places.append((i, i + len(said)))
    return places


def _same_verb(word: str, wanted: str) -> bool:
    if word == wanted:
        return True
    known, asked = w.verb_lemma(word), w.verb_lemma(wanted)
    return known is not None and known[0] == (asked[0] if asked else wanted)


def _distance(a: tuple[int, int], b: tuple[int, int]) -> int:
    return max(b[0] - a[1], a[0] - b[1], 0)
