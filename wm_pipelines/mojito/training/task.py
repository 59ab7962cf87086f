"""Training of motion over a frozen picture base: one task, whatever the source of its captioned clips.

Recipe options that every source has:
    base: embedded name, folder or Hub id of a Stable-Diffusion-shaped pipeline. frames: how many a step sees.
    hidden_dim: size of the intensity model. inject, positions: as `MotionIntensityModel`; inject=None trains the
    adapter alone. read_text: the intensity model reads the prompt. text_drop, level_drop: chances of an empty caption
    and of no level. late: 1 draws timesteps evenly, 2 with a density that rises evenly with the noise. shared_noise:
    share of the noise's variance that all frames of a clip have in common, in [0, 1): the mixed noise of "Preserve
    Your Own Correlation" (arXiv 2305.10474), whose own share is 0.5; clips are sampled from such noise too.

The frozen text encoder has every word of motion in its vocabulary but never saw one beside a picture, and the motion
modules see no text. Its last token still tells the motions apart, for the words' random vectors pass through, but by
little beside what it says of the objects: a small network learns left, right, towards and away from the plain states
to 33 % in 3,000 steps of two captions, from whitened ones to 90 % in 100. So the intensity model reads that token,
whitened over the training captions.
"""

from abc import abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import nn

from wm_pipelines.hub import resolve
from wm_pipelines.hub.stock import load_model, load_part
from wm_pipelines.mojito.intensity import applied
from wm_pipelines.mojito.modeling import MotionIntensityModel
from wm_pipelines.training import KeyedNoise, Recipe, Task, check_keys
from wm_pipelines.training.targets import target_of

if TYPE_CHECKING:
    from diffusers import MotionAdapter


def _motion_blocks(model: nn.Module) -> list[nn.Module]:
    """The blocks of a motion UNet or adapter that hold motion modules, in one order for both."""
    return [
        block for block in (*model.down_blocks, model.mid_block, *model.up_blocks) if hasattr(block, "motion_modules")
    ]


@contextmanager
def at_positions(unet: nn.Module, frames: list[int]) -> Iterator[None]:
    """Inside the block the frames of a clip have these places in time, not 0, 1, 2, ...

    So a part of a clip teaches what holds for the whole.
    """
    kept = [(module, module.pe) for name, module in unet.named_modules() if name.endswith("pos_embed")]
    for module, table in kept:
        module.pe = table[:, frames]
    try:
        yield
    finally:
        for module, table in kept:
            module.pe = table


class Clips(Protocol):
    """A source of captioned clips.

    Attributes: `length`, how many; `data`, a line for the record; `table`, flow of level 0, 1, ... 10 in px a frame;
    `estimator` and `fps_rule`, how that was measured and of which frames.
    """

    length: int
    data: str
    table: list[float]
    estimator: dict[str, Any]
    fps_rule: str

    def captions(self) -> list[str]:
        """Captions of every clip, in all ways in which it may be shown."""

    def frames_of(self, noise: KeyedNoise) -> list[int]:
        """The frames of each clip that this step sees."""

    def sample(self, index: int, noise: KeyedNoise) -> tuple[torch.Tensor, str, float]:
        """What this step sees of a clip: latents (F, 4, h, w), caption and level."""


