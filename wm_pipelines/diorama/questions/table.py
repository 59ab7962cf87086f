"""Worlds for questions about causes: solids at rest on the floor, some of them pushed, and what becomes of it.

A clip lasts one second, however many frames it has: at that rate a collision is seen, and a push crosses the picture
(our design).
"""

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from wm_pipelines.diorama.questions.clip import Clip
from wm_pipelines.diorama.questions.law import Setting
from wm_pipelines.diorama.questions.setup import Hold, Push, Setup
from wm_pipelines.diorama.questions.stage import Stage, floor_spot, moving_camera, reach
from wm_pipelines.diorama.questions.tracks import PIXELS, hidden_share
from wm_pipelines.diorama.scene import Camera, SceneObject

LANE = 0.3  # metres between what moves and what it must not touch
SMALL = 0.6  # metres: the reach of a small solid at most
OUT_OF_SIGHT = 0.6  # of the box around a solid, behind the boxes of others, at most

Way = tuple[np.ndarray, np.ndarray]


class Table(Stage):
    """A stage whose objects stand still until something moves them.

    `pushes` and `holds` are what is done to them, `ways` where they go: (from, to) and half the width of each, metres.
    """

    def __init__(self, rng: np.random.Generator, setting: Setting):
        super().__init__(rng, setting, 1)
        self.pushes: list[Push] = []
        self.holds: list[Hold] = []
        self.ways: list[tuple[Way, float]] = []

    def put_at(self, pair: Sequence[str], spot: Sequence[float], **looks: str) -> SceneObject | None:
        """The object at (x, y) or (x, y, z), or None where it does not fit."""
        where = (*(float(np.float32(v)) for v in spot), 0.0)[:3]
        return self.scene.objects[-1] if self.put(*pair, spot=lambda: where, tries=1, **looks) else None

    def push(self, obj: SceneObject, along: np.ndarray, speed: float, metres: float) -> None:
        """Pushes `obj` along a unit vector (3,); it will go so far, if nothing stops it."""
        self.pushes.append(Push(obj.id, tuple(float(v) for v in speed * along)))
        self.keep_free(obj, along, metres)

    def keep_free(self, obj: SceneObject, along: np.ndarray, metres: float) -> None:
        start = np.array(obj.position[:2])
        self.ways.append(((start, start + metres * along[:2]), reach(obj)))

    def put_aside(self, pair: Sequence[str], speed: float = 0.0) -> SceneObject | None:
        """A small object off all ways, pushed along a way of its own if it has a speed; None if there is no room."""
        for _ in range(30):
            spot = np.array(floor_spot(self.rng)[:2])
            angle = self.rng.uniform(0, 2 * math.pi)
            along = np.array([math.cos(angle), math.sin(angle), 0.0])
            metres = 0.7 * speed
            mine = (spot, spot + metres * along[:2])
            stand = [((np.array(o.position[:2]),) * 2, reach(o)) for o in self.scene.objects]
            if any(_gap(mine, way) < width + SMALL + LANE for way, width in (*self.ways, *stand)):
                continue
            obj = self.put_at(pair, spot, size="small")
            if obj is not None:
                if speed:
                    self.push(obj, along, speed, metres)
                return obj
        return None

    def played(self, after: int = 0, law: str = "normal", **numbers: float) -> Clip | None:
        """What becomes of it; None where an object leaves the picture, or is hardly seen, while the clip lasts.

        Args:
            after: frames that come after those that are shown.
            numbers: friction and restitution.
        """
        if not self.allowed() or not all(self.inside(self._released(hold)) for hold in self.holds):
            return None
        shown = self.setting.frames
        camera = moving_camera(self.rng, shown, float(shown)) if self.setting.knobs.camera_motion else Camera()
        scene = replace(self.scene, camera=camera, duration=shown + after, fps=float(shown))
        clip = Clip.of(Setup(scene, tuple(self.pushes), tuple(self.holds), law=law, **numbers), shown)
        return clip if well_seen(clip) and self._meets_nothing(clip) else None

    def _released(self, hold: Hold) -> SceneObject:
        """The object where it will be let go."""
        obj = self.scene.object(hold.id)
        carried = np.array(hold.velocity) * (hold.end - hold.start) / self.setting.frames
        return replace(obj, position=tuple((np.array(obj.position) + carried).tolist()))

    def _meets_nothing(self, clip: Clip) -> bool:
        """Whether what is held keeps off everything, as no simulation sees it beside the others."""
        size = {o.id: reach(o) for o in clip.scene.objects}
        base = {id: track.base for id, track in clip.tracks.items()}
        for hold in self.holds:
            for id in set(base) - {hold.id}:
                gap = np.linalg.norm(base[id][:, :2] - base[hold.id][:, :2], axis=1)
                if gap.min() < size[id] + size[hold.id]:
                    return False
        return True


def _gap(a: Way, b: Way) -> float:
    """About the least distance between two segments in the plane."""
    u = np.linspace(0, 1, 9)[:, None]
    p, q = (way[0] + u * (way[1] - way[0]) for way in (a, b))
    return float(np.linalg.norm(p[:, None] - q[None], axis=-1).min())


def sideways(rng: np.random.Generator, spread: float = 0.35) -> np.ndarray:
    """A horizontal unit vector (3,) to the left or to the right, give or take `spread` radians."""
    angle = rng.uniform(-spread, spread) + (math.pi if rng.random() < 0.5 else 0.0)
    return np.array([math.cos(angle), math.sin(angle), 0.0])


def well_seen(clip: Clip) -> bool:
    """Whether all objects stay in the picture, and none goes far behind others, in the frames that are shown."""
    tracks = [(t.box[: clip.shown], t.depth[: clip.shown]) for t in clip.tracks.values()]
    if any(box.min() < 0 or box.max() > PIXELS for box, _ in tracks):
        return False
    for box, depth in tracks:
        hidden = [hidden_share(box, depth, *other) for other in tracks if other[0] is not box]
        if hidden and np.sum(hidden, axis=0).max() > OUT_OF_SIGHT:
            return False
    return True
