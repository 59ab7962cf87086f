"""Reads what `wm_pipelines.diorama.language` says back into attributes, relations and motions (our design)."""

import difflib
from dataclasses import dataclass

from wm_pipelines.diorama.primitives import MOTION_KINDS
from wm_pipelines.diorama.words import ATTRIBUTES, CAMERA_PARTICIPLES, FORMS, PARTICIPLES, VOCABULARY, words_of
from wm_pipelines.text.phrasing import EMPTY, ORDINALS
from wm_pipelines.text.reading import WordReader
from wm_pipelines.text.scene_graph import PREDICATES

_KIND_OF = {word: kind for kind, words in ATTRIBUTES.items() for word in words}
# longest first, so that "in front of" is not read as "in"
_READINGS = sorted(
    ((form.split(), predicate) for predicate in PREDICATES for form in FORMS.get(predicate, (predicate,))),
    key=lambda reading: -len(reading[0]),
)
_STARTS = {words.split()[0] for words in (*PARTICIPLES.values(), *CAMERA_PARTICIPLES.values())}
_CAMERA = -1


@dataclass(frozen=True)
class SaidMotion:
    """A motion that a caption names.

    Args:
        kind: as in `wm_pipelines.diorama.motion`.
        direction: its word, or None.
        about: index of the object that an orbit goes around, or None.
        joint: how it follows the mover's motion before it: "then", "while", or "" for the first.
    """

    kind: str
    direction: str | None = None
    about: int | None = None
    joint: str = ""


@dataclass(frozen=True)
class ParsedCaption:
    """What a caption says.

    Args:
        objects: one dict per object in order of mention; keys among shape, colour, size, pattern, material, only those
            that are said.
        spans: (start, end) characters of each object's first noun phrase.
        relations: (subject index, predicate, object index) into `objects`.
        motions: one tuple per object.
        camera: the camera's motions.
    """

    objects: tuple[dict[str, str], ...]
    spans: tuple[tuple[int, int], ...]
    relations: tuple[tuple[int, str, int], ...] = ()
    motions: tuple[tuple[SaidMotion, ...], ...] = ()
    camera: tuple[SaidMotion, ...] = ()


def parse_caption(text: str) -> ParsedCaption:
    """The inverse of `caption`.

    "the red cube" refers to the one object mentioned before that it fits, one called exactly so first, "the second red
    cube" to the second of those; articles may be left out; case does not matter.

    Raises:
        ValueError: a word outside the vocabulary (the nearest one is named), a sentence outside the grammar, or a
            reference that fits several objects.
    """
    reader = _Reader(text)
    relations: list[tuple[int, str, int]] = []
    motions: dict[int, list[SaidMotion]] = {}
    subject = last = mover = None
    if not reader.accept(*EMPTY.split()):
        subject = last = reader.thing()
    while not reader.at_end():
        comma, joined = reader.accept(","), reader.accept("and")
        joint = next((word for word in ("then", "while") if not joined and reader.accept(word)), "")
        if (comma or joined) and reader.accept("the", "camera"):
            mover = _CAMERA
            motions.setdefault(mover, []).append(reader.motion(CAMERA_PARTICIPLES))
        elif joint or (reader.word() in _STARTS and not joined):
            mover = mover if joint else subject if comma else last
            if mover is None:
                raise reader.fail("something that moves")
            said = reader.motion(CAMERA_PARTICIPLES if mover == _CAMERA else PARTICIPLES, joint)
            motions.setdefault(mover, []).append(said)
        elif not comma and last is not None and (predicate := reader.predicate()):
            source, last = subject if joined else last, reader.thing()
            relations.append((source, predicate, last))
        elif comma or joined:
            subject = last = reader.thing()
        else:
            raise reader.fail("a predicate, a motion, a comma or 'and'")
    return ParsedCaption(
        objects=tuple(reader.objects),
        spans=tuple(reader.spans),
        relations=tuple(relations),
        motions=tuple(tuple(motions.get(i, ())) for i in range(len(reader.objects))),
        camera=tuple(motions.get(_CAMERA, ())),
    )


def unknown_word(word: str) -> ValueError:
    """The error for a word outside the vocabulary, naming the nearest word of it."""
    near = difflib.get_close_matches(word, VOCABULARY, n=1, cutoff=0.0)[0]
    return ValueError(f"{word!r} is not a word of this language; the nearest is {near!r}")


class _Reader(WordReader):
    """Reads a caption word by word; collects the objects that it mentions and the characters they cover."""

    def __init__(self, text: str):
        super().__init__(text)
        self.objects: list[dict[str, str]] = []
        self.spans: list[tuple[int, int]] = []
        for word, _, _ in self.tokens:
            if word not in ",." and word not in VOCABULARY:
                raise unknown_word(word)

    def fail(self, wanted: str) -> ValueError:
        where = f"before {self.word()!r}" if self.word() else "at the end"
        read = " ".join(t[0] for t in self.tokens[: self.at])
        return ValueError(f"expected {wanted} {where}, after {read!r}")

    def predicate(self) -> str | None:
        return next((predicate for words, predicate in _READINGS if self.accept(*words)), None)

    def motion(self, participles: dict[str, str], joint: str = "") -> SaidMotion:
        kind = next((k for k, words in participles.items() if self.accept(*words.split())), None)
        if kind is None:
            raise self.fail(f"one of {', '.join(participles.values())}")
        about = None
        if kind == "orbit" and participles is PARTICIPLES and (self.word() in ("a", "an", "another", "the")):
            about = self.thing()
        direction = self.word() if self.word() in MOTION_KINDS[kind] else None
        self.at += direction is not None
        if direction == "towards":
            self.accept("the", "camera")
        elif direction == "away":
            self.accept("from", "the", "camera")
        return SaidMotion(kind, direction, about, joint)

    def thing(self) -> int:
        """Reads a noun phrase; the index of its object, a new one unless "the" refers to an earlier one."""
        begin = self.at
        article = next((a for a in ("a", "an", "another", "the") if self.accept(a)), "")
        ordinal = next((n for n, word in enumerate(ORDINALS) if article == "the" and self.accept(word)), None)
        said: dict[str, str] = {}
        while "shape" not in said:
            kind = _KIND_OF.get(self.word())
            if kind is None or kind in said:
                raise self.fail("a noun phrase such as 'a small red cube'")
            said[kind] = self.word()
            self.at += 1
        if article == "the":
            found = self._refer(said, ordinal)
            if found is not None:
                return found
        self.objects.append(said)
        self.spans.append((self.tokens[begin][1], self.tokens[self.at - 1][2]))
        return len(self.objects) - 1

    def _refer(self, said: dict[str, str], ordinal: int | None) -> int | None:
        # "the red cube" beside "a small red cube" means the one that was called just that
        fitting = [i for i, o in enumerate(self.objects) if o == said]
        fitting = fitting or [i for i, o in enumerate(self.objects) if said.items() <= o.items()]
        words = " ".join(words_of(said))
        if ordinal is not None:
            if ordinal >= len(fitting):
                raise ValueError(f"'the {ORDINALS[ordinal]} {words}' refers to nothing mentioned before it")
            return fitting[ordinal]
        if len(fitting) > 1:
            raise ValueError(f"'the {words}' may be any of {len(fitting)} objects; say which one")
        return fitting[0] if fitting else None
