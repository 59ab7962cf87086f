"""FlexEControlModel: one adapter on a frozen Stable-Diffusion UNet for any number of spatial conditions.

Carrier: Uni-ControlNet's local adapter (arXiv 2305.16322), a copy of the UNet's encoder and middle block whose first
residual block of each level takes condition features by feature denormalisation. Decomposition: FlexEControl (arXiv
2405.04834). The path of this module is part of the file format.

Relation to LoRA and PEFT. A decomposed layer is a plain `nn.Linear` subclass whose base weight keeps its name, so PEFT
(`model.add_adapter(LoraConfig(...))`) can be stacked on top of it. Its update has rank up to min(in, out, n^2 r); as a
LoRA it is exact only at that rank (`wm_pipelines.adapters.kronecker` exports it), which is why it is kept factored.
"""

import dataclasses
import os
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.loaders import PeftAdapterMixin
from diffusers.models.attention import AttentionMixin
from diffusers.models.modeling_utils import ModelMixin  # noqa: F401  pipelines look it up here
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from diffusers.utils import BaseOutput
from diffusers.utils import logging as diffusers_logging
from diffusers.utils.accelerate_utils import apply_forward_hook
from torch import nn

from wm_pipelines.flexecontrol.network.bases import refuse_other_unet, refuse_unet
from wm_pipelines.flexecontrol.network.blocks import (
    FeatureDownBlock,
    FeatureExtractor,
    GlobalAdapter,
    max_pool_to,
    zero_conv,
)
from wm_pipelines.flexecontrol.network.carrier import check_channels, initialise, is_copy, take_copy
from wm_pipelines.flexecontrol.network.decomposition import (
    KroneckerLinear,
    TypeWeights,
    inject,
    kronecker_layers,
    mixture,
    target_names,
)
from wm_pipelines.flexecontrol.network.slots import SlotInput, sum_slots
from wm_pipelines.hub.models import WMModel
from wm_pipelines.media.conditions import BACKGROUND, TYPES

PRESETS, FAST, SHARE_H = ("paper", "uni", "transformer", "carrier"), ("shared", "per_type"), ("layer", "model")
SD_WIDTHS, SD_FEATURES, SD_PRE = (320, 640, 1280, 1280), (192, 256, 384, 512), (32, 64, 128)


@dataclasses.dataclass
class FlexEControlOutput(BaseOutput):
    """Residuals for `UNet2DConditionModel`: one per skip (finest first), and one for the middle block."""

    down_block_res_samples: tuple[torch.Tensor, ...]
    mid_block_res_sample: torch.Tensor = None  # type: ignore[assignment]  # accelerate's hooks make outputs from a dict


