"""Training of a FlexEControl adapter on a frozen base: one task, whatever the source of its captioned pictures.

Recipe options (with their defaults in `DEFAULTS`; each source adds its own):
    base: embedded name, folder or Hub id of a Stable-Diffusion-shaped pipeline.
    preset, n, r, fast, share_h, feature_channels, pre_channels, map_stride: as `FlexEControlModel.from_unet`.
    types: conditions that are trained. lora_rank: with preset "carrier", a LoRA of this rank on the attn2 linears.
    lambda_ca, lambda_mask: weights of the two losses; 0 leaves one out. text_drop, keep_all, drop_all, keep_one, drop,
    split: chances of an empty caption, of all conditions kept or dropped, of one kept, of each dropped, of same-type
    augmentation. alone: the types that one kept condition is drawn from, repeated for weight; null: `types`.
    early: share of the samples whose timestep is drawn from `EARLY` of the schedule on, where the noise hides what
    stands where, so that only words and conditions can tell.

With a frozen base nothing before the skips needs a gradient, so its down and middle blocks keep no graph; the up
blocks do, for the residuals enter there.
"""

import copy
from abc import abstractmethod
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import nn

from wm_pipelines.flexecontrol.modeling import FlexEControlModel
from wm_pipelines.flexecontrol.network.carrier import is_copy
from wm_pipelines.flexecontrol.network.decomposition import target_names
from wm_pipelines.flexecontrol.network.slots import SlotInput
from wm_pipelines.flexecontrol.steering.attention import PhraseAttention, phrase_attention
from wm_pipelines.flexecontrol.training.augmentation import Shown, build_slots, choose, usable_objects
from wm_pipelines.flexecontrol.training.losses import (
    attention_loss,
    controlled_area,
    diffusion_loss,
    masked_noise_loss,
)
from wm_pipelines.hub import resolve
from wm_pipelines.hub.stock import load_model, load_part
from wm_pipelines.media.conditions import TYPES
from wm_pipelines.text.prompts import token_span
from wm_pipelines.training import KeyedNoise, Recipe, Task, check_keys
from wm_pipelines.training.targets import target_of

DEFAULTS: dict[str, Any] = {
    "preset": "paper", "n": 4, "r": 1, "fast": "shared", "share_h": "layer", "map_stride": 2,
    "feature_channels": [16, 24, 24], "pre_channels": [16, 16], "lora_rank": 0,
    "types": ["canny", "lines", "softedge", "sketch", "depth", "seg"],
    "lambda_ca": 0.01, "lambda_mask": 0.01, "text_drop": 0.5,
    "keep_all": 0.1, "drop_all": 0.1, "keep_one": 0.0, "drop": 0.5, "split": 0.5,
    "alone": None, "early": 0.0,
}  # fmt: skip
EARLY = 0.7

# (type, some samples of a batch) -> their whole condition maps (N,3,H,W)
Maps = Callable[[str, list[int]], torch.Tensor]
# pictures (N,3,H,W) in [0, 1] -> scaled mean and deviation of their latents
Encode = Callable[[torch.Tensor], tuple[torch.Tensor, torch.Tensor]]


class Source(Protocol):
    """Captioned pictures with conditions; samples are numbered from 0.

    Attributes: `length`, how many; `data`, a line for the record.
    """

    length: int
    data: str

    def latents(self, indices: list[int]) -> tuple[torch.Tensor, torch.Tensor]:
        """Scaled mean and deviation of the latents of some pictures, (N,C,h,w) each."""

    def caption(self, index: int, generator: np.random.Generator) -> tuple[str, dict[int, tuple[int, int]]]:
        """A caption, and the character span of the phrase of each object (from 1)."""

    def masks(self, indices: list[int]) -> torch.Tensor:
        """(N,P,H,W): row p holds object p + 1."""

    def batch_maps(self, indices: list[int], masks: torch.Tensor, noise: KeyedNoise) -> tuple[Maps, torch.Tensor]:
        """The whole maps of a batch, and where each object lies in them (N,P,H,W): as in `masks`, if not redrawn."""


