"""What `mcq_micro.py` asks: questions of the miniature world as tensors, at 32 x 32 pixels and 8 frames.

The main questions are three of VLM4D's kinds: 60 % which way something moves over the floor, 25 % how many do so,
15 % what is not there. "biased" data have half of the first kind forced to its first answer, mostly "left". Those of
the counter-worlds are of the family "future", each key in a normal world and in its twin of other laws.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn.utils.rnn import pad_sequence

from wm_pipelines.diorama.questions import QUESTION_VOCABULARY, Item, Knobs, sample_question
from wm_pipelines.diorama.render import render
from wm_pipelines.diorama.scene import COLOURS, SHAPES
from wm_pipelines.runtime.files import atomic
from wm_pipelines.runtime.random import keyed

SIZE, FRAMES, OPTIONS, OBJECTS = 32, 8, 4, 6
WORDS = ("", *QUESTION_VOCABULARY)
KINDS = ("translation", "counting", "absent", "future")
SHARES = (0.60, 0.25, 0.15)  # of the first three
SIDEWAYS = ("left", "right")
DEEDS = ("move", "left", "right", "jump")  # that are counted: turns are not to be seen at this size
STATE = len(COLOURS) + len(SHAPES) + 1 + 3 * FRAMES
SPREAD = 1.5  # metres, by which positions are divided


@dataclass
class Data:
    """Questions as tensors.

    Args:
        words: (N, Q) places in `WORDS`, 0 where there is none. options: (N, 4, O) likewise. there: (N, 4) bool.
        answer: (N,). mirror, reverse: (N,), the answer of the twin, -1 where there is none. kind: (N,), of `KINDS`.
        sideways: (N,) bool, the answer is left or right. frames: (N, 8, 3, 32, 32) uint8. state: (N, 6, `STATE`)
            float32: looks, whether there is such an object, and where its centre is in every frame shown.
        world: (N,), 0 normal, 1 counter. conflict: (N,) bool, whether the two worlds have different answers.
    """

    words: torch.Tensor
    options: torch.Tensor
    there: torch.Tensor
    answer: torch.Tensor
    mirror: torch.Tensor
    reverse: torch.Tensor
    kind: torch.Tensor
    sideways: torch.Tensor
    frames: torch.Tensor
    state: torch.Tensor
    world: torch.Tensor
    conflict: torch.Tensor

    def __len__(self) -> int:
        return len(self.answer)

    def take(self, rows: torch.Tensor) -> "Data":
        return Data(**{f.name: getattr(self, f.name)[rows] for f in fields(self)})


def item(split: str, biased: bool, index: int) -> Item:
    """The main question `index` of a split."""
    rng = keyed("mcq micro", split, index)
    family = KINDS[int(rng.choice(3, p=SHARES))]
    knobs = Knobs(rho=0.5 if biased and family == "translation" else 0.0)
    for again in range(100):
        found = sample_question(family, "mcq micro", split, index, again, knobs=knobs, frames=FRAMES)
        if family != "counting" or found.question.program["deed"] in DEEDS:
            return found
    raise ValueError(f"no question {index} of {split}")


def make_main(split: str, count: int, biased: bool, cache: Path | None = None) -> Data:
    """The first `count` main questions of a split."""
    return _kept(cache, f"main {split} {count} {biased}", lambda: [item(split, biased, n) for n in range(count)])


def make_future(split: str, count: int, cache: Path | None = None) -> Data:
    """Both worlds of the first `count` keys of a split, the normal one first; `conflict` is that of the pair."""

    def pair(n: int) -> list[Item]:
        found = [
            sample_question("future", "mcq micro", split, n, frames=FRAMES, world=world)
            for world in ("normal", "counter")
        ]
        told = found[0].question, found[1].question.conflict
        return [Item(replace(told[0], conflict=told[1]), found[0].clip), found[1]]

    return _kept(cache, f"future {split} {count}", lambda: [one for n in range(count) for one in pair(n)])


def to_data(items: Sequence[Item]) -> Data:
    """The items as tensors."""
    asked = [one.question for one in items]
    options = torch.zeros(len(items), OPTIONS, 8, dtype=torch.long)
    there = torch.zeros(len(items), OPTIONS, dtype=torch.bool)
    for n, question in enumerate(asked):
        for place, option in enumerate(question.options):
            said = words_of(option)
            options[n, place, : len(said)] = said
            there[n, place] = True
    frames = torch.empty(len(items), FRAMES, 3, SIZE, SIZE, dtype=torch.uint8)
    for start in range(0, len(items), 16):
        scenes = [one.clip.scene for one in items[start : start + 16]]
        shown = render(scenes, range(FRAMES), SIZE, ("rgb",)).rgb
        frames[start : start + len(scenes)] = (shown * 255).round().to(torch.uint8)
    return Data(
        words=pad_sequence([words_of(q.text) for q in asked], batch_first=True),
        options=options,
        there=there,
        answer=torch.tensor([q.answer for q in asked]),
        mirror=torch.tensor([_twin(q, "mirror") for q in asked]),
        reverse=torch.tensor([_twin(q, "reverse") for q in asked]),
        kind=torch.tensor([KINDS.index(q.family) for q in asked]),
        sideways=torch.tensor([q.right in SIDEWAYS for q in asked]),
        frames=frames,
        state=torch.stack([state_of(one) for one in items]),
        world=torch.tensor([int(q.world != "normal") for q in asked]),
        conflict=torch.tensor([q.conflict for q in asked]),
    )


def words_of(text: str) -> torch.Tensor:
    """The words of a text as places in `WORDS`, marks left out."""
    return torch.tensor([WORDS.index(word) for word in re.findall("[a-z]+", text)])


def state_of(one: Item) -> torch.Tensor:
    """(6, `STATE`): what an observer of the state knows of each object in the frames shown."""
    out = torch.zeros(OBJECTS, STATE)
    looks = len(COLOURS) + len(SHAPES)
    for n, obj in enumerate(one.clip.scene.objects):
        out[n, list(COLOURS).index(obj.colour)] = 1
        out[n, len(COLOURS) + list(SHAPES).index(obj.shape)] = 1
        out[n, looks] = 1
        centre = np.asarray(one.clip.tracks[obj.id].centre[:FRAMES]) / SPREAD
        out[n, looks + 1 :] = torch.from_numpy(centre.reshape(-1).astype(np.float32))
    return out


def _twin(question, transform: str) -> int:
    twin = question.twin(transform)
    return -1 if twin is None else twin.answer


def _kept(cache: Path | None, identity: str, items) -> Data:
    """The data, from a file of `cache` where there is one."""
    from safetensors.torch import load_file, save_file

    path = None if cache is None else cache / f"{identity.replace(' ', '-')}.safetensors"
    if path is not None and path.exists():
        return Data(**load_file(path))
    data = to_data(items())
    if path is not None:
        cache.mkdir(parents=True, exist_ok=True)
        with atomic(path) as partial:
            save_file({f.name: getattr(data, f.name) for f in fields(Data)}, partial)
    return data


def together(*parts: Data) -> Data:
    """Several data as one."""
    longest = max(part.words.shape[1] for part in parts)

    def joined(name: str) -> torch.Tensor:
        values: list[Any] = [getattr(part, name) for part in parts]
        if name == "words":
            values = [torch.nn.functional.pad(v, (0, longest - v.shape[1])) for v in values]
        return torch.cat(values)

    return Data(**{f.name: joined(f.name) for f in fields(Data)})
