"""CLIP, SigLIP and BLIP-2 behind one face: features of pictures and of texts, and how well they match.

OpenCLIP checkpoints in transformers' format are `CLIPModel`s. Features come as the towers give them, on the CPU.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch.nn import functional

from wm_pipelines import hub
from wm_pipelines.clip import towers
from wm_pipelines.clip.parts import load_clip, model_type
from wm_pipelines.comclip.fusion import cosine
from wm_pipelines.comclip.subimages import fit_square
from wm_pipelines.hub.stock import load_model, load_part
from wm_pipelines.media.pictures import to_pil
from wm_pipelines.runtime.offloading import brought, execution_device


class CLIPMatcher:
    """`CLIPModel`: one vector for a picture, one for a text.

    Args:
        model: `transformers.CLIPModel`.
        tokenizer, image_processor: as the checkpoint has them.
    """

    def __init__(self, model: Any, tokenizer: Any, image_processor: Any):
        self.model, self.tokenizer, self.image_processor = model, tokenizer, image_processor
        self.size = model.config.vision_config.image_size

    def pixels(self, pictures: Sequence[torch.Tensor], fit: str) -> torch.Tensor:
        """What the picture tower takes, `(N, 3, S, S)`, of pictures `(3, H, W)` in [0, 1] of any sizes.

        Pictures are made square by `fit` first, so the processor's own crop has nothing left to cut off.
        """
        images = self.image_processor
        options = {"do_center_crop": False} if hasattr(images, "do_center_crop") else {}
        squares = [to_pil(fit_square(picture, fit)) for picture in pictures]
        size = {"height": self.size, "width": self.size}
        pixels = images(images=squares, size=size, return_tensors="pt", **options)["pixel_values"]
        return pixels.to(execution_device(self.model), self.model.dtype)

    @torch.no_grad()
    def encode_images(self, pictures: Sequence[torch.Tensor], fit: str = "pad") -> torch.Tensor:
        """Features `(N, D)`, not normalised; BLIP-2 gives `(N, queries, D)`."""
        return self._image_features(self.pixels(pictures, fit)).cpu()

    @torch.no_grad()
    def encode_texts(self, texts: Sequence[str]) -> torch.Tensor:
        """Features `(N, D)`, not normalised.

        Raises:
            ValueError: a text that the tower would cut off, or an empty one.
        """
        return self._text_features(list(texts)).cpu()

    def _image_features(self, pixels: torch.Tensor) -> torch.Tensor:
        return towers.encode_images(self.model, pixels, unit=False)

    def _text_features(self, texts: list[str]) -> torch.Tensor:
        return towers.encode_texts(self.model, self.tokenizer, texts, unit=False, what="caption")

    def match(self, features: torch.Tensor, texts: torch.Tensor) -> torch.Tensor:
        """Cosine of picture features with text features, row by row, in [-1, 1]."""
        return cosine(features, texts)

    def dot(self, features: torch.Tensor, texts: torch.Tensor) -> torch.Tensor:
        """Inner product instead of the cosine."""
        return (features * texts).sum(-1)

    def restore(self, fused: torch.Tensor, image: torch.Tensor) -> torch.Tensor:
        """A sum of unit features as `match` wants it; a cosine asks nothing."""
        return fused

    def _check_length(self, texts: list[str], limit: int) -> None:
        for text in texts:
            if not isinstance(text, str) or not text.strip():
                raise ValueError(f"caption must be a non-empty string, got {text!r}")
            count = len(self.tokenizer(text, verbose=False)["input_ids"])
            if count > limit:
                raise ValueError(f"caption {text!r} is {count} tokens; {type(self.model).__name__} keeps {limit}")


class SigLIPMatcher(CLIPMatcher):
    """`SiglipModel`: as CLIP, but a text is read at its last position and must be padded as in training."""

    def _image_features(self, pixels: torch.Tensor) -> torch.Tensor:
        return self.model.vision_model(pixels).pooler_output

    def _text_features(self, texts: list[str]) -> torch.Tensor:
        limit = self.model.config.text_config.max_position_embeddings
        self._check_length(texts, limit)
        tokens = self.tokenizer(texts, padding="max_length", max_length=limit, return_tensors="pt")
        return self.model.text_model(input_ids=tokens["input_ids"].to(execution_device(self.model))).pooler_output


class BLIP2Matcher(CLIPMatcher):
    """`Blip2ForImageTextRetrieval` by its contrastive branch: 32 query tokens for a picture, the best one counts.

    The tokens are projected with a bias, so their length matters. On unit embeddings a fused token therefore gets the
    length of the picture's own, which leaves the plain score where all sub-images are the picture. On raw ones nothing
    is done, as in the authors' script for VL-Checklist (the one for Winoground makes them unit vectors).
    """

    _projection: tuple[torch.Tensor, torch.Tensor] | None = None  # of the last pass: offloading may take it away again

    def _image_features(self, pixels: torch.Tensor) -> torch.Tensor:
        with brought(self.model.vision_projection) as layer:
            self._projection = layer.weight.detach().cpu().clone(), layer.bias.detach().cpu().clone()
        states = self.model.vision_model(pixel_values=pixels).last_hidden_state
        queries = self.model.query_tokens.expand(len(pixels), -1, -1)
        attention = torch.ones(states.shape[:2], dtype=torch.long, device=states.device)
        out = self.model.qformer(
            query_embeds=queries, encoder_hidden_states=states, encoder_attention_mask=attention
        )  # fmt: skip
        return out.last_hidden_state

    def _text_features(self, texts: list[str]) -> torch.Tensor:
        self._check_length(texts, self.model.config.qformer_config.max_position_embeddings)
        tokens = self.tokenizer(texts, padding=True, return_tensors="pt").to(execution_device(self.model))
        table, places = self.model.embeddings.word_embeddings, self.model.embeddings.position_embeddings
        ids = tokens["input_ids"]  # as `self.model.embeddings` does, which asks where weights are that are offloaded
        embeds = table(ids) + places(torch.arange(ids.shape[1], device=ids.device))
        out = self.model.qformer(query_embeds=embeds, query_length=0, attention_mask=tokens["attention_mask"])
        return self.model.text_projection(out.last_hidden_state[:, 0].to(self.model.text_projection.weight.dtype))

    def match(self, features: torch.Tensor, texts: torch.Tensor) -> torch.Tensor:
        return cosine(self._project(features), texts[..., None, :]).amax(-1)

    def dot(self, features: torch.Tensor, texts: torch.Tensor) -> torch.Tensor:
        return (self._project(features) * texts[..., None, :]).sum(-1).amax(-1)

    def restore(self, fused: torch.Tensor, image: torch.Tensor) -> torch.Tensor:
        return functional.normalize(fused, dim=-1) * image.norm(dim=-1, keepdim=True)

    def _project(self, features: torch.Tensor) -> torch.Tensor:
        layer = self.model.vision_projection
        weight, bias = self._projection or (layer.weight, layer.bias)
        return functional.linear(features, weight.to(features), bias.to(features))


MATCHERS: dict[str, type[CLIPMatcher]] = {
    "CLIPModel": CLIPMatcher,
    "SiglipModel": SigLIPMatcher,
    "Blip2ForImageTextRetrieval": BLIP2Matcher,
}
MODELS = {"siglip": "SiglipModel", "blip-2": "Blip2ForImageTextRetrieval"}
"""`model_type` of a configuration -> class to load, beside "clip"."""


def make_matcher(model: Any, tokenizer: Any, image_processor: Any) -> CLIPMatcher:
    """The matcher of a transformers model.

    Raises:
        ValueError: another model class.
    """
    kind = type(model).__name__
    if kind not in MATCHERS:
        raise ValueError(f"model is a {kind}; ComCLIP matches with {', '.join(MATCHERS)}")
    return MATCHERS[kind](model, tokenizer, image_processor)


def load_parts(folder: Path, **kwargs: Any) -> dict[str, Any]:
    """`model`, `tokenizer` and `image_processor` of a checkpoint in transformers' layout.

    Args:
        kwargs: passed to the model's `from_pretrained`, for example `dtype`.

    Raises:
        ValueError: no such checkpoint, truncated or pickled weights, or another model than the matchers know.
    """
    import transformers

    kind = model_type(folder)
    if kind == "clip":
        parts = load_clip(folder, **kwargs)
        return {"model": parts.pop("clip"), **parts}
    if kind not in MODELS:
        raise ValueError(f"{folder} has model_type {kind!r}; ComCLIP matches with clip, {', '.join(MODELS)}")
    hub.check_weights(folder)
    model = load_model(getattr(transformers, MODELS[kind]), folder, **kwargs)
    return {
        "model": model.eval(),
        "tokenizer": load_part(transformers.AutoTokenizer, folder),
        # on Pillow, so that pictures come out alike with and without torchvision
        "image_processor": load_part(transformers.AutoImageProcessor, folder, use_fast=False),
    }
