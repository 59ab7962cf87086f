"""A motion adapter of the user's under a loaded pipeline: AnimateDiff's, as diffusers or its authors keep it."""

import os
import re
import warnings
from pathlib import Path
from typing import Any

import torch
from diffusers import MotionAdapter, UNet2DConditionModel, UNetMotionModel

from wm_pipelines.config import WMConfig
from wm_pipelines.hub.stock import load_model
from wm_pipelines.mojito.pipeline import MojitoPipeline
from wm_pipelines.runtime.tensors import read_tensors

_RENAMED = {
    ".norms.0": ".norm1",
    ".norms.1": ".norm2",
    ".ff_norm": ".norm3",
    ".attention_blocks.0": ".attn1",
    ".attention_blocks.1": ".attn2",
    ".temporal_transformer": "",
}


def read_motion_adapter(source: str | os.PathLike, dtype: torch.dtype | None = None) -> MotionAdapter:
    """A motion adapter from a folder as diffusers keeps it, or from one file as AnimateDiff publishes it.

    Args:
        source: folder with `config.json`, or a `.safetensors` file with names such as
            `down_blocks.0.motion_modules.0.temporal_transformer…`; sizes are read off its tensors.
        dtype: of the weights; that of the file when None.

    Raises:
        ValueError: it is no such adapter, tensors are missing or left over, or the file is damaged.
    """
    source = Path(source)
    if source.is_dir():
        return load_model(MotionAdapter, source, **({} if dtype is None else {"dtype": dtype}))
    state = read_tensors(source)
    lengths = {tensor.shape[1] for key, tensor in state.items() if "pos_encoder" in key and tensor.dim() == 3}
    named: dict[str, torch.Tensor] = {}
    for key, tensor in state.items():
        if "pos_encoder" not in key:
            named[_renamed(key)] = tensor
    widths = [named.get(f"down_blocks.{n}.motion_modules.0.norm.weight") for n in range(16)]
    levels = [len(width) for width in widths if width is not None]
    if not levels or len(lengths) != 1:
        raise ValueError(
            f"{source.name} is no motion adapter of AnimateDiff; it has tensors such as {next(iter(state), '')!r}"
        )
    layers = {
        int(found[1]) for key in named if (found := re.match(r"down_blocks\.0\.motion_modules\.(\d{1,3})\.", key))
    }
    adapter = MotionAdapter(
        block_out_channels=tuple(levels),
        motion_layers_per_block=len(layers),
        motion_max_seq_length=lengths.pop(),
        use_motion_mid_block=any(key.startswith("mid_block.") for key in named),
    )
    own = adapter.state_dict()
    wrong = [key for key, tensor in named.items() if key not in own or own[key].shape != tensor.shape]
    lacking = [key for key in own if key not in named and "pos_embed" not in key]
    if wrong or lacking:
        raise ValueError(
            f"{source.name} does not fit AnimateDiff's motion adapter: {len(wrong)} tensors without a place, first "
            f"{wrong[:1]}, {len(lacking)} missing, first {lacking[:1]}"
        )
    adapter.load_state_dict(named, strict=False)  # the sines of positions are made, not read
    return adapter.to(dtype or next(iter(named.values())).dtype).eval()


def _renamed(key: str) -> str:
    for theirs, ours in _RENAMED.items():
        key = key.replace(theirs, ours)
    return key


def with_motion(pipeline: Any, adapter: MotionAdapter) -> MojitoPipeline:
    """A loaded pipeline with a motion adapter: a Mojito pipeline takes it in place of its own, one on Stable Diffusion
    makes pictures no more and becomes a Mojito pipeline of the same parts.

    Raises:
        ValueError: the pipeline has no UNet of Stable Diffusion, or the adapter is for another one.
    """
    unet = getattr(pipeline, "unet", None)
    if not isinstance(unet, UNet2DConditionModel | UNetMotionModel):
        raise ValueError(
            f"a motion adapter needs a pipeline with a UNet of Stable Diffusion, this is a {type(pipeline).__name__}"
        )
    widths, wanted = tuple(adapter.config.block_out_channels), tuple(unet.config.block_out_channels)
    if widths != wanted:
        raise ValueError(f"the motion adapter is for a UNet of widths {widths}; this pipeline's has {wanted}")
    adapter = adapter.to(unet.dtype).requires_grad_(False)
    if isinstance(unet, UNet2DConditionModel):
        parts = {name: getattr(pipeline, name) for name in ("vae", "text_encoder", "tokenizer", "scheduler")}
        made = MojitoPipeline(**parts, unet=unet, motion_adapter=adapter)
        record = getattr(pipeline, "wm_config", None)
        made.wm_config = WMConfig(
            method="mojito", pipeline=MojitoPipeline.__name__, vocabulary=record.vocabulary if record else None
        )
        return made
    try:
        unet.load_motion_modules(adapter)
    except (RuntimeError, AttributeError, IndexError) as error:
        raise ValueError(f"the motion adapter is built otherwise than this pipeline's: {str(error)[:300]}") from None
    pipeline.register_modules(motion_adapter=adapter)
    if pipeline.intensity is not None:
        warnings.warn(
            "the motion intensity was trained with another motion adapter; it may say less here", stacklevel=2
        )
    return pipeline
