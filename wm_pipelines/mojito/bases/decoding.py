"""Latents to frames, as the stock pipeline of each family does at its end: for blocks, which decode apart."""

from collections.abc import Callable
from typing import Any

import torch
from diffusers.utils.torch_utils import randn_tensor

from wm_pipelines.mojito.bases.calls import StockCall


def decoded(call: StockCall, latents: torch.Tensor, num_frames: int, output_type: str) -> Any:
    """The frames that the stock pipeline gives for its own last `latents`, bit for bit.

    Args:
        call: that made the latents; what it says about decoding (chunks, LTX's noise) holds.
        latents: as the stock pipeline gives them under `output_type="latent"`. num_frames: of the clip.
        output_type: "pil", "np", "pt" or "latent", which changes nothing.
    """
    if output_type == "latent":
        return latents
    video = _DECODERS[call.family.name](call, latents, num_frames)
    return call.stock.video_processor.postprocess_video(video=video, output_type=output_type)


def _in_chunks(call: StockCall, latents: torch.Tensor, num_frames: int) -> torch.Tensor:
    return call.stock.decode_latents(latents, call.value("decode_chunk_size"))


def _at_once(call: StockCall, latents: torch.Tensor, num_frames: int) -> torch.Tensor:
    return call.stock.decode_latents(latents)


def _latte(call: StockCall, latents: torch.Tensor, num_frames: int) -> torch.Tensor:
    return call.stock.decode_latents(latents, num_frames, decode_chunk_size=call.value("decode_chunk_size"))


def _wan(call: StockCall, latents: torch.Tensor, num_frames: int) -> torch.Tensor:
    vae = call.stock.vae
    latents = latents.to(call.stock._execution_device, vae.dtype)
    mean, std = (
        torch.tensor(values).view(1, vae.config.z_dim, 1, 1, 1)
        for values in (vae.config.latents_mean, vae.config.latents_std)
    )
    # divided by the inverse, as there: a product differs in the last digit
    return vae.decode(latents / (1.0 / std).to(latents) + mean.to(latents), return_dict=False)[0]


def _ltx(call: StockCall, latents: torch.Tensor, num_frames: int) -> torch.Tensor:
    stock, vae = call.stock, call.stock.vae
    frames, rows, columns = call.latent_form(num_frames).shape
    latents = stock._unpack_latents(
        latents, frames, rows, columns, stock.transformer_spatial_patch_size, stock.transformer_temporal_patch_size
    )
    latents = stock._denormalize_latents(latents, vae.latents_mean, vae.latents_std, vae.config.scaling_factor)
    embeds = call.options.get("prompt_embeds")
    latents, timestep = latents.to(stock.text_encoder.dtype if embeds is None else embeds.dtype), None
    if vae.config.timestep_conditioning:
        noise = randn_tensor(
            latents.shape, generator=call.options.get("generator"), device=latents.device, dtype=latents.dtype
        )
        at, share = call.value("decode_timestep"), call.value("decode_noise_scale")
        timestep, share = (
            torch.tensor(x if isinstance(x, list) else [x] * len(latents)).to(latents)
            for x in (at, at if share is None else share)
        )
        share = share.view(-1, 1, 1, 1, 1)
        latents = (1 - share) * latents + share * noise
    return vae.decode(latents.to(vae.dtype), timestep, return_dict=False)[0]


def _cogvideox(call: StockCall, latents: torch.Tensor, num_frames: int) -> torch.Tensor:
    joined = (
        call.denoiser.config.get("patch_size_t") or 1
    )  # 1.5 begins with latent frames that fill up the first token
    added = -((num_frames - 1) // call.stride + 1) % joined
    return call.stock.decode_latents(latents[:, added:])


_DECODERS: dict[str, Callable[[StockCall, torch.Tensor, int], torch.Tensor]] = {
    "animatediff": _in_chunks,
    "text-to-video": _at_once,
    "latte": _latte,
    "wan": _wan,
    "ltx": _ltx,
    "cogvideox": _cogvideox,
}
