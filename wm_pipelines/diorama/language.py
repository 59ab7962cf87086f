"""The closed language of the miniature world: captions with exact spans, and their parser (our design).

A caption is a list of clauses. A predicate ties the noun phrase before it to the one after it ("a red cube left of a
blue sphere left of a green cone" is a chain); "and" before a predicate returns to the subject of the clause ("a red
cube left of a blue sphere and behind a green cone"); otherwise a comma, "and", or both begin the next clause.
"""

import difflib
import re
from dataclasses import dataclass

import numpy as np

from wm_pipelines.diorama.scene import COLOURS, MATERIALS, PATTERNS, SHAPES, SIZES, Scene, SceneObject, clear_relations
from wm_pipelines.random import keyed

DETAILS = ("objects", "attributes", "full")
PREDICATES = ("left of", "right of", "in front of", "behind", "above", "below", "on", "in")
ORDINALS = ("first", "second", "third", "fourth")
EMPTY = "an empty scene"
MAX_TOKENS = 75

_WORDS = {
    "noun phrases": f"a an another the {' '.join((*SIZES, *PATTERNS, *MATERIALS, *COLOURS, *SHAPES, *ORDINALS))} last",
    "relations": "left right of to on in front behind above below and",
    "motion": "moving turning orbiting bouncing stopping staying still then while towards away up down from camera "
    "panning clockwise counterclockwise slowly quickly forward back seen empty scene",
    "actions": "move turn make remove add swap replace with little far degrees",
    "questions": "what which where when why how many is are was were does do did will would if happen happens "
    "happened no not yes none it its there before after because zero one two three four object objects spheres cubes "
    "cylinders cones shape colour size direction same different hit hits touch fall falls push throw collide topple "
    "gravity friction inverted event start end video frame frames most as by than later removed both only next time",
}
# Every word that the grammar has or keeps for actions and questions: a trained tokenizer can't take new ones.
VOCABULARY: tuple[str, ...] = tuple(dict.fromkeys(" ".join(_WORDS.values()).split()))

_KINDS = {"size": tuple(SIZES), "pattern": PATTERNS, "material": MATERIALS, "colour": tuple(COLOURS), "shape": SHAPES}
_KIND_OF = {word: kind for kind, words in _KINDS.items() for word in words}
_FORMS = {"left of": ("left of", "to the left of"), "right of": ("right of", "to the right of")}
# longest first, so that "in front of" is not read as "in"
_READINGS = sorted(
    ((form.split(), predicate) for predicate in PREDICATES for form in _FORMS.get(predicate, (predicate,))),
    key=lambda reading: -len(reading[0]),
)


@dataclass(frozen=True)
class Caption:
    """`text`, and `spans`: object id to the (start, end) characters of its noun phrase, article included."""

    text: str
    spans: dict[int, tuple[int, int]]


@dataclass(frozen=True)
class ParsedCaption:
    """What a caption says.

    Args:
        objects: one dict per object in order of mention; keys among shape, colour, size, pattern, material, only those
            that are said.
        spans: (start, end) characters of each object's first noun phrase.
        relations: (subject index, predicate, object index) into `objects`.
    """

    objects: tuple[dict[str, str], ...]
    spans: tuple[tuple[int, int], ...]
    relations: tuple[tuple[int, str, int], ...] = ()


def noun_phrase(words: str, seen: list[str]) -> str:
    """`words` with its article: "a" or "an", or "another" where `seen` already holds the same words."""
    if words in seen:
        return f"another {words}"
    return f"{'an' if words[0] in 'aeiou' else 'a'} {words}"


def _describe(obj: SceneObject, detail: str, rng: np.random.Generator) -> dict[str, str]:
    said = {"colour": obj.colour, "shape": obj.shape}
    if detail != "objects":
        said["size"] = obj.size
        # the unmarked values are said now and then, so that a model knows these words too
        if obj.pattern != "plain" or rng.random() < 0.15:
            said["pattern"] = obj.pattern
        if obj.material != "matte" or rng.random() < 0.15:
            said["material"] = obj.material
    return said


