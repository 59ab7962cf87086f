"""The words of questions, answers and contexts, and a tokenizer that has each of them as one token (our design)."""

import os
from typing import TYPE_CHECKING

from wm_pipelines.diorama.questions.contexts import FILLERS, LIKINGS, NAMES, NUMBERS, THINGS
from wm_pipelines.diorama.tokenizer import build_tokenizer
from wm_pipelines.diorama.words import VOCABULARY

if TYPE_CHECKING:
    from transformers import CLIPTokenizer

_WORDS = {
    "asking": "has this same other there seen itself who compared which while",
    "motion": "halfway over floor picture place goes go moves moved turns jumps jump stays way straight lower higher",
    "events": "order cause caused wall inertia makes because touch touches hits hit stop stops stopped stay at would "
    "without still let ends clip earlier shortly farther nearer height high be will",
    "contexts": f"friend thing near yesterday that name price row {' '.join((*NAMES, *THINGS, *LIKINGS, *FILLERS))}",
    "verbs": " ".join(verb.removesuffix("s") for verb in LIKINGS),
    "numbers": " ".join(NUMBERS),
}
# the words that captions have, and those that questions need besides: the trained tokenizers can't take new ones
QUESTION_VOCABULARY: tuple[str, ...] = tuple(dict.fromkeys((*VOCABULARY, *" ".join(_WORDS.values()).split())))


def build_question_tokenizer(folder: str | os.PathLike, max_length: int = 384) -> "CLIPTokenizer":
    """Write a CLIP tokenizer for `QUESTION_VOCABULARY` to `folder` and return it, as `tokenizer.build_tokenizer` does.

    Args:
        max_length: the most tokens of a text; a table of twelve rows has about 300.
    """
    return build_tokenizer(folder, QUESTION_VOCABULARY, max_length)
