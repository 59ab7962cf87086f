"""Tuning an editor that diffuses latents as a world model: InstructPix2Pix (Brooks et al., arXiv 2211.09800), each
place weighed by how far it changed."""

import shutil
from pathlib import Path
from typing import Any

import diffusers
import torch
from diffusers import AutoencoderKL, DDPMScheduler, SchedulerMixin, UNet2DConditionModel
from torch import nn

from wm_pipelines import hub
from wm_pipelines.dynamics.training import DIORAMA, read_pairs, save_whole
from wm_pipelines.hub.checking import read_config
from wm_pipelines.hub.stock import load_model, load_part
from wm_pipelines.training import KeyedNoise, Recipe, Task, check_keys
from wm_pipelines.training.targets import target_of
from wm_pipelines.world_model.latents import LatentPairs, encode_latents
from wm_pipelines.world_model.weights import ALPHA, recognition_weights, weighted_denoising_loss

EDITOR_DEFAULTS: dict[str, Any] = {
    "base": "diorama-sd", "data": DIORAMA, "length": 8000, "cache": None, "resize": None, "side": None,
    "alpha": ALPHA, "drop": 0.05, "train_text_encoder": False,
}  # fmt: skip
PARTS = ("vae", "text_encoder", "unet")
BASES = ("StableDiffusionInstructPix2PixPipeline", "StableDiffusionPipeline")


class EditorTask(Task):
    """The denoiser learns the target's latents from noise, the source's latents in further input channels, and the
    action: the error at each place of the latents times `recognition_weights` of how far it changed (our form of
    arXiv 2506.06006, section 3.3, for editors).

    Options:
        base: folder, embedded name or Hub id of a pipeline of Stable Diffusion's parts: an editor whose UNet has input
            channels for a source, or a text-to-image model, which gets them with weights of 0.
        data, length, resize: as of `TokenTask`. cache: file that keeps the pairs' latents between runs.
        side: of the pictures in pixels; None is what the UNet was made for.
        alpha: of `recognition_weights`; 1 is the plain error.
        drop: share of samples that see no words, as many that see no source, and as many that see neither, for both
            guidance scales.
        train_text_encoder: too, for a base that never read an action.
    """

    def __init__(self, recipe: Recipe):
        check_keys(recipe.options, EDITOR_DEFAULTS, "options")
        self.options = {**EDITOR_DEFAULTS, **recipe.options}
        _check_shares(self.options)
        self.folder = _base(self.options["base"])
        self._load_base()
        size = self._size()
        pairs = read_pairs(self.options, size)
        self.pairs: LatentPairs = encode_latents(
            pairs, self.vae, size, self.options["resize"], cache=self.options["cache"]
        )
        self._check_words()
        self.weights = recognition_weights(self.pairs.distances, self.options["alpha"])
        self.length = len(self.pairs)
        self.data = f"{self.options['data']}, {self.length} pairs"

    def _load_base(self) -> None:
        from transformers import CLIPTextModel, CLIPTokenizer

        self.vae = load_model(AutoencoderKL, self.folder, subfolder="vae").requires_grad_(False).eval()
        self.tokenizer = load_part(CLIPTokenizer, self.folder, subfolder="tokenizer")
        self.text_encoder = load_model(CLIPTextModel, self.folder, subfolder="text_encoder").eval()
        self.text_encoder.requires_grad_(self.options["train_text_encoder"])
        self.unet = load_model(UNet2DConditionModel, self.folder, subfolder="unet").requires_grad_(True)
        self.schedule = load_part(DDPMScheduler, self.folder, subfolder="scheduler")
        self.sampler = _sampler(self.folder)
        channels, own = self.vae.config.latent_channels, self.unet.config.in_channels
        if own == channels:
            widen(self.unet)
        elif own != 2 * channels:
            raise ValueError(
                f"options.base has a UNet of {own} input channels; an editor on its VAE has {2 * channels}, a "
                f"text-to-image model {channels}"
            )

    def _size(self) -> tuple[int, int]:
        factor = 2 ** (len(self.vae.config.block_out_channels) - 1)
        side, own = self.options["side"], self.unet.config.sample_size
        if side is None and isinstance(own, int):
            side = own * factor
        least = factor * 2 ** (len(self.unet.config.block_out_channels) - 1)
        if isinstance(side, bool) or not isinstance(side, int) or side < least or side % least:
            raise ValueError(f"options.side is {side!r}; it must be a multiple of {least}")
        return side, side

    def _check_words(self) -> None:
        known = sorted({words for own in self.pairs.actions for words in own})
        longest = self.tokenizer.model_max_length
        for words, ids in zip(known, self.tokenizer(known).input_ids, strict=True):
            if len(ids) > longest:
                raise ValueError(
                    f"options.data: the action {words[:99]!r} has {len(ids)} tokens; the text encoder reads {longest}"
                )

    def modules(self) -> dict[str, nn.Module]:
        text = {"text_encoder": self.text_encoder} if self.options["train_text_encoder"] else {}
        return {"unet": self.unet, **text}

    def given(self, index: int, noise: KeyedNoise) -> tuple[str, bool]:
        """What a step is told of pair `index`: one of its wordings or "", and whether it sees the source."""
        rng = noise.generator(index, "words")
        actions, chance, share = self.pairs.actions[index], rng.random(), self.options["drop"]
        words = actions[rng.integers(len(actions))]
        return "" if chance < 2 * share else words, not share <= chance < 3 * share

    def encode(self, texts: list[str]) -> torch.Tensor:
        """Text states `(B, T, D)`."""
        ids = self.tokenizer(
            texts, padding="max_length", max_length=self.tokenizer.model_max_length, return_tensors="pt"
        ).input_ids
        with torch.set_grad_enabled(self.options["train_text_encoder"]):
            return self.text_encoder.to(self.device)(ids.to(self.device)).last_hidden_state

    def loss(self, indices: list[int], step: int, noise: KeyedNoise) -> dict[str, torch.Tensor]:
        pairs, scale = self.pairs, self.vae.config.scaling_factor
        texts, sees = zip(*(self.given(index, noise) for index in indices), strict=True)
        drawn = noise.randn(indices, (2, *pairs.target.shape[1:]), "noise")
        clean = ((pairs.target[indices] + pairs.deviation[indices] * drawn[:, 0]) * scale).to(self.device)
        source = (pairs.source[indices] * torch.tensor(sees)[:, None, None, None]).to(self.device)
        eps = drawn[:, 1].to(self.device)
        t = noise.integers(indices, (), "timestep", 0, self.schedule.config.num_train_timesteps).to(self.device)
        noisy = torch.cat([self.schedule.add_noise(clean, eps, t), source], 1)
        predicted = self.unet(noisy, t, self.encode(list(texts))).sample
        wanted = target_of(self.schedule, clean, eps, t)
        return {"loss": weighted_denoising_loss(predicted.float(), wanted, self.weights[indices].to(self.device))}

    def export(self, folder: Path) -> None:
        """Writes a folder of the stock `StableDiffusionInstructPix2PixPipeline`, in fp16."""
        parts = {name: getattr(self, name) for name in (*PARTS, "tokenizer")}
        pipeline = diffusers.StableDiffusionInstructPix2PixPipeline(
            **parts, scheduler=self.sampler, safety_checker=None, feature_extractor=None, requires_safety_checker=False
        )
        save_whole(pipeline, folder, PARTS)
        for name in ("vocab.json", "merges.txt"):  # transformers 5 leaves them out, which older ones need
            if (self.folder / "tokenizer" / name).is_file():
                shutil.copy(self.folder / "tokenizer" / name, folder / "tokenizer" / name)


