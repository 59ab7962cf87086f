"""Which way a prompt says that an object moves, by its words alone.

A caption of nothing but things, places and participles ("a red cube left of a blue sphere, moving right") is read
whole, by `captions`. Other English is read only where a verb of motion and a word of direction stand near each other
behind the phrase, in the same clause. What is not found is not guessed.
"""

import re
from collections.abc import Sequence

from wm_pipelines.mojito.words.captions import said_in_caption
from wm_pipelines.mojito.words.verbs import ALONE_OF, MOVING, NOT_BEFORE, RESTING, WAY_OF, Said
from wm_pipelines.text.prompts import Span

_NEAR = 4
_CAMERA = r"(?:the\s+)?(?:camera|viewer)|us\b"
# A comma or "and" before one of these begins another thing's clause.
_OTHER_THING = re.compile(r"(?:,|\band\b|\bwhile\b|\bas\b)\s+(?:and\s+)?(?:a|an|another|the|his|her|its|their)\b")


def said_directions(prompt: str, span: Span, others: Sequence[Span] = ()) -> list[Said]:
    """The directions said of the words at `span`, in order.

    Args:
        prompt: the whole text.
        span: characters of the object's phrase.
        others: spans of the other objects; a clause ends where one of them begins.
    """
    whole = said_in_caption(prompt, span)
    return _english(prompt, span, others) if whole is None else whole


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
        verb = next((k for k in range(n - 1, max(-1, n - 1 - _NEAR), -1) if words[k][0] in MOVING), None)
        if word in WAY_OF and verb is not None and after not in NOT_BEFORE and not _place(before):
            found.append((start, (WAY_OF[word], clause[words[verb][1] : stop])))
        elif word in ALONE_OF:
            # "climbs down" is said by its second word.
            nearby = {w for w, _, _ in words[n + 1 : n + 1 + _NEAR]}
            if not nearby & set(WAY_OF):
                found.append((start, (ALONE_OF[word], word)))
        elif (word == "still" and before and before[-1] in RESTING) or word in ("stationary", "motionless"):
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
