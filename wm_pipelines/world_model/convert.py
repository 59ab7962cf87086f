"""AURORA's checkpoint, and others of latent diffusion's layout -> a folder of InstructPix2Pix. Offline; runs no code.

    wm convert aurora aurora.ckpt out/ --base instruct-pix2pix/

The averaged weights (`model_ema.*`) are taken, which the authors sample with. Configurations, tokenizer and scheduler
come from a folder of `StableDiffusionInstructPix2PixPipeline`. Key layout after CompVis/latent-diffusion (MIT).
"""

import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, SchedulerMixin, StableDiffusionInstructPix2PixPipeline, UNet2DConditionModel
from torch import nn

from wm_pipelines.hub.checking import read_config, translated
from wm_pipelines.hub.conversion import RESNET, fill, vae_source
from wm_pipelines.hub.stock import load_part
from wm_pipelines.hub.weights import read_torch_file
from wm_pipelines.runtime.claims import claimed_new_folder
from wm_pipelines.runtime.files import atomic_folder

_TOP = {
    "conv_in": "input_blocks.0.0",
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
    "mid_block.resnets.0": "middle_block.0",
    "mid_block.attentions.0": "middle_block.1",
    "mid_block.resnets.1": "middle_block.2",
}


def unet_source(name: str, up_blocks: Sequence[str], layers: int = 2) -> str:
    """The name that latent diffusion has for one parameter of `UNet2DConditionModel`.

    Args:
        up_blocks: types of the model's up blocks: where one attends, its upsampler comes third. layers: of each block.
    """
    for ours, theirs in _TOP.items():
        if name.startswith(f"{ours}."):
            return f"{theirs}{_inside(name.removeprefix(ours))}"
    side, block, part, rest = re.fullmatch(r"(down|up)_blocks\.(\d+)\.(\w+)\.(\d+\..+)", name).groups()
    number, _, rest = rest.partition(".")
    start = int(block) * (layers + 1)
    if part == "downsamplers":
        return f"input_blocks.{start + layers + 1}.0.op{rest.removeprefix('conv')}"
    if part == "upsamplers":
        place = 2 if "CrossAttn" in up_blocks[int(block)] else 1
        return f"output_blocks.{start + layers}.{place}.{rest}"
    blocks, first = ("input_blocks", start + 1) if side == "down" else ("output_blocks", start)
    return f"{blocks}.{first + int(number)}.{int(part == 'attentions')}{_inside(f'.{rest}')}"


def _inside(rest: str) -> str:
    first = rest.split(".")[1]
    return rest.replace(f".{first}", f".{RESNET[first]}", 1) if first in RESNET else rest


def averaged(name: str) -> str:
    """The name of the averaged copy of a parameter of `diffusion_model`: all dots are left out."""
    return f"diffusion_model{name}".replace(".", "")


def text_source(name: str) -> str:
    """The name of one parameter of `CLIPTextModel` behind `cond_stage_model.`."""
    return f"transformer.text_model.{name.removeprefix('text_model.')}"


def fill_parts(
    state: Mapping[str, torch.Tensor], unet: UNet2DConditionModel, vae: AutoencoderKL, text_encoder: nn.Module
) -> None:
    """Puts a checkpoint's tensors into three models, which may be on the meta device.

    Raises:
        ValueError: keys missing, left over or of another shape; no averaged weights, or a UNet of other channels.
    """
    if not any(name.startswith("model_ema.") for name in state):
        raise ValueError("checkpoint has no averaged weights (model_ema.*), which the authors sample with")
    up_blocks, layers = unet.config.up_block_types, unet.config.layers_per_block
    fill(
        unet, state, "model_ema.", lambda name: averaged(unet_source(name, up_blocks, layers)), r"(decay|num_updates)$"
    )
    levels = len(vae.config.block_out_channels)
    fill(vae, state, "first_stage_model.", lambda name: vae_source(name, levels), r"loss\.")
    fill(text_encoder, state, "cond_stage_model.", text_source, r".*position_ids$")


def convert(checkpoint: str | os.PathLike, base: str | os.PathLike, folder: str | os.PathLike) -> None:
    """Converts a checkpoint to a folder that `StableDiffusionInstructPix2PixPipeline` loads, whole or not at all.

    Args:
        checkpoint: torch file. base: folder with the configurations; its weights aren't read.

    Raises:
        ValueError: a folder that is not empty, a file that is none, or as `fill_parts`.
    """
    base = Path(base)
    with claimed_new_folder(folder) as target:
        if not (base / "model_index.json").is_file():
            raise ValueError(f"base {str(base)!r} is no folder of a pipeline: it has no model_index.json")
        pipeline = _pipeline(checkpoint, base)
        with atomic_folder(target, last="model_index.json") as partial:
            pipeline.save_pretrained(partial)


def _pipeline(checkpoint: str | os.PathLike, base: Path) -> StableDiffusionInstructPix2PixPipeline:
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

    with translated(base), torch.device("meta"):
        unet = UNet2DConditionModel.from_config(_config(base / "unet", "UNet2DConditionModel"))
        vae = AutoencoderKL.from_config(_config(base / "vae", "AutoencoderKL"))
        text_encoder = CLIPTextModel(load_part(CLIPTextConfig, base, subfolder="text_encoder"))
    tokenizer, scheduler = load_part(CLIPTokenizer, base, subfolder="tokenizer"), _scheduler(base)
    fill_parts(read_torch_file(checkpoint), unet, vae, text_encoder)
    return StableDiffusionInstructPix2PixPipeline(
        vae=vae.float(),
        text_encoder=text_encoder.float(),
        tokenizer=tokenizer,
        unet=unet.float(),
        scheduler=scheduler,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def _config(folder: Path, *kinds: str, name: str = "config.json") -> dict[str, Any]:
    config = read_config(folder / name)
    if config.get("_class_name") not in kinds:
        raise ValueError(f"{folder / name} is of {config.get('_class_name')!r}; allowed: {', '.join(kinds)}")
    return config


def _scheduler(base: Path) -> SchedulerMixin:
    from diffusers import EulerAncestralDiscreteScheduler
    from diffusers.schedulers import KarrasDiffusionSchedulers

    _config(base / "scheduler", *(kind.name for kind in KarrasDiffusionSchedulers), name="scheduler_config.json")
    return load_part(EulerAncestralDiscreteScheduler, base, subfolder="scheduler")
