"""The words of questions, answers and contexts, and a tokenizer that has each of them as one token (our design)."""

import os
import re
from typing import TYPE_CHECKING

from wm_pipelines.diorama.words import VOCABULARY

if TYPE_CHECKING:
    from transformers import CLIPTokenizer

NUMBERS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve")
NAMES = ("anna", "bob", "carl", "dora", "emil", "fay", "gus", "hana")
LIKINGS = ("likes", "owns", "wants")
FILLERS = ("well", "also", "indeed", "now")

_WORDS = {
    "asking": "seen itself over floor picture it's without removed instead same other there this that who",
    "moving": "moves move turns stays still stops jumps way back straight goes its towards away up down one",
    "events": "moved order cause causes made makes wall inertia touches touch hit itself comes rest first last second "
    "later higher lower place where will be would leaves remains clip ends",
    "contexts": f"{' '.join((*NAMES, *LIKINGS, *FILLERS))} friend name price row yesterday thing things",
    "numbers": " ".join(NUMBERS),
}
QUESTION_VOCABULARY: tuple[str, ...] = tuple(dict.fromkeys((*VOCABULARY, *" ".join(_WORDS.values()).split())))
