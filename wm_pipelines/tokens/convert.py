"""VQGANs of taming-transformers' layout, Meta's of Chameleon among them -> a `VQModel` folder. Offline; runs no code.

    wm convert vqgan vqgan.ckpt out/ --config vqgan.yaml
    wm convert vqgan Anole-7b-v0.1-hf/ out/ --prefix model.vqmodel.

Chameleon, Anole and Liquid share one VQGAN, whose architecture is the default. transformers' `ChameleonVQVAE` has the
same names without a decoder. Key layout after CompVis/taming-transformers (MIT).
"""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from diffusers import VQModel

from wm_pipelines.hub.conversion import fill, vae_source
from wm_pipelines.hub.weights import read_torch_file
from wm_pipelines.runtime.claims import claimed_new_folder
from wm_pipelines.runtime.files import atomic_folder
from wm_pipelines.runtime.readers import located, read_yaml

META = {
    "block_out_channels": [128, 128, 256, 256, 512],
    "down_block_types": ["DownEncoderBlock2D"] * 5,
    "up_block_types": ["UpDecoderBlock2D"] * 5,
    "layers_per_block": 2,
    "latent_channels": 256,
    "vq_embed_dim": 256,
    "num_vq_embeddings": 8192,
    "norm_num_groups": 32,
    "sample_size": 512,
}
"""What `VQModel` is made of for the VQGAN of Chameleon: 512x512 pixels are 32x32 codes."""

# What taming's configuration says that changes nothing here, and what it may say only in one way.
_TRAINING = {"dropout", "lossconfig", "ckpt_path", "ignore_keys", "image_key", "monitor", "colorize_nlabels"}
_FIXED = {"double_z": False, "resamp_with_conv": True, "remap": None, "use_linear_attn": False, "attn_type": "vanilla"}
_SIZES = ("ch", "num_res_blocks", "in_channels", "out_ch", "z_channels", "resolution", "embed_dim", "n_embed")
_KNOWN = {*_SIZES, "ch_mult", "attn_resolutions", "sane_index_shape"} | _TRAINING | set(_FIXED)


def read_config(path: str | os.PathLike) -> dict[str, Any]:
    """Arguments of `VQModel` from a `vqgan.yaml`.

    Raises:
        ValueError: no such file, an entry missing, unknown, or one that `VQModel` can't follow; names it.
    """
    config = read_yaml(path)
    try:
        given = {**config["model"]["params"], **config["model"]["params"]["ddconfig"]}
    except (TypeError, KeyError):
        raise ValueError(f"{path} is no VQGAN configuration: it has no model.params.ddconfig") from None
    del given["ddconfig"]
    with located(path):
        _check(given)
    levels = range(len(given["ch_mult"]))
    attends = [given["resolution"] // 2**level in given.get("attn_resolutions", ()) for level in levels]
    return {
        "in_channels": given["in_channels"],
        "out_channels": given["out_ch"],
        "block_out_channels": [given["ch"] * factor for factor in given["ch_mult"]],
        "down_block_types": [f"{'Attn' * with_attention}DownEncoderBlock2D" for with_attention in attends],
        "up_block_types": [f"{'Attn' * with_attention}UpDecoderBlock2D" for with_attention in reversed(attends)],
        "layers_per_block": given["num_res_blocks"],
        "latent_channels": given["z_channels"],
        "vq_embed_dim": given["embed_dim"],
        "num_vq_embeddings": given["n_embed"],
        "norm_num_groups": 32,
        "sample_size": given["resolution"],
    }


def _check(given: Mapping[str, Any]) -> None:
    missing = [name for name in (*_SIZES, "ch_mult") if name not in given]
    unknown = sorted(set(given) - _KNOWN)
    if missing or unknown:
        raise ValueError(f"lacks {missing} and has {unknown}, which no VQGAN of this layout has")
    for name, value in _FIXED.items():
        if given.get(name, value) != value:
            raise ValueError(f"{name} is {given[name]!r}; VQModel has {value!r}")
    for name in (*_SIZES, "ch_mult", "attn_resolutions"):
        value = given.get(name, [])
        sizes = [value] if name in _SIZES else value
        if not isinstance(sizes, list) or not all(type(size) is int and size > 0 for size in sizes):
            raise ValueError(f"{name} is {value!r}; sizes are integers above 0")
    if given["ch_mult"][:1] != [1]:
        raise ValueError(f"ch_mult is {given['ch_mult']}; it must begin with 1, as VQModel's first level does")


def read_checkpoint(path: str | os.PathLike, prefix: str = "") -> dict[str, torch.Tensor]:
    """The tensors of a torch file, a safetensors file or a folder of such, whose names begin with `prefix`.

    Raises:
        ValueError: no such file, no tensors in it, or something else than tensors and plain values.
    """
    from safetensors import SafetensorError, safe_open

    path = Path(path)
    files = sorted(path.glob("*.safetensors")) if path.is_dir() else [path]
    if path.is_dir() or path.suffix == ".safetensors":
        state = {}
        for file in files:
            try:
                with safe_open(file, "pt") as tensors:
                    state |= {name: tensors.get_tensor(name) for name in tensors.keys() if name.startswith(prefix)}
            except (OSError, SafetensorError) as error:
                raise ValueError(f"checkpoint {str(file)!r} is not a safetensors file: {error}") from None
    else:
        state = {name: value for name, value in read_torch_file(path).items() if name.startswith(prefix)}
    if not state:
        raise ValueError(f"checkpoint {str(path)!r} has no tensor whose name begins with {prefix!r}")
    return state


def to_vqmodel(
    state: Mapping[str, torch.Tensor], config: Mapping[str, Any] | None = None, prefix: str = ""
) -> VQModel:
    """A frozen model of the source's tensors; the part that training alone needs (`loss.*`) is left out.

    Args:
        config: of `VQModel`; `META` by default. prefix: of the names in `state`.

    Raises:
        ValueError: keys missing, left over or of another shape, named.
    """
    with torch.device("meta"):
        vq = VQModel(**(META if config is None else config))
    levels = len(vq.config.block_out_channels)
    fill(vq, state, prefix, lambda name: vae_source(name, levels), spare=r"loss\.")
    return vq


def convert(
    checkpoint: str | os.PathLike,
    folder: str | os.PathLike,
    config: Mapping[str, Any] | None = None,
    prefix: str = "",
) -> VQModel:
    """Convert a checkpoint to a folder that `VQModel` loads, in float32, written whole or not at all.

    Args:
        checkpoint: as for `read_checkpoint`. config: as for `to_vqmodel`; `read_config` reads one.

    Raises:
        ValueError: as `read_checkpoint` and `to_vqmodel`, or a folder that is not empty.
    """
    with claimed_new_folder(folder) as target:
        vq = to_vqmodel(read_checkpoint(checkpoint, prefix), config, prefix).float()
        with atomic_folder(target) as partial:
            vq.save_pretrained(partial)
    return vq
