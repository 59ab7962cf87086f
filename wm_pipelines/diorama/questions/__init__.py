"""Multiple-choice questions over pictures, clips and events of the miniature world, with their truth (our design).

`items.sample_question` draws one by key; `record.Question` is what is asked, `clip.Clip` what it is asked about.
"""

from wm_pipelines.diorama.questions.clip import Clip
from wm_pipelines.diorama.questions.items import FAMILIES, KNOWING, Item, sample_question, truth
from wm_pipelines.diorama.questions.law import CONTEXTS, Knobs
from wm_pipelines.diorama.questions.record import Context, Question, TextGraph
from wm_pipelines.diorama.questions.source import QuestionSource
from wm_pipelines.diorama.questions.words import QUESTION_VOCABULARY, build_question_tokenizer

__all__ = [
    "CONTEXTS",
    "FAMILIES",
    "KNOWING",
    "QUESTION_VOCABULARY",
    "Clip",
    "Context",
    "Item",
    "Knobs",
    "Question",
    "QuestionSource",
    "TextGraph",
    "build_question_tokenizer",
    "sample_question",
    "truth",
]