class VideoTask(Task):
    """A `MotionAdapter` and `MotionIntensityModel` over a frozen base; a task for a source says how both are made."""

    defaults: dict[str, Any] = {}

    @abstractmethod
    def check_options(self) -> None:
        """ValueError for options that cannot be, before anything is loaded."""

    @abstractmethod
    def make_clips(self, vae: nn.Module) -> Clips:
        """The source, by `self.options`."""

    @abstractmethod
    def make_adapter(self, unet: nn.Module) -> "MotionAdapter":
        """The motion adapter, new or loaded."""

    def __init__(self, recipe: Recipe):
        from diffusers import AutoencoderKL, DDPMScheduler, UNet2DConditionModel, UNetMotionModel
        from transformers import CLIPTextModel, CLIPTokenizer

        check_keys(recipe.options, self.defaults, "options")
        self.options = options = {**self.defaults, **recipe.options}
        self.check_options()
        if not 0 <= options["shared_noise"] < 1:
            raise ValueError(f"options.shared_noise is {options['shared_noise']}; from 0, below 1")
        folder = Path(resolve(options["base"]))
        self.tokenizer = load_part(CLIPTokenizer, folder, subfolder="tokenizer")
        self.text_encoder = load_model(CLIPTextModel, folder, subfolder="text_encoder")
        self.text_encoder.requires_grad_(False).eval()
        self.schedule = load_part(DDPMScheduler, folder, subfolder="scheduler")
        vae = load_model(AutoencoderKL, folder, subfolder="vae").requires_grad_(False).eval()
        self.clips = self.make_clips(vae)
        self.length, self.data = self.clips.length, self.clips.data
        unet = load_model(UNet2DConditionModel, folder, subfolder="unet")
        self.adapter = self.make_adapter(unet)
        self.unet = UNetMotionModel.from_unet2d(unet, self.adapter).requires_grad_(False).eval()
        # the adapter's own modules stand in the denoiser, so that it is trained and saved as such
        for mine, theirs in zip(_motion_blocks(self.unet), _motion_blocks(self.adapter), strict=True):
            mine.motion_modules = theirs.motion_modules
        self.intensity = None
        if options["inject"] is not None:
            self.intensity = MotionIntensityModel.from_denoiser(
                self.unet,
                options["inject"],
                embedding_dim=unet.config.block_out_channels[0],
                hidden_dim=options["hidden_dim"],
                positions=options["positions"],
                text_dim=self.text_encoder.config.hidden_size if options["read_text"] else None,
                level_percentiles=self.clips.table,
                flow=self.clips.estimator,
                fps_rule=self.clips.fps_rule,
                base=options["base"],
            )
            if options["read_text"]:
                self.intensity.fit_text(self._caption_states())

    def sample(self, index: int, noise: KeyedNoise) -> tuple[torch.Tensor, str, float | None]:
        """What a step sees of a clip: latents (F, 4, h, w), caption ("" for a share) and level (None for a share)."""
        latents, text, level = self.clips.sample(index, noise)
        empty = noise.uniform(index, (), "text") < self.options["text_drop"]
        dropped = noise.uniform(index, (), "level") < self.options["level_drop"]
        return latents, "" if empty else text, None if dropped else level

    # ---- the engine's side ----

    def modules(self) -> dict[str, nn.Module]:
        return {"adapter": self.adapter} | ({"intensity": self.intensity} if self.intensity is not None else {})

    def _caption_states(self) -> torch.Tensor:
        """States (N, D) of the last token for the empty text and the captions."""
        texts = ["", *self.clips.captions()]
        return torch.cat([self.encode(texts[i : i + 64])[:, -1] for i in range(0, len(texts), 64)])

    @torch.no_grad()
    def encode(self, texts: list[str]) -> torch.Tensor:
        """Text states (B, T, D) of the frozen text encoder, in fp32 also under autocast.

        What tells motions apart is small in them: rounded to bf16, left and right are as near as two roundings.
        """
        ids = self.tokenizer(
            texts,
            padding="max_length",
            max_length=self.tokenizer.model_max_length,
            truncation=True,
            return_tensors="pt",
        ).input_ids
        with torch.autocast(torch.device(self.device).type, enabled=False):
            return self.text_encoder.to(self.device)(ids.to(self.device)).last_hidden_state

    def loss(self, indices: list[int], step: int, noise: KeyedNoise) -> dict[str, torch.Tensor]:
        latents, texts, levels = zip(*(self.sample(i, noise) for i in indices), strict=True)
        clean = torch.stack(latents).to(self.device)  # (B, F, 4, h, w)
        eps = noise.randn(indices, clean.shape[1:], "noise").to(self.device)
        share = self.options["shared_noise"]
        if share:
            common = noise.randn(indices, (1, *clean.shape[2:]), "shared noise").to(self.device)
            eps = share**0.5 * common + (1 - share) ** 0.5 * eps
        steps = self.schedule.config.num_train_timesteps
        t = (noise.uniform(indices, (), "timestep") ** (1 / self.options["late"]) * steps).long().to(self.device)
        noisy = self.schedule.add_noise(clean, eps, t).transpose(1, 2)
        target = target_of(self.schedule, clean, eps, t).transpose(1, 2)
        context = self.encode(list(texts)).repeat_interleave(clean.shape[1], dim=0)
        self.unet.to(self.device)
        dial = nullcontext()
        if self.intensity is not None:
            dial = applied(self.intensity, self.unet, levels, gradient=True)
        with dial, at_positions(self.unet, self.clips.frames_of(noise)):
            predicted = self.unet(noisy, t, context).sample
        each = (predicted - target).square().flatten(1).mean(1)
        early = t < steps // 2
        parts = {name: each[rows].mean().detach() for name, rows in (("low", early), ("high", ~early)) if rows.any()}
        return {"loss": each.mean(), **parts}

    def export(self, folder: Path) -> None:
        """Writes the adapter, and the intensity model in `intensity/`, both in fp16."""
        from wm_pipelines.hub.weights import save_half

        save_half(self.adapter, folder)
        if self.intensity is not None:
            save_half(self.intensity, folder / "intensity")

    def load_weights(self, source: str) -> dict[str, Any]:
        """Starts from an exported adapter, and from its intensity model where it and the run have one."""
        from diffusers import MotionAdapter

        folder = Path(resolve(source))
        self.adapter.load_state_dict(load_model(MotionAdapter, folder).state_dict())
        if self.intensity is not None and (folder / "intensity").is_dir():
            saved = load_model(MotionIntensityModel, folder, subfolder="intensity")
            self.intensity.load_state_dict(saved.state_dict())
        return {"parameters": sum(p.numel() for module in self.modules().values() for p in module.parameters())}
