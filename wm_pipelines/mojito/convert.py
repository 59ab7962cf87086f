"""VideoCrafter2's `model.ckpt` -> a MojitoPipeline folder of stock diffusers parts. Offline; runs no pickled code.

    wm convert videocrafter2 model.ckpt clip_tokenizer/ out/

The file is a torch pickle of the whole model: UNet, OpenCLIP ViT-H text encoder, VAE. A tokenizer is not in it; any
CLIP tokenizer's folder serves (`tokenizer/` of a Stable Diffusion). Key layout after AILab-CVC/VideoCrafter.
"""

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from diffusers import AutoencoderKL, UNet3DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from wm_pipelines.hub.conversion import RESNET, fill, vae_source
from wm_pipelines.hub.stock import load_part
from wm_pipelines.hub.weights import read_torch_file, save_half
from wm_pipelines.mojito.videocrafter import FpsEmbedding, VideoCrafterDDIMScheduler
from wm_pipelines.runtime.claims import claimed_new_folder
from wm_pipelines.runtime.files import atomic_folder

if TYPE_CHECKING:
    from wm_pipelines.mojito.pipeline import MojitoPipeline

# Where the parts differ from the defaults of their classes. OpenCLIP's last layer is left out: the UNet was trained on
# the state before it, through the final norm.
UNET = {"sample_size": [40, 64], "cross_attention_dim": 1024}
VAE = {
    "block_out_channels": [128, 256, 512, 512],
    "down_block_types": ["DownEncoderBlock2D"] * 4,
    "up_block_types": ["UpDecoderBlock2D"] * 4,
    "layers_per_block": 2,
    "sample_size": 512,
}
TEXT = {
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_hidden_layers": 23,
    "num_attention_heads": 16,
    "hidden_act": "gelu",
    "projection_dim": 1024,
}
SCHEDULER = {
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "clip_sample": False,
    "set_alpha_to_one": False,
    "steps_offset": 1,
}
UNET_PREFIX, VAE_PREFIX, TEXT_PREFIX = "model.diffusion_model.", "first_stage_model.", "cond_stage_model.model."

_ENDS = {
    "conv_in": "input_blocks.0.0",
    "transformer_in": "init_attn.0",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
}
_FPS = {"linear_1": "fps_embedding.0", "linear_2": "fps_embedding.2"}
_ATTENTIONS = {"attentions": 1, "temp_attentions": 2}


def unet_source(name: str, layers_per_block: int = 2) -> str:
    """VideoCrafter2's name of one parameter of `UNet3DConditionModel`.

    The source numbers the blocks of each half through: an input block is a layer or a downsampler, an output block a
    layer with the upsampler behind it.
    """
    for ours, theirs in _ENDS.items():
        if name.startswith(f"{ours}."):
            return theirs + name.removeprefix(ours)
    found = re.fullmatch(r"(mid_block|(?:down|up)_blocks\.(\d+))\.(\w+)\.(\d+)\.(.+)", name)
    if found is None:
        raise ValueError(f"no VideoCrafter2 key for {name!r}")
    part, level, kind, index, rest = found[1], int(found[2] or 0), found[3], int(found[4]), found[5]
    layers = layers_per_block + 1
    if kind == "downsamplers":
        return f"input_blocks.{1 + level * layers + layers_per_block}.0.{rest.replace('conv', 'op', 1)}"
    if kind == "upsamplers":  # behind the attentions of its block; the deepest has none
        return f"output_blocks.{level * layers + layers_per_block}.{1 if level == 0 else 3}.{rest}"
    if part == "mid_block":
        block = f"middle_block.{_ATTENTIONS.get(kind, 3 * index)}"
    else:
        number = 1 + level * layers + index if part.startswith("down") else level * layers + index
        block = f"{'input' if part.startswith('down') else 'output'}_blocks.{number}.{_ATTENTIONS.get(kind, 0)}"
    if kind == "resnets":
        module, _, leaf = rest.partition(".")
        rest = f"{RESNET[module]}.{leaf}"
    elif kind == "temp_convs":
        rest = f"temopral_conv.{rest}"  # their spelling
    return f"{block}.{rest}"


def fps_source(name: str) -> str:
    """VideoCrafter2's name of one parameter of `FpsEmbedding`."""
    module, _, leaf = name.partition(".")
    return f"{_FPS[module]}.{leaf}"


