"""CLIP-I, CLIP-T and DINO with the user's own models."""

from collections.abc import Sequence
from typing import Any

import torch
from torch.nn import functional

from wm_pipelines import hub
from wm_pipelines.clip.parts import load_clip, preprocess
from wm_pipelines.clip.towers import encode_images, encode_texts
from wm_pipelines.hub.stock import load_model, load_part


def load_dino(name: str) -> dict[str, Any]:
    """Components `dino`, `dino_processor`: a vision transformer whose first token is the picture's, such as DINO,
    DINOv2 or ViT.

    Raises:
        ValueError: a name that leads nowhere, or truncated files.
    """
    from transformers import AutoModel
    from transformers.models.bit.image_processing_pil_bit import BitImageProcessorPil

    folder = hub.resolve(name)
    hub.check_weights(folder)
    return {"dino": load_model(AutoModel, folder).eval(), "dino_processor": load_part(BitImageProcessorPil, folder)}


def load_embedders(clip: str | None, dino: str | None) -> dict[str, Any]:
    """Components of `AuroraBenchPipeline` for the names that are given."""
    return {**(load_clip(hub.resolve(clip)) if clip else {}), **(load_dino(dino) if dino else {})}


class Embedders:
    """Features of length one.

    Args:
        clip, tokenizer, image_processor: CLIP, or None. dino, dino_processor: likewise.
    """

    def __init__(
        self,
        clip: Any = None,
        tokenizer: Any = None,
        image_processor: Any = None,
        dino: Any = None,
        dino_processor: Any = None,
    ):
        for name, parts in (("clip", (clip, tokenizer, image_processor)), ("dino", (dino, dino_processor))):
            if any(part is None for part in parts) and any(part is not None for part in parts):
                raise ValueError(f"`{name}` needs its model and its processors; some of these are None")
        self.clip, self.tokenizer, self.image_processor = clip, tokenizer, image_processor
        self.dino, self.dino_processor = dino, dino_processor

    @torch.no_grad()
    def similarities(
        self, pictures: Sequence[torch.Tensor], truth: torch.Tensor | None, words: str
    ) -> list[dict[str, float]]:
        """For each picture: `clip_t`, its cosine with the instruction; `clip_i` and `dino`, with the truth if any."""
        found: list[dict[str, float]] = [{} for _ in pictures]
        everything = [*pictures, *([] if truth is None else [truth])]
        if self.clip is not None:
            features = encode_images(self.clip, preprocess(self.image_processor, everything))
            said = encode_texts(self.clip, self.tokenizer, [words])
            for n, value in enumerate((features[: len(pictures)] @ said.T)[:, 0].tolist()):
                found[n]["clip_t"] = value
            self._beside(found, features, truth, "clip_i")
        if self.dino is not None:
            pixels = preprocess(self.dino_processor, everything).to(self.dino.device, self.dino.dtype)
            features = functional.normalize(self.dino(pixels).last_hidden_state[:, 0].float(), dim=-1)
            self._beside(found, features, truth, "dino")
        return found

    @staticmethod
    def _beside(found: list[dict[str, float]], features: torch.Tensor, truth: Any, name: str) -> None:
        if truth is not None:
            for row, value in zip(found, (features[:-1] @ features[-1]).tolist(), strict=True):
                row[name] = value
