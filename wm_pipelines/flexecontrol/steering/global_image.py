"""Global control: one image vector per picture that becomes extra text tokens (Uni-ControlNet's global adapter)."""

from typing import Any

import torch

from wm_pipelines.flexecontrol.modeling import FlexEControlModel


def image_vectors(
    image: Any, image_encoder: Any, feature_extractor: Any, width: int, batch: int, device: torch.device
) -> torch.Tensor:
    """CLIP's projected, un-normalised vectors of the given images, `(1, width)` or `(batch, width)`.

    Args:
        image: one picture or a list of one per prompt, or the vectors themselves, `(width,)` or `(n, width)`.

    Raises:
        ValueError: pictures without an encoder for them, or vectors of another shape or not finite.
    """
    if isinstance(image, torch.Tensor) and image.ndim <= 2:
        vectors = image[None] if image.ndim == 1 else image
    elif image_encoder is None or feature_extractor is None:
        raise ValueError(
            "global_image needs the components image_encoder and feature_extractor"
            " (or pass the projected CLIP vector itself)"
        )
    else:
        pixels = feature_extractor(image, return_tensors="pt").pixel_values
        vectors = image_encoder(pixels.to(device, image_encoder.dtype)).image_embeds
    if vectors.ndim != 2 or vectors.shape[1] != width or len(vectors) not in (1, batch):
        allowed = f"(1, {width}) or ({batch}, {width})"
        raise ValueError(f"global_image gives vectors of shape {tuple(vectors.shape)}; it must be {allowed}")
    if not torch.isfinite(vectors).all():
        raise ValueError("global_image has values that are not finite")
    return vectors


def global_tokens(
    control: FlexEControlModel, vectors: torch.Tensor | None, pictures: int, guided: bool, device: torch.device
) -> torch.Tensor:
    """Tokens for all pictures, `(pictures, 4, C)`, with guidance twice that: the zero vector's tokens come first.

    Args:
        vectors: `(1, D)`, or one row per prompt, whose pictures stand together; None is the zero vector.
    """
    zero = torch.zeros(1, control.config.global_embed_dim, device=device, dtype=control.dtype)
    vectors = zero if vectors is None else vectors.to(zero)
    vectors = vectors.repeat_interleave(pictures // len(vectors), dim=0)
    if guided:
        vectors = torch.cat([zero.expand_as(vectors), vectors])
    return control.global_tokens(vectors)
