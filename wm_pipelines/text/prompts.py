"""From phrases to tokens: where a phrase stands in a prompt and which rows of the text encoder it becomes."""

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Span = tuple[int, int]


@dataclass(frozen=True)
class Phrase:
    """A piece of one prompt: `prompt[span[0]:span[1]]`, with the tokens `tokens[0]` to `tokens[1]` (exclusive)."""

    text: str
    span: Span
    tokens: tuple[int, int]


def locate(prompt: str, phrase: str, span: Span | None = None) -> Span:
    """Character span of `phrase` in `prompt`, whole words only, upper and lower case alike.

    Raises:
        ValueError: the phrase is empty, absent, or there more than once and no `span` says which; or `span` lies
            outside the prompt or on other words.
    """
    if not prompt.strip():
        raise ValueError(f"phrase {phrase!r} needs a prompt that contains it, but the prompt is empty")
    if span is not None:
        start, end = span
        if not 0 <= start < end <= len(prompt):
            raise ValueError(f"span {tuple(span)} of phrase {phrase!r} is outside the prompt ({len(prompt)} letters)")
        if phrase and prompt[start:end].lower() != phrase.lower():
            raise ValueError(f"span {tuple(span)} holds {prompt[start:end]!r}, not the phrase {phrase!r}")
        return (int(start), int(end))
    if not phrase.strip():
        raise ValueError("phrase is empty; name words of the prompt")
    found = [match.span() for match in re.finditer(rf"(?<!\w){re.escape(phrase)}(?!\w)", prompt, re.IGNORECASE)]
    if not found:
        raise ValueError(f"phrase {phrase!r} not found in prompt; pass span=(start,end)")
    if len(found) > 1:
        raise ValueError(f"phrase {phrase!r} occurs {len(found)} times in prompt, at {found}; pass span=(start,end)")
    return found[0]


def token_span(
    tokenizer: "PreTrainedTokenizerBase",
    prompt: str,
    span: Span,
    convert: Callable[[str], str] = str,
    limit: int | None = None,
) -> tuple[int, int]:
    """Positions of the tokens of `prompt[span]` in the encoded prompt, counting a begin-of-text token if there is one.

    CLIP and T5 split at word boundaries before they merge, so the tokens of a prefix that ends at one are a prefix of
    the tokens: counting them needs no character offsets, which slow tokenizers do not give.

    Args:
        convert: applied to the text before encoding (textual inversion writes one concept as several tokens).
        limit: tokens that the encoder takes; default: the tokenizer's own limit.

    Raises:
        ValueError: the span begins or ends inside a word, or its tokens lie past the limit.
    """
    limit = tokenizer.model_max_length if limit is None else limit

    def encode(text: str) -> list[int]:
        return tokenizer(convert(text.rstrip()), add_special_tokens=False, truncation=False).input_ids

    whole, before, upto = encode(prompt), encode(prompt[: span[0]]), encode(prompt[: span[1]])
    if whole[: len(upto)] != upto or whole[: len(before)] != before or len(before) == len(upto):
        raise ValueError(f"span {span} of the prompt, {prompt[span[0] : span[1]]!r}, must begin and end with a word")
    first, last = specials_around(tokenizer)
    if first + len(upto) + last > limit:
        raise ValueError(
            f"phrase {prompt[span[0] : span[1]]!r} lies past the limit of {limit} tokens; shorten the prompt"
        )
    return len(before) + first, len(upto) + first


def specials_around(tokenizer: "PreTrainedTokenizerBase") -> tuple[int, int]:
    """How many special tokens the tokenizer puts before a text, and how many behind it: 1 and 1 for CLIP, 0 and 1 for
    T5."""
    plain = tokenizer("a", add_special_tokens=False).input_ids
    whole = tokenizer("a").input_ids
    first = next(i for i in range(len(whole)) if whole[i : i + len(plain)] == plain)
    return first, len(whole) - first - len(plain)


def find_phrases(
    tokenizer: "PreTrainedTokenizerBase",
    prompt: str,
    wanted: Iterable[tuple[str, Span | None]],
    convert: Callable[[str], str] = str,
    limit: int | None = None,
) -> list[Phrase]:
    """The distinct phrases of one prompt, in order of first mention in `wanted`; equal spans are one phrase."""
    phrases: dict[Span, Phrase] = {}
    for text, span in wanted:
        span = locate(prompt, text, span)
        if span not in phrases:
            phrases[span] = Phrase(
                prompt[span[0] : span[1]], span, token_span(tokenizer, prompt, span, convert, limit)
            )
    return list(phrases.values())


def phrase_keys(phrases: Sequence[Phrase]) -> list[str]:
    """Names for a dictionary: the phrase, with `@start` where the same words were bound before."""
    keys: list[str] = []
    for phrase in phrases:
        keys.append(phrase.text if phrase.text not in keys else f"{phrase.text}@{phrase.span[0]}")
    return keys


def token_index(phrases: Sequence[Sequence[Phrase]], length: int) -> torch.Tensor:
    """Which tokens each phrase has: bool `(B, P, length)`, P the largest number of phrases, missing ones empty."""
    index = torch.zeros(len(phrases), max(map(len, phrases)), length, dtype=torch.bool)
    for b, row in enumerate(phrases):
        for p, phrase in enumerate(row):
            index[b, p, phrase.tokens[0] : phrase.tokens[1]] = True
    return index


def check_length(tokenizer: "PreTrainedTokenizerBase", texts: Iterable[str], name: str) -> None:
    """ValueError if a text would be cut: a condition bound to words that were cut off could not act."""
    limit = tokenizer.model_max_length
    for text in texts:
        count = len(tokenizer(text, truncation=False).input_ids)
        if count > limit:
            raise ValueError(f"{name} {text!r} has {count} tokens, the text encoder takes {limit}; shorten it")
