"""Noun phrases and clauses with exact spans, for the captions of scene graphs and of Diorama (our design)."""

from collections.abc import Sequence

NodeId = int | str
Span = tuple[int, int]
# a piece of a clause: text as it stands, or the id of a thing to mention
Piece = str | tuple[NodeId]
ORDINALS = ("first", "second", "third", "fourth")
EMPTY = "an empty scene"


def with_article(words: str) -> str:
    """`words` behind "a", or behind "an" before a vowel: "an orange cube"."""
    return f"{'an' if words[0].lower() in 'aeiou' else 'a'} {words}"


class Mentions:
    """Names things in a running text.

    First "a red cube", or "another red cube" when something was called just that before; later the shortest of "the
    cube", "the red cube" ... that fits nothing else, or "the second red cube" among things of the same words.

    Args:
        things: id to words, adjectives first and the name last: ("small", "red", "cube").
    """

    def __init__(self, things: dict[NodeId, tuple[str, ...]]):
        self._things = things
        self._said: list[NodeId] = []

    def __contains__(self, id: NodeId) -> bool:
        return id in self._said

    def phrase(self, id: NodeId) -> str:
        """The words for the next mention of `id`."""
        words = self._things[id]
        text = " ".join(words)
        same = [other for other in self._said if self._things[other] == words]
        if id not in self._said:
            self._said.append(id)
            return f"another {text}" if same else with_article(text)
        if len(same) > 1:
            n = same.index(id)
            return f"the {ORDINALS[n] if n < len(ORDINALS) else f'{n + 1}th'} {text}"
        namesakes = [w for other, w in self._things.items() if other != id and w[-1] == words[-1]]
        for first in range(len(words) - 1, 0, -1):
            if not any(set(words[first:]) <= set(w) for w in namesakes):
                return f"the {' '.join(words[first:])}"
        return f"the {text}"


def join_clauses(
    clauses: Sequence[Sequence[Piece]], things: dict[NodeId, tuple[str, ...]]
) -> tuple[str, dict[NodeId, Span]]:
    """The text of `clauses`, and per thing the (start, end) characters of its first noun phrase.

    Commas stand between clauses and "and" before the last: "a, b and c" for a plain list, else "..., and ...".

    Args:
        clauses: each a list of pieces: text, spaces included, or (id,) for a mention.
        things: as for `Mentions`.
    """
    plain = all(len(clause) == 1 and not isinstance(clause[0], str) for clause in clauses)
    text, spans, mentions = "", {}, Mentions(things)
    for n, clause in enumerate(clauses):
        if n:
            last = n == len(clauses) - 1
            text += (" and " if plain else ", and ") if last else ", "
        for piece in clause:
            if isinstance(piece, str):
                text += piece
                continue
            (id,) = piece
            new, phrase = id not in mentions, mentions.phrase(id)
            if new:
                spans[id] = (len(text), len(text) + len(phrase))
            text += phrase
    return text, spans
