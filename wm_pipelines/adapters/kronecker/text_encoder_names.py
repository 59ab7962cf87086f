"""Names of a text encoder's layers: with the level `text_model` in files, with or without it in a model.

Kohya, LyCORIS, ComfyUI and diffusers call a layer `text_model.encoder.layers.0…`, as CLIPTextModel of transformers 4
did. Since transformers 5 that model has no such level, while CLIPTextModelWithProjection and CLIPModel still have it.
"""

from __future__ import annotations

from collections.abc import Container

from torch import nn

__all__ = ["LEVEL", "in_files", "in_model", "is_text_encoder"]

LEVEL = "text_model"


def is_text_encoder(model: nn.Module) -> bool:
    """Whether `model` is a text encoder of CLIP's, one of either class."""
    return getattr(getattr(model, "config", None), "model_type", None) == "clip_text_model"


def in_files(model: nn.Module, name: str) -> str:
    """The module `name` of `model`, with dots, as every reader of LoRA and LoKr files calls it."""
    if is_text_encoder(model) and not hasattr(model, LEVEL):
        return f"{LEVEL}.{name}"
    return name


def in_model(name: str, known: Container[str], separator: str = ".") -> str:
    """`name` of a file as it is among `known`, with the level or without; `name` itself where it is in neither form.

    Args:
        separator: what stands between the levels, "." or "_".
    """
    level = LEVEL + separator
    other = name.removeprefix(level) if name.startswith(level) else level + name
    return other if name not in known and other in known else name
