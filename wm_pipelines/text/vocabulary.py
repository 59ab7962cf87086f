"""Closed vocabularies: a text encoder that has never seen a word must say so, not guess."""

import difflib
import re
from collections.abc import Iterable, Sequence


def check_vocabulary(vocabulary: Sequence[str], texts: Iterable[str], name: str, allowed: Iterable[str] = ()) -> None:
    """ValueError naming the nearest known word if a text has a word outside a closed vocabulary.

    Args:
        allowed: pieces that are no words but known to the tokenizer (textual-inversion concepts, special tokens).
    """
    known = set(vocabulary)
    for text in texts:
        for piece in sorted(allowed, key=len, reverse=True):
            text = text.replace(piece, " ")
        for word in re.findall(r"[^\W_]+|_", text.lower()):
            if word not in known:
                nearest = difflib.get_close_matches(word, vocabulary, n=1, cutoff=0.0)
                raise ValueError(
                    f"{name} has the word {word!r}, which this checkpoint does not know;"
                    f" the nearest known word is {nearest[0]!r}"
                )
