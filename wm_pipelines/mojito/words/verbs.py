"""The verbs of motion and the words of direction that a prompt is read for."""

DIRECTIONS: dict[str, tuple[float, float]] = {"left": (-1, 0), "right": (1, 0), "up": (0, -1), "down": (0, 1)}
"""Directions in the picture, x to the right and y down."""

Said = tuple[str, str]
"""A direction (one of `DIRECTIONS`, "towards", "away", "still") and the words that say it."""

_WORDS = {
    "left": "left leftward leftwards", "right": "right rightward rightwards", "up": "up upward upwards",
    "down": "down downward downwards",
}  # fmt: skip
WAY_OF = {word: way for way, words in _WORDS.items() for word in words.split()}
_ALONE = {"up": "rise ascend climb soar", "down": "fall descend sink plummet", "away": "recede"}
_VERBS = (
    "move go slide roll drive fly walk run drift float travel glide swim crawl jump hop ride sail race rush head come "
    "shift step swing turn swerve steer march gallop skate ski slither scroll fall rise climb"
)
_IRREGULAR = "went gone flew flown drove driven ran swam came rode ridden swung"
_REST = "stay stand sit remain keep lie rest"
# "moves right behind the car" and "moves left of the tree" speak of places.
NOT_BEFORE = frozenset("of behind next in above below beside after before now there here side-by-side".split())


def _forms(verbs: str) -> frozenset[str]:
    found = set()
    for verb in verbs.split():
        stem = verb.removesuffix("e")
        found |= {verb, verb + "s", verb + "es", stem + "ing", stem + "ed", verb + verb[-1] + "ing"}
    return frozenset(found)


MOVING = _forms(_VERBS) | frozenset(_IRREGULAR.split())
RESTING = _forms(_REST) | {"lying"}
ALONE_OF = {form: way for way, verbs in _ALONE.items() for form in _forms(verbs)}
