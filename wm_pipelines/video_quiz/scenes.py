"""Questions about clips of the miniature world, rendered once and held in memory (our design).

Three sources. "synthetic": one object that is sent along one way before a camera that stands still, as where a
generator of videos follows boxes. "real": crowds, cameras that move, and events of the physics. "pictures": questions
about one picture, which teach to see before anything moves.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from wm_pipelines.diorama.datasets import COMPOSITIONS, SPLITS, DioramaDataset
from wm_pipelines.diorama.questions import FAMILIES, Item, Knobs, Question
from wm_pipelines.diorama.render import render
from wm_pipelines.evaluation.mcq.frames import sample
from wm_pipelines.runtime.caches import cached_text, read_cache
from wm_pipelines.runtime.files import atomic
from wm_pipelines.runtime.readers import located

PICTURES = tuple(name for name, f in FAMILIES.items() if f.medium == "picture" and not f.told)
CLIPS = tuple(name for name, f in FAMILIES.items() if f.medium == "clip")
EVENTS = tuple(name for name, f in FAMILIES.items() if f.medium == "events")
KNOBS = {"real": Knobs(bystanders=2, camera_motion=True), "synthetic": Knobs(bystanders=0), "pictures": Knobs()}
SOURCES = tuple(KNOBS)
TWINS = (None, "mirror", "reverse")
BATCH = 16  # scenes rendered at once


@dataclass(frozen=True)
class Part:
    """Items of one source and one kind, which have equally many frames.

    Args:
        source: of `SOURCES`. families: take turns. count: items. frames: of each, 1 for a picture.
    """

    source: str
    families: tuple[str, ...]
    count: int
    frames: int


class QuizClips:
    """Questions and what they are about, numbered from 0: no question stands in two splits.

    Args:
        length: items of each source, events apart. sources: of `SOURCES`; a name may not occur twice.
        events: items of each family of events, which take a second each to simulate; for the source "real".
        split: "train", "val" or "test". composition: "iid", "held_out" or "all".
        clip_frames: of a clip, 8 to 64. frames: of those shown, spread as `wm eval` spreads them; what is asked is
            meant of the whole clip.
        size: side in pixels. name: first part of every key.
        families: only these; None: all. cache: a file that keeps it all between runs.

    Attributes: `parts`; `questions` (list); `rgb`, a tensor (count, frames, 3, size, size) uint8 for each part.

    Raises:
        ValueError: an argument is out of range, or `cache` holds something else.
    """

    def __init__(
        self,
        length: int,
        sources: Sequence[str] = SOURCES,
        events: int = 0,
        split: str = "train",
        composition: str = "iid",
        clip_frames: int = 16,
        frames: int = 8,
        size: int = 64,
        name: str = "video quiz",
        families: Sequence[str] | None = None,
        cache: str | None = None,
    ):
        self.parts = _parts(length, sources, events, clip_frames, frames, families)
        for key, value, allowed in (("split", split, SPLITS), ("composition", composition, COMPOSITIONS)):
            if value not in allowed:
                raise ValueError(f"`{key}` is {value!r}; allowed: {', '.join(allowed)}")
        self.split, self.composition, self.size, self.name = split, composition, size, name
        self.clip_frames = clip_frames
        self._ends = np.cumsum([part.count for part in self.parts])
        self.length = int(self._ends[-1])
        identity = repr([self.parts, split, composition, clip_frames, size, name])
        if cache is not None and Path(cache).exists():
            self._load(Path(cache), identity)
            return
        self._make()
        if cache is not None:
            self._save(Path(cache), identity)

    def place(self, index: int) -> tuple[int, int]:
        """The number of the part that item `index` is in, and its place there."""
        part = int(np.searchsorted(self._ends, index, side="right"))
        return part, index - int(self._ends[part] - self.parts[part].count)

    def clip(self, index: int) -> torch.Tensor:
        """The frames of item `index`, (T, 3, H, W) uint8."""
        part, row = self.place(index)
        return self.rgb[part][row]

    def source(self, index: int) -> str:
        return self.parts[self.place(index)[0]].source

    def twin(self, index: int, transform: str | None) -> tuple[Question, torch.Tensor] | None:
        """Question and frames of item `index`, or of its twin; None where the twin has no answer."""
        question, clip = self.questions[index], self.clip(index)
        if transform is None:
            return question, clip
        other = question.twin(transform)
        return other and (other, clip.flip(3) if transform == "mirror" else clip.flip(0))

    def _make(self) -> None:
        from tqdm import tqdm

        self.questions: list[Question] = []
        self.rgb: list[torch.Tensor] = []
        for part in self.parts:
            items = self._items(part)
            frames = torch.empty(part.count, part.frames, 3, self.size, self.size, dtype=torch.uint8)
            said = f"{part.source} {'events' if part.families[0] in EVENTS else 'questions'}"
            for start in tqdm(range(0, part.count, BATCH), desc=said):
                some = [items.item(i) for i in range(start, min(part.count, start + BATCH))]
                self.questions += [item.question for item in some]
                frames[start : start + len(some)] = render_clips(some, part.frames, self.size)
            self.rgb.append(frames)

    def _items(self, part: Part):
        dataset = DioramaDataset(
            "questions",
            split=self.split,
            composition=self.composition,
            length=part.count,
            name=f"{self.name} {part.source}",
            families=part.families,
            frames=self.clip_frames,
            knobs=KNOBS[part.source],
        )
        return dataset.questions

    def _save(self, path: Path, identity: str) -> None:
        from safetensors.torch import save_file

        text = "\n".join(question.to_json() for question in self.questions).encode()
        tensors = {f"rgb{n}": frames for n, frames in enumerate(self.rgb)}
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic(path) as partial:
            told = {"questions": torch.frombuffer(bytearray(text), dtype=torch.uint8)}
            save_file(tensors | told, partial, metadata={"identity": identity})

    def _load(self, path: Path, identity: str) -> None:
        names = [f"rgb{n}" for n in range(len(self.parts))]
        found = read_cache(path, identity, "clips", (*names, "questions"))
        self.rgb = [found[name] for name in names]
        with located(path):
            self.questions = [Question.from_json(line) for line in cached_text(found["questions"]).split("\n")]


def render_clips(items: Sequence[Item], frames: int, size: int) -> torch.Tensor:
    """`frames` frames of items that show equally many, (N, frames, 3, size, size) uint8."""
    times = sample(frames, items[0].clip.shown)
    shown = render([item.clip.scene for item in items], times, size, ("rgb",)).rgb
    return (shown * 255).round().to(torch.uint8)


def _parts(length, sources, events, clip_frames, frames, families) -> list[Part]:
    for key, value, least, most in (
        ("length", length, 1, math.inf),
        ("events", events, 0, math.inf),
        ("clip_frames", clip_frames, 8, 64),
        ("frames", frames, 1, clip_frames),
    ):
        if type(value) is not int or not least <= value <= most:
            allowed = f"{least} or more" if most == math.inf else f"{least} to {most}"
            raise ValueError(f"`{key}` is {value!r}; an integer of {allowed}")
    sources = [sources] if isinstance(sources, str) else list(sources)
    if not sources or not set(sources) <= set(SOURCES) or len(set(sources)) < len(sources):
        raise ValueError(f"`sources` is {sources!r}; one or several of {', '.join(SOURCES)}")
    known = (*PICTURES, *CLIPS, *EVENTS)
    families = known if families is None else tuple(families)
    if wrong := [name for name in families if name not in known]:
        raise ValueError(f"`families` has {wrong[0]!r}; allowed: {', '.join(known)}")

    def chosen(names: Sequence[str]) -> tuple[str, ...]:
        return tuple(name for name in names if name in families)

    found = []
    for source in sources:
        still = source == "pictures"
        found.append(Part(source, chosen(PICTURES if still else CLIPS), length, 1 if still else frames))
        if source == "real":
            found.append(Part(source, chosen(EVENTS), events * len(chosen(EVENTS)), frames))
    found = [part for part in found if part.count and part.families]
    if not found:
        raise ValueError(f"`families` {families!r} has none that `sources` {sources!r} ask")
    return found
