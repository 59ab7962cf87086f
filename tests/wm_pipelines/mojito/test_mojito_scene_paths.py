"""Paths of a scene's solids: where they are seen, with the words that the caption has for them."""

from dataclasses import replace

import pytest
import torch

from wm_pipelines.diorama.datasets import DioramaDataset
from wm_pipelines.diorama.language import caption
from wm_pipelines.diorama.motion import scene_at
from wm_pipelines.diorama.primitives import Motion
from wm_pipelines.diorama.render import render
from wm_pipelines.mojito.scene_paths import scene_objects
from wm_pipelines.mojito.trajectories.objects import object_boxes


@pytest.mark.parametrize("frames", [1, 6])
def test_boxes_are_those_of_the_render(frames):
    drawn = DioramaDataset("video" if frames > 1 else "image", split="test", length=4, num_objects=2, frames=frames)
    for n in range(4):
        scene = drawn.scene(n)
        objects = scene_objects(scene, frames)
        boxes = object_boxes(list(objects), frames)
        said = caption(scene).text
        truth = render(scene, range(frames), maps=("boxes",)).boxes[0].movedim(0, 1)
        assert len(objects) == 2 and all(said[slice(*o.span)] == o.phrase for o in objects)
        for own, wanted in zip(boxes, truth, strict=True):
            shown = ~wanted.isnan().any(-1)
            torch.testing.assert_close(own[shown], wanted[shown].clamp(0, 1).float())


def test_a_solid_out_of_sight_keeps_the_nearest_box_or_is_left_out():
    scene = DioramaDataset(split="test", length=1, num_objects=2).scene(0)
    first, second = scene.objects
    away = replace(scene, objects=(first, replace(second, position=(100.0, 0.0, 0.0))))
    assert [o.phrase for o in scene_objects(away, 1)] == [caption(away).text[slice(*caption(away).spans[first.id])]]
    leaving = replace(second, motion=(Motion("translate", 0, 4, (0.0, 1.0, 0.0), speed=200.0),))
    moving = replace(scene, objects=(first, leaving), duration=5)
    found = scene_objects(moving, 5)[-1]
    seen = [bool((render(scene_at(moving, t)).ids == second.id).any()) for t in range(5)]
    assert seen[0] and not seen[-1]
    assert list(found.hidden) == [t for t in range(5) if not seen[t]]
