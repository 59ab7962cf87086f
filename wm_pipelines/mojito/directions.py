"""Which way a prompt says that an object moves: Diorama's language by its own parser, other English by simple words.

Free English is read only where a verb of motion and a word of direction stand near each other behind the phrase, in
the same clause. What is not found is not guessed.
"""

import re
from collections.abc import Sequence

from wm_pipelines.diorama.parser import parse_caption
from wm_pipelines.text.prompts import Span

DIRECTIONS: dict[str, tuple[float, float]] = {"left": (-1, 0), "right": (1, 0), "up": (0, -1), "down": (0, 1)}
"""Directions in the picture, x to the right and y down."""

Said = tuple[str, str]
"""A direction (one of `DIRECTIONS`, "towards", "away", "still") and the words that say it."""

_NEAR = 4
_WORDS = {
    "left": "left leftward leftwards", "right": "right rightward rightwards", "up": "up upward upwards",
    "down": "down downward downwards",
}  # fmt: skip
_WAY_OF = {word: way for way, words in _WORDS.items() for word in words.split()}
_ALONE = {"up": "rise ascend climb soar", "down": "fall descend sink plummet", "away": "recede"}
_VERBS = (
    "move go slide roll drive fly walk run drift float travel glide swim crawl jump hop ride sail race rush head come "
    "shift step swing turn swerve steer march gallop skate ski slither scroll fall rise climb"
)
_IRREGULAR = "went gone flew flown drove driven ran swam came rode ridden swung"
_REST = "stay stand sit remain keep lie rest"
# "moves right behind the car" and "moves left of the tree" speak of places.
_NOT_BEFORE = frozenset("of behind next in above below beside after before now there here side-by-side".split())
_CAMERA = r"(?:the\s+)?(?:camera|viewer)|us\b"
# A comma or "and" before one of these begins another thing's clause.
_OTHER_THING = re.compile(r"(?:,|\band\b|\bwhile\b|\bas\b)\s+(?:and\s+)?(?:a|an|another|the|his|her|its|their)\b")


def _forms(verbs: str) -> frozenset[str]:
    found = set()
    for verb in verbs.split():
        stem = verb.removesuffix("e")
        found |= {verb, verb + "s", verb + "es", stem + "ing", stem + "ed", verb + verb[-1] + "ing"}
    return frozenset(found)


_MOVING = _forms(_VERBS) | frozenset(_IRREGULAR.split())
_RESTING = _forms(_REST) | {"lying"}
_ALONE_OF = {form: way for way, verbs in _ALONE.items() for form in _forms(verbs)}


def said_directions(prompt: str, span: Span, others: Sequence[Span] = ()) -> list[Said]:
    """The directions said of the words at `span`, in order.

    Args:
        prompt: the whole text.
        span: characters of the object's phrase.
        others: spans of the other objects; a clause ends where one of them begins.
    """
    closed = _diorama(prompt, span)
    return _english(prompt, span, others) if closed is None else closed


def _diorama(prompt: str, span: Span) -> list[Said] | None:
    """By the parser of the closed language; None where the prompt or the phrase is not of it."""
    try:
        parsed = parse_caption(prompt)
    except ValueError:
        return None
    for (start, end), motions in zip(parsed.spans, parsed.motions, strict=True):
        if start <= span[0] and span[1] <= end:
            said = [(m.direction, f"moving {m.direction}") for m in motions if m.kind == "translate" and m.direction]
            return said or [("still", "staying still") for m in motions if m.kind == "still"]
    return None


def _english(prompt: str, span: Span, others: Sequence[Span]) -> list[Said]:
    end = min((start for start, _ in others if start >= span[1]), default=len(prompt))
    rest = re.split(r"[.;:!?](?:\s|$)|\n", prompt[span[1] : end])[0].lower()
    other = _OTHER_THING.search(rest)
    clause = prompt[span[0] : span[1]].lower() + (rest[: other.start()] if other else rest)
    found: list[tuple[int, Said]] = []
    words = [(m.group(), m.start(), m.end()) for m in re.finditer(r"[\w'-]+", clause)]
    for n, (word, start, stop) in enumerate(words):
        before = [w for w, _, _ in words[max(0, n - _NEAR) : n]]
        after = words[n + 1][0] if n + 1 < len(words) else ""
        verb = next((k for k in range(n - 1, max(-1, n - 1 - _NEAR), -1) if words[k][0] in _MOVING), None)
        if word in _WAY_OF and verb is not None and after not in _NOT_BEFORE and not _place(before):
            found.append((start, (_WAY_OF[word], clause[words[verb][1] : stop])))
        elif word in _ALONE_OF:
            # "climbs down" is said by its second word.
            nearby = {w for w, _, _ in words[n + 1 : n + 1 + _NEAR]}
            if not nearby & set(_WAY_OF):
                found.append((start, (_ALONE_OF[word], word)))
        elif (word == "still" and before and before[-1] in _RESTING) or word in ("stationary", "motionless"):
            found.append((start, ("still", f"{before[-1]} {word}" if word == "still" else word)))
    for way, form in (("towards", rf"\btowards?\s+(?:{_CAMERA})"), ("away", rf"\baway\s+from\s+(?:{_CAMERA})")):
        found += [(m.start(), (way, m.group())) for m in re.finditer(form, clause)]
    for m in re.finditer(r"\b(?:does not|doesn't|do not|don't|never)\s+move", clause):
        found.append((m.start(), ("still", m.group())))
    return [said for _, said in sorted(found)]


def _place(before: list[str]) -> bool:
    """Whether the words before a direction make it a place: "from the left", "on the left"."""
    words = before[:-1] if before and before[-1] == "the" else before
    return bool(words) and words[-1] in ("from", "on", "at")
