"""FlexEControl's adapter on a frozen diffusion transformer of SD3's or Flux's shape, preset `transformer` (ours).

The paper's carrier is the encoder of a UNet, which a transformer lacks. Here it is a copy of the transformer's first
blocks, as diffusers' `SD3ControlNetModel` and `FluxControlNetModel` copy them; in place of one picture's latents they
are given the feature map of all conditions together, so that one copy serves any number of them at equal cost. The
copy stays frozen: what trains is the extractor, the embedding of its map, Kronecker factors on every linear layer of
the copied blocks, and the zero layers behind them. The path of this module is part of the file format.
"""

import contextlib
import inspect
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from diffusers import FluxControlNetModel, SD3ControlNetModel
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin  # noqa: F401  pipelines look it up here
from torch import nn

from wm_pipelines.flexecontrol.modeling import default_backgrounds
from wm_pipelines.flexecontrol.network.blocks import FeatureExtractor
from wm_pipelines.flexecontrol.network.carrier import check_channels, initialise
from wm_pipelines.flexecontrol.network.decomposition import inject
from wm_pipelines.flexecontrol.network.slots import SlotInput, sum_slots
from wm_pipelines.hub.models import WMModel
from wm_pipelines.media.conditions import TYPES

# class of the transformer: of the network that copies its first blocks, the layer there that embeds the condition, and
# the transformer's arguments for what comes out
CARRIERS = {
    "SD3Transformer2DModel": (SD3ControlNetModel, "pos_embed_input", ("block_controlnet_hidden_states",)),
    "FluxTransformer2DModel": (
        FluxControlNetModel,
        "controlnet_x_embedder",
        ("controlnet_block_samples", "controlnet_single_block_samples"),
    ),
}
BLOCKS = ("carrier.transformer_blocks.", "carrier.single_transformer_blocks.")
TEXT_OUT = ("attn.add_q_proj", "attn.to_add_out", "ff_context.")
FLUX_PATCH = 2  # latent cells in a side of a token; Flux packs them before its transformer


