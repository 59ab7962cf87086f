"""The base of a pipeline as ComfyUI's own MODEL, CLIP and VAE, with equal weights: for KSampler and what goes with it.

Core finds out what a checkpoint is by its sizes, and knows none as small as the miniature world's; here the sizes come
from the diffusers configuration. Imported when a node runs, for it needs ComfyUI's model code.
"""

import functools
from typing import Any

import comfy.latent_formats
import comfy.model_management
import comfy.model_patcher
import comfy.sd
import comfy.supported_models
import comfy.utils
import torch
from comfy import sd1_clip
from comfy.ldm.models.autoencoder import AutoencoderKL
from comfy.model_base import ModelType

PREDICTIONS = {"epsilon": ModelType.EPS, "v_prediction": ModelType.V_PREDICTION}
BETAS = {"scaled_linear": "linear", "linear": "sqrt_linear"}
"""Names of diffusers -> of core, whose own "linear" is linear in the square roots."""

DOWN = {"CrossAttnDownBlock2D": 1, "DownBlock2D": 0}
UP = {"CrossAttnUpBlock2D": 1, "UpBlock2D": 0}
OWN_GROUPS = 32
"""Of every norm as core builds it."""


def check_shape(pipeline: Any) -> None:
    """Refuse a base that is not shaped as Stable Diffusion 1.x and 2.x.

    Raises:
        ValueError: naming what differs.
    """
    unet, scheduler = getattr(pipeline, "unet", None), getattr(pipeline, "scheduler", None)
    if type(unet).__name__ != "UNet2DConditionModel" or type(pipeline.text_encoder).__name__ != "CLIPTextModel":
        raise ValueError(
            f"pipeline stands on {type(unet or getattr(pipeline, 'transformer', None)).__name__}; WM Native Base "
            "takes bases of the kind of Stable Diffusion 1.x and 2.x"
        )
    blocks = {*unet.config.down_block_types} - DOWN.keys() | {*unet.config.up_block_types} - UP.keys()
    if uneven := [width for width in unet.config.block_out_channels if width % OWN_GROUPS]:
        raise ValueError(f"the base has levels of {uneven[0]} channels; native models have multiples of {OWN_GROUPS}")
    for name, value, allowed in (
        ("blocks", sorted(blocks), [[]]),
        ("added embedding", unet.config.addition_embed_type or unet.config.class_embed_type, [None]),
        ("time scale and shift", unet.config.resnet_time_scale_shift, ["default"]),
        ("activation", unet.config.act_fn, ["silu"]),
        ("prediction", scheduler.config.prediction_type, list(PREDICTIONS)),
        ("betas", scheduler.config.beta_schedule, list(BETAS)),
    ):
        if value not in allowed:
            raise ValueError(f"the base's {name} is {value}; WM Native Base takes {allowed}")


def model_of(pipeline: Any) -> Any:
    """Patcher of a native UNet."""
    unet, scheduler = pipeline.unet, pipeline.scheduler

    class Config(comfy.supported_models.SD15):
        unet_extra_config = _heads(unet.config)

        def model_type(self, state_dict: dict, prefix: str = "") -> ModelType:
            return PREDICTIONS[scheduler.config.prediction_type]

    config = Config({**_sizes(unet.config), "dtype": torch.float32})
    config.sampling_settings |= {
        "beta_schedule": BETAS[scheduler.config.beta_schedule],
        "linear_start": scheduler.config.beta_start,
        "linear_end": scheduler.config.beta_end,
        "timesteps": scheduler.config.num_train_timesteps,
        "zsnr": bool(scheduler.config.get("rescale_betas_zero_snr")),
    }
    config.latent_format.scale_factor = pipeline.vae.config.scaling_factor
    native = config.get_model({}, device="cpu")
    names = comfy.utils.unet_to_diffusers(config.unet_config)
    found = unet.state_dict()
    if strange := sorted(set(found) - set(names))[:1]:
        raise ValueError(f"the base has the weight {strange[0]}, which Stable Diffusion 1.x and 2.x have not")
    native.diffusion_model.load_state_dict({names[name]: tensor.detach().clone() for name, tensor in found.items()})
    _grouped(native.diffusion_model, unet.config.norm_num_groups)
    return _patcher(native, comfy.model_management.unet_offload_device())


def clip_of(pipeline: Any) -> Any:
    """Native CLIP with the base's tokenizer."""
    config, tokenizer = pipeline.text_encoder.config, pipeline.tokenizer

    class Held:
        """The tokenizer in memory, where core reads one from a folder."""

        @staticmethod
        def from_pretrained(path: str, **_: Any) -> Any:
            return tokenizer

    sizes = ("hidden_act", "hidden_size", "intermediate_size", "num_attention_heads", "num_hidden_layers")
    read = {**{name: getattr(config, name) for name in sizes}, "max_position_embeddings": tokenizer.model_max_length}
    read |= {"eos_token_id": config.eos_token_id, "projection_dim": config.hidden_size}
    encoder = functools.partial(
        sd1_clip.SDClipModel,
        max_length=tokenizer.model_max_length,
        textmodel_json_config=read,
        special_tokens={
            "start": tokenizer.bos_token_id,
            "end": tokenizer.eos_token_id,
            "pad": tokenizer.pad_token_id,
        },
        return_projected_pooled=False,
    )
    words = functools.partial(
        sd1_clip.SDTokenizer,
        tokenizer_path="",
        max_length=tokenizer.model_max_length,
        embedding_size=config.hidden_size,
        tokenizer_class=Held,
    )

    class Target:
        params: dict = {}
        tokenizer = functools.partial(sd1_clip.SD1Tokenizer, tokenizer=words)
        clip = functools.partial(sd1_clip.SD1ClipModel, clip_model=encoder)

    clip = comfy.sd.CLIP(Target(), parameters=pipeline.text_encoder.num_parameters())
    native = clip.cond_stage_model.clip_l.transformer
    weights = {
        name if name.startswith("text_model.") else f"text_model.{name}": tensor.detach().clone()
        for name, tensor in pipeline.text_encoder.state_dict().items()
        if not name.endswith("position_ids")
    }
    embedding = native.text_model.embeddings.token_embedding
    table = weights["text_model.embeddings.token_embedding.weight"]
    embedding.num_embeddings, embedding.weight = len(table), torch.nn.Parameter(table, requires_grad=False)
    missing, unknown = native.load_state_dict(weights, strict=False)
    if unknown or set(missing) - {"text_projection.weight"}:
        raise ValueError(f"the base's text encoder does not fit core's: {[*unknown, *missing][0]}")
    clip.patcher.size = 0  # core measured the table that was there before
    return clip


