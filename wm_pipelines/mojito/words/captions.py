"""Motion in captions of nothing but things, places and participles: "a red cube left of a blue sphere, moving right".

A participle belongs to the subject of its clause or, behind a place without a comma, to the solid right before it
("a cube left of a sphere moving right"; of other things it can't be known: "a dog in the snow running left"). "then"
and "while" go on with the same mover; "and" before a place returns to the subject. Anything else (a finite verb, a
pronoun, an adverb) is left to `directions`.
"""

from dataclasses import dataclass, field

from wm_pipelines.mojito.words.verbs import ALONE_OF, MOVING, NOT_BEFORE, RESTING, WAY_OF, Said
from wm_pipelines.text.phrasing import ORDINALS
from wm_pipelines.text.prompts import Span
from wm_pipelines.text.reading import WordReader
from wm_pipelines.text.scene_graph import PREDICATES

_ARTICLES = ("a", "an", "another", "the")
_PLACES = sorted(
    [predicate.split() for predicate in PREDICATES] + [["to", "the", side, "of"] for side in ("left", "right")],
    key=len,
    reverse=True,
)
_STANDING = {"bouncing", "orbiting", "panning", "rotating", "spinning", "stopping"}  # these say no way
_PARTICIPLES = {word for word in MOVING | RESTING | ALONE_OF.keys() if word.endswith("ing")} | _STANDING
# of these neither can be in, on or part of the other, so either may be what moves
_SOLIDS = set("ball block box cone cube cuboid cylinder disc disk prism pyramid ring sphere torus".split())
_AROUND = ("clockwise", "counterclockwise", "forward", "back")
# what no name of a thing holds: with one of these the prompt is a sentence
_SENTENCE = (MOVING | RESTING | ALONE_OF.keys() | WAY_OF.keys()) - _PARTICIPLES | set(
    "is are was were be been being am has have had having do does did doesn't don't didn't isn't aren't can could "
    "will would may might must that which who whose whom what when where why how with without within from to into "
    "onto of at by for as near beside beneath under over through across along around about against between among "
    "past off out it its he his she her they their them this these those there here not no never while then but "
    "or if so because after before until since still towards toward away".split()
)


@dataclass
class _Thing:
    words: tuple[str, ...]
    span: Span
    said: list[Said] = field(default_factory=list)
    rests: list[Said] = field(default_factory=list)


class _NotACaption(Exception):
    """The prompt is not of this form."""


def said_in_caption(prompt: str, span: Span) -> list[Said] | None:
    """The directions said of the thing whose phrase holds the characters `span`, in order.

    Returns:
        None where the prompt is no such caption, or `span` lies in none of its phrases.
    """
    try:
        things = _Reader(prompt).read()
    except _NotACaption:
        return None
    for thing in things:
        if thing.span[0] <= span[0] and span[1] <= thing.span[1]:
            return thing.said or thing.rests
    return None


class _Reader(WordReader):
    def __init__(self, text: str):
        super().__init__(text)
        self.things: list[_Thing] = []

    def read(self) -> list[_Thing]:
        camera = _Thing(("camera",), (-1, -1))
        subject = last = self.thing()
        mover = None
        while not self.at_end():
            comma, joined = self.accept(","), self.accept("and")
            joint = not joined and (self.accept("then") or self.accept("while"))
            if (comma or joined) and self.accept("the", "camera"):
                mover = camera
                self.motion(mover, place_may_follow=False)
            elif joint or (self.word() in _PARTICIPLES and not joined):
                mover = mover if joint else subject if comma else last
                if mover is last is not subject and not comma and not joint:
                    if not {subject.words[-1], last.words[-1]} <= _SOLIDS:
                        raise _NotACaption
                # "a dog moving right behind the car" speaks of a place, "... of a dog moving right behind the car" not
                self.motion(mover, place_may_follow=not comma and not joint and mover is not subject)
            elif not comma and self.place():
                last = self.thing()
            elif comma or joined:
                subject = last = self.thing()
            else:
                raise _NotACaption
        return self.things

    def place(self) -> bool:
        return any(self.accept(*words) for words in _PLACES)

    def ends_a_thing(self) -> bool:
        word = self.word()
        if word in ("", ",", ".", "and", "then", "while", *_ARTICLES) or word in _PARTICIPLES:
            return True
        return any(all(self.word(i) == w for i, w in enumerate(words)) for words in _PLACES)

    def thing(self) -> _Thing:
        """A noun phrase: a new thing, unless "the" refers to one that was named before."""
        begin = self.at
        article = next((article for article in _ARTICLES if self.accept(article)), "")
        ordinal = next((n for n, word in enumerate(ORDINALS) if article == "the" and self.accept(word)), None)
        words = []
        while not self.ends_a_thing():
            if self.word() in _SENTENCE:
                raise _NotACaption
            words.append(self.word())
            self.at += 1
        if not words:
            raise _NotACaption
        if article == "the":
            found = self.refer(tuple(words), ordinal)
            if found is not None:
                return found
        self.things.append(_Thing(tuple(words), (self.tokens[begin][1], self.tokens[self.at - 1][2])))
        return self.things[-1]

    def refer(self, words: tuple[str, ...], ordinal: int | None) -> _Thing | None:
        fitting = [thing for thing in self.things if thing.words == words]
        fitting = fitting or [thing for thing in self.things if set(words) <= set(thing.words)]
        if ordinal is not None:
            if ordinal >= len(fitting):
                raise _NotACaption
            return fitting[ordinal]
        if len(fitting) > 1:
            raise _NotACaption
        return fitting[0] if fitting else None

    def motion(self, mover: _Thing | None, place_may_follow: bool) -> None:
        """A participle and its direction, said of `mover`."""
        verb = self.word()
        if mover is None or verb not in _PARTICIPLES:
            raise _NotACaption
        self.at += 1
        if verb in RESTING:
            if not self.accept("still"):
                raise _NotACaption
            mover.rests.append(("still", f"{verb} still"))
            return
        if verb == "orbiting" and self.word() in _ARTICLES:
            self.thing()
        way = self.word()
        if way in WAY_OF or way in ("towards", "away"):
            self.at += 1
            if verb in MOVING:
                mover.said.append((WAY_OF.get(way, way), f"{verb} {way}"))
            if way in ("towards", "away"):
                self.accept(*(("from",) if way == "away" else ()), "the", "camera")
            if not place_may_follow and self.word() in NOT_BEFORE:
                raise _NotACaption
        elif way in _AROUND:
            self.at += 1
        elif verb in ALONE_OF:
            mover.said.append((ALONE_OF[verb], verb))
