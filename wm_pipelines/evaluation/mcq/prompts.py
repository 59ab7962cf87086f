"""What a model is asked, in words (our wording): the question, the options by their letters, how to answer."""

import hashlib
import string
from collections.abc import Mapping

from wm_pipelines.evaluation.mcq.rows import PROTOCOLS

DIRECT = "{question}\n{options}\nAnswer with the letter of the right option and nothing else."
COT = (
    "{question}\n{options}\nThink step by step about what happens in the video. Then end with one line of exactly "
    "this form, with the letter of the right option:\nThe final answer is: LETTER"
)
LOGLIK = "{question}\n{options}\nAnswer:"
TEMPLATES = dict(zip(PROTOCOLS, (DIRECT, COT, LOGLIK), strict=True))

NEW_TOKENS = {"direct": 16, "cot": 1024, "loglik": 0}
"""Tokens of a reply, at most."""


def check_template(template: str) -> str:
    """The template, if it has `{question}` and `{options}` and nothing else in braces.

    Raises:
        ValueError: it has not.
    """
    try:
        names = [name for _, name, _, _ in string.Formatter().parse(template) if name is not None]
    except (ValueError, TypeError) as error:
        raise ValueError(f"`template` is {template!r}; braces must be written twice ({error})") from None
    if sorted(names) != ["options", "question"]:
        raise ValueError(f"`template` has {names} in braces; it must have {{question}} and {{options}}, each once")
    return template


def prompt(template: str, question: str, options: Mapping[str, str], state: str | None = None) -> str:
    """The text for a question.

    Args:
        options: letter -> text, as they are shown.
        state: what is told instead of a video.
    """
    lines = "\n".join(f"{letter}. {text}" for letter, text in options.items())
    asked = template.format(question=question, options=lines)
    return asked if state is None else f"{state}\n{asked}"


def text_sha(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