class _Pictures(torch.nn.Module):
    """A diffusers VAE with the two methods that core calls."""

    def __init__(self, vae: torch.nn.Module) -> None:
        super().__init__()
        self.vae = vae

    def encode(self, pixels: torch.Tensor, **_: Any) -> torch.Tensor:
        return self.vae.encode(pixels).latent_dist.mode()

    def decode(self, latents: torch.Tensor, **_: Any) -> torch.Tensor:
        return self.vae.decode(latents).sample


def vae_of(pipeline: Any) -> Any:
    """Core's VAE around the base's own."""
    import copy

    small = {"double_z": True, "z_channels": 4, "resolution": 32, "in_channels": 3, "out_ch": 3, "ch": 32}
    small |= {"ch_mult": [1], "num_res_blocks": 1, "attn_resolutions": [], "dropout": 0.0}
    # core makes one of its own shapes, and warns where its weights are missing; ours takes its place
    sizes = {"ddconfig": small, "embed_dim": 4}
    vae = comfy.sd.VAE(sd=AutoencoderKL(**sizes).state_dict(), config={"params": sizes}, dtype=torch.float32)
    own = _Pictures(copy.deepcopy(pipeline.vae).float().eval().requires_grad_(False))
    vae.first_stage_model, vae.size = own, None
    vae.downscale_ratio = vae.upscale_ratio = 2 ** (len(pipeline.vae.config.block_out_channels) - 1)
    vae.latent_channels = pipeline.vae.config.latent_channels
    vae.patcher = _patcher(own, comfy.model_management.vae_offload_device(), vae.device)
    return vae


def _patcher(module: torch.nn.Module, offload: torch.device, device: torch.device | None = None) -> Any:
    return comfy.model_patcher.ModelPatcher(
        module, load_device=device or comfy.model_management.get_torch_device(), offload_device=offload
    )


def _grouped(network: torch.nn.Module, groups: int) -> None:
    """The base's own number in place of core's: weights are the same for any."""
    for module in network.modules():
        if isinstance(module, torch.nn.GroupNorm):
            module.num_groups = groups


def _heads(config: Any) -> dict[str, int]:
    """Attention heads as core counts them: a number for all levels, or channels of each.

    Raises:
        ValueError: neither is the same at all levels.
    """
    given = config.num_attention_heads or config.attention_head_dim  # diffusers' second name is of the number, too
    if isinstance(given, int):
        return {"num_heads": given, "num_head_channels": -1}
    channels = {width // heads for width, heads in zip(config.block_out_channels, given, strict=True)}
    if len(channels) > 1:
        raise ValueError(
            f"the base's attention heads have {sorted(channels)} channels; WM Native Base takes one width"
        )
    return {"num_heads": -1, "num_head_channels": channels.pop()}


class _Times(float):
    """A factor of core's on its first width; core takes whole ones, and 64 x 1.5 is 96 channels too."""

    def __mul__(self, width: int) -> int:
        return round(float(self) * width)

    __rmul__ = __mul__


def _sizes(config: Any) -> dict[str, Any]:
    """A diffusers UNet's sizes in core's words."""
    first, levels = config.block_out_channels[0], len(config.block_out_channels)
    layers = config.layers_per_block
    layers = [layers] * levels if isinstance(layers, int) else list(layers)
    depth = config.transformer_layers_per_block
    depth = [depth] * levels if isinstance(depth, int) else list(depth)
    factors = [_Times(width / first) for width in config.block_out_channels]
    up = list(reversed(config.up_block_types))
    return {
        "image_size": config.sample_size,
        "in_channels": config.in_channels,
        "out_channels": config.out_channels,
        "model_channels": first,
        "num_res_blocks": layers,
        "channel_mult": factors,
        "transformer_depth": [
            d * DOWN[k] for d, k, n in zip(depth, config.down_block_types, layers, strict=True) for _ in range(n)
        ],
        "transformer_depth_output": [
            d * UP[k] for d, k, n in zip(depth, up, layers, strict=True) for _ in range(n + 1)
        ],
        "transformer_depth_middle": depth[-1],
        "context_dim": config.cross_attention_dim,
        "adm_in_channels": None,
        "use_spatial_transformer": True,
        "use_linear_in_transformer": config.use_linear_projection,
        "use_checkpoint": False,
        "legacy": False,
    }
