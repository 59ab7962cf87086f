"""Multiple-choice questions about videos: what every data set is turned into (our design).

An item is plain values and a video that is opened when it is needed; making a thousand of them reads no video.
"""

import unicodedata
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

LETTERS = "ABCDE"
"""Of the options, in their order; an item has two to five."""

TRANSFORMS = ("mirror", "reverse")

Frames = np.ndarray
"""uint8 `(T, H, W, 3)`, RGB."""

Video = Path | np.ndarray | Callable[[], np.ndarray]
"""A file; all frames; or a function that makes all frames, called when they are needed and perhaps more than once."""


@dataclass(frozen=True, eq=False)
class Item:
    """One question about one video. Text is NFC-normalised and stripped as it comes in.

    Args:
        source, subset, id: where it is from; `uid` joins them with "/".
        question: as it is asked, without the options.
        options: letter -> text, "A" onwards without a gap, two to five.
        answer: letter of the right one.
        also_right: letters of others that count as right.
        video: what it is about; None for a question that is only text.
        fps: of the video's frames; None for the file's own.
        cluster: what items share that are not independent, such as the name of the video; the `uid` by default.
        facet, family: what it asks for, by which results are grouped: a data set's own type, and ours.
        annotations: further values to group by, such as `{"discipline": "Business", "requires_audio": False}`.
        transforms: "mirror" (left and right exchanged), "reverse" (backwards) -> {text: text}: each option -> what is
            right of the transformed video where that option is right of the video, one of the options, or None where
            none is; the question too, where its words change. None or absent: nothing is known.
        decides: `decides(indices)`: the letter that these frames of the video decide, in order; None where they
            decide none. Without it nothing is known, and `answer` counts whatever was shown.
        state: the true state of every frame as text, for `oracle_state`.

    Raises:
        ValueError: names the item, the field, what came and what is allowed.
    """

    source: str
    subset: str
    id: str
    question: str
    options: Mapping[str, str]
    answer: str
    also_right: tuple[str, ...] = ()
    video: Video | None = None
    fps: float | None = None
    cluster: str = ""
    facet: str = ""
    family: str = ""
    annotations: Mapping[str, str | bool | int | float | None] = field(default_factory=dict)
    transforms: Mapping[str, Mapping[str, str | None] | None] = field(default_factory=dict)
    decides: Callable[[Sequence[int]], str | None] | None = field(default=None, repr=False)
    state: str | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        for name in ("source", "subset", "id"):
            self._set(name, self._text(name, getattr(self, name)))
        self._set("question", self._text("question", self.question))
        self._set("options", self._options())
        self._set("cluster", self._text("cluster", self.cluster or self.uid))
        for name in ("facet", "family"):
            self._set(name, self._text(name, getattr(self, name), empty=True))
        self._set("also_right", tuple(self.also_right))
        self._check_answer()
        self._set("annotations", dict(self.annotations))
        self._set("transforms", self._transforms())
        if self.fps is not None and not 0 < self.fps < float("inf"):
            raise self.error("fps", self.fps, "a number above 0, or None")
        if isinstance(self.video, str):
            self._set("video", Path(self.video))
        if isinstance(self.video, np.ndarray):
            check_frames(self.uid, self.video)
        elif self.video is not None and not isinstance(self.video, Path) and not callable(self.video):
            raise self.error("video", type(self.video).__name__, "a path, frames, a function that makes them, or None")

    @property
    def uid(self) -> str:
        """ "source/subset/id", which tells items of all data sets apart."""
        return f"{self.source}/{self.subset}/{self.id}"

    @property
    def right(self) -> tuple[str, ...]:
        """Letters of all options that count as right, `answer` first."""
        return (self.answer, *self.also_right)

    def letters_of(self, text: str) -> tuple[str, ...]:
        """The letters of the options that have this text."""
        return tuple(letter for letter, option in self.options.items() if option == clean(text))

    def twin(self, transform: str, letter: str | None = None) -> tuple[str, tuple[str, ...]] | None:
        """(question, letters that are right) for the transformed video; None where the item has no such twin.

        Args:
            letter: of what is right of the video itself, `answer` by default.

        Raises:
            ValueError: `transform` is neither "mirror" nor "reverse".
        """
        if transform not in TRANSFORMS:
            raise ValueError(f"`transform` is {transform!r}; it must be one of {', '.join(TRANSFORMS)}")
        texts = self.transforms.get(transform)
        found = None if texts is None else texts[self.options[letter or self.answer]]
        return None if found is None else (texts.get(self.question) or self.question, self.letters_of(found))

    def error(self, name: str, came: Any, allowed: str) -> ValueError:
        """The error of a field of this item."""
        return ValueError(f"{self.uid}: `{name}` is {came!r}; it must be {allowed}")

    def _set(self, name: str, value: Any) -> None:
        object.__setattr__(self, name, value)

    def _text(self, name: str, value: Any, empty: bool = False) -> str:
        if not isinstance(value, str) or not (empty or value.strip()):
            where = f"{self.source}/{self.subset}/{self.id}"
            raise ValueError(f"{where}: `{name}` is {value!r}; it must be text{'' if empty else ' that is not empty'}")
        return clean(value)

    def _options(self) -> dict[str, str]:
        if not isinstance(self.options, Mapping) or not 2 <= len(self.options) <= len(LETTERS):
            raise self.error("options", self.options, "a mapping of two to five letters to text")
        if list(self.options) != list(LETTERS[: len(self.options)]):
            raise self.error("options", list(self.options), f"in order, {', '.join(LETTERS[: len(self.options)])}")
        return {letter: self._text(f"options[{letter}]", text) for letter, text in self.options.items()}

    def _check_answer(self) -> None:
        for name, letters in (("answer", (self.answer,)), ("also_right", self.also_right)):
            for letter in letters:
                if letter not in self.options:
                    raise self.error(name, letter, f"among the options, {', '.join(self.options)}")
        if len(set(self.right)) < len(self.right):
            raise self.error("also_right", self.also_right, f"other letters than the answer, {self.answer}, each once")
        texts = {self.options[letter] for letter in self.right}
        equal = [letter for letter, text in self.options.items() if text in texts and letter not in self.right]
        if equal:
            text = self.options[equal[0]]
            raise ValueError(
                f"{self.uid}: option {equal[0]} has the text of the right one, {text!r}; name it in `also_right`"
            )
        if len(self.right) == len(self.options):
            raise self.error("also_right", self.also_right, "fewer: not all options can be right")

    def _transforms(self) -> dict[str, Mapping[str, str | None] | None]:
        found: dict[str, Mapping[str, str | None] | None] = {}
        for name, texts in self.transforms.items():
            if name not in TRANSFORMS:
                raise self.error("transforms", name, f"named {' or '.join(TRANSFORMS)}")
            if texts is None:
                continue
            texts = {clean(a): b if b is None else clean(b) for a, b in texts.items()}
            options = set(self.options.values())
            lacking = sorted(options - set(texts))
            strange = [b for a, b in texts.items() if a in options and b is not None and b not in options]
            if lacking or strange:
                what = f"it lacks {lacking[0]!r}" if lacking else f"it leads to {strange[0]!r}"
                raise ValueError(f"{self.uid}: `transforms[{name}]` must map options to options or None; {what}")
            found[name] = texts
        return found


def clean(text: str) -> str:
    """Text as items have it: NFC-normalised and stripped."""
    return unicodedata.normalize("NFC", text).strip()


def check_items(items: Iterable[Item]) -> list[Item]:
    """The items as a list.

    Raises:
        ValueError: none, something else, or a `uid` twice.
    """
    found, seen = list(items), set()
    if not found:
        raise ValueError("`items` is empty; give at least one")
    for item in found:
        if not isinstance(item, Item):
            raise ValueError(f"`items` holds {type(item).__name__}; it must hold Item")
        if item.uid in seen:
            raise ValueError(f"`items` holds {item.uid!r} twice; ids must differ within a source and subset")
        seen.add(item.uid)
    return found


def check_frames(uid: str, frames: Any) -> Frames:
    """The frames of an item, if they are uint8 `(T, H, W, 3)`.

    Raises:
        ValueError: names the item, and what came.
    """
    found = np.asarray(frames)
    if found.dtype != np.uint8 or found.ndim != 4 or found.shape[3] != 3 or not found.size:
        raise ValueError(f"{uid}: `video` gives {found.dtype} {found.shape}; frames are uint8 (T, H, W, 3), T above 0")
    return found
