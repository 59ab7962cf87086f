"""The families of bases behind one face: pictures to latents, captions to conditions, noise in, noise predicted.

UNets (Stable Diffusion 1.x and 2.x, SDXL) are read as predictions of the noise ε, whatever they were trained to
predict: with z_t = √ᾱ z + √(1-ᾱ) ε, a v-prediction gives ε = √ᾱ v + √(1-ᾱ) z_t. Transformers (SD3, Flux) are read as
predictions of the velocity ε - z of z_t = (1-σ) z + σ ε, with σ = (t+1) / T.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from diffusers import FluxTransformer2DModel, SD3Transformer2DModel, UNet2DConditionModel
from torch import nn

from wm_pipelines.discffusion import captions as texts_of
from wm_pipelines.discffusion.captions import Captions
from wm_pipelines.discffusion.capture import cross_sites, joint_sites

T5_LENGTHS = {"sd3": 256, "flux": 512}  # of the stock pipelines


class Denoiser(ABC):
    """One base.

    Args:
        parts: what holds the components by their names, and their `config`.

    Attributes: `model`, the denoiser itself; `train_steps` of its schedule; `multiple`, what sides of pictures are
    multiples of.
    """

    model: nn.Module
    train_steps: int
    multiple: int

    def __init__(self, parts: Any):
        self.parts = parts
        self.factor = 2 ** (len(parts.vae.config.block_out_channels) - 1)

    @abstractmethod
    def sites(self, which: str) -> dict[str, nn.Module]:
        """Attention layers that are read, by name."""

    @abstractmethod
    def tokenizers(self) -> list[tuple[Any, int]]:
        """Each tokenizer with the tokens that its encoder takes."""

    def map_tokenizer(self) -> tuple[Any, int]:
        """The tokenizer whose tokens come first in what the denoiser attends to."""
        return self.tokenizers()[0]

    @abstractmethod
    def encode_texts(self, texts: Sequence[str], device: torch.device) -> Captions:
        """Captions, cut to what the encoders take."""

    @abstractmethod
    def noised(self, latents: torch.Tensor, noise: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        """z_t of clean latents `(B, C, h, w)` at timesteps `(B,)`."""

    @abstractmethod
    def target(self, latents: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
        """What `predict` should give: the noise, or the velocity."""

    @abstractmethod
    def predict(self, noisy: torch.Tensor, t: torch.Tensor, captions: Captions) -> torch.Tensor:
        """The prediction, float32 `(B, C, h, w)`."""

    def encode_pictures(self, pictures: torch.Tensor) -> torch.Tensor:
        """Latents, float32 `(B, C, h, w)`, of pictures `(B, 3, H, W)` in [-1, 1]: the mode of the posterior."""
        vae = self.parts.vae
        with self._wide_enough(vae):
            latents = vae.encode(pictures.to(vae.dtype)).latent_dist.mode().float()
        return (latents - (vae.config.shift_factor or 0.0)) * vae.config.scaling_factor

    def _wide_enough(self, vae: Any) -> AbstractContextManager:
        """For the time of the block the VAE has the precision that it needs; most need none beyond their own."""
        return nullcontext()


class UNetDenoiser(Denoiser):
    """Stable Diffusion 1.x, 2.x and what is shaped like them, and SDXL with its added conditions."""

    def __init__(self, parts: Any):
        super().__init__(parts)
        self.model: UNet2DConditionModel = parts.unet
        self.kind = parts.scheduler.config.get("prediction_type", "epsilon")
        if self.kind not in ("epsilon", "v_prediction"):
            raise ValueError(
                f"scheduler has prediction_type={self.kind!r}; allowed are epsilon and v_prediction, the only ones "
                "whose error is one of noise"
            )
        alphas = getattr(parts.scheduler, "alphas_cumprod", None)
        if alphas is None:
            raise ValueError(
                f"scheduler {type(parts.scheduler).__name__} has no alphas_cumprod, which a UNet's noising needs"
            )
        config = self.model.config
        text = config.encoder_hid_dim_type is None and config.class_embed_type is None
        if not text or config.in_channels != config.out_channels or config.num_class_embeds is not None:
            raise ValueError(
                f"base: this UNet takes more than a noisy picture and a text (in_channels={config.in_channels}, "
                f"out_channels={config.out_channels}, class_embed_type={config.class_embed_type!r}, "
                f"encoder_hid_dim_type={config.encoder_hid_dim_type!r})"
            )
        self.alphas = alphas.float()
        self.train_steps = len(alphas)
        self.added = config.addition_embed_type == "text_time"
        if config.addition_embed_type not in (None, "text_time"):
            raise ValueError(f"base: addition_embed_type {config.addition_embed_type!r} is neither SD's nor SDXL's")
        self.multiple = self.factor * 2 ** (len(config.block_out_channels) - 1)

    @contextmanager
    def _wide_enough(self, vae: Any) -> Iterator[None]:
        # SDXL's VAE overflows in float16; its config says so, as does every other VAE's, whose default that is.
        narrow = self.added and vae.dtype == torch.float16 and vae.config.force_upcast
        try:
            yield vae.to(torch.float32) if narrow else None
        finally:
            if narrow:
                vae.to(torch.float16)

    def sites(self, which: str) -> dict[str, nn.Module]:
        return cross_sites(self.model, which)

    def tokenizers(self) -> list[tuple[Any, int]]:
        both = [self.parts.tokenizer, *([self.parts.tokenizer_2] if self.added else [])]
        return [(tokenizer, tokenizer.model_max_length) for tokenizer in both]

    def encode_texts(self, texts: Sequence[str], device: torch.device) -> Captions:
        encode = texts_of.encode_two_clips if self.added else texts_of.encode_clip
        return encode(self.parts, texts, device)

    def _mix(self, t: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """√ᾱ and √(1-ᾱ), `(B, 1, 1, 1)`."""
        alpha = self.alphas.to(t.device)[t].view(-1, 1, 1, 1)
        return alpha.sqrt(), (1 - alpha).sqrt()

    def noised(self, latents: torch.Tensor, noise: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        signal, spread = self._mix(t)
        return signal * latents + spread * noise

    def target(self, latents: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
        return noise

    def predict(self, noisy: torch.Tensor, t: torch.Tensor, captions: Captions) -> torch.Tensor:
        dtype, added = self.model.dtype, None
        if self.added:
            height, width = (side * self.factor for side in noisy.shape[-2:])
            ids = torch.tensor([[height, width, 0, 0, height, width]], device=noisy.device, dtype=dtype)
            added = {"text_embeds": captions.pooled.to(dtype), "time_ids": ids.expand(len(noisy), -1)}
        out = self.model(
            noisy.to(dtype), t, captions.embeds.to(dtype), added_cond_kwargs=added
        ).sample.float()  # fmt: skip
        if self.kind == "epsilon":
            return out
        signal, spread = self._mix(t)
        return signal * out + spread * noisy


class FlowDenoiser(Denoiser):
    """SD3 and Flux: a flow-matching transformer."""

    def __init__(self, parts: Any):
        super().__init__(parts)
        self.model = parts.transformer
        self.family = "flux" if isinstance(self.model, FluxTransformer2DModel) else "sd3"
        if not isinstance(self.model, FluxTransformer2DModel | SD3Transformer2DModel):
            raise ValueError(
                f"base: {type(self.model).__name__} is no transformer of SD3 or Flux, whose joint blocks are read"
            )
        self.train_steps = parts.scheduler.config.num_train_timesteps
        self.patch = 2 if self.family == "flux" else self.model.config.patch_size
        self.multiple = self.factor * self.patch

    def sites(self, which: str) -> dict[str, nn.Module]:
        return joint_sites(self.model)

    def tokenizers(self) -> list[tuple[Any, int]]:
        parts, clips, length = self.parts, [self.parts.tokenizer], T5_LENGTHS[self.family]
        if self.family == "sd3":
            clips.append(parts.tokenizer_2)
        t5 = parts.tokenizer_2 if self.family == "flux" else parts.tokenizer_3
        return [(one, one.model_max_length) for one in clips] + ([] if t5 is None else [(t5, length)])

    def map_tokenizer(self) -> tuple[Any, int]:
        return self.tokenizers()[-1 if self.family == "flux" else 0]

    def encode_texts(self, texts: Sequence[str], device: torch.device) -> Captions:
        encode = texts_of.encode_flux if self.family == "flux" else texts_of.encode_sd3
        return encode(self.parts, texts, device, T5_LENGTHS[self.family])

    def _sigma(self, t: torch.Tensor) -> torch.Tensor:
        return (t.float() + 1) / self.train_steps

    def noised(self, latents: torch.Tensor, noise: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        sigma = self._sigma(t).view(-1, 1, 1, 1)
        return (1 - sigma) * latents + sigma * noise

    def target(self, latents: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
        return noise - latents

    def predict(self, noisy: torch.Tensor, t: torch.Tensor, captions: Captions) -> torch.Tensor:
        dtype, sigma = self.model.dtype, self._sigma(t)
        given = {
            "encoder_hidden_states": captions.embeds.to(dtype),
            "pooled_projections": captions.pooled.to(dtype),
        }
        if self.family == "sd3":
            return self.model(noisy.to(dtype), timestep=sigma * self.train_steps, **given).sample.float()
        height, width = (side // 2 for side in noisy.shape[-2:])
        places = torch.zeros(height, width, 3, device=noisy.device, dtype=dtype)
        places[..., 1] = torch.arange(height, device=noisy.device)[:, None]
        places[..., 2] = torch.arange(width, device=noisy.device)[None]
        guided = self.model.config.guidance_embeds
        out = self.model(
            _packed(noisy).to(dtype),
            timestep=sigma,
            guidance=torch.ones_like(sigma) if guided else None,
            txt_ids=torch.zeros(captions.embeds.shape[1], 3, device=noisy.device, dtype=dtype),
            img_ids=places.flatten(0, 1),
            **given,
        ).sample
        return _unpacked(out.float(), height, width)


def _packed(latents: torch.Tensor) -> torch.Tensor:
    """Flux's tokens `(B, h/2 · w/2, 4C)` of latents `(B, C, h, w)`."""
    b, c, h, w = latents.shape
    return latents.view(b, c, h // 2, 2, w // 2, 2).permute(0, 2, 4, 1, 3, 5).reshape(b, h * w // 4, 4 * c)


def _unpacked(tokens: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """Undoes `_packed`; `height` and `width` in tokens."""
    b, _, c = tokens.shape
    grid = tokens.view(b, height, width, c // 4, 2, 2).permute(0, 3, 1, 4, 2, 5)
    return grid.reshape(b, c // 4, 2 * height, 2 * width)


def make_denoiser(parts: Any) -> Denoiser:
    """The family that the components of a pipeline belong to.

    Raises:
        ValueError: neither a UNet nor a transformer, or one that can't be read.
    """
    if parts.unet is None and parts.transformer is None:
        raise ValueError("base has neither a unet nor a transformer; Discffusion reads the attention of one")
    return UNetDenoiser(parts) if parts.unet is not None else FlowDenoiser(parts)