def _words(said: dict[str, str]) -> str:
    return " ".join(said[kind] for kind in _KINDS if kind in said)


def _distinguish(scene: Scene, said: dict[int, dict[str, str]]) -> None:
    """Adds size, pattern, material to phrases that would be equal although the objects differ."""
    for kind in ("size", "pattern", "material"):
        phrases = [_words(said[o.id]) for o in scene.objects]
        clashing = [o for o, phrase in zip(scene.objects, phrases, strict=True) if phrases.count(phrase) > 1]
        for o in clashing:
            rivals = [r for r in clashing if (r.colour, r.shape) == (o.colour, o.shape)]
            if len({getattr(r, kind) for r in rivals}) > 1:
                said[o.id][kind] = getattr(o, kind)


def _clauses(ids: list[int], clear: set[tuple[str, int, int]], rng: np.random.Generator) -> list[list[tuple]]:
    """Splits objects into clauses; each clause is a list of (joint, id), the joint "" for the subject."""
    between: dict[tuple[int, int], list[str]] = {}
    for predicate, a, b in sorted(clear):
        between.setdefault((a, b), []).append(predicate)
    left = list(ids)
    clauses = []
    while left:
        subject = last = left.pop(0)
        clause = [("", subject)]
        while left:
            if len(clause) > 1 and rng.random() < 0.4:
                break
            shared = len(clause) > 1 and rng.random() < 0.5
            source = subject if shared else last
            partners = [i for i in left if (source, i) in between]
            if not partners:
                break
            last = partners[rng.integers(len(partners))]
            left.remove(last)
            choices = between[source, last]
            forms = _FORMS.get(predicate := choices[rng.integers(len(choices))], (predicate,))
            form = forms[rng.integers(len(forms))]
            clause.append((f" and {form} " if shared else f" {form} ", last))
        clauses.append(clause)
    return clauses


def caption(scene: Scene, detail: str = "full", seed: int = 0, relations: bool | None = None) -> Caption:
    """A caption of `scene` at t = 0, true by construction; `parse_caption` reads it back. Nothing is rendered.

    Args:
        detail: "objects" (colour and shape, and more only where two objects would be called the same), "attributes"
            (size too, pattern if striped, material if shiny, and now and then "plain" or "matte"), "full" (attributes
            and relations).
        seed: chooses the order of the objects, the relations said and their wording.
        relations: whether relations are said, of those with a clear margin only; default: only at "full". Without
            them the order of the objects is random, so a list says nothing about the layout.

    Raises:
        ValueError: an unknown `detail`.
    """
    if detail not in DETAILS:
        raise ValueError(f"`detail` is {detail!r}; allowed: {', '.join(DETAILS)}")
    if not scene.objects:
        return Caption(EMPTY, {})
    relations = detail == "full" if relations is None else relations
    rng = keyed("caption", int(seed))
    said = {o.id: _describe(o, detail, rng) for o in scene.objects}
    _distinguish(scene, said)
    ids = [scene.objects[i].id for i in rng.permutation(len(scene.objects))]
    clauses = _clauses(ids, clear_relations(scene) if relations else set(), rng)
    plain_list = all(len(clause) == 1 for clause in clauses)
    text, spans, seen = "", {}, []
    for n, clause in enumerate(clauses):
        if n:
            final = n == len(clauses) - 1
            text += (" and " if final else ", ") if plain_list else (", and " if final else ", ")
        for joint, id in clause:
            phrase = noun_phrase(_words(said[id]), seen)
            seen.append(_words(said[id]))
            text += joint
            spans[id] = (len(text), len(text) + len(phrase))
            text += phrase
    return Caption(text, spans)


def unknown_word(word: str) -> ValueError:
    """The error for a word outside the vocabulary, naming the nearest word of it."""
    near = difflib.get_close_matches(word, VOCABULARY, n=1, cutoff=0.0)[0]
    return ValueError(f"{word!r} is not a word of this language; the nearest is {near!r}")


