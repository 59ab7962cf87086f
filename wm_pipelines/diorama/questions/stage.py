"""Worlds put together for a question: solids that are seen well, stay in the picture and keep apart (our design)."""

import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np

from wm_pipelines.diorama.primitives import Motion
from wm_pipelines.diorama.questions.law import Setting, pick
from wm_pipelines.diorama.questions.tracks import PIXELS, Track, hidden_share, track_of, view_of
from wm_pipelines.diorama.scene import MATERIALS, PATTERNS, SIZES, Camera, Scene, SceneObject, is_held_out

LEAST = 6.0  # pixels that a solid is wide and high
MOST_HIDDEN = 0.2  # of the box around a solid, behind the boxes of others
TRIES = 40

Spot = tuple[float, float, float]


class Stage:
    """Objects are put down one after the other; what does not fit is not there.

    Args:
        rng: all choices come from it.
        setting: the composition and knobs.
        duration: frames of the scene.
        camera: moves or not.
    """

    def __init__(self, rng: np.random.Generator, setting: Setting, duration: int, camera: Camera | None = None):
        self.rng, self.setting = rng, setting
        self.scene = Scene((), camera or Camera(), duration=duration)
        self._times = range(duration)
        self._view = view_of(self.scene, self._times)
        self._tracks: dict[int, Track] = {}

    def put(
        self,
        colour: str,
        shape: str,
        motion: Callable[[], tuple[Motion, ...]] = tuple,
        spot: Callable[[], Spot] | None = None,
        tries: int = TRIES,
        **looks: str,
    ) -> bool:
        """Puts a solid down, at a free spot, with a motion that keeps it free; False where none is found.

        Args:
            motion, spot: drawn anew at each try.
            looks: size, pattern or material, where they matter.
        """
        drawn = {"size": tuple(SIZES), "pattern": PATTERNS, "material": MATERIALS}
        for _ in range(tries):
            obj = SceneObject(
                id=len(self.scene.objects) + 1,
                shape=shape,
                colour=colour,
                position=spot() if spot else floor_spot(self.rng),
                yaw=float(np.float32(self.rng.uniform(0, 2 * np.pi))),
                motion=motion(),
                **{name: looks.get(name) or pick(self.rng, values) for name, values in drawn.items()},
            )
            if not self._begins(obj):
                continue
            track = track_of(obj, self.scene, self._times, self._view)
            if self._fits(obj, track):
                self.scene = replace(self.scene, objects=(*self.scene.objects, obj))
                self._tracks[obj.id] = track
                return True
        return False

    def _begins(self, obj: SceneObject) -> bool:
        """Whether the object might fit where it begins: a quick look before the exact one."""
        gaps = [math.dist(obj.position[:2], o.position[:2]) - reach(o) for o in self.scene.objects]
        return min(gaps, default=math.inf) >= reach(obj) and self.inside(obj)

    def inside(self, obj: SceneObject) -> bool:
        """Whether the object, where it begins, is about whole in the picture."""
        xy, depth = self._view.project(np.array([[obj.centre]]), slice(0, 1))
        margin = 0.8 * obj.half_width * self._view.scale / depth[0, 0]
        return bool(np.abs(xy - PIXELS / 2).max() <= PIXELS / 2 - margin)

    def _fits(self, obj: SceneObject, track: Track) -> bool:
        box = track.box
        if box.min() < 0.5 or box.max() > PIXELS - 0.5 or (0.8 * (box[:, 2:] - box[:, :2])).min() < LEAST:
            return False
        boxes = {**self._tracks, obj.id: track}
        for other in self.scene.objects:
            gap = np.linalg.norm(track.base[:, :2] - self._tracks[other.id].base[:, :2], axis=1)
            if gap.min() < reach(obj) + reach(other):
                return False
        for one in boxes.values():
            hidden = sum(hidden_share(one.box, one.depth, t.box, t.depth) for t in boxes.values() if t is not one)
            if np.max(hidden) > MOST_HIDDEN:
                return False
        return True

    def allowed(self) -> bool:
        """Whether the composition allows the scene."""
        return self.setting.composition != "train" or not is_held_out(self.scene)

    def others(self, taken: set[tuple[str, str]], count: int) -> list[tuple[str, str]]:
        """`count` pairs of colour and shape of this composition, none of them in `taken`."""
        left = [p for p in self.setting.pairs if p not in taken]
        return [left[int(i)] for i in self.rng.permutation(len(left))[:count]]


def reach(obj: SceneObject) -> float:
    """Metres from the axis to the farthest point of the base, however the solid is turned."""
    return obj.half_width * (1.42 if obj.shape == "cube" else 1.0) + 0.02


def floor_spot(rng: np.random.Generator) -> Spot:
    return (float(np.float32(rng.uniform(-1.9, 1.9))), float(np.float32(rng.uniform(-1.5, 1.9))), 0.0)


def moving_camera(rng: np.random.Generator, duration: int, fps: float = 8.0) -> Camera:
    """A camera that pans, orbits or dollies by a little, evenly, over the whole clip."""
    kind, words, whole = pick(
        rng, (("pan", ("left", "right"), 0.1), ("orbit", ("clockwise", "counterclockwise"), 0.22),
              ("dolly", ("forward", "back"), 0.4))
    )  # fmt: skip
    seconds = (duration - 1) / fps
    amount = round(float(rng.uniform(0.5, 1)) * whole, 3)
    return Camera(motion=(Motion(kind, 0, duration - 1, pick(rng, words), amount / seconds),))
