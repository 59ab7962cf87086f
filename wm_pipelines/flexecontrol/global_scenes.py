"""Training of the global adapter on the miniature world: its scenes with their pictures' content vectors."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from wm_pipelines.clip.parts import image_processor
from wm_pipelines.flexecontrol.global_image import image_vectors
from wm_pipelines.flexecontrol.global_training import GlobalTask, without_local
from wm_pipelines.flexecontrol.scenes import SCENE_DEFAULTS, DioramaScenes
from wm_pipelines.flexecontrol.training import Encode
from wm_pipelines.hub import check_weights, resolve
from wm_pipelines.hub.stock import load_model
from wm_pipelines.media.pictures import to_pil


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
        encoder = load_model(CLIPVisionModelWithProjection, folder)
        self.image_encoder = encoder.requires_grad_(False).eval()
        self.image_processor = image_processor(folder)
        return {"global_adapter": True, "global_embed_dim": self.image_encoder.config.projection_dim}

    def make_source(self) -> GlobalScenes:
        return GlobalScenes(self.options, self.encode, self.image_encoder, self.image_processor)