class _Reader:
    """Reads a caption word by word, keeping the characters that each word covers."""

    def __init__(self, text: str):
        self.tokens = [(m.group(), m.start(), m.end()) for m in re.finditer(r"[^\s,.]+|[,.]", text.lower())]
        self.at = 0
        for word, _, _ in self.tokens:
            if word not in ",." and word not in VOCABULARY:
                raise unknown_word(word)

    def word(self, ahead: int = 0) -> str:
        at = self.at + ahead
        return self.tokens[at][0] if at < len(self.tokens) else ""

    def accept(self, *words: str) -> bool:
        if all(self.word(i) == w for i, w in enumerate(words)):
            self.at += len(words)
            return True
        return False

    def predicate(self) -> str | None:
        for words, predicate in _READINGS:
            if self.accept(*words):
                return predicate
        return None

    def fail(self, wanted: str) -> ValueError:
        where = f"before {self.word()!r}" if self.word() else "at the end"
        read = " ".join(t[0] for t in self.tokens[: self.at])
        return ValueError(f"expected {wanted} {where}, after {read!r}")


def parse_caption(text: str) -> ParsedCaption:
    """The inverse of `caption`: objects with the attributes said, their spans, and relations.

    "the red cube", "the first red cube" refer to an object mentioned before that fits; articles may be left out.

    Raises:
        ValueError: a word outside the vocabulary (the nearest one is named), a sentence outside the grammar, or a
            reference that fits several objects.
    """
    reader = _Reader(text)
    if reader.accept(*EMPTY.split()):
        return ParsedCaption((), ())
    objects: list[dict[str, str]] = []
    spans: list[tuple[int, int]] = []
    relations: list[tuple[int, str, int]] = []
    subject = last = _read_object(reader, objects, spans)
    while reader.word() and not (reader.word() == "." and not reader.word(1)):
        comma, joined = reader.accept(","), reader.accept("and")
        predicate = None if comma else reader.predicate()
        if predicate:
            source = subject if joined else last
            last = _read_object(reader, objects, spans)
            relations.append((source, predicate, last))
        elif comma or joined:
            subject = last = _read_object(reader, objects, spans)
        else:
            raise reader.fail("a predicate, a comma or 'and'")
    return ParsedCaption(tuple(objects), tuple(spans), tuple(relations))


def _read_object(reader: _Reader, objects: list[dict[str, str]], spans: list[tuple[int, int]]) -> int:
    """Reads a noun phrase; returns the index of its object, a new one unless "the" refers to an earlier one."""
    begin = reader.at
    article = reader.word() if reader.word() in ("a", "an", "another", "the") else ""
    reader.at += bool(article)
    ordinal = ORDINALS.index(reader.word()) if article == "the" and reader.word() in ORDINALS else None
    reader.at += ordinal is not None
    said: dict[str, str] = {}
    while "shape" not in said:
        kind = _KIND_OF.get(reader.word())
        if kind is None or kind in said:
            raise reader.fail("a noun phrase such as 'a small red cube'")
        said[kind] = reader.word()
        reader.at += 1
    if article == "the":
        fitting = [i for i, o in enumerate(objects) if said.items() <= o.items()]
        # "the red cube" beside "a small red cube" means the one that was called just that
        exact = [i for i in fitting if objects[i] == said]
        if ordinal is not None:
            if ordinal >= len(exact or fitting):
                raise ValueError(f"'the {ORDINALS[ordinal]} {_words(said)}' refers to nothing mentioned before it")
            return (exact or fitting)[ordinal]
        if len(exact or fitting) > 1:
            raise ValueError(f"'the {_words(said)}' may be any of {len(exact or fitting)} objects; say which one")
        if fitting:
            return (exact or fitting)[0]
    objects.append(said)
    spans.append((reader.tokens[begin][1], reader.tokens[reader.at - 1][2]))
    return len(objects) - 1
