"""Captions as a call may be given them."""

from collections.abc import Sequence


def read_texts(texts: str | Sequence[str]) -> list[str]:
    """Captions as a list.

    Raises:
        ValueError: no caption, or one that is not a string with words in it.
    """
    listed = [texts] if isinstance(texts, str) else texts
    if not isinstance(listed, Sequence) or not listed:
        raise ValueError(f"`texts` must be a caption or a non-empty list of captions, got {texts!r}")
    for text in listed:
        if not isinstance(text, str) or not text.strip():
            raise ValueError(f"`texts` must hold strings with words in them, got {text!r}")
    return list(listed)
