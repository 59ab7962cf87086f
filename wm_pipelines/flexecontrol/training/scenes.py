"""Training on the miniature world: its scenes as a source of captioned pictures, and the tasks that draw them.

Options beside those of `FlexEControlTask`:
    length: scenes. cache: file that keeps the rendered pictures between runs. same_shape: share of scenes whose
    objects have one shape, where edges alone cannot say which is which. objects: numbers of objects in a scene.
    detail: wording of the captions. relations: share of the captions that say how the objects stand to one another;
    they tell the layout, so the conditions are needed less. layout: chance that segmentation and depth are drawn from
    boxes, as a scene graph draws them. drawn: share of the scenes without stripes, which nobody draws, whose maps are
    as people bring them (see `drawings`). closer: share of the scenes seen from closer by, up to twice, for drawings
    fill more of the paper than scenes do.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from wm_pipelines.clip.parts import image_processor
from wm_pipelines.diorama.datasets import DioramaDataset, RenderedImages
from wm_pipelines.diorama.language import caption
from wm_pipelines.diorama.scene import COLOURS, Camera, Scene, project, rough_boxes
from wm_pipelines.flexecontrol.steering.global_image import image_vectors
from wm_pipelines.flexecontrol.training.augmentation import box_layout, widen
from wm_pipelines.flexecontrol.training.drawings import Drawn, draw, drawn_map
from wm_pipelines.flexecontrol.training.global_adapter import GlobalTask, without_local
from wm_pipelines.flexecontrol.training.task import DEFAULTS, Encode, FlexEControlTask, Maps
from wm_pipelines.hub import check_weights, resolve
from wm_pipelines.hub.stock import load_model
from wm_pipelines.media.conditions import depth_to_map, extract, seg_from_ids
from wm_pipelines.media.pictures import to_pil
from wm_pipelines.runtime.random import keyed
from wm_pipelines.training import KeyedNoise

SCENE_DEFAULTS: dict[str, Any] = {
    "base": "diorama-sd", "length": 4000, "cache": None, "same_shape": 0.5, "objects": [2], "detail": "objects",
    **DEFAULTS, "layout": 0.0, "drawn": 0.0, "relations": 0.0, "closer": 0.0,
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
                kind = {"num_objects": tuple(options["objects"]), "same_shape": same}
                if options["closer"]:
                    name = f"{name}-closer-{options['closer']}"
                    dataset = CloserScenes(options["closer"], length=count, name=name, **kind)
                else:
                    dataset = DioramaDataset(length=count, name=name, **kind)
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

    def batch_maps(self, indices: list[int], masks: torch.Tensor, noise: KeyedNoise) -> tuple[Maps, torch.Tensor]:
        """A function from (type, scenes of the batch) to their whole maps, and where their objects lie (N,P,H,W)."""
        boxed = {i for i in indices if noise.uniform(i, (), "layout") < self.options["layout"]}
        drawn = self.redrawn(indices, noise) if self.options["drawn"] else {}

        def maps(kind: str, chosen: list[int]) -> torch.Tensor:
            whole = self.maps(kind, chosen, boxed)
            for row, i in enumerate(chosen):
                if i in drawn:
                    rng = noise.generator(i, f"drawn {kind}")
                    whole[row] = drawn_map(kind, drawn[i], self.depth[i].float(), rng, f"flexecontrol-{i}")
            return whole

        places = masks.clone()
        for row, i in enumerate(indices):
            for k in np.unique(drawn[i].ids)[1:] if i in drawn else ():
                places[row, k - 1] = widen(torch.from_numpy(drawn[i].ids == k).float()[None])[0]  # a pen is thick
        return maps, places

    def redrawn(self, indices: list[int], noise: KeyedNoise) -> dict[int, Drawn]:
        """The scenes of the batch that are redrawn."""
        plain = [i for i in indices if all(o.pattern == "plain" for o in self.scenes[i].objects)]
        chosen = [i for i in plain if noise.uniform(i, (), "drawn") < self.options["drawn"]]
        return {
            i: draw(
                self.rgb[i].permute(1, 2, 0).numpy(), self.ids[i].numpy(), _looks(self.scenes[i]),
                noise.generator(i, "drawing"),
            )
            for i in chosen
        }  # fmt: skip

    def caption(self, index: int, generator: np.random.Generator) -> tuple[str, dict[int, tuple[int, int]]]:
        """A caption, and the character span of the phrase of each object id (from 1)."""
        seed, share = int(generator.integers(1 << 30)), self.options["relations"]
        related = bool(share) and generator.random() < share
        words = caption(self.scenes[index], self.options["detail"], seed=seed, relations=related)
        return words.text, words.spans

    def masks(self, indices: list[int]) -> torch.Tensor:
        """(N,P,H,W): row p holds object id p + 1."""
        most = max(len(self.scenes[i].objects) for i in indices)
        return (self.ids[indices].long()[:, None] == torch.arange(1, most + 1)[None, :, None, None]).float()


def _looks(scene: Scene) -> dict[int, tuple[str, tuple[float, float, float]]]:
    """Shape and colour of each object by its id, the farthest first."""
    if not scene.objects:
        return {}
    far = project([o.centre for o in scene.objects], scene.camera)[1]
    ordered = sorted(zip(-far, scene.objects, strict=True), key=lambda pair: pair[0])
    return {o.id: (o.shape, COLOURS[o.colour]) for _, o in ordered}


class CloserScenes(DioramaDataset):
    """Images a share of which is seen by a camera that turns to the objects and zooms in, as far as all are seen."""

    def __init__(self, share: float, **options: Any):
        super().__init__(**options)
        self.share = share

    def scene(self, index: int) -> Scene:
        scene, rng = super().scene(index), keyed("closer", self.name, index)
        if not scene.objects or rng.random() >= self.share:
            return scene
        camera = scene.camera
        middle = np.mean([o.centre for o in scene.objects], axis=0) + rng.uniform(-0.4, 0.4, 3) * (1, 1, 0)
        zoom = rng.uniform(1, 2)
        while zoom > 1:
            half = math.atan(math.tan(math.radians(camera.fov_deg) / 2) / zoom)
            turned = Camera(camera.eye, tuple(middle.tolist()), math.degrees(2 * half))
            boxes = rough_boxes(replace(scene, camera=turned))
            if boxes.min() > 0 and boxes.max() < 1:
                return replace(scene, camera=turned)
            zoom -= 0.1
        return scene


class SceneTask(FlexEControlTask):
    """`wm train flexecontrol`: a new adapter on Diorama scenes."""

    defaults = SCENE_DEFAULTS

    def make_source(self) -> DioramaScenes:
        return DioramaScenes(self.options, self.encode)


class GlobalScenes(DioramaScenes):
    """Diorama scenes with the content vectors of their pictures, computed once."""

    @torch.no_grad()
    def __init__(self, options: Mapping[str, Any], encode: Encode, image_encoder: Any, image_processor: Any):
        super().__init__(options, encode)
        parts, width = [], image_encoder.config.projection_dim
        for rows in torch.arange(self.length).split(64):
            pictures = [to_pil(picture) for picture in self.pictures(rows)]
            parts.append(
                image_vectors(
                    pictures, image_encoder, image_processor, width=width, batch=len(rows), device=image_encoder.device
                )
            )
        self.vectors = torch.cat(parts)

    def contents(self, indices: Sequence[int]) -> torch.Tensor:
        return self.vectors[list(indices)]


class GlobalSceneTask(GlobalTask):
    """On Diorama pictures."""

    defaults = {**without_local(SCENE_DEFAULTS), "image_encoder": "diorama-clip"}

    def _carried(self) -> dict[str, Any]:
        from transformers import CLIPVisionModelWithProjection

        folder = resolve(self.options["image_encoder"])
        check_weights(folder)
        # a half of a CLIPModel states no dtype of its own, and would come in that of its file
        encoder = load_model(CLIPVisionModelWithProjection, folder, dtype=torch.float32)
        self.image_encoder = encoder.requires_grad_(False).eval()
        self.image_processor = image_processor(folder)
        return {"global_adapter": True, "global_embed_dim": self.image_encoder.config.projection_dim}

    def make_source(self) -> GlobalScenes:
        return GlobalScenes(self.options, self.encode, self.image_encoder, self.image_processor)
