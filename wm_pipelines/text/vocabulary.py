"""Closed vocabularies: a text encoder that has never seen a word must say so, not guess."""

import difflib
import re
from collections.abc import Iterable, Sequence

SHAPES = {
    "ball": "sphere", "globe": "sphere", "orb": "sphere", "marble": "sphere", "disc": "sphere", "disk": "sphere",
    "box": "cube", "block": "cube", "crate": "cube", "dice": "cube", "square": "cube",
    "can": "cylinder", "tube": "cylinder", "barrel": "cylinder", "drum": "cylinder", "pyramid": "cone",
    "triangle": "cone",
}  # fmt: skip
"""Everyday words for the shapes of the miniature world."""
LOOKS = {
    "big": "large", "huge": "large", "giant": "large", "little": "small", "tiny": "small",
    "violet": "purple", "turquoise": "cyan", "teal": "cyan", "scarlet": "red", "golden": "yellow", "gold": "yellow",
    "glossy": "shiny", "metallic": "shiny",
}  # fmt: skip
"""Likewise for sizes, colours and surfaces."""
LIKE = 0.75
"""Words are taken for each other's misspelling from this ratio of `difflib` on."""


def check_vocabulary(vocabulary: Sequence[str], texts: Iterable[str], name: str, allowed: Iterable[str] = ()) -> None:
    """ValueError if a text has a word outside a closed vocabulary, with the known word that was meant, or all of them.

    Args:
        allowed: pieces that are no words but known to the tokenizer (textual-inversion concepts, special tokens).
    """
    known, longer = set(vocabulary), [word for word in vocabulary if len(word) > 2]
    for text in texts:
        for piece in sorted(allowed, key=len, reverse=True):
            text = text.replace(piece, " ")
        for word in re.findall(r"[^\W_]+|_", text.lower()):
            if word not in known:
                meant = {**SHAPES, **LOOKS}.get(word)
                near = [meant] if meant in known else difflib.get_close_matches(word, longer, 1, LIKE)
                hint = f"the nearest known word is {near[0]!r}" if near else f"it knows {', '.join(sorted(known))}"
                raise ValueError(f"{name} has the word {word!r}, which this checkpoint does not know; {hint}")
