"""Training on the miniature world: its scenes as a source of captioned pictures, and the task that draws them.

Options beside those of `FlexEControlTask`:
    length: scenes. cache: file that keeps the rendered pictures between runs. same_shape: share of scenes whose
    objects have one shape, where edges alone cannot say which is which. objects: numbers of objects in a scene.
    detail: wording of the captions (never with relations: they would tell the layout). layout: chance that
    segmentation and depth are drawn from boxes, as a scene graph draws them.
"""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch

from wm_pipelines.diorama.datasets import DioramaDataset, RenderedImages
from wm_pipelines.diorama.language import caption
from wm_pipelines.flexecontrol.augment import box_layout
from wm_pipelines.flexecontrol.training import DEFAULTS, Encode, FlexEControlTask
from wm_pipelines.media.conditions import depth_to_map, extract, seg_from_ids
from wm_pipelines.training import KeyedNoise

SCENE_DEFAULTS: dict[str, Any] = {
    "base": "diorama-sd", "length": 4000, "cache": None, "same_shape": 0.5, "objects": [2], "detail": "objects",
    **DEFAULTS, "layout": 0.0,
}  # fmt: skip


class DioramaScenes:
    """Scenes whose captions, spans, masks and depth are exact, rendered and encoded once.

    Half of the scenes (or `same_shape` of them) share one shape. Palettes are keyed by the index, so a scene's
    segmentation looks the same in every run.
    """

    def __init__(self, options: Mapping[str, Any], encode: Encode):
        self.options = options
        counts = {True: round(options["length"] * options["same_shape"])}
        counts[False] = options["length"] - counts[True]
        self.scenes, rgb, ids, depth = [], [], [], []
        for same, count in counts.items():
            if count:
                name = f"flexecontrol-{'same' if same else 'any'}"
                dataset = DioramaDataset(
                    length=count, num_objects=tuple(options["objects"]), same_shape=same, name=name
                )
                cache = options["cache"] and f"{options['cache']}.{name}"
                images = RenderedImages(dataset, cache)
                self.scenes += images.scenes
                rgb, ids, depth = [*rgb, images.rgb], [*ids, images.ids], [*depth, images.depth]
        self.rgb, self.ids, self.depth = torch.cat(rgb), torch.cat(ids), torch.cat(depth)
        self.length = len(self.scenes)
        self.data = f"Diorama images, train split, {self.length} scenes, {counts[True]} with one shape"
        parts = [encode(self.pictures(rows)) for rows in torch.arange(self.length).split(64)]
        self.mean, self.std = (torch.cat(each) for each in zip(*parts, strict=True))

    def latents(self, indices: list[int]) -> tuple[torch.Tensor, torch.Tensor]:
        """Mean and deviation of the latents of some pictures, scaled."""
        return self.mean[indices], self.std[indices]

    def pictures(self, indices: torch.Tensor | list[int]) -> torch.Tensor:
        """(N,3,H,W) float32 in [0, 1]."""
        return self.rgb[indices].float() / 255

    def maps(self, kind: str, indices: list[int], boxed: set[int]) -> torch.Tensor:
        """Whole condition maps (N,3,H,W). The palette of a scene says nothing about its objects.

        Args:
            boxed: scenes whose segmentation and depth are drawn as a scene graph draws them, from boxes.
        """
        if kind not in ("depth", "seg"):
            return extract(kind, self.pictures(indices))
        layouts = {i: box_layout(self.ids[i], self.depth[i].float()) for i in boxed.intersection(indices)}
        if kind == "depth":
            return depth_to_map(
                torch.stack([layouts[i][1] if i in layouts else self.depth[i] for i in indices]).float()
            )
        ids = torch.stack([layouts[i][0] if i in layouts else self.ids[i] for i in indices])
        return seg_from_ids(ids, [f"flexecontrol-{i}" for i in indices])

    def batch_maps(self, indices: list[int], noise: KeyedNoise) -> Callable[[str, list[int]], torch.Tensor]:
        """A function from (type, scenes of the batch) to their whole maps."""
        boxed = {i for i in indices if noise.uniform(i, (), "layout") < self.options["layout"]}
        return lambda kind, chosen: self.maps(kind, chosen, boxed)

    def caption(self, index: int, generator: np.random.Generator) -> tuple[str, dict[int, tuple[int, int]]]:
        """A caption, and the character span of the phrase of each object id (from 1)."""
        seed = int(generator.integers(1 << 30))
        words = caption(self.scenes[index], self.options["detail"], seed=seed, relations=False)
        return words.text, words.spans

    def masks(self, indices: list[int]) -> torch.Tensor:
        """(N,P,H,W): row p holds object id p + 1."""
        most = max(len(self.scenes[i].objects) for i in indices)
        return (self.ids[indices].long()[:, None] == torch.arange(1, most + 1)[None, :, None, None]).float()


class SceneTask(FlexEControlTask):
    """`wm train flexecontrol`: a new adapter on Diorama scenes."""

    defaults = SCENE_DEFAULTS

    def make_source(self) -> DioramaScenes:
        return DioramaScenes(self.options, self.encode)
