"""A stock CLIP checkpoint as the base of a method: its parts, its pictures, its device, and its name in a record."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from wm_pipelines import hub
from wm_pipelines.config import BaseModelRef
from wm_pipelines.hub.stock import load_model, load_part
from wm_pipelines.media.pictures import Picture, to_pil
from wm_pipelines.runtime.readers import read_json


def load_clip(folder: Path, **kwargs: Any) -> dict[str, Any]:
    """Components `clip`, `tokenizer`, `image_processor` of a folder that holds a `CLIPModel`.

    Args:
        kwargs: passed to `CLIPModel.from_pretrained`, for example `dtype`.

    Raises:
        ValueError: the folder holds another model, its weights are truncated, or pickled ones were asked for.
    """
    from transformers import AutoTokenizer, CLIPModel

    kind = model_type(folder)
    if kind != "clip":
        raise ValueError(f"{folder} is no CLIP checkpoint: its config.json has model_type {kind!r}, needs 'clip'")
    hub.check_weights(folder)
    return {
        "clip": load_model(CLIPModel, folder, **kwargs).eval(),
        "tokenizer": load_part(AutoTokenizer, folder),
        "image_processor": image_processor(folder),
    }


def model_type(folder: Path) -> str | None:
    """What a folder's `config.json` says it holds; None without a readable one."""
    try:
        return read_json(folder / "config.json").get("model_type")
    except (ValueError, AttributeError):
        return None


def image_processor(folder: Path) -> Any:
    """The folder's image processor on Pillow, so that pictures come out alike with and without torchvision."""
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

    return load_part(CLIPImageProcessorPil, folder)


def preprocess(processor: Any, images: Sequence[Picture]) -> torch.Tensor:
    """Pictures as a tower wants them, float32 `(B, 3, S, S)` on the CPU.

    Raises:
        ValueError: one of them is no picture; it says which.
    """
    pictures = []
    for i, image in enumerate(images):
        try:
            pictures.append(to_pil(image))
        except ValueError as error:
            raise ValueError(f"images[{i}]: {error}") from None
    return processor(pictures, return_tensors="pt").pixel_values


def reference(source: str | os.PathLike, folder: Path) -> BaseModelRef | None:
    """The base by a name that others can resolve; None for a folder of one's own."""
    if folder.resolve().parent == hub.EMBEDDED_ROOT.resolve():
        return hub.base_ref(folder.name)
    text = os.fspath(source)
    return hub.base_ref(text) if hub.REPO_ID.match(text) and hub.resolved_revision(folder) else None
