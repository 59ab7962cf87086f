"""A clip that questions are asked about: its state, what of it is seen, and how the physics made it (our design)."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from wm_pipelines.diorama.questions.record import read_record
from wm_pipelines.diorama.questions.setup import Contacts, Setup, happen
from wm_pipelines.diorama.questions.tracks import Track, View, track_of, view_of
from wm_pipelines.diorama.questions.transforms import backwards, mirrored
from wm_pipelines.diorama.scene import Scene, SceneObject


@dataclass(frozen=True)
class Clip:
    """A scene, of which the frames 0 .. shown - 1 are seen; its `duration` covers what comes after them too.

    Args:
        contacts: (time in frames, first id, second id) of each touch between objects, in order.
        setup: how the physics made it, where it did.
    """

    scene: Scene
    shown: int
    contacts: Contacts = ()
    setup: Setup | None = None

    @classmethod
    def of(cls, setup: Setup, shown: int) -> "Clip":
        """What becomes of `setup`."""
        scene, contacts = happen(setup)
        return cls(scene, shown, contacts, setup)

    def __post_init__(self) -> None:
        if not 1 <= self.shown <= self.scene.duration:
            raise ValueError(f"`shown` is {self.shown!r}; allowed: 1 to the {self.scene.duration} frames of the scene")

    @cached_property
    def view(self) -> View:
        return view_of(self.scene, range(self.scene.duration))

    @cached_property
    def tracks(self) -> dict[int, Track]:
        """Object id -> where it is, in every frame of the scene."""
        times = range(self.scene.duration)
        return {o.id: track_of(o, self.scene, times, self.view) for o in self.scene.objects}

    def all(self, words: Sequence[str]) -> list[SceneObject]:
        """Every object that has all these attributes."""
        return [o for o in self.scene.objects if {*words} <= {o.shape, o.colour, o.size, o.pattern, o.material}]

    def find(self, words: Sequence[str]) -> SceneObject | None:
        """The only object that has all these attributes; None if there is none or more than one."""
        found = self.all(words)
        return found[0] if len(found) == 1 else None

    def mirrored(self) -> "Clip":
        """Left and right exchanged."""
        return replace(self, scene=mirrored(self.scene), setup=self.setup and self.setup.mirrored())

    def backwards(self) -> "Clip":
        """The frames that are seen, in reverse; no physics made these."""
        last = self.shown - 1
        contacts = sorted((last - t, a, b) for t, a, b in self.contacts if t <= last)
        return Clip(backwards(replace(self.scene, duration=self.shown)), self.shown, tuple(contacts))

    def to_dict(self) -> dict:
        return {
            "scene": json.loads(self.scene.to_json()),
            "shown": self.shown,
            "contacts": [list(c) for c in self.contacts],
            "setup": self.setup and self.setup.to_dict(),
        }

    @classmethod
    def from_dict(cls, data: dict) -> "Clip":
        """The inverse of `to_dict`; a field that is missing or unknown is a ValueError."""
        if not isinstance(data, dict) or not {"scene", "setup"} <= set(data):
            raise ValueError("a clip is a JSON object with a scene and a setup")
        setup = None if data["setup"] is None else Setup.from_dict(data["setup"])
        scene = Scene.from_json(json.dumps(data["scene"]))
        return read_record(cls, {**data, "scene": scene, "setup": setup})
