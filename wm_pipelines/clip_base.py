"""A stock CLIP checkpoint as the base of a method: its parts, and its name in a record."""

import json
import os
from pathlib import Path
from typing import Any

from wm_pipelines import hub
from wm_pipelines.config import BaseModelRef


def load_clip(folder: Path, **kwargs: Any) -> dict[str, Any]:
    """Components `clip`, `tokenizer`, `image_processor` of a folder that holds a `CLIPModel`.

    Args:
        kwargs: passed to `CLIPModel.from_pretrained`, for example `dtype`.

    Raises:
        ValueError: the folder holds another model, or its weights are truncated.
    """
    from transformers import AutoTokenizer, CLIPModel

    try:
        kind = json.loads((folder / "config.json").read_text(encoding="utf-8")).get("model_type")
    except (OSError, ValueError, AttributeError):
        kind = None
    if kind != "clip":
        raise ValueError(f"{folder} is no CLIP checkpoint: its config.json has model_type {kind!r}, needs 'clip'")
    hub.check_weights(folder)
    return {
        "clip": CLIPModel.from_pretrained(folder, **{"use_safetensors": True, **kwargs}).eval(),
        "tokenizer": AutoTokenizer.from_pretrained(folder),
        "image_processor": image_processor(folder),
    }


def image_processor(folder: Path) -> Any:
    """The folder's image processor on Pillow, so that pictures come out alike with and without torchvision."""
    try:
        from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil as Processor
    except ImportError:  # transformers 4
        from transformers import CLIPImageProcessor as Processor
    return Processor.from_pretrained(folder)


def reference(source: str | os.PathLike, folder: Path) -> BaseModelRef | None:
    """The base by a name that others can resolve; None for a folder of one's own."""
    if folder.resolve().parent == hub.EMBEDDED_ROOT.resolve():
        return hub.base_ref(folder.name)
    text = os.fspath(source)
    return hub.base_ref(text) if hub.REPO_ID.match(text) and hub.resolved_revision(folder) else None