def _check_shares(options: dict[str, Any]) -> None:
    for name, highest in (("alpha", 1), ("drop", 0.3)):
        value = options[name]
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= highest:
            raise ValueError(f"options.{name} is {value!r}; it must lie in [0, {highest}]")
    if not isinstance(options["train_text_encoder"], bool):
        raise ValueError(f"options.train_text_encoder is {options['train_text_encoder']!r}; it must be true or false")


def _base(name: Any) -> Path:
    """The folder of a pipeline that can become an editor."""
    folder = Path(hub.resolve(name))
    kind = read_config(folder / "model_index.json").get("_class_name")
    if kind not in BASES:
        raise ValueError(
            f"options.base {str(name)!r} is a {str(kind)[:99]}; an editor is tuned from {', '.join(BASES)}"
        )
    return folder


def _sampler(folder: Path) -> SchedulerMixin:
    """The scheduler that the base samples with."""
    name = read_config(folder / "scheduler" / "scheduler_config.json").get("_class_name")
    kind = getattr(diffusers, name, None) if isinstance(name, str) else None
    if not isinstance(kind, type) or not issubclass(kind, SchedulerMixin):
        raise ValueError(f"options.base has a scheduler {name!r:.99}, which is none of diffusers")
    return load_part(kind, folder, subfolder="scheduler")


def widen(unet: UNet2DConditionModel) -> None:
    """Gives a UNet input channels for a source's latents; their weights are 0, so that it predicts what it did
    (InstructPix2Pix, section 3.2)."""
    old = unet.conv_in
    channels = unet.config.in_channels
    new = nn.Conv2d(2 * channels, old.out_channels, old.kernel_size, padding=old.padding)
    with torch.no_grad():
        new.weight.zero_()
        new.weight[:, :channels] = old.weight
        new.bias.copy_(old.bias)
    unet.conv_in = new
    unet.register_to_config(in_channels=2 * channels)
