"""A clip that questions are asked about: its state, the part that is seen, and how the physics made it (our design)."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from wm_pipelines.diorama.questions.tracks import Track, View, track_of, view_of
from wm_pipelines.diorama.questions.transforms import backwards, mirrored
from wm_pipelines.diorama.scene import Scene, SceneObject


@dataclass(frozen=True)
class Clip:
    """A scene, of which the frames 0 .. shown - 1 are seen; its `duration` covers what comes after them too.

    Args:
        contacts: (time in frames, first id, second id; 0 is the floor) of each touch, in order.
    """

    scene: Scene
    shown: int
    contacts: tuple[tuple[float, int, int], ...] = ()

    def __post_init__(self):
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
        return replace(self, scene=mirrored(self.scene))

    def backwards(self) -> "Clip":
        """The frames that are seen, in reverse."""
        last = self.shown - 1
        contacts = sorted((last - t, a, b) for t, a, b in self.contacts if t <= last)
        return Clip(backwards(replace(self.scene, duration=self.shown)), self.shown, tuple(contacts))
