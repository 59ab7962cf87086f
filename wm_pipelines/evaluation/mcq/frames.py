"""Which frames of a video a model sees, and how: sampling, reading, marking, a grid (our design)."""

import hashlib
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, get_args

import numpy as np

from wm_pipelines.evaluation.mcq.items import Frames, Item, check_frames
from wm_pipelines.runtime.random import keyed

Sampler = Literal["linspace", "transformers", "vlmevalkit"]
Pad = Literal["error", "repeat"]

KEPT_BYTES = 2**28
"""Frames of a file up to so many bytes are kept while its questions are asked; of a longer one only those needed."""


def sample(count: int, frames: int, sampler: Sampler = "linspace") -> tuple[int, ...]:
    """Indices of `count` frames among `frames`, in order; some twice where there are fewer.

    Args:
        sampler: "linspace", int(linspace(0, T - 1, k)), as VLM4D's code does: first and last are among them.
            "transformers", i T // k, as its video processors do. "vlmevalkit", int((i + 1) T / (k + 1)), as that does.

    Raises:
        ValueError: an argument out of range.
    """
    if sampler not in get_args(Sampler):
        raise ValueError(f"`sampler` is {sampler!r}; it must be one of {', '.join(get_args(Sampler))}")
    if count < 1 or frames < 1:
        raise ValueError(f"{count} of {frames} frames; both must be at least 1")
    if sampler == "linspace":
        return tuple(int(t) for t in np.linspace(0, frames - 1, count))
    if sampler == "transformers":
        return tuple(i * frames // count for i in range(count))
    return tuple(int((i + 1) * frames / (count + 1)) for i in range(count))


class Clip:
    """The frames of an item's video, read once; of a long file only those that are asked for.

    Raises:
        ValueError: the video can't be read, or is none.
    """

    def __init__(self, item: Item):
        self.uid, self.path = item.uid, item.video if isinstance(item.video, Path) else None
        if self.path is not None:
            self.count, self._all = _read(self.path)
            self._some: dict[int, Frames] = {}
        elif item.video is None:
            raise item.error("video", None, "a video for a control that shows frames")
        else:
            self._all = check_frames(item.uid, item.video() if callable(item.video) else item.video)
            self.count = len(self._all)

    def indices(self, count: int, sampler: Sampler, pad: Pad) -> tuple[int, ...]:
        """As `sample`.

        Raises:
            ValueError: there are fewer frames than asked for, and `pad` is "error".
        """
        if count > self.count and pad == "error":
            raise ValueError(
                f"{self.uid}: the clip has {self.count} frames, {count} were asked for; give `pad='repeat'`, or "
                f"`num_frames` of at most {self.count}"
            )
        return sample(count, self.count, sampler)

    def at(self, indices: Sequence[int]) -> Frames:
        """uint8 `(len(indices), H, W, 3)`."""
        if self._all is not None:
            return self._all[list(indices)]
        from wm_pipelines.media.video import iter_video

        wanted = set(indices) - self._some.keys()
        if wanted:
            self._some |= {n: _array(frame) for n, frame in enumerate(iter_video(self.path)) if n in wanted}
        return np.stack([self._some[n] for n in indices])


def _read(path: Path) -> tuple[int, Frames | None]:
    """How many frames a file has, and they themselves if they are few enough to be kept."""
    from wm_pipelines.media.video import iter_video

    kept, count, most = [], 0, KEPT_BYTES
    for count, frame in enumerate(iter_video(path), 1):
        if count * frame.pixels.numel() <= most:
            kept.append(_array(frame))
        else:
            kept, most = [], 0
    return count, np.stack(kept) if kept else None


def _array(frame) -> np.ndarray:
    return frame.pixels.permute(1, 2, 0).numpy()


def frames_sha(frames: Frames) -> str:
    """SHA-256 of shape and pixels, in the order shown."""
    data = np.ascontiguousarray(frames)
    return hashlib.sha256(repr(data.shape).encode() + data.tobytes()).hexdigest()


def grey(frames: Frames) -> Frames:
    """As many frames of that size, mid-grey."""
    return np.full_like(frames, 128)


def noise(frames: Frames, uid: str, seed: int) -> Frames:
    """As many frames of that size in which nothing is to be seen: uniform noise, keyed by the item."""
    return keyed("mcq noise", seed, uid).integers(0, 256, frames.shape, dtype=np.uint8)


def shuffled(indices: Sequence[int], uid: str, seed: int) -> tuple[int, ...]:
    """The indices in another order, keyed by the item: never the order they have, where there is another."""
    rng = keyed("mcq shuffle", seed, uid)
    if len(set(indices)) < 2:
        return tuple(indices)
    while True:
        found = tuple(indices[i] for i in rng.permutation(len(indices)))
        if found != tuple(indices):
            return found


def grid(frames: Frames, gap: int = 2) -> Frames:
    """All frames on one picture `(1, H', W', 3)`, in reading order, as square a grid as they fill, black between."""
    count, height, width = frames.shape[:3]
    columns = math.ceil(math.sqrt(count))
    rows = math.ceil(count / columns)
    size = (1, rows * (height + gap) - gap, columns * (width + gap) - gap, 3)
    sheet = np.zeros(size, np.uint8)
    for n, frame in enumerate(frames):
        y, x = (n // columns) * (height + gap), (n % columns) * (width + gap)
        sheet[0, y : y + height, x : x + width] = frame
    return sheet
