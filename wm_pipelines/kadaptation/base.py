"""The towers of a CLIP checkpoint as a pipeline's components."""

from pathlib import Path
from typing import Any

import torch
from transformers import CLIPTextModelWithProjection, CLIPVisionModelWithProjection

from wm_pipelines import hub
from wm_pipelines.clip.parts import image_processor, load_clip, model_type
from wm_pipelines.hub.stock import load_model


def load_parts(folder: Path, **kwargs: Any) -> dict[str, Any]:
    """Components of a pipeline, and its logit scale, from the folder of a CLIPModel or of an image tower alone.

    Args:
        kwargs: passed to `from_pretrained` of the model.

    Raises:
        ValueError: the folder holds neither, its weights are truncated, or pickled ones were asked for.
    """
    if model_type(folder) == "clip_vision_model":
        hub.check_weights(folder)
        tower = load_model(CLIPVisionModelWithProjection, folder, **kwargs)
        return {"vision_model": tower, "image_processor": image_processor(folder)}
    parts = load_clip(folder, **kwargs)
    clip = parts.pop("clip")
    for config in (clip.config.vision_config, clip.config.text_config):
        config.projection_dim = clip.config.projection_dim
    with torch.device("meta"):  # shells, for the towers that were loaded
        vision = CLIPVisionModelWithProjection(clip.config.vision_config)
        text = CLIPTextModelWithProjection(clip.config.text_config)
    vision.vision_model, vision.visual_projection = clip.vision_model, clip.visual_projection
    text.text_model, text.text_projection = clip.text_model, clip.text_projection
    towers = {"vision_model": vision.eval(), "text_model": text.eval()}
    return parts | towers | {"logit_scale": clip.logit_scale.item()}
