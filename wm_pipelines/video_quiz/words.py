"""The tokenizer of `diorama-vlm`, and how it is asked (our design).

A text is read in small letters, but a letter from A to F that stands alone stays as it is: it may name an option.
Every word of the miniature world's questions is one token, and anything else is spelled in letters.
"""

import re
import string
from typing import TYPE_CHECKING

from wm_pipelines.diorama.questions import QUESTION_VOCABULARY
from wm_pipelines.evaluation.mcq.controls import NOT_SHOWN
from wm_pipelines.evaluation.mcq.prompts import TEMPLATES

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

PAD, UNKNOWN, USER, ASSISTANT, END, IMAGE = "<pad>", "<unk>", "<user>", "<assistant>", "<end>", "<image>"
SPECIAL = (PAD, UNKNOWN, USER, ASSISTANT, END, IMAGE)
ASKING = tuple(dict.fromkeys(re.findall("[a-z]+", " ".join((*TEMPLATES.values(), NOT_SHOWN)).lower())))
NAMES = "ABCDEF"  # of options: five, and one that nothing of this is to be seen
MARKS = string.punctuation + string.digits + string.ascii_lowercase
PRIVATE = 0xE000  # code points that stand for the letters of options while a text is put into small letters

CHAT_TEMPLATE = (
    "{% for message in messages %}<{{ message['role'] }}>"
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}"
    "{% for part in message['content'] if part['type'] == 'text' %}{{ part['text'] }}{% endfor %}"
    "{% for part in message['content'] if part['type'] == 'image' %}<image>{% endfor %}"
    "{% endif %}{% if message['role'] == 'assistant' %}<end>{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)
"""A turn's text stands before its pictures, whatever their order: what is asked for is then known while they are read.
"""


def vocabulary() -> tuple[str, ...]:
    """The words that are one token each."""
    return tuple(dict.fromkeys((*QUESTION_VOCABULARY, *ASKING)))


def build_vlm_tokenizer(max_length: int = 1024) -> "PreTrainedTokenizerFast":
    """A word-piece tokenizer over `QUESTION_VOCABULARY` and the words of prompts.

    Args:
        max_length: the most tokens of a text with its pictures.
    """
    from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    inside = (f"##{c}" for c in string.ascii_lowercase + string.digits)
    pieces = (*SPECIAL, *NAMES, *MARKS, *inside, *vocabulary())
    table = {piece: n for n, piece in enumerate(dict.fromkeys(pieces))}
    hidden = [(letter, chr(PRIVATE + n)) for n, letter in enumerate(NAMES)]
    alone = "(?<![A-Za-z0-9']){}(?![A-Za-z0-9'])"
    inner = Tokenizer(models.WordPiece(table, unk_token=UNKNOWN))
    inner.normalizer = normalizers.Sequence(
        [
            *(normalizers.Replace(Regex(alone.format(letter)), code) for letter, code in hidden),
            normalizers.Lowercase(),
            *(normalizers.Replace(code, letter) for letter, code in hidden),
        ]
    )
    inner.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    inner.decoder = decoders.WordPiece()
    return PreTrainedTokenizerFast(
        tokenizer_object=inner,
        model_max_length=max_length,
        pad_token=PAD,
        unk_token=UNKNOWN,
        eos_token=END,
        padding_side="left",
        extra_special_tokens={"image_token": IMAGE, "user_token": USER, "assistant_token": ASSISTANT},
    )
