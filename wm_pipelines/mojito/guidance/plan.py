"""What becomes of a prompt's objects before sampling: boxes on the latent's grid, slots of the text, conflicts."""

import dataclasses
from collections.abc import Sequence

import torch

from wm_pipelines.mojito.bases.geometry import latent_boxes
from wm_pipelines.mojito.guidance.state import Slots, TextRules, find_slots
from wm_pipelines.mojito.trajectories.conflicts import find_conflicts
from wm_pipelines.mojito.trajectories.objects import MotionObject, hidden_lines, object_boxes
from wm_pipelines.mojito.trajectories.resampling import to_clip


@dataclasses.dataclass(frozen=True)
class ClipGrid:
    """The cells of a clip: latent `frames`, `rows` and `columns` of the finest token grid, frames of the clip in a
    latent frame (`stride`), and `layers`, rows and columns of the tapped layers, coarsest first."""

    frames: int
    rows: int
    columns: int
    stride: int
    layers: tuple[tuple[int, int], ...]


@dataclasses.dataclass(frozen=True)
class MotionPlan:
    """One video's objects, prepared.

    Attributes:
        objects: O of them, with a place for each frame of the clip or keyframes within it.
        boxes: (O, F, 4) at the clip's frames, xyxy in [0, 1]. latent_boxes: (O, f, 4) at latent frames.
        slots: their tokens in the prompt.
        grid: of the clip.
        conflicts: what text and trajectories disagree about, and which will win.
        notes: paths that were resampled, text positions that several objects share, and frames in which an object has
            no target.
    """

    objects: tuple[MotionObject, ...]
    boxes: torch.Tensor
    latent_boxes: torch.Tensor
    slots: Slots
    grid: ClipGrid
    conflicts: list[str]
    notes: list[str]

    @property
    def phrases(self) -> list[str]:
        return [item.phrase for item in self.objects]


def plan_motion(
    prompt: str, objects: Sequence[MotionObject], num_frames: int, grid: ClipGrid, rules: TextRules
) -> MotionPlan:
    """The plan of one prompt.

    Raises:
        ValueError: an object that `MotionObject` refuses, a number of frames that does not fit the grid, a phrase
            that can't be located, or as `find_slots`.
    """
    objects, notes = to_clip(objects, num_frames)
    if rules.trailing and len(objects) > 1:
        notes = [
            *notes,
            f"trailing_tokens={rules.trailing}: the same text positions are pulled into the boxes of {len(objects)} "
            "objects at once; they are meant for a lone one",
        ]
    boxes = object_boxes(objects, num_frames)
    at_latents = latent_boxes(boxes, grid.frames, grid.stride, first_alone=grid.stride > 1)
    return MotionPlan(
        objects=tuple(objects),
        boxes=boxes,
        latent_boxes=at_latents,
        slots=find_slots(prompt, objects, at_latents, rules),
        grid=grid,
        conflicts=find_conflicts(prompt, objects, boxes, grid.layers),
        notes=notes + hidden_lines(objects, num_frames),
    )
