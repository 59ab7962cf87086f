"""What moves where: the objects of a prompt and their boxes over time, checked, never repaired."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from wm_pipelines.mojito.trajectories.values import MOST_FRAMES, Numbers, array, brief, frame_count, real, whole

ROUNDING = 1e-6
"""How far a coordinate may lie outside [0, 1], as sums of floats do; it is then moved onto the border."""


@dataclass(frozen=True, eq=False)
class MotionObject:
    """Words of the prompt and the boxes that what they name should follow.

    The place is given either as `boxes` or as `points` with a `size`. One of them alone holds for all frames; as many
    as there are frames are taken one a frame; with `keyframes` they hold at these frames, linear in between, and the
    first and last of them hold before and after. Numbers may be of any kind: Python's, NumPy's and torch's, half
    precision too.

    Args:
        phrase: words of the prompt, as they stand there.
        boxes (`(4,)`, `(F, 4)` or `(K, 4)`, fractions of the picture): x0, y0, x1, y1 from the top left corner.
        keyframes (`(K,)`, whole numbers): frames of the boxes or points, from 0, strictly rising.
        points (`(2,)`, `(F, 2)` or `(K, 2)`, fractions of the picture): x, y of the box centres.
        size (`(2,)`, or one for each point): width and height of the box around a point, fractions of the picture.
        span: start and end of the phrase in the prompt, in characters, where it stands there more than once.
        weight: of the object among the others; above 0.
        hidden: frames in which what this was read from shows no place, so that its box is only held or bridged; they
            change no box, and the report of a call tells them.

    Example:
        >>> cube = MotionObject("red cube", boxes=[(0, 0.4, 0.25, 0.7), (0.75, 0.4, 1, 0.7)], keyframes=[0, 15])
        >>> cube.frame_boxes(16)[5].tolist()
        [0.25, 0.4000000059604645, 0.5, 0.699999988079071]
    """

    phrase: str
    boxes: Numbers | None = None
    keyframes: Sequence[int] | None = None
    points: Numbers | None = None
    size: Numbers | None = None
    span: tuple[int, int] | None = None
    weight: float = 1.0
    hidden: Sequence[int] | None = None

    def frame_boxes(self, num_frames: int, index: int | None = None) -> torch.Tensor:
        """The box of each frame, float32 `(num_frames, 4)`, x0, y0, x1, y1 in [0, 1].

        Args:
            index: which of the objects this is, for messages.

        Raises:
            ValueError: any field that is not as the class says, naming object, box and value.
        """
        num_frames = frame_count(num_frames)
        name = "" if index is None else f"objects[{index}]."
        boxes, frames = self._checked(name, num_frames)
        if boxes.ndim == 1:
            return torch.from_numpy(boxes).float().repeat(num_frames, 1)
        every = np.arange(num_frames)
        sides = [np.interp(every, frames, side) for side in boxes.T]
        return torch.from_numpy(np.stack(sides, axis=1)).float()

    def key_boxes(self, index: int | None = None) -> tuple[list[int], torch.Tensor]:
        """The frames and boxes that were given, not yet spread over a clip: `(K,)` and float64 `(K, 4)`.

        A box that holds for all frames comes at frame 0.

        Raises:
            ValueError: as `frame_boxes`, except for the clip's length.
        """
        boxes, frames = self._checked("" if index is None else f"objects[{index}].", None)
        return frames.tolist(), torch.from_numpy(np.atleast_2d(boxes))

    def _checked(self, name: str, num_frames: int | None) -> tuple[np.ndarray, np.ndarray]:
        """Boxes, float64 `(4,)` or `(K, 4)` in [0, 1], and their frames `(K,)`."""
        self._check_words(name)
        boxes, field = self._boxes(name), "boxes" if self.boxes is not None else "points"
        frames = _frames_of(self.keyframes, boxes, num_frames, name, field)
        _check_boxes(boxes, frames, self, name, field)
        return np.clip(boxes, 0.0, 1.0), frames

    def _check_words(self, name: str) -> None:
        if not isinstance(self.phrase, str) or not self.phrase.strip():
            raise ValueError(f"{name}phrase is {brief(self.phrase)}; name words of the prompt")
        if self.span is not None:
            span = [whole(end) for end in self.span] if isinstance(self.span, tuple | list) else []
            if len(span) != 2 or None in span or not 0 <= span[0] < span[1]:
                raise ValueError(f"{name}span is {brief(self.span)}; two whole numbers, 0 <= start < end")
        weight = real(self.weight)
        if weight is None or weight <= 0:
            raise ValueError(f"{name}weight is {brief(self.weight)}; a finite number above 0")
        if self.hidden is not None:
            self.hidden_frames(name)

    def hidden_frames(self, name: str = "") -> list[int]:
        """The frames of `hidden`, in order.

        Raises:
            ValueError: something that is no whole number from 0.
        """
        given = self.hidden.tolist() if isinstance(self.hidden, torch.Tensor | np.ndarray) else self.hidden
        if not isinstance(given, Sequence | None) or isinstance(given, str):
            raise ValueError(f"{name}hidden is {brief(given)}; it must be a list of frames")
        found = []
        for k, frame in enumerate(given or ()):
            index = whole(frame)
            if index is None or not 0 <= index < MOST_FRAMES:
                raise ValueError(f"{name}hidden[{k}] is {brief(frame)}; it must be a frame, a whole number from 0")
            found.append(index)
        return sorted(set(found))

    def _boxes(self, name: str) -> np.ndarray:
        """float64 `(4,)` or `(N, 4)`, not yet checked for their values."""
        if (self.boxes is None) == (self.points is None):
            given = "neither" if self.boxes is None else "both"
            raise ValueError(f"{name}boxes and {name}points: {given} given for {self.phrase!r}; give one of them")
        if self.boxes is not None:
            if self.size is not None:
                raise ValueError(f"{name}size belongs to points; boxes have their own")
            return array(self.boxes, 4, f"{name}boxes")
        points = array(self.points, 2, f"{name}points")
        _finite(points, f"{name}points", ("x", "y"))
        if self.size is None:
            raise ValueError(f"{name}points need a size (width, height) of the box around them, in (0, 1]")
        size = array(self.size, 2, f"{name}size")
        if size.ndim == 2 and size.shape != points.shape:
            raise ValueError(f"{name}size has shape {size.shape}; it must be (2,) or that of points, {points.shape}")
        for row, (width, height) in enumerate(np.atleast_2d(size)):
            if not (0 < width <= 1 and 0 < height <= 1):
                at = f"[{row}]" if size.ndim == 2 else ""
                raise ValueError(f"{name}size{at} is {decimals(width)} x {decimals(height)}; both must lie in (0, 1]")
        return np.concatenate([points - size / 2, points + size / 2], axis=-1)


def object_boxes(objects: Sequence[MotionObject], num_frames: int) -> torch.Tensor:
    """The boxes of all objects at all frames, float32 `(O, num_frames, 4)`; messages name the object.

    Raises:
        ValueError: no object, something that is no `MotionObject`, or as `MotionObject.frame_boxes`.
    """
    checked = check_objects(objects)
    return torch.stack([item.frame_boxes(num_frames, index) for index, item in enumerate(checked)])


def check_objects(objects: Sequence[MotionObject]) -> Sequence[MotionObject]:
    """`objects`; ValueError where they are no list of one `MotionObject` or more."""
    if isinstance(objects, MotionObject) or not isinstance(objects, Sequence) or isinstance(objects, str):
        raise ValueError(f"objects must be a list of MotionObject, got {type(objects).__name__}")
    if not objects:
        raise ValueError("objects is empty; give at least one MotionObject")
    for index, item in enumerate(objects):
        if not isinstance(item, MotionObject):
            raise ValueError(f"objects[{index}] is a {type(item).__name__}; it must be a MotionObject")
    return objects


def hidden_lines(objects: Sequence[MotionObject], num_frames: int) -> list[str]:
    """For each object with hidden frames in the clip one line that names them."""
    lines = []
    for index, item in enumerate(objects):
        frames = [frame for frame in item.hidden_frames(f"objects[{index}].") if frame < num_frames]
        if frames:
            lines.append(
                f'objects[{index}] ("{item.phrase}") has no target in frames {frame_ranges(frames)}: its trajectory '
                "shows no place there, and its box is held or bridged"
            )
    return lines


def frame_ranges(frames: Sequence[int]) -> str:
    """`0 to 3, 7` of 0, 1, 2, 3, 7."""
    runs: list[list[int]] = []
    for frame in frames:
        if runs and frame == runs[-1][1] + 1:
            runs[-1][1] = frame
        else:
            runs.append([frame, frame])
    return ", ".join(f"{first} to {last}" if first < last else f"{first}" for first, last in runs)


def decimals(value: float) -> str:
    """A number for a message: two decimals where they say all of it."""
    return f"{value:.2f}" if abs(value - round(value, 2)) < ROUNDING else f"{value:.6g}"


def _finite(rows: np.ndarray, name: str, sides: Sequence[str], frames: np.ndarray | None = None) -> None:
    """ValueError naming the first number that is NaN or infinite."""
    bad = np.argwhere(~np.isfinite(np.atleast_2d(rows)))
    if len(bad):
        row, side = bad[0]
        at = (f"[{row}]" if rows.ndim == 2 else "") + ("" if frames is None else f" (frame {frames[row]})")
        raise ValueError(f"{name}{at} has {sides[side]}={np.atleast_2d(rows)[row, side]}; it must be a finite number")


def _frames_of(
    keyframes: Sequence[int] | None, boxes: np.ndarray, num_frames: int | None, name: str, field: str
) -> np.ndarray:
    """The frame of each row; without a clip, any frame from 0."""
    if keyframes is None:
        if boxes.ndim == 2 and num_frames is not None and len(boxes) != num_frames:
            raise ValueError(
                f"{name}{field}: {len(boxes)} {field} given for {num_frames} frames: "
                f"pass keyframes or {num_frames} {field}"
            )
        return np.arange(len(np.atleast_2d(boxes)))
    if isinstance(keyframes, torch.Tensor | np.ndarray):
        keyframes = keyframes.tolist()
    if not isinstance(keyframes, Sequence) or isinstance(keyframes, str):
        raise ValueError(f"{name}keyframes is {brief(keyframes)}; it must be a list of whole numbers")
    if boxes.ndim == 1:
        raise ValueError(f"{name}keyframes are given, but {field} is one row, which holds for all frames")
    if len(keyframes) != len(boxes):
        raise ValueError(f"{name}keyframes has {len(keyframes)} frames for {len(boxes)} {field}; one for each")
    frames: list[int] = []
    for k, given in enumerate(keyframes):
        frame = whole(given)
        if frame is None:
            raise ValueError(f"{name}keyframes[{k}] is {brief(given)}; it must be a whole number")
        if abs(frame) >= MOST_FRAMES:
            raise ValueError(f"{name}keyframes[{k}] is {brief(frame)}; a clip has at most {MOST_FRAMES} frames")
        if frame < 0 or (num_frames is not None and frame >= num_frames):
            clip = f"the clip has frames 0 to {num_frames - 1}" if num_frames is not None else "frames count from 0"
            raise ValueError(f"{name}keyframes[{k}] is {frame}, but {clip}")
        if k and frame <= frames[k - 1]:
            raise ValueError(f"{name}keyframes[{k}] is {frame} after {frames[k - 1]}; they must rise strictly")
        frames.append(frame)
    return np.asarray(frames)


def _check_boxes(boxes: np.ndarray, frames: np.ndarray, item: MotionObject, name: str, field: str) -> None:
    _finite(boxes, f"{name}{field}", ("x0", "y0", "x1", "y1"), None if item.keyframes is None else frames)
    # Compared as they will be used: two sides may fall together in float32.
    used = np.clip(np.atleast_2d(boxes), -1e30, 1e30).astype(np.float32).tolist()
    for row, (x0, y0, x1, y1) in enumerate(used):
        at = f"{name}{field}" + (f"[{row}]" if boxes.ndim == 2 else "")
        if item.keyframes is not None:
            at += f" (frame {frames[row]})"
        for low, high, axis in ((x0, x1, "x"), (y0, y1, "y")):
            if high <= low:
                raise ValueError(f"{at} has {axis}1<={axis}0 ({decimals(high)}<={decimals(low)})")
        for side, value in zip(("x0", "y0", "x1", "y1"), (x0, y0, x1, y1), strict=True):
            if not -ROUNDING <= value <= 1 + ROUNDING:
                around = "" if field == "boxes" else ": the box around the point leaves the picture"
                raise ValueError(f"{at} has {side}={decimals(value)}, outside [0, 1]{around}")
