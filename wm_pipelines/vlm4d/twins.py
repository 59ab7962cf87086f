"""Which words change when a clip is mirrored or played backwards (our design).

VLM4D (2508.02095) has no such twins. Its items that offer both "left" and "right", or both senses of rotation, get
maps of their options' texts and of the question.
"""

import re
from collections.abc import Mapping

SIDES = ("left", "right")
_CLOCKWISE = "clockwise"
_COUNTER = re.compile(r"(?:counter|anti)[ -]?clockwise")

_MIRROR = (("left", "right"), ("clockwise", "counter-clockwise"))
_REVERSE = (
    *_MIRROR, ("up", "down"), ("upwards", "downwards"), ("upward", "downward"), ("uphill", "downhill"),
    ("above", "below"), ("towards", "away from"), ("forwards", "backwards"), ("forward", "backward"),
    ("coming closer", "going further away"), ("closer towards", "further away from"),
)  # fmt: skip
_WHOLE = {"away": "towards", "towards": "away", "away from": "towards"}

_ORDER = re.compile(
    r"\b(?:after|before|first|last|then|next|begin\w*|start\w*|end\w*|initial\w*|finally|while|when|fac(?:e|es|ing)"
    r"|look\w*|own perspective|turn\w*|hand|foot|arm|leg|side)\b"
)
# "Which direction is it moving towards?" asks the same of either clip
_OPEN_END = re.compile(r"\btowards?(?=\s*(?:\?|$|,|from\b|in\b|relative\b|with\b))", re.IGNORECASE)
_HELD = "\0"
_HANDED = re.compile(r"\b(?:hand|foot|text|letter|sign|number plate|word|write|written|read)s?\b")


def offers_sides(options: Mapping[str, str]) -> bool:
    """Whether "left" and "right" are both options."""
    return set(SIDES) <= {_plain(text) for text in options.values()}


def offers_rotations(options: Mapping[str, str]) -> bool:
    """Whether both senses of rotation are options, the one against the clock in any of its spellings."""
    texts = {_plain(text) for text in options.values()}
    return any(_COUNTER.fullmatch(text) for text in texts) and _CLOCKWISE in texts


def twin_maps(question: str, options: Mapping[str, str]) -> dict[str, dict[str, str | None]]:
    """`Item.transforms` of an item: "mirror" and "reverse", or nothing where it offers neither pair.

    An option keeps its text where no word of it changes; where what it becomes is no option, its map is None.
    """
    if not (offers_sides(options) or offers_rotations(options)):
        return {}
    found: dict[str, dict[str, str | None]] = {}
    for name, pairs in (("mirror", _MIRROR), ("reverse", _REVERSE)):
        known = {_spelt(text): text for text in options.values()}
        texts: dict[str, str | None] = {}
        for text in options.values():
            changed = _swap(_spelt(text), pairs, whole=name == "reverse")
            texts[text] = text if changed == _spelt(text) else known.get(changed)
        texts.setdefault(question, _swap(_guard(question), pairs, whole=False).replace(_HELD, "towards"))
        found[name] = texts
    return found


def transform_ok(question: str, options: Mapping[str, str]) -> dict[str, bool]:
    """{"mirror", "reverse"}: whether no word warns that the twin may not make sense; inferred from words alone.

    A hand, a foot or writing shows that a clip was mirrored. Words of order ("after", "first"), of facing and of
    turning from one's own view mean something else when the clip runs backwards.
    """
    words = " ".join([question, *options.values()]).lower()
    return {"mirror": not _HANDED.search(words), "reverse": not _ORDER.search(words)}


def _plain(text: str) -> str:
    return " ".join(text.lower().split())


def _spelt(text: str) -> str:
    """In small letters, without an end stop, "counter-clockwise" in one spelling and "toward" as "towards"."""
    text = _COUNTER.sub("counter-clockwise", _plain(text).rstrip("."))
    return re.sub(r"\btoward\b", "towards", text)


def _guard(question: str) -> str:
    return _OPEN_END.sub(_HELD, question)


def _swap(text: str, pairs: tuple[tuple[str, str], ...], whole: bool) -> str:
    """Both words of each pair exchanged at once; `whole`: texts that are one word of `_WHOLE` too."""
    if whole and text in _WHOLE:
        return _WHOLE[text]
    other = {a: b for pair in pairs for a, b in (pair, pair[::-1])}
    words = sorted(other, key=len, reverse=True)
    pattern = r"(?<![\w-])(?:" + "|".join(map(re.escape, words)) + r")(?![\w-])(?! (?:after|before|away|now)\b)"

    def exchange(found: re.Match) -> str:
        word = other[found[0].lower()]
        return word.capitalize() if found[0][0].isupper() else word

    return re.sub(pattern, exchange, text, flags=re.IGNORECASE)