class FlexEControlTransformerModel(WMModel, ConfigMixin):
    """See the module's docstring; made by `from_transformer`, loaded by `from_pretrained`.

    Args:
        transformer: class name of the base. transformer_config: its configuration.
        num_layers, num_single_layers: blocks that are copied, the second of Flux alone.
        types, backgrounds, n, r, scale: as of `FlexEControlModel`.
        condition_stride: pixels in a side of a latent cell. pre_channels: of the extractor, one for each halving.
    """

    _supports_gradient_checkpointing = True
    _repeated_blocks = ["JointTransformerBlock", "FluxTransformerBlock", "FluxSingleTransformerBlock"]
    _no_split_modules = [*_repeated_blocks, "PatchEmbed"]  # a map leaves out the table that the last one holds
    _skip_layerwise_casting_patterns = ["norm", "pos_embed", "zero_conv"]

    @register_to_config
    def __init__(
        self,
        transformer: str,
        transformer_config: dict[str, Any],
        num_layers: int,
        num_single_layers: int = 0,
        types: Sequence[str] = TYPES,
        backgrounds: Sequence[float] | None = None,
        n: int = 4,
        r: int = 8,
        scale: float = 1.0,
        condition_stride: int = 8,
        pre_channels: Sequence[int] = (32, 64, 128),
    ):
        super().__init__()
        if transformer not in CARRIERS:
            raise ValueError(f"transformer={transformer!r}; the adapter stands on {', '.join(CARRIERS)}")
        if len(set(types)) != len(types) or not types:
            raise ValueError(f"types must be distinct and not empty, got {list(types)}")
        kind = CARRIERS[transformer][0]
        config = {**transformer_config, "num_layers": num_layers}
        if kind is FluxControlNetModel:
            config["num_single_layers"] = num_single_layers
        known = inspect.signature(kind.__init__).parameters
        self.carrier = kind(**{name: value for name, value in config.items() if name in known})
        self.carrier._no_split_modules = self._no_split_modules  # its class names none, so has no device map
        channels = transformer_config["in_channels"]
        channels = channels // FLUX_PATCH**2 if kind is FluxControlNetModel else channels
        check_channels(1, condition_stride, (channels,), pre_channels)
        self.feature_extractor = FeatureExtractor(3 * len(types), pre_channels, (channels,), condition_stride)
        names = [
            name
            for name, module in self.named_modules()
            if isinstance(module, nn.Linear) and name.startswith(BLOCKS) and ".norm" not in name
        ]
        if not num_single_layers:  # what the last block makes of the text goes nowhere
            ends = tuple(f"carrier.transformer_blocks.{num_layers - 1}.{part}" for part in TEXT_OUT)
            names = [name for name in names if not name.startswith(ends)]
        inject(self, names, n, r, scale, None, False)
        self._backgrounds = list(backgrounds) if backgrounds is not None else default_backgrounds(types)
        self.set_trainable()

    @classmethod
    def from_transformer(
        cls,
        transformer: nn.Module,
        num_layers: int,
        num_single_layers: int = 0,
        seed: int = 0,
        **options: Any,
    ) -> "FlexEControlTransformerModel":
        """A new adapter for `transformer`, on its device and in its dtype; its residuals are zero.

        Args:
            options: further arguments of the class.

        Raises:
            ValueError: another transformer, more blocks than it has, or sizes that don't fit.
        """
        name = type(transformer).__name__
        if name not in CARRIERS:
            raise ValueError(f"base is a {name}; the adapter stands on {', '.join(CARRIERS)}")
        joint, single = len(transformer.transformer_blocks), len(getattr(transformer, "single_transformer_blocks", ()))
        allowed = {
            "num_layers": [k for k in range(1, joint + 1) if _all_used(name, joint, k)],
            "num_single_layers": [0, *(k for k in range(1, single + 1) if _all_used(name, single, k))],
        }
        for what, value in (("num_layers", num_layers), ("num_single_layers", num_single_layers)):
            if isinstance(value, bool) or value not in allowed[what]:
                choices = ", ".join(map(str, allowed[what]))
                raise ValueError(f"{what}={value!r}; so many that this {name} adds each of the residuals: {choices}")
        config = {key: value for key, value in dict(transformer.config).items() if not key.startswith("_")}
        with torch.random.fork_rng(devices=[]):  # what it draws is replaced below
            model = cls(name, config, num_layers, num_single_layers, **options)
        model.to(device=transformer.device, dtype=transformer.dtype)
        theirs = transformer.state_dict()
        copies = {f"carrier.{key}": value for key, value in theirs.items()}
        own = model.state_dict()
        copies = {key: value.detach().clone() for key, value in copies.items() if key in own}
        embed, source = CARRIERS[name][1], "pos_embed.proj" if name.startswith("SD3") else "x_embedder"
        place = f"carrier.{embed}.proj" if name.startswith("SD3") else f"carrier.{embed}"
        copies[f"{place}.weight"] = theirs[f"{source}.weight"].detach().clone()  # as latents are, to begin with
        copies[f"{place}.bias"] = torch.zeros_like(theirs[f"{source}.bias"])
        model.load_state_dict(copies, strict=False)
        behind = [key for key in own if key.startswith(("carrier.controlnet_blocks.", "carrier.controlnet_single_"))]
        model.load_state_dict({key: torch.zeros_like(own[key]) for key in behind}, strict=False)
        filled = {*copies, *behind}
        initialise(model, transformer.device, transformer.dtype, seed, copied=filled.__contains__)
        model.set_trainable()
        return model.eval()

    def trainable_parameters(self) -> dict[str, nn.Parameter]:
        """Parameters that training optimises, by name."""
        embed = f"carrier.{CARRIERS[self.config.transformer][1]}."
        marks = ("feature_extractor.", embed, "carrier.controlnet_blocks.", "carrier.controlnet_single_blocks.")
        return {name: p for name, p in self.named_parameters() if name.startswith(marks) or "kronecker_" in name}

    def set_trainable(self) -> None:
        """Set `requires_grad` to exactly `trainable_parameters()`."""
        self.requires_grad_(False)
        for p in self.trainable_parameters().values():
            p.requires_grad_(True)

    @property
    def multiple(self) -> int:
        """Condition heights and widths must be multiples of this."""
        patch = FLUX_PATCH if self._flux else self.config.transformer_config["patch_size"]
        return self.config.condition_stride * patch

    @property
    def _flux(self) -> bool:
        return isinstance(self.carrier, FluxControlNetModel)

    def condition_features(self, slots: Sequence[SlotInput], normalise_overlap: bool = False) -> torch.Tensor:
        """The map of all conditions together, in the form of the base's latents: (B,C,h,w), of Flux packed.

        It does not depend on the timestep, and its cost not on the number of conditions.
        """
        device = self.feature_extractor.pre_extractor[0].weight.device
        maps, _ = sum_slots(slots, self.config.types, self._backgrounds, self.multiple, device, normalise_overlap)
        (feature,) = self.feature_extractor(maps.to(self.dtype))
        if not self._flux:
            return feature
        tokens = feature.unflatten(3, (-1, FLUX_PATCH)).unflatten(2, (-1, FLUX_PATCH))  # (B,C,h,2,w,2)
        return tokens.permute(0, 2, 4, 1, 3, 5).flatten(3).flatten(1, 2)

    def forward(
        self, hidden_states: torch.Tensor, feature: torch.Tensor, conditioning_scale: float = 1.0, **given: Any
    ) -> dict[str, list[torch.Tensor] | None]:
        """Residuals by the names of the base's arguments.

        Args:
            hidden_states: noisy latents as the base takes them, N of them. feature: of `condition_features`; its
                batch must divide N (both halves of guidance share it).
            conditioning_scale: of all residuals. given: the base's further arguments.
        """
        count = hidden_states.shape[0]
        if feature.shape[1:] != hidden_states.shape[1:] or count % len(feature):
            raise ValueError(
                f"feature is {tuple(feature.shape)}; for latents of {tuple(hidden_states.shape)} it must be so, "
                f"or of a batch that divides {count}"
            )
        feature = feature.repeat(count // len(feature), *[1] * (feature.ndim - 1))
        found = self.carrier(hidden_states, feature, conditioning_scale=conditioning_scale, **given, return_dict=False)
        return dict(zip(CARRIERS[self.config.transformer][2], found, strict=True))

    @contextlib.contextmanager
    def applied(
        self,
        transformer: nn.Module,
        slots: Sequence[SlotInput],
        conditioning_scale: float = 1.0,
        normalise_overlap: bool = False,
    ) -> Iterator[None]:
        """In the block every call of `transformer` obeys the conditions; a stock pipeline around it stays as it is.

        Raises:
            ValueError: a transformer of another class or configuration, or slots that don't fit.
        """
        made_for: Mapping[str, Any] = self.config.transformer_config
        name = type(transformer).__name__
        if name != self.config.transformer:
            raise ValueError(f"the transformer is a {name}; this adapter was made for a {self.config.transformer}")
        other = [key for key, value in made_for.items() if not _same(transformer.config.get(key), value)]
        if other:
            key = other[0]
            raise ValueError(f"the transformer has {key}={transformer.config.get(key)!r}; this adapter was made for "
                             f"{made_for[key]!r}")  # fmt: skip
        feature = self.condition_features(slots, normalise_overlap)
        signature = inspect.signature(type(transformer).forward)
        takes = set(inspect.signature(type(self.carrier).forward).parameters)
        takes -= {
            "self",
            "hidden_states",
            "controlnet_cond",
            "conditioning_scale",
            "joint_attention_kwargs",
            "return_dict",
        }

        def before(module: nn.Module, args: tuple, kwargs: dict[str, Any]) -> tuple[tuple, dict[str, Any]]:
            given = signature.bind(module, *args, **kwargs).arguments
            shared = {key: value for key, value in given.items() if key in takes}
            return args, {**kwargs, **self(given["hidden_states"], feature, conditioning_scale, **shared)}

        hook = transformer.register_forward_pre_hook(before, with_kwargs=True)
        try:
            yield
        finally:
            hook.remove()


def _all_used(transformer: str, blocks: int, residuals: int) -> bool:
    """Whether a base of so many blocks adds each of so many residuals, as its class spreads them."""
    if transformer == "SD3Transformer2DModel":  # its last block adds none
        used = {int(index / (blocks / residuals)) for index in range(blocks - 1)}
    else:
        used = {index // -(-blocks // residuals) for index in range(blocks)}
    return len(used) == residuals


def _same(one: Any, other: Any) -> bool:
    """Whether two values of a configuration are alike; JSON has lists for tuples."""
    both = isinstance(one, list | tuple) and isinstance(other, list | tuple)
    return list(one) == list(other) if both else one == other
