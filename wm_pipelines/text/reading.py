"""A text word by word, for the small languages that are read from left to right."""

import re


class WordReader:
    """Words, commas and full stops of a text, in small letters, with a place that moves on.

    Attributes:
        tokens: (word, first character, behind the last). at: the place, an index of `tokens`.
    """

    def __init__(self, text: str):
        self.tokens = [(m.group().lower(), m.start(), m.end()) for m in re.finditer(r"[^\s,.]+|[,.]", text)]
        self.at = 0

    def word(self, ahead: int = 0) -> str:
        """The word at the place, or so many ahead of it; "" behind the last."""
        at = self.at + ahead
        return self.tokens[at][0] if at < len(self.tokens) else ""

    def at_end(self) -> bool:
        """Whether nothing is left, or a full stop."""
        return self.word() == "" or (self.word() == "." and self.word(1) == "")

    def accept(self, *words: str) -> bool:
        """Moves behind these words, if they come now."""
        if all(self.word(i) == word for i, word in enumerate(words)):
            self.at += len(words)
            return True
        return False
