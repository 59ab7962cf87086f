"""What a CLIP checkpoint's folder says of itself."""

import json
from pathlib import Path
from typing import Any

import torch
from transformers import (
    CLIPImageProcessor,
    CLIPModel,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
    CLIPVisionModelWithProjection,
)


def model_type(folder: Path) -> str:
    """Which of "clip" and "clip_vision_model" it is, by the folder's config.

    Raises:
        ValueError: it is neither.
    """
    try:
        kind = json.loads((folder / "config.json").read_text(encoding="utf-8")).get("model_type")
    except (OSError, ValueError, AttributeError):
        kind = None
    if kind not in ("clip", "clip_vision_model"):
        raise ValueError(f"{folder} is no CLIP checkpoint: its config.json has model_type {kind!r}, needs 'clip'")
    return kind


def load_parts(folder: Path, **kwargs: Any) -> dict[str, Any]:
    """Components of a pipeline, and its logit scale, from the folder of a CLIPModel or of an image tower.

    Args:
        kwargs: passed to `from_pretrained` of the model.
    """
    parts: dict[str, Any] = {"image_processor": CLIPImageProcessor.from_pretrained(folder)}
    if model_type(folder) == "clip_vision_model":
        return parts | {"vision_model": CLIPVisionModelWithProjection.from_pretrained(folder, **kwargs)}
    clip = CLIPModel.from_pretrained(folder, **kwargs)
    for config in (clip.config.vision_config, clip.config.text_config):
        config.projection_dim = clip.config.projection_dim
    with torch.device("meta"):  # shells, for the towers that were loaded
        vision = CLIPVisionModelWithProjection(clip.config.vision_config)
        text = CLIPTextModelWithProjection(clip.config.text_config)
    vision.vision_model, vision.visual_projection = clip.vision_model, clip.visual_projection
    text.text_model, text.text_projection = clip.text_model, clip.text_projection
    return parts | {
        "vision_model": vision.eval(),
        "text_model": text.eval(),
        "tokenizer": CLIPTokenizer.from_pretrained(folder),
        "logit_scale": clip.logit_scale.item(),
    }
