"""One item, asked under all its controls: which frames, which text, what is right, what came back (our design)."""

import hashlib
import json
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np

from wm_pipelines.evaluation.mcq.controls import Case, cases
from wm_pipelines.evaluation.mcq.extract import extract_answer
from wm_pipelines.evaluation.mcq.frames import Clip, frames_sha, grey, noise, shuffled
from wm_pipelines.evaluation.mcq.items import Frames, Item
from wm_pipelines.evaluation.mcq.models import AnswersQuestions, Reply, Request, softmax
from wm_pipelines.evaluation.mcq.prompts import prompt, text_sha
from wm_pipelines.evaluation.mcq.rows import SHOWN, Row
from wm_pipelines.evaluation.mcq.settings import Settings, Task
from wm_pipelines.runtime.random import keyed

Question = tuple[Case, str, str]
"""A case, its prompt, and the key of its row."""


class BadVideo(ValueError):
    """A video that is there and can't be read."""


class Asker:
    """Asks a model about the items of a task; keeps the frames of the last two videos."""

    def __init__(self, task: Task, model: AnswersQuestions, settings: Settings):
        self.task, self.model, self.settings = task, model, settings
        self.others = [item for item in task.items if item.video is not None]
        self.opened: dict[str, Clip] = {}

    def questions(self, item: Item) -> list[Question]:
        """All that an item is asked; nothing is read for it."""
        found = []
        for control in self.task.controls[item.uid]:
            for case in cases(item, control):
                text = prompt(self.settings.asked, case.question, case.shown, case.state)
                found.append((case, text, self._key(item, case, text)))
        return found

    def rows(self, item: Item, questions: list[Question]) -> Iterator[Row]:
        """A row for each question, as the replies come.

        Raises:
            BadVideo: the video can't be read. ValueError: it has too few frames, or the model's reply is none.
        """
        for case, text, key in questions:
            indices, frames = self._frames(item, case)
            request = Request(
                prompt=text,
                question=case.question,
                options=case.shown,
                frames=frames,
                fps=item.fps,
                protocol=self.settings.protocol,
                new_tokens=self.settings.new_tokens,
                seed=self.settings.seed,
            )
            begin = time.perf_counter()
            reply = self.model.answer(request)
            seconds = time.perf_counter() - begin
            decided, right = self._truth(item, case, indices)
            yield Row(
                uid=item.uid,
                cluster=item.cluster,
                model=self.model.name,
                protocol=self.settings.protocol,
                control=case.control,
                options=len(case.options),
                right=right,
                **_read(reply, case),
                source=item.source,
                subset=item.subset,
                facet=item.facet,
                family=item.family,
                annotations=dict(item.annotations),
                shift=case.shift,
                seed=self.settings.seed,
                decided=decided,
                raw=reply.text,
                truncated=reply.truncated,
                error=reply.error,
                prompt_sha=text_sha(text),
                frames_sha=None if frames is None else frames_sha(frames),
                frame_indices=indices,
                latency=round(seconds, 4) if self.settings.timings else None,
                key=key,
            )

    def _key(self, item: Item, case: Case, text: str) -> str:
        """What a question is known again by: all that decides the answer; of a function's pixels nothing is known."""
        said = [item.uid, case.control, case.shift, text, self._mark(item)]
        return hashlib.sha256(json.dumps([said, self.settings.record(self.model.name)]).encode()).hexdigest()[:32]

    def _mark(self, item: Item) -> str | int | None:
        """What tells a video that was replaced: the size of a file, the hash of frames."""
        if isinstance(item.video, Path):
            return item.video.stat().st_size
        return frames_sha(item.video) if isinstance(item.video, np.ndarray) else None

    def _open(self, item: Item) -> Clip:
        name = video_name(item)
        if name not in self.opened:
            while len(self.opened) > 1:
                del self.opened[next(iter(self.opened))]
            try:
                self.opened[name] = Clip(item)
            except ValueError as error:
                raise BadVideo(f"{item.uid}: {str(error).removeprefix(f'{item.uid}: ')}") from None
        return self.opened[name]

    def _frames(self, item: Item, case: Case) -> tuple[tuple[int, ...] | None, Frames | None]:
        """(indices in the order shown, frames); the indices are None where no frame of the item's video is shown."""
        if case.show == "nothing":
            return None, None
        shown = self._other(item) if case.show == "other" else item
        clip = self._open(shown)
        settings = self.settings
        pad = "repeat" if case.show == "other" else settings.pad
        indices = clip.indices(case.frames or settings.num_frames, settings.sampler, pad)
        if case.picks != "all":
            at = {"first": 0, "middle": len(indices) // 2, "last": -1}[case.picks]
            indices = (indices[at],)
        if case.shuffle:
            indices = shuffled(indices, item.uid, settings.seed)
        if case.transform == "reverse":
            indices = indices[::-1]
        frames = clip.at(indices)
        if case.transform == "mirror":
            frames = np.ascontiguousarray(frames[:, :, ::-1])
        if case.show in ("grey", "noise"):
            return None, grey(frames) if case.show == "grey" else noise(frames, item.uid, settings.seed)
        return None if case.show == "other" else indices, frames

    def _other(self, item: Item) -> Item:
        """An item with another video, keyed."""
        able = [other for other in self.others if other.cluster != item.cluster]
        if not able:
            raise ValueError(f"{item.uid}: there is no other video for the control 'blind:other'")
        return able[int(keyed("mcq other", self.settings.seed, item.uid).integers(len(able)))]

    def _truth(self, item: Item, case: Case, indices: tuple[int, ...] | None) -> tuple[bool | None, tuple[str, ...]]:
        """(whether the frames decide, letters that are right)."""
        if case.right is not None:
            return None, case.right
        letter, decided = item.answer, None
        if indices is not None and item.decides is not None and not case.shuffle:
            found = item.decides(tuple(sorted(set(indices))))
            letter, decided = found or item.answer, found is not None
        if case.transform:
            twin = item.twin(case.transform, letter)
            if twin is None:  # what these frames decide has no counterpart there
                return False, item.twin(case.transform)[1]
            return decided, twin[1]
        return decided, item.right if letter in item.right else (letter,)


def _read(reply: Reply, case: Case) -> dict[str, object]:
    """`letter`, `stage` and `probabilities` of a row."""
    if reply.error is not None:
        return {"letter": None}
    if reply.scores is not None:
        best = max(reply.scores.values())
        winners = [letter for letter in case.shown if reply.scores[letter] == best]
        chances = softmax(reply.scores)
        order = [SHOWN[(i + case.shift) % len(case.options)] for i in range(len(case.options))]
        return {
            "letter": _own(winners[0], case),
            "stage": "tie" if len(winners) > 1 else "",
            "probabilities": tuple(round(chances[letter], 6) for letter in order),
        }
    letter, stage = extract_answer(reply.text, case.shown)
    return {"letter": None if letter is None else _own(letter, case), "stage": stage or ""}


def _own(shown: str, case: Case) -> str:
    """The letter that the item has for an option that was shown by another."""
    return SHOWN[(SHOWN.index(shown) - case.shift) % len(case.options)]


def video_name(item: Item) -> str:
    """What items have in common that are about one file; another for each item without a file."""
    return f"file {item.video}" if isinstance(item.video, Path) else f"item {item.uid}"


def by_key(rows: list[Row]) -> dict[str, Row]:
    """The last row of each question; one that was answered stays where a later try was not."""
    found: dict[str, Row] = {}
    for row in rows:
        if row.answered or row.key not in found or not found[row.key].answered:
            found[row.key] = row
    return found


def unasked(questions: list[Question], done: Mapping[str, Row]) -> list[Question]:
    """The questions that no answered row is there for."""
    return [q for q in questions if q[2] not in done or not done[q[2]].answered]