class FlexEControlModel(WMModel, AttentionMixin, ConfigMixin, PeftAdapterMixin):
    """See the module's docstring; made by `from_unet`, loaded by `from_pretrained`.

    Presets: `paper` trains extractor, FDN, zero convolutions and Kronecker factors on the attn2 linears of the frozen
    copy; `transformer` puts factors on all linears of its transformer blocks; `uni` trains the whole adapter without
    factors (Uni-ControlNet); `carrier` freezes the copy and has no factors (to carry a LoRA in a comparison).

    Example:
        ```py
        from diffusers import UNet2DConditionModel
        from wm_pipelines import FlexEControlModel, embedded

        unet = UNet2DConditionModel.from_pretrained(embedded("diorama-sd"), subfolder="unet")
        sizes = {"condition_stride": 4, "feature_channels": (32, 48, 64), "pre_channels": (24, 32), "map_stride": 2}
        control = FlexEControlModel.from_unet(unet, preset="paper", r=4, **sizes)  # of SD 1.5 no sizes are needed
        print(sum(p.numel() for p in control.trainable_parameters().values()))
        control.save_pretrained("my-control")
        ```
    """

    _supports_gradient_checkpointing = True
    _no_split_modules = ["BasicTransformerBlock", "ResnetBlock2D", "FeatureResnet"]
    _repeated_blocks = ["BasicTransformerBlock"]  # what `compile_repeated_blocks` compiles, as in the UNet
    _group_offload_block_modules = ["feature_extractor", "global_projection"]  # they run before `forward` does
    _skip_layerwise_casting_patterns = ["norm", "conv_gamma", "conv_beta", "zero_conv"]

    @register_to_config
    def __init__(
        self,
        unet_config: dict[str, Any],
        preset: str = "paper",
        types: Sequence[str] = TYPES,
        backgrounds: Sequence[float] | None = None,
        n: int = 4,
        r: int = 8,
        scale: float = 1.0,
        fast: str = "shared",
        share_h: str = "layer",
        condition_stride: int = 8,
        map_stride: int = 4,
        feature_channels: Sequence[int] = SD_FEATURES,
        pre_channels: Sequence[int] = SD_PRE,
        global_adapter: bool = False,
        global_embed_dim: int = 768,
        slim: bool = False,
    ):
        super().__init__()
        choices = {"preset": (preset, PRESETS), "fast": (fast, FAST), "share_h": (share_h, SHARE_H)}
        for name, (value, allowed) in choices.items():
            if value not in allowed:
                raise ValueError(f"{name} must be one of {', '.join(allowed)}; got {value!r}")
        if len(set(types)) != len(types) or not types:
            raise ValueError(f"types must be distinct and not empty, got {list(types)}")
        if r < 1:
            raise ValueError(f"r must be at least 1, got {r}")
        unet = UNet2DConditionModel(**unet_config)
        refuse_unet(unet)
        levels = len(unet.down_blocks)
        check_channels(levels, condition_stride, feature_channels, pre_channels)

        self.conv_in, self.time_proj, self.time_embedding = unet.conv_in, unet.time_proj, unet.time_embedding
        self.time_embed_act = unet.time_embed_act
        self.center_input_sample = unet.config.center_input_sample
        self.down_blocks = nn.ModuleList(
            FeatureDownBlock(block, width) for block, width in zip(unet.down_blocks, feature_channels, strict=True)
        )
        self.mid_block = unet.mid_block
        self.feature_extractor = FeatureExtractor(3 * len(types), pre_channels, feature_channels, condition_stride)
        widths = [self.conv_in.out_channels]
        for block in self.down_blocks:
            widths += [resnet.conv2.out_channels for resnet in block.resnets]
            widths += [block.resnets[-1].conv2.out_channels] * len(block.downsamplers or ())
        self.zero_convs = nn.ModuleList(zero_conv(width, 1) for width in widths)
        self.zero_conv_mid = zero_conv(widths[-1], 1)
        self.global_projection = (
            GlobalAdapter(global_embed_dim, unet.config.cross_attention_dim) if global_adapter else None
        )
        per_type = len(types) if fast == "per_type" else None
        inject(self, target_names(self, preset), n, r, scale, per_type, share_h == "model")
        self._backgrounds = list(backgrounds) if backgrounds is not None else default_backgrounds(types)
        self._merged: dict[str, KroneckerLinear] = {}
        self._merged_mix: list[float] | None = None
        self.set_trainable()

    # ---- making, saving, loading ----

    @classmethod
    def from_unet(
        cls,
        unet: UNet2DConditionModel,
        preset: str = "paper",
        n: int = 4,
        r: int = 8,
        condition_stride: int = 8,
        feature_channels: Sequence[int] | None = None,
        pre_channels: Sequence[int] | None = None,
        map_stride: int = 4,
        global_adapter: bool = False,
        types: Sequence[str] = TYPES,
        fast: str = "shared",
        scale: float = 1.0,
        share_h: str = "layer",
        seed: int = 0,
        backgrounds: Sequence[float] | None = None,
        global_embed_dim: int = 768,
    ) -> "FlexEControlModel":
        """A new adapter for `unet`, on its device (meta included) and in its dtype; its residuals are zero.

        Args:
            preset, n, r, fast, scale, share_h: the decomposition; n must divide every target's widths.
            condition_stride: pixels per latent cell (the VAE's factor; 1 in pixel space), a power of two.
            feature_channels: one width per UNet level; pre_channels: log2(condition_stride) widths (at least one).
                Both default to Stable Diffusion's values only for widths (320, 640, 1280, 1280) and stride 8.
            map_stride: attention maps for L_ca are read where latent / map_stride. types: slot order.
            backgrounds: value of each type where nothing is drawn. seed: of the keyed initialisation.

        Raises:
            ValueError: a base that cannot carry the adapter (SDXL, inpainting, DiT, ...), or impossible sizes.
        """
        refuse_unet(unet)
        config = {k: v for k, v in dict(unet.config).items() if not k.startswith("_")}
        if feature_channels is None or pre_channels is None:
            widths = tuple(config["block_out_channels"])
            if widths != SD_WIDTHS or condition_stride != 8:
                raise ValueError(
                    f"feature_channels and pre_channels must be given for widths {widths} at condition_stride "
                    f"{condition_stride}; defaults exist only for {SD_WIDTHS} at 8"
                )
        with torch.device("meta"):
            model = cls(
                unet_config=config, preset=preset, types=list(types), n=n, r=r, scale=scale, fast=fast,
                backgrounds=list(backgrounds) if backgrounds is not None else default_backgrounds(types),
                condition_stride=condition_stride, map_stride=map_stride, share_h=share_h,
                feature_channels=list(feature_channels or SD_FEATURES), pre_channels=list(pre_channels or SD_PRE),
                global_adapter=global_adapter, global_embed_dim=global_embed_dim,
            )  # fmt: skip
        take_copy(model, unet)
        initialise(model, unet.device, unet.dtype, seed)
        model.set_trainable()
        return model.eval()

    def save_pretrained(
        self,
        save_directory: str | os.PathLike,
        slim: bool = False,
        variant: str | None = None,
        max_shard_size: int | str = "10GB",
        **kwargs: Any,
    ) -> None:
        """As ModelMixin. `slim=True` leaves the frozen copy out: such a folder loads only with `unet=`.

        Args:
            variant, max_shard_size: as ModelMixin's; named, for a pipeline asks the signature whether to pass them.
        """
        if self._merged:
            raise ValueError("the adapter is merged; call unmerge() before saving it")
        if slim and self.config.preset == "uni":
            raise ValueError("slim=True needs a frozen copy; preset 'uni' trains it")
        self.register_to_config(slim=bool(slim))
        full = self.state_dict
        try:
            if slim:
                self.state_dict = lambda *a, **k: {x: t for x, t in full(*a, **k).items() if not is_copy(x)}
            super().save_pretrained(save_directory, variant=variant, max_shard_size=max_shard_size, **kwargs)
        finally:
            self.__dict__.pop("state_dict", None)
            self.register_to_config(slim=False)

    @classmethod
    def from_pretrained(
        cls, path: str | os.PathLike, unet: UNet2DConditionModel | None = None, **kwargs: Any
    ) -> "FlexEControlModel":
        """As ModelMixin; `unet` gives the frozen copy of a slim checkpoint and, for any, is checked to be its base.

        Raises:
            ValueError: slim without `unet`, a `unet` of another architecture, or a checkpoint that lacks tensors.
        """
        shown = kwargs.pop("output_loading_info", False)
        level = diffusers_logging.get_verbosity()
        diffusers_logging.set_verbosity_error()  # a slim file's missing keys are expected; real gaps are errors below
        try:
            model, info = super().from_pretrained(path, output_loading_info=True, **kwargs)
        finally:
            diffusers_logging.set_verbosity(level)
        if unet is not None:
            model.check_compatible(unet)
        if model.config.slim:
            if unet is None:
                raise ValueError(f"{path} is a slim checkpoint (no copy of the base's encoder): pass unet=")
            take_copy(model, unet)
            model.register_to_config(slim=False)  # what the base gave is not missing
            info["missing_keys"] = type(info["missing_keys"])(k for k in info["missing_keys"] if not is_copy(k))
        if missing := sorted(info["missing_keys"]):
            raise ValueError(f"{path} lacks {len(missing)} tensors of its own config, first {missing[0]!r}")
        model.set_trainable()
        return (model, info) if shown else model

    def check_compatible(self, unet: UNet2DConditionModel) -> None:
        """Refuse a base whose encoder, skips or text width differ from the one this adapter was made for."""
        refuse_other_unet(self.config.unet_config, unet)

    # ---- what trains ----

    def trainable_parameters(self, part: str = "local") -> dict[str, nn.Parameter]:
        """Parameters that training optimises, by name. `local`: by preset; `global`: the global adapter, apart."""
        if part not in ("local", "global"):
            raise ValueError(f"part must be 'local' or 'global', got {part!r}")
        if part == "global" and self.global_projection is None:
            raise ValueError("this model has no global adapter; make it with global_adapter=True")
        chosen = {}
        for name, p in self.named_parameters():
            if name.startswith("global_projection."):
                wanted = part == "global"
            else:
                wanted = part == "local" and (self.config.preset == "uni" or not is_copy(name))
            if wanted:
                chosen[name] = p
        return chosen

    def set_trainable(self, part: str = "local") -> None:
        """Set `requires_grad` to exactly `trainable_parameters(part)`."""
        self.requires_grad_(False)
        for p in self.trainable_parameters(part).values():
            p.requires_grad_(True)

    def check_can_learn(self) -> None:
        """Refuse to train factors that cannot move: with U and V both zero, every gradient of the layer is zero."""
        for name, layer in kronecker_layers(self):
            try:
                layer.check_can_learn()
            except ValueError as error:
                raise ValueError(f"{name}: {error}") from error

    # ---- per-type mixture, merging ----

    def set_type_weights(self, weights: TypeWeights) -> None:
        """For `fast="per_type"`: strengths of the active types; they are divided by their sum. None: dW = 0.

        A tensor (batch, types) gives each sample its own mixture. With `fast="shared"` this has no effect.
        """
        mixed = mixture(weights, self.config.types)
        if self._merged and self.config.fast == "per_type" and mixed not in (None, self._merged_mix):
            raise ValueError(f"the adapter is merged for the mixture {self._merged_mix}; call unmerge() to change it")
        for _, layer in kronecker_layers(self):
            if layer.types is not None:
                layer.set_mix(mixed)

    def merge(self, types: Mapping[str, float] | Sequence[str] | None = None) -> None:
        """Replace every decomposed layer by a plain `nn.Linear` with W0 + dW, so that inference costs nothing.

        Args:
            types: needed with `fast="per_type"`, where the mixture is frozen: a list, or {type: strength}.
        """
        if self._merged:
            raise ValueError("the adapter is already merged; call unmerge() first")
        per_type = self.config.fast == "per_type"
        if per_type and not types:
            raise ValueError(f"merge() of a per_type adapter needs types=[...] from {', '.join(self.config.types)}")
        if per_type:
            self.set_type_weights(types)
            self._merged_mix = mixture(types, self.config.types)
        layers = dict(kronecker_layers(self))
        plain = {name: layer.to_linear() for name, layer in layers.items()}
        for name, linear in plain.items():
            self.set_submodule(name, linear)
        self._merged = layers

    def unmerge(self) -> None:
        """Put the decomposed layers back; the base weights were kept, so this is exact."""
        for name, layer in self._merged.items():
            now = self.get_submodule(name).weight
            self.set_submodule(name, layer.to(device=now.device, dtype=now.dtype))
        self._merged = {}

    # ---- inference ----

    @property
    def multiple(self) -> int:
        """Condition heights and widths must be multiples of this."""
        return self.config.condition_stride * 2 ** (len(self.down_blocks) - 1)

    @apply_forward_hook
    def condition_features(
        self, slots: Sequence[SlotInput], normalise_overlap: bool = False, mask_features: bool = False
    ) -> list[torch.Tensor]:
        """Features f_l of all conditions together, finest first; they do not depend on the timestep.

        The first convolution is linear, so images of one type are summed in their slot before it:
        a = bias + sum_j strength_j * conv(x_j, K_type(j)), x = region * (region * image + (1 - region) * background).
        Cost does not depend on the number of conditions, and their order does not matter.

        Args:
            normalise_overlap: where k regions of one type meet, divide by k.
            mask_features: multiply f_l by the max-pooled union of regions: nothing where nothing is asked.
        """
        device = self.feature_extractor.pre_extractor[0].weight.device
        if device.type == "meta" and slots:  # sequential offload keeps weights there between calls
            device = slots[0].image.device
        maps, union = sum_slots(slots, self.config.types, self._backgrounds, self.multiple, device, normalise_overlap)
        features = self.feature_extractor(maps.to(self.dtype))
        if mask_features:
            features = [f * max_pool_to(union, tuple(f.shape[-2:])).to(f) for f in features]
        return features

    @apply_forward_hook
    def global_tokens(self, embeds: torch.Tensor) -> torch.Tensor:
        """Image vectors (B, D) -> text tokens (B, 4, C), to be appended for the UNet and for this adapter."""
        if self.global_projection is None:
            raise ValueError("this model has no global adapter; global_image needs one made with global_adapter=True")
        if embeds.ndim != 2 or embeds.shape[1] != self.config.global_embed_dim:
            raise ValueError(f"embeds must be (B, {self.config.global_embed_dim}), got {tuple(embeds.shape)}")
        return self.global_projection(embeds)

    def forward(
        self,
        sample: torch.Tensor,
        timestep: torch.Tensor | float | int,
        encoder_hidden_states: torch.Tensor,
        features: Sequence[torch.Tensor],
        conditioning_scale: float | Sequence[float] = 1.0,
        return_dict: bool = True,
    ) -> FlexEControlOutput | tuple[tuple[torch.Tensor, ...], torch.Tensor]:
        """Residuals for the UNet's skips and middle block.

        Args:
            sample: (N,C,h,w) noisy latents. timestep: scalar or (N,). encoder_hidden_states: (N,T,D) text tokens.
            features: of `condition_features`; their batch must divide N (both halves of guidance share them).
            conditioning_scale: of all residuals, or one per residual (skips, then middle).
        """
        expected = tuple(sample.shape[-2:])
        if tuple(features[0].shape[-2:]) != expected or sample.shape[0] % features[0].shape[0]:
            raise ValueError(
                f"features are for a latent of {tuple(features[0].shape[-2:])} in batches of {features[0].shape[0]}; "
                f"the sample is {expected} in a batch of {sample.shape[0]}"
            )
        if self.center_input_sample:
            sample = 2 * sample - 1.0
        timesteps = torch.as_tensor(timestep, device=sample.device).reshape(-1).expand(sample.shape[0])
        temb = self.time_embedding(self.time_proj(timesteps).to(sample.dtype))
        if self.time_embed_act is not None:
            temb = self.time_embed_act(temb)

        hidden = self.conv_in(sample)
        skips: tuple[torch.Tensor, ...] = (hidden,)
        for block, feature in zip(self.down_blocks, features, strict=True):
            hidden, new = block(hidden, temb, encoder_hidden_states, feature)
            skips += new
        if getattr(self.mid_block, "has_cross_attention", False):
            hidden = self.mid_block(hidden, temb, encoder_hidden_states=encoder_hidden_states)
        else:
            hidden = self.mid_block(hidden, temb)

        residuals = [zero(x) for zero, x in zip(self.zero_convs, skips, strict=True)] + [self.zero_conv_mid(hidden)]
        scales = conditioning_scale
        if isinstance(scales, int | float):
            scales = [scales] * len(residuals)
        if len(scales) != len(residuals):
            raise ValueError(f"conditioning_scale has {len(scales)} values; allowed: one, or {len(residuals)}")
        residuals = [r if s == 1 else r * s for r, s in zip(residuals, scales, strict=True)]
        down, mid = tuple(residuals[:-1]), residuals[-1]
        return FlexEControlOutput(down, mid) if return_dict else (down, mid)


def default_backgrounds(types: Sequence[str]) -> list[float]:
    """Value of each type where nothing is drawn."""
    return [float(BACKGROUND.get(t, 0.0)) for t in types]