def text_source(name: str) -> tuple[str, int | None]:
    """OpenCLIP's name of one parameter of `CLIPTextModel`, and which third of it where it stacks q, k and v."""
    name = name.removeprefix("text_model.")
    for ours, theirs in {
        "embeddings.token_embedding": "token_embedding",
        "embeddings.position_embedding.weight": "positional_embedding",
        "encoder.layers": "transformer.resblocks",
        "final_layer_norm": "ln_final",
        "layer_norm": "ln_",
        "mlp.fc1": "mlp.c_fc",
        "mlp.fc2": "mlp.c_proj",
        "self_attn": "attn",
    }.items():
        name = name.replace(ours, theirs)
    found = re.fullmatch(r"(.*)\.([qkv])_proj\.(\w+)", name)
    return (name, None) if found is None else (f"{found[1]}.in_proj_{found[3]}", "qkv".index(found[2]))


def to_unet(
    state: Mapping[str, torch.Tensor], config: Mapping[str, Any] | None = None
) -> tuple[UNet3DConditionModel, FpsEmbedding]:
    """The UNet and its frame rate; nothing is copied or cast.

    Args:
        config: of `UNet3DConditionModel`; VideoCrafter2's by default.

    Raises:
        ValueError: keys missing, left over or of another shape, named.
    """
    with torch.device("meta"):
        unet = UNet3DConditionModel(**(UNET if config is None else config))
        width = unet.config.block_out_channels[0]
        fps = FpsEmbedding(width, 4 * width)
    fill(fps, state, UNET_PREFIX, fps_source, spare="(?!fps_embedding)")
    layers = unet.config.layers_per_block
    fill(unet, state, UNET_PREFIX, lambda name: unet_source(name, layers), spare="fps_embedding")
    return unet, fps


def to_vae(state: Mapping[str, torch.Tensor], config: Mapping[str, Any] | None = None) -> AutoencoderKL:
    """The VAE, that of Stable Diffusion by default; raises as `to_unet`."""
    config = VAE if config is None else config
    with torch.device("meta"):
        vae = AutoencoderKL(**config)
    fill(vae, state, VAE_PREFIX, lambda name: vae_source(name, len(config["block_out_channels"])), spare="loss")
    return vae


def to_text_encoder(state: Mapping[str, torch.Tensor], config: Mapping[str, Any] | None = None) -> CLIPTextModel:
    """The text encoder without OpenCLIP's last layer and projection; raises as `to_unet`."""
    config = CLIPTextConfig(**(TEXT if config is None else config))
    text_encoder = CLIPTextModel(config)  # on the meta device its position buffer would stay there
    spare = rf"transformer\.resblocks\.{config.num_hidden_layers}\.|text_projection|logit_scale|attn_mask"
    fill(text_encoder, state, TEXT_PREFIX, text_source, spare)
    return text_encoder


def convert(
    checkpoint: str | os.PathLike,
    tokenizer: str | os.PathLike,
    folder: str | os.PathLike,
    configs: Mapping[str, Mapping[str, Any]] | None = None,
) -> Path:
    """Convert a checkpoint to a folder that `MojitoPipeline` loads, in fp16, written whole or not at all.

    Args:
        tokenizer: folder of a CLIP tokenizer; it is made to pad with "!", token 0, as OpenCLIP does.
        configs: of "unet", "vae" and "text", where they differ from VideoCrafter2's.

    Raises:
        ValueError: as `read_torch_file` and `to_unet`, no tokenizer, or a folder that is not empty.
    """
    with claimed_new_folder(folder) as target:
        if not (Path(tokenizer) / "tokenizer_config.json").is_file():
            raise ValueError(f"tokenizer {str(tokenizer)!r} is no folder with a tokenizer_config.json")
        words = load_part(CLIPTokenizer, tokenizer, pad_token="!")
        pipe = _pipeline(checkpoint, words, configs or {})
        with atomic_folder(target) as partial:
            pipe.save_pretrained(partial)
            save_half(pipe.text_encoder, partial / "text_encoder")
    return target


def _pipeline(
    checkpoint: str | os.PathLike, tokenizer: CLIPTokenizer, configs: Mapping[str, Mapping[str, Any]]
) -> "MojitoPipeline":
    from wm_pipelines.mojito.pipeline import MojitoPipeline

    state = read_torch_file(checkpoint)
    if not any(name.startswith(UNET_PREFIX) for name in state):
        raise ValueError(f"checkpoint {str(checkpoint)!r} has no key beginning with {UNET_PREFIX!r}")
    unet, fps = to_unet(state, configs.get("unet"))
    return MojitoPipeline(
        unet=unet.half(),
        fps_embedding=fps.half(),
        vae=to_vae(state, configs.get("vae")).half(),
        text_encoder=to_text_encoder(state, configs.get("text")),
        tokenizer=tokenizer,
        scheduler=VideoCrafterDDIMScheduler(**SCHEDULER),
    )
