"""Questions, options and clips as the tokens and pixels of `diorama-vlm` (our design)."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import nn

from wm_pipelines.diorama.questions.record import LETTERS, Question
from wm_pipelines.evaluation.mcq.prompts import TEMPLATES, prompt
from wm_pipelines.video_quiz.words import ASSISTANT, END, USER

if TYPE_CHECKING:
    from transformers import LlavaProcessor

ROWS = 16  # samples put through the model at once
IGNORED = -100


@dataclass(frozen=True)
class Asked:
    """One sample.

    Args:
        text: all that is asked. answer: what is right, a letter or words. clip: (T, 3, H, W) uint8, or None.
    """

    text: str
    answer: str
    clip: torch.Tensor | None


@dataclass(frozen=True)
class Batch:
    """Samples that show equally many frames, padded on the right.

    Args:
        ids: (N, S) tokens. targets: (N, S), at each place the token that follows it in the answer, elsewhere
            `IGNORED`. clips: (N, T, 3, H, W) uint8, or None. closed: whether the answer is a letter, for each.
        rows: which of the samples they are.
    """

    ids: torch.Tensor
    targets: torch.Tensor
    clips: torch.Tensor | None
    closed: list[bool]
    rows: list[int]


def ask(question: str, options: Sequence[str], protocol: str = "direct") -> str:
    """The text of a multiple-choice question, worded as `wm eval` words it."""
    shown = dict(zip(LETTERS, options, strict=False))
    return prompt(TEMPLATES[protocol], question, shown)


def shuffled(question: Question, rng: np.random.Generator) -> tuple[list[str], str]:
    """The options in random order, and the letter of the right one."""
    order = rng.permutation(len(question.options))
    options = [question.options[i] for i in order]
    return options, LETTERS[options.index(question.right)]


def batches(samples: Sequence[Asked], processor: "LlavaProcessor") -> Iterator[Batch]:
    """The samples by their number of frames and their length, at most `ROWS` at a time.

    Tokens are those that the processor's chat template makes.
    """
    tokenizer = processor.tokenizer
    opened, answering, closing = (tokenizer.convert_tokens_to_ids(token) for token in (USER, ASSISTANT, END))
    read = tokenizer([s.text for s in samples] + [s.answer for s in samples], add_special_tokens=False).input_ids
    rows = []
    for number, sample in enumerate(samples):
        text, answer = read[number], read[len(samples) + number]
        shown = [processor.image_token_id] * picture_tokens(processor, sample.clip)
        asked, said = [opened, *text, *shown, answering], [*answer, closing]
        rows.append((0 if sample.clip is None else len(sample.clip), asked, said, number))
    rows.sort(key=lambda row: (row[0], len(row[1])))
    while rows:
        frames = rows[0][0]
        some = [row for row in rows[:ROWS] if row[0] == frames]
        rows = rows[len(some) :]
        longest = max(len(asked) + len(said) for _, asked, said, _ in some) - 1
        ids = torch.full((len(some), longest), tokenizer.pad_token_id)
        targets = torch.full((len(some), longest), IGNORED)
        for n, (_, asked, said, _) in enumerate(some):
            whole = [*asked, *said]
            ids[n, : len(whole) - 1] = torch.tensor(whole[:-1])
            targets[n, len(asked) - 1 : len(whole) - 1] = torch.tensor(said)
        numbers = [row[-1] for row in some]
        clips = torch.stack([samples[n].clip for n in numbers]) if frames else None
        yield Batch(ids, targets, clips, [samples[n].answer in LETTERS for n in numbers], numbers)


def picture_tokens(processor: "LlavaProcessor", clip: torch.Tensor | None) -> int:
    """How many tokens stand for a clip."""
    if clip is None:
        return 0
    side = processor.image_processor.size["height"] // processor.patch_size
    return len(clip) * (side**2 + processor.num_additional_image_tokens)


def answer_logits(model: nn.Module, batch: Batch, device: torch.device) -> torch.Tensor:
    """Logits (K, words) at the K places of a batch that have a target, row by row."""
    shown = {} if batch.clips is None else {"pixel_values": pixels(batch.clips.flatten(0, 1)).to(device)}
    out = model.model(input_ids=batch.ids.to(device), use_cache=False, **shown)
    return model.lm_head(out.last_hidden_state[batch.targets.to(device) != IGNORED])


def pixels(frames: torch.Tensor) -> torch.Tensor:
    """uint8 frames as the processor gives them to the model: float32 in [-1, 1]."""
    return frames.float() / 127.5 - 1
