"""Which option a reply names, by rules: no judge, the same answer every time.

The stages and their order are our design; they were measured against the verdicts that the authors of VLM4D
(2508.02095) published with the raw replies of their models (`benchmarks/vlm4d_rescore.py` has the agreement).
"""

import re
from collections.abc import Iterator, Mapping
from functools import lru_cache
from typing import NamedTuple

from wm_pipelines.evaluation.mcq.rows import SHOWN

STAGES = ("phrase", "leading", "boxed", "trailing", "last_sentence", "text", "mention")
"""The stages of `extract_answer`, in the order in which they are tried."""

# Quantifiers are possessive (*+), so that a reply of a thousand blanks is read once, not a thousand times.
_DRESS = r"[\s*_$`\"'“‘]*+(?:\\boxed\s*+\{|\\text\s*+\{|\\?[(\[<{])?[\s*_$`\"'“‘(]*+"  # what may stand before a letter
_ALONE = r"(?![A-Za-z])(?!\W{0,3}(?:or\b|and\b|,|/|\$)\W{0,3}[A-F](?![A-Za-z]))"  # not "A or D"
_PHRASE = re.compile(
    r"(?:\b(?:final|correct|best|right)\s++(?:answer|option|choice)\s*+(?:\*\*\s*+)?(?:is|would\s++be|:)"
    r"|\banswer\s++is|\banswer\s*+(?:\*\*\s*+)?:)"
    r"[\s:]*+" + _DRESS + r"(?:(?:option|choice|letter)\s++)?" + _DRESS + rf"(?-i:([A-F]){_ALONE})",
    re.IGNORECASE,
)
_LEADING = re.compile(r"[\s*_$`\"'“‘(\[<]*([A-F])" + _ALONE + r"(?:$|[).:,\s*\]>\"'”’}])")
_LEADING_SHORT = re.compile(r"[\s*_$`\"'“‘(\[<]*([A-Fa-f])" + _ALONE + r"(?:$|[).:,\s*\]>\"'”’}])")
_BOXED = re.compile(r"\\boxed\s*+\{\s*+(?:\\text\s*+\{\s*+)?\(?([A-F])(?![A-Za-z])")
_TRAILING = re.compile(r"(?:^|[\s(\[*:$\"'])([A-F])[\s.)\]*$\"'}]*$")
_SEVERAL = re.compile(r"(?<![A-Za-z])[A-F]\W{1,3}(?:(?:or|and)\W{1,3})?[A-F]\W*$")  # "A or D", at the end
_MENTION = re.compile(r"\b(?:option|choice)[:\s]*+" + _DRESS + r"(?-i:([A-F]))(?![A-Za-z])", re.IGNORECASE)
_SENTENCE = re.compile(r"(?<=[.!?])\s+|\n+")
_SHORT = 6


class Answer(NamedTuple):
    """What `extract_answer` found.

    Args:
        letter: of the option, or None where the reply names none: a format failure, which counts as wrong.
        stage: one of `STAGES`, or None.
    """

    letter: str | None
    stage: str | None


def extract_answer(reply: str, options: Mapping[str, str]) -> Answer:
    r"""The option that a reply names; the first of seven stages that finds one decides.

    1. "phrase": the last of "final / correct / best answer is", "answer:" with a letter right behind it, which may be
       dressed in `*`, `$`, `(` or `\boxed{`.
    2. "leading": the reply begins with a letter; a small one counts if the reply has under 6 characters.
    3. "boxed": `\boxed{X}`, the last. 4. "trailing": the reply ends with a lone letter.
    5. "last_sentence": exactly one option's text stands in the last sentence, where an option whose text is a part of
       another's that stands there too is left out. 6. "text": likewise in the whole reply.
    7. "mention": the last "option X" or "choice X", unless every option is mentioned so.

    A letter that is not among the options counts as none.

    Args:
        reply: what the model wrote.
        options: letter ("A" to "F") -> text, as they were shown.

    Returns:
        The letter and the stage; both None where no stage finds a letter.

    Raises:
        ValueError: a reply that is no text, or options that are none or have other letters.
    """
    if not isinstance(reply, str):
        raise ValueError(f"`reply` is {type(reply).__name__}; it must be text")
    if not options or not set(options) <= set(SHOWN):
        raise ValueError(f"`options` has the letters {list(options)!r}; it must have some of {', '.join(SHOWN)}")
    for stage, letter in _letters(reply, options):
        if letter in options:
            return Answer(letter, stage)
    return Answer(None, None)


def _letters(reply: str, options: Mapping[str, str]) -> Iterator[tuple[str, str | None]]:
    """(stage, letter or None) of each stage, as far as they are asked for."""
    yield "phrase", _last(_PHRASE, reply, options)
    stripped = reply.strip()
    found = (_LEADING_SHORT if len(stripped) < _SHORT else _LEADING).match(stripped)
    yield "leading", found and found[1].upper()
    yield "boxed", _last(_BOXED, reply, options)
    end = stripped[-24:]
    found = None if _SEVERAL.search(end) else _TRAILING.search(end)
    yield "trailing", found and found[1]
    low = stripped.lower()
    sentences = [part for part in _SENTENCE.split(low) if part.strip()]
    yield "last_sentence", _only_option(sentences[-1] if sentences else "", options)
    yield "text", _only_option(low, options)
    mentioned = [letter for letter in _MENTION.findall(reply) if letter in options]
    listed = len(options) > 1 and set(mentioned) == set(options)
    yield "mention", mentioned[-1] if mentioned and not listed else None


def _last(pattern: re.Pattern, text: str, options: Mapping[str, str]) -> str | None:
    found = [letter for letter in pattern.findall(text) if letter in options]
    return found[-1] if found else None


def _only_option(low: str, options: Mapping[str, str]) -> str | None:
    """The only option whose text stands in `low`, or whose text holds those of all others that do."""
    texts = {letter: " ".join(text.lower().split()) for letter, text in options.items()}
    hits = {letter: text for letter, text in texts.items() if text and _whole(text).search(low)}
    kept = [
        letter for letter, text in hits.items() if not any(text in other for other in hits.values() if other != text)
    ]
    return kept[0] if len(kept) == 1 else None


@lru_cache(maxsize=4096)
def _whole(text: str) -> re.Pattern:
    """Finds a text that is no part of a longer word."""
    return re.compile(r"(?<!\w)" + re.escape(text) + r"(?!\w)")
