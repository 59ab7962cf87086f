"""Uni-ControlNet's `uni.ckpt` -> a FlexEControlModel folder with preset "uni". Offline; runs no pickled code.

    wm convert uni-controlnet uni.ckpt out/

The file is a torch pickle of the whole model (about 6 GB); only the adapters' tensors are read. Key layout after
ShihaoZhaoZSH/Uni-ControlNet (MIT).
"""

import os
from collections.abc import Sequence
from typing import Any

import torch

from wm_pipelines.flexecontrol.modeling import FlexEControlModel
from wm_pipelines.hub.weights import read_torch_file
from wm_pipelines.media.conditions import TYPES, UNI_CONTROLNET_BACKGROUND
from wm_pipelines.runtime.claims import claimed_new_folder
from wm_pipelines.runtime.files import atomic_folder

# The UNet of Stable Diffusion 1.5, where it differs from the defaults of UNet2DConditionModel.
SD15_UNET = {"sample_size": 64, "cross_attention_dim": 768, "attention_head_dim": 8}

_RESNET = {"conv1": "in_layers.2", "time_emb_proj": "emb_layers.1", "conv2": "out_layers.3"}
_NORMS = {"norm1": "in_layers.0", "norm2": "out_layers.0"}


def source_name(name: str, layers_per_block: int = 2) -> str:
    """The key in `uni.ckpt` of one parameter of FlexEControlModel.

    Encoder blocks are numbered through in the source: 0 is conv_in, then the layers and the downsampler of each level.
    """
    if name.startswith("global_projection."):
        return "global_adapter." + name.removeprefix("global_projection.")
    if name.startswith("feature_extractor."):
        return "local_adapter." + name
    parts = name.split(".")
    head, rest = parts[0], ".".join(parts[1:])
    if head == "zero_convs":
        return f"local_adapter.zero_convs.{parts[1]}.0.{parts[2]}"
    if head == "zero_conv_mid":
        return f"local_adapter.middle_block_out.0.{rest}"
    if head == "conv_in":
        return f"local_adapter.input_blocks.0.0.{rest}"
    if head == "time_embedding":
        return "local_adapter.time_embed." + rest.replace("linear_1", "0").replace("linear_2", "2")
    if head == "mid_block":
        kind, index, rest = parts[1], int(parts[2]), ".".join(parts[3:])
        if kind == "attentions":
            return f"local_adapter.middle_block.1.{rest}"
        return f"local_adapter.middle_block.{2 * index}.{_resnet_name(rest)}"
    if head != "down_blocks":
        raise ValueError(f"no Uni-ControlNet key for {name!r}")
    level, kind, index, rest = int(parts[1]), parts[2], int(parts[3]), ".".join(parts[4:])
    first = 1 + level * (layers_per_block + 1)
    if kind == "downsamplers":
        return f"local_adapter.input_blocks.{first + layers_per_block}.0.{rest.replace('conv', 'op')}"
    if kind == "attentions":
        return f"local_adapter.input_blocks.{first + index}.1.{rest}"
    return f"local_adapter.input_blocks.{first + index}.0.{_resnet_name(rest)}"


def _resnet_name(rest: str) -> str:
    module, _, leaf = rest.partition(".")
    if leaf.startswith("conv_"):  # feature denormalisation
        return {"norm1": "norm_in", "norm2": "norm_out"}[module] + "." + leaf
    return {**_RESNET, **_NORMS, "conv_shortcut": "skip_connection"}[module] + "." + leaf


def read_adapters(path: str | os.PathLike) -> dict[str, torch.Tensor]:
    """The tensors of a checkpoint whose keys begin with `local_adapter.` or `global_adapter.`.

    Raises:
        ValueError: no such file, not a torch file, something in it other than tensors, or no such keys.
    """
    prefixes = ("local_adapter.", "global_adapter.")
    adapters = {name: tensor for name, tensor in read_torch_file(path).items() if name.startswith(prefixes)}
    if not any(k.startswith("local_adapter.") for k in adapters):
        raise ValueError(f"checkpoint {str(path)!r} has no key beginning with 'local_adapter.'")
    return adapters


def to_model(
    adapters: dict[str, torch.Tensor],
    types: Sequence[str] = TYPES,
    unet_config: dict[str, Any] | None = None,
    **sizes: Any,
) -> FlexEControlModel:
    """A model that holds the source's tensors themselves (nothing is copied or cast).

    Args:
        adapters: from `read_adapters`. types: what its slots mean, in order.
        unet_config: the base's; Stable Diffusion 1.5 by default. sizes: `condition_stride`, `feature_channels`,
            `pre_channels`, ... where they differ from Stable Diffusion's.

    Raises:
        ValueError: another number of types, or keys missing, left over or of another shape, named.
    """
    first = adapters.get("local_adapter.feature_extractor.pre_extractor.0.weight")
    if first is not None and first.shape[1] != 3 * len(types):
        raise ValueError(
            f"checkpoint has {first.shape[1] // 3} condition types, model has {len(types)}: pass types=[...]"
        )
    with_global = any(k.startswith("global_adapter.") for k in adapters)
    if with_global:
        sizes.setdefault("global_embed_dim", adapters["global_adapter.norm1.weight"].shape[0])
    with torch.device("meta"):
        model = FlexEControlModel(
            unet_config=dict(unet_config or SD15_UNET),
            preset="uni",
            types=list(types),
            backgrounds=[UNI_CONTROLNET_BACKGROUND.get(t, 0.0) for t in types],
            global_adapter=with_global,
            **sizes,
        )
    layers = model.config.unet_config.get("layers_per_block", 2)
    wanted = {name: source_name(name, layers) for name in model.state_dict()}
    missing = sorted(set(wanted.values()) - set(adapters))
    extra = sorted(set(adapters) - set(wanted.values()))
    if missing or extra:
        raise ValueError(
            f"checkpoint lacks {len(missing)} keys {missing[:3]} and has {len(extra)} that have no place {extra[:3]}"
        )
    for name, p in model.state_dict().items():
        if adapters[wanted[name]].shape != p.shape:
            raise ValueError(
                f"{wanted[name]} has shape {tuple(adapters[wanted[name]].shape)}; this base needs {tuple(p.shape)}"
            )
    model.load_state_dict({name: adapters[source] for name, source in wanted.items()}, assign=True)
    return model.eval()


def convert(
    checkpoint: str | os.PathLike,
    folder: str | os.PathLike,
    types: Sequence[str] = TYPES,
    dtype: torch.dtype = torch.float16,
    **options: Any,
) -> FlexEControlModel:
    """Convert a checkpoint to a model folder, written whole or not at all; `options` as in `to_model`.

    Raises:
        ValueError: as `read_adapters` and `to_model`, or a folder that is not empty.
    """
    with claimed_new_folder(folder) as target:
        model = to_model(read_adapters(checkpoint), types, **options).to(dtype)
        with atomic_folder(target) as partial:
            model.save_pretrained(partial)
    return model