class FlexEControlTask(Task):
    """A new adapter on a frozen base; a task for a source says how that is made."""

    defaults = DEFAULTS
    given_types: Sequence[str] = DEFAULTS["types"]
    part = "local"  # of the adapter, as `FlexEControlModel.trainable_parameters` names it

    @abstractmethod
    def make_source(self) -> Source:
        """The source, by `self.options`; the base and the adapter are there."""

    def __init__(self, recipe: Recipe):
        check_keys(recipe.options, self.defaults, "options")
        self.options = {**self.defaults, **recipe.options}
        unknown = sorted(set(self.options["types"]) - set(self.given_types))
        if unknown:
            allowed = ", ".join(self.given_types)
            raise ValueError(f"options.types: the data gives no {unknown[0]!r}; it gives {allowed}")
        unknown = sorted(set(self.options.get("alone") or ()) - set(self.options["types"]))
        if unknown:
            raise ValueError(f"options.alone: {unknown[0]!r} is none of options.types")
        self.load_base(Path(resolve(self.options["base"])))
        options = self.options
        self.control = FlexEControlModel.from_unet(
            self.unet,
            condition_stride=2 ** (len(self.vae.config.block_out_channels) - 1),
            types=[t for t in TYPES if t in options["types"]],  # a slot that is not trained would be noise
            seed=recipe.seed,
            **{
                key: options[key]
                for key in (
                    "preset", "n", "r", "fast", "share_h", "map_stride", "feature_channels", "pre_channels",
                )
            },
            **self._carried(),
        ).train()  # fmt: skip
        if options["lora_rank"]:
            self._add_lora(options["lora_rank"])
        self.control.check_can_learn()
        self.control.set_trainable(self.part)
        self.source = self.make_source()
        self.length, self.data = self.source.length, self.source.data

    def _carried(self) -> dict[str, Any]:
        """What else the adapter is made with."""
        return {}

    def load_base(self, folder: Path) -> None:
        """The frozen base as attributes: `vae`, `unet`, `text_encoder`, `tokenizer`, `schedule`."""
        from diffusers import AutoencoderKL, DDPMScheduler, UNet2DConditionModel
        from transformers import CLIPTextModel, CLIPTokenizer

        self.vae = load_model(AutoencoderKL, folder, subfolder="vae")
        self.unet = load_model(UNet2DConditionModel, folder, subfolder="unet")
        self.text_encoder = load_model(CLIPTextModel, folder, subfolder="text_encoder")
        self.tokenizer = load_part(CLIPTokenizer, folder, subfolder="tokenizer")
        self.schedule = load_part(DDPMScheduler, folder, subfolder="scheduler")
        for module in (self.vae, self.unet, self.text_encoder):
            module.requires_grad_(False).eval()

    def _add_lora(self, rank: int) -> None:
        from peft import LoraConfig

        if self.options["preset"] != "carrier":
            raise ValueError(f"options.lora_rank needs preset 'carrier', got {self.options['preset']!r}")
        self.control.add_adapter(
            LoraConfig(r=rank, lora_alpha=rank, target_modules=target_names(self.control, "paper"))
        )

    # ---- what a sample is ----

    @torch.no_grad()
    def encode(self, pictures: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Scaled mean and deviation of the latents of pictures (N,3,H,W) in [0, 1]."""
        dist = self.vae.to(self.device).encode((pictures * 2 - 1).to(self.device)).latent_dist
        scale = self.vae.config.scaling_factor
        return dist.mean * scale, dist.std * scale

    def captions(self, indices: list[int], noise: KeyedNoise) -> tuple[list[str], torch.Tensor, torch.Tensor]:
        """Captions (some empty), the tokens of each object (B,P,T) and the masks of the objects (B,P,H,W)."""
        masks = self.source.masks(indices)
        texts: list[str] = []
        tokens = torch.zeros(*masks.shape[:2], self.tokenizer.model_max_length, dtype=torch.bool)
        for b, i in enumerate(indices):
            rng = noise.generator(i, "caption")
            dropped = rng.random() < self.options["text_drop"]
            text, spans = self.source.caption(i, rng)
            texts.append("" if dropped else text)
            for obj, span in () if dropped else spans.items():
                first, last = token_span(self.tokenizer, text, span)
                tokens[b, obj - 1, first:last] = True
        return texts, tokens, masks

    def _slots(
        self, indices: list[int], masks: torch.Tensor, noise: KeyedNoise
    ) -> tuple[list[SlotInput], list[Shown]]:
        chances = {key: self.options[key] for key in ("keep_all", "drop_all", "keep_one", "alone", "drop", "split")}
        types = self.control.config.types
        shown = [
            choose(types, usable_objects(masks[b]), noise.generator(i, "conditions"), **chances)
            for b, i in enumerate(indices)
        ]
        maps, places = self.source.batch_maps(indices, masks, noise)
        slots = build_slots(shown, types, lambda kind, rows: maps(kind, [indices[b] for b in rows]), places)
        if not slots:  # every sample of the batch dropped every condition
            slots = [SlotInput(types[0], torch.zeros(len(indices), 3, *masks.shape[-2:]), 0.0)]
        return slots, shown

    def residuals(
        self,
        noisy: torch.Tensor,
        timesteps: torch.Tensor,
        context: torch.Tensor,
        slots: list[SlotInput],
        shown: list[Shown],
    ) -> tuple[tuple[torch.Tensor, ...], torch.Tensor]:
        """What is added to the UNet's skips and middle block; a comparison with another adapter overrides this."""
        if self.control.config.fast == "per_type":
            active = [[float(kind in sample.conditions) for kind in self.control.config.types] for sample in shown]
            self.control.set_type_weights(torch.tensor(active))
        features = self.control.condition_features(slots)
        return self.control(noisy, timesteps, context, features, return_dict=False)

    # ---- the engine's side ----

    def modules(self) -> dict[str, nn.Module]:
        return {"control": self.control}

    def trainable(self) -> list[tuple[str, nn.Parameter]]:
        return [(f"control.{name}", p) for name, p in self.control.trainable_parameters(self.part).items()]

    def _noised(self, indices: list[int], noise: KeyedNoise) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Noisy latents (B,C,h,w), their timesteps (B,), and what the UNet should say of them."""
        mean, std = self.source.latents(indices)
        draws = noise.randn(indices, (2, *mean.shape[1:]), "noise").to(self.device)
        latents = mean.to(self.device) + std.to(self.device) * draws[:, 0]
        t = self.timesteps(indices, noise).to(self.device)
        noisy = self.schedule.add_noise(latents, draws[:, 1], t)
        return noisy, t, target_of(self.schedule, latents, draws[:, 1], t)

    def timesteps(self, indices: list[int], noise: KeyedNoise) -> torch.Tensor:
        """(N,) int64: uniform, but for the share `early`, which is drawn from the first steps of sampling."""
        last = self.schedule.config.num_train_timesteps
        t = noise.integers(indices, (), "timestep", 0, last)
        if self.options["early"]:
            chosen = noise.uniform(indices, (), "early") < self.options["early"]
            t = torch.where(chosen, noise.integers(indices, (), "early timestep", int(EARLY * last), last), t)
        return t

    @torch.no_grad()
    def _encoded(self, texts: list[str]) -> torch.Tensor:
        """Text tokens (B,T,D) of the frozen text encoder."""
        length = self.tokenizer.model_max_length
        ids = self.tokenizer(
            texts, padding="max_length", max_length=length, truncation=True, return_tensors="pt"
        ).input_ids
        return self.text_encoder(ids.to(self.device)).last_hidden_state

    def loss(self, indices: list[int], step: int, noise: KeyedNoise) -> dict[str, torch.Tensor]:
        device, options = self.device, self.options
        for module in (self.unet, self.text_encoder):
            module.to(device)
        texts, tokens, masks = self.captions(indices, noise)
        slots, shown = self._slots(indices, masks, noise)
        noisy, t, target = self._noised(indices, noise)
        context = self._encoded(texts)

        state = PhraseAttention(tokens, None, False, options["map_stride"], tuple(noisy.shape[-2:]))
        # The UNet's own down and middle maps carry no gradient to the adapter, so they are left alone.
        watched = {"adapter": self.control.down_blocks, "unet": self.unet.up_blocks} if options["lambda_ca"] else {}
        with phrase_attention(watched, state):
            down, mid = self.residuals(noisy, t, context, slots, shown)
            prediction = self.unet(
                noisy, t, context, down_block_additional_residuals=down, mid_block_additional_residual=mid
            ).sample

        parts = {"ldm": diffusion_loss(prediction, target)}
        loss = parts["ldm"]
        if options["lambda_ca"]:
            maps = state.mean_map()
            if maps is None:
                raise ValueError(f"options.map_stride={options['map_stride']}: no cross-attention lies at that stride")
            valid = tokens.any(-1) & masks.flatten(2).any(-1)
            parts["ca"] = attention_loss(maps, masks.to(device), valid.to(device))
            loss = loss + options["lambda_ca"] * parts["ca"]
        if options["lambda_mask"]:
            backgrounds = dict(zip(self.control.config.types, self.control.config.backgrounds, strict=True))
            area = controlled_area(slots, backgrounds, slots[0].image[:, :1]).to(device)
            parts["mask"] = masked_noise_loss(prediction, target, area)
            loss = loss + options["lambda_mask"] * parts["mask"]
        return {"loss": loss, **{name: value.detach() for name, value in parts.items()}}

    def export(self, folder: Path) -> None:
        """Write the adapter in fp16, whole (it loads without its base); a LoRA is merged into the copy."""
        model = copy.deepcopy(self.control).cpu().eval()
        if self.options["lora_rank"]:
            model.fuse_lora()
            model.unload_lora()
        model.set_type_weights(None)
        model.to(torch.float16).save_pretrained(folder)

    def load_weights(self, source: str) -> dict[str, Any]:
        """Start from an exported adapter of the same settings: a folder or a Hub id.

        It may lack the global adapter, which then starts anew. The frozen copy stays that of this run's base, which
        may have been trained further; presets "carrier" and "uni" bring their own, which holds what they learnt.
        """
        saved = load_model(FlexEControlModel, resolve(source))
        state, frozen = saved.state_dict(), self.control.config.preset not in ("carrier", "uni")
        state = {name: value for name, value in state.items() if not (frozen and is_copy(name))}
        try:
            keys = self.control.load_state_dict(state, strict=False)
        except RuntimeError as error:
            raise ValueError(f"init_from: {source!r} is an adapter of other settings: {error}") from error
        missing = [
            key for key in keys.missing_keys
            if not key.startswith("global_projection.") and not (frozen and is_copy(key))
        ]  # fmt: skip
        if missing or keys.unexpected_keys:
            raise ValueError(
                f"init_from: {source!r} is an adapter of other settings: it lacks {missing[:3]} and has "
                f"{keys.unexpected_keys[:3]} too many"
            )
        return {"preset": saved.config.preset, "parameters": sum(p.numel() for p in saved.parameters())}
