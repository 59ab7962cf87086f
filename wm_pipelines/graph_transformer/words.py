"""A word-piece tokenizer for a list of words: each is one token, and any other text is spelled in letters."""

import re
import string
from collections.abc import Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import BertTokenizer

SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")


def build_tokenizer(words: Iterable[str], length: int) -> "BertTokenizer":
    """A `BertTokenizer`, in small letters, whose vocabulary is the special tokens, letters, marks and `words`.

    Args:
        words: as BERT splits them, at spaces and marks. length: most tokens of a text.
    """
    from transformers import BertTokenizer

    letters = string.ascii_lowercase + string.digits
    known = sorted({word.lower() for word in words} - set(letters))
    vocabulary = [*SPECIAL, *letters, *(f"##{letter}" for letter in letters), *string.punctuation, *known]
    table = {word: n for n, word in enumerate(dict.fromkeys(vocabulary))}
    return BertTokenizer(vocab=table, model_max_length=length)


def words_of(texts: Iterable[str]) -> list[str]:
    """The different words of some texts, sorted."""
    return sorted({word for text in texts for word in re.findall(r"\w+", text.lower())})
