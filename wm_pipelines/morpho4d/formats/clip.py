"""A scene in time as posed Gaussians, frame by frame."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import torch

from wm_pipelines.morpho4d.formats.splats import Splats
from wm_pipelines.morpho4d.scene import Scene4D


@dataclass(frozen=True, eq=False)
class Clip:
    """T frames of the same N Gaussians.

    Args:
        frames: T `Splats` with the same N, degree, ids and axes.
        times: T seconds, rising, from 0 or later.
        names: object id -> what it is called.

    Raises:
        ValueError: an argument is not as above; the message names it.
    """

    frames: tuple[Splats, ...]
    times: tuple[float, ...] = (0.0,)
    names: dict[int, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        object.__setattr__(self, "frames", tuple(self.frames))
        object.__setattr__(self, "times", tuple(float(t) for t in self.times))
        if not self.frames or len(self.frames) != len(self.times):
            raise ValueError(f"`frames` has {len(self.frames)} and `times` {len(self.times)}; as many, at least one")
        gaps = [b - a for a, b in zip(self.times, self.times[1:], strict=False)]
        if not 0 <= self.times[0] < float("inf") or not all(0 < gap < float("inf") for gap in gaps):
            raise ValueError(f"`times` is {self.times[:5]}...; seconds from 0 that rise")
        first = self.frames[0]
        for n, frame in enumerate(self.frames):
            same = (frame.count, frame.degree, frame.up) == (first.count, first.degree, first.up)
            if not same or not torch.equal(frame.object_id, first.object_id):
                raise ValueError(f"`frames` {n} and 0 differ in count, degree, axes or `object_id`")

    @classmethod
    def of(cls, scene: Scene4D, times: Sequence[float] | None = None) -> "Clip":
        """A scene's Gaussians.

        Args:
            times: in frames of the scene, from 0 and rising, may lie between two; each of its own by default.
        """
        times = range(scene.frames) if times is None else times
        frames = [Splats.of(scene.at(time), scene.up) for time in times]
        return cls(tuple(frames), tuple(time / scene.fps for time in times), scene.names)

    def with_up(self, up: str) -> "Clip":
        """The same in axes with another one up."""
        return replace(self, frames=tuple(frame.with_up(up) for frame in self.frames))

    def name(self, object_id: int) -> str:
        """What an object is called."""
        return self.names.get(object_id, f"object {object_id}" if object_id else "background")
