"""A caption's words and marks, and what a word is by itself: preposition, adverb, pronoun (our design)."""

import re

from wm_pipelines.text.english import lexicon
from wm_pipelines.text.english import words as w

_TOKEN = re.compile(r"[^\W_]+(?:[-'’][^\W_]+)*['’]?|[,.;:!?]")
_CONTRACTED = re.compile(r"^(it|there|he|she|that|who|what|here|they|we|you|i)'(s|re|m)$")
_APART = re.compile(r"\s+(['’]s?\b|n['’]t\b)")  # "the cat 's eyes"
STOPS = frozenset(".;:!?")
_NO_CHUNK = frozenset(
    w.AUXILIARIES | w.RELATIVES | w.JOINTS | w.SUBORDINATES | w.ADVERBS | w.NEGATIONS | w.SUBJECT_PRONOUNS
    | (w.OBJECT_PRONOUNS - w.POSSESSIVES) | STOPS | {",", "'s"}
)  # fmt: skip


def tokens_of(text: str) -> list[str]:
    """Words in lower case and punctuation marks; "isn't", "it's" and the possessive 's are taken apart."""
    found: list[str] = []
    for token in _TOKEN.findall(_APART.sub(r"\1", text)):
        token = token.lower().replace("’", "'")
        contracted = _CONTRACTED.match(token)
        if token in ("can't", "cannot"):
            found += ["can", "not"]
        elif token.endswith("n't"):
            found += [{"wo": "will", "sha": "shall"}.get(token[:-3], token[:-3]), "not"]
        elif contracted:
            found += [contracted[1], {"s": "is", "re": "are", "m": "am"}[contracted[2]]]
        elif token.endswith("'s"):
            found += [token[:-2], "'s"]
        elif token.endswith("s'"):
            found += [token[:-1], "'s"]
        else:
            found.append(token.removesuffix("'"))
    return found


class Tokens:
    """The words of a caption, by place."""

    def __init__(self, text: str):
        self.tokens = tokens_of(text)

    def _at(self, i: int) -> str:
        return self.tokens[i] if 0 <= i < len(self.tokens) else ""

    def _preposition(self, i: int) -> tuple[str, int] | None:
        for said, text in w.PREPOSITIONS_BY_FIRST.get(self._at(i), ()):
            if tuple(self.tokens[i : i + len(said)]) == said:
                return text, len(said)
        return None

    def _pronoun(self, i: int) -> bool:
        token = self.tokens[i]
        if token in w.POSSESSIVES and (self._open(i + 1) or self._at(i + 1) in w.COUNTS):
            return False
        return token in w.SUBJECT_PRONOUNS or token in w.OBJECT_PRONOUNS

    def _adverb(self, i: int) -> bool:
        token = self._at(i)
        if token == "about":
            return self._at(i + 1) == "to"
        if token in ("back", "half", "all") and self._at(i + 1) == "of":
            return False
        if token in w.ADVERBS and token in lexicon.ADJECTIVES:  # "jumps high", but "a high wall" and "is high"
            return not self._open(i + 1) and self._at(i - 1) not in w.BE | w.DETERMINERS | w.ADVERBS
        return token in w.ADVERBS or (len(token) > 4 and token.endswith("ly") and token not in w.NOT_ADVERBS)

    def _open(self, i: int) -> bool:
        """Whether a noun, an adjective or a verb stands at `i`."""
        token = self._at(i)
        return bool(token) and not (
            token in _NO_CHUNK or token in w.DETERMINERS or self._adverb(i) or self._preposition(i)
        )

    def _opens(self, i: int) -> bool:
        """Whether a noun phrase may begin at `i`."""
        return self._open(i) or self._at(i) in w.DETERMINERS or self._at(i) in ("which", "whom")

    def _ends(self, i: int) -> bool:
        token = self.tokens[i]
        return token in _NO_CHUNK or token in w.DETERMINERS or self._adverb(i) or bool(self._preposition(i))

    def _closed(self, i: int) -> bool:
        """Whether nothing that could be the second half of a compound stands at `i`."""
        return i >= len(self.tokens) or self._ends(i) or self.tokens[i] in w.DIRECTIONS
