"""How often `diorama-vlm` answers right, by family and source, under a few controls (our design).

`wm eval diorama` is the whole evaluation; this is the short one that training is watched by.
"""

from collections import defaultdict
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import nn

from wm_pipelines.diorama.questions.record import LETTERS, Question
from wm_pipelines.runtime.random import keyed
from wm_pipelines.video_quiz.asking import Asked, answer_logits, ask, batches

if TYPE_CHECKING:
    from transformers import LlavaProcessor

    from wm_pipelines.video_quiz.scenes import QuizClips

CONTROLS = ("full", "blind", "shuffle", "mirror", "reverse")


@torch.no_grad()
def probabilities(
    model: nn.Module,
    processor: "LlavaProcessor",
    questions: Sequence[Question],
    clips: Sequence[torch.Tensor | None],
) -> np.ndarray:
    """(N, 5): of each option, by its letter, among those of the question.

    Args:
        clips: (T, 3, H, W) uint8 of the processor's size, or None for a question without.
    """
    letters = processor.tokenizer.convert_tokens_to_ids(list(LETTERS))
    out = np.zeros((len(questions), len(LETTERS)))
    asked = [
        Asked(ask(question.text, question.options), question.letter, clip)
        for question, clip in zip(questions, clips, strict=True)
    ]
    for batch in batches(asked, processor):
        logits = answer_logits(model, batch, next(model.parameters()).device)
        first = logits[:: len(logits) // len(batch.rows)]  # the letter; what follows it is the end
        for row, scores in zip(batch.rows, first[:, letters].float().cpu(), strict=True):
            count = len(questions[row].options)
            out[row, :count] = scores[:count].softmax(0).numpy()
    return out


def right(
    model: nn.Module, processor: "LlavaProcessor", clips: "QuizClips", controls: Sequence[str] = CONTROLS
) -> dict[str, np.ndarray]:
    """Control -> for each item 1 where it is answered right, 0 where not, NaN where the control has no answer."""
    found = {}
    for control in controls:
        values = np.full(clips.length, np.nan)
        cases = [(n, case) for n in range(clips.length) if (case := _case(clips, n, control)) is not None]
        found[control] = values
        if cases:
            numbers, asked = zip(*cases, strict=True)
            questions, shown = zip(*asked, strict=True)
            chosen = probabilities(model, processor, questions, shown).argmax(1)
            values[list(numbers)] = chosen == [question.answer for question in questions]
    return found


def _case(clips: "QuizClips", index: int, control: str) -> tuple[Question, torch.Tensor | None] | None:
    if control in ("mirror", "reverse"):
        return clips.twin(index, control)
    question, clip = clips.questions[index], clips.clip(index)
    if control == "blind":
        return question, None
    if control == "shuffle":
        return question, clip[torch.from_numpy(keyed("video quiz shuffle", index).permutation(len(clip)))]
    return question, clip


def by_family(clips: "QuizClips", found: dict[str, np.ndarray]) -> dict[tuple[str, str], dict[str, float]]:
    """(source, family) -> number of items `n`, the `best` that the text alone can give, a share for each control, and
    pairs: both right, where the answer of the twin is another."""
    rows: dict[tuple[str, str], list[int]] = defaultdict(list)
    for n, question in enumerate(clips.questions):
        rows[clips.source(n), question.family].append(n)
    made = {}
    for name, numbers in rows.items():
        asked = [clips.questions[n] for n in numbers]
        told = {"n": len(numbers), "best": float(np.mean([max(q.priors) for q in asked]))}
        for control, values in found.items():
            some = values[numbers]
            if not np.isnan(some).all():
                told[control] = float(np.nanmean(some))
            if control in ("mirror", "reverse"):
                moved = [(t := q.twin(control)) is not None and t.answer != q.answer for q in asked]
                if any(moved):
                    told[f"{control} pair"] = float((some * found["full"][numbers])[moved].mean())
        made[name] = told
    return made
