"""Training of `diorama-video`: a motion adapter and its intensity dial over the frozen `diorama-sd`.

Recipe options (with their defaults in `DEFAULTS`):
    base: embedded name, folder or Hub id of a Stable-Diffusion-shaped pipeline. length: clips. two: share of clips
    with two objects. cache: file that keeps the encoded clips between runs. frames: how many a step sees of the
    `clip_frames` frames of a clip, with their places in time, so that 8 cost half of 16 and still teach 16.
    heads, hidden_dim: sizes of the motion modules and of the intensity model. inject, positions: as
    `MotionIntensityModel`; inject=None trains the adapter alone. read_text: the intensity model reads the prompt.
    text_drop, level_drop: chances of an empty caption and of no level. backwards: chance that a clip is played
    backwards, where its caption can say so. late: 1 draws timesteps evenly, 2 with a density that rises evenly with
    the noise. shared_noise: share of the noise's variance that all frames of a clip have in common, in [0, 1): the
    mixed noise of "Preserve Your Own Correlation" (arXiv 2305.10474), whose own share is 0.5; clips are sampled from
    such noise too.

The frozen text encoder has every word of motion in its vocabulary but never saw one beside a picture, and the motion
modules see no text. Its last token still tells the motions apart, for the words' random vectors pass through, but by
little beside what it says of the objects: a small network learns left, right, towards and away from the plain states
to 33 % in 3,000 steps of two captions, from whitened ones to 90 % in 100. So the intensity model reads that token,
whitened over the training captions.
"""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from wm_pipelines.hub import resolve
from wm_pipelines.hub.stock import load_model, load_part
from wm_pipelines.media.flow import FARNEBACK, level_of, percentile_table
from wm_pipelines.mojito.data import ClipLatents, clip_caption, reversible
from wm_pipelines.mojito.intensity import applied
from wm_pipelines.mojito.modeling import MotionIntensityModel
from wm_pipelines.runtime.random import keyed
from wm_pipelines.training import KeyedNoise, Recipe, Task, check_keys
from wm_pipelines.training.targets import target_of

if TYPE_CHECKING:
    from diffusers import MotionAdapter

DEFAULTS: dict[str, Any] = {
    "base": "diorama-sd", "length": 3000, "two": 0.15, "cache": None, "clip_frames": 16, "frames": 16,
    "heads": 4, "hidden_dim": 192, "inject": "temporal", "positions": True,
    "read_text": True,
    "text_drop": 0.1, "level_drop": 0.15, "backwards": 0.5, "late": 2.0, "shared_noise": 0.0,
}  # fmt: skip


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


class VideoTask(Task):
    """`MotionAdapter` and `MotionIntensityModel` on clips of the miniature world."""

    defaults = DEFAULTS

    def __init__(self, recipe: Recipe):
        from diffusers import AutoencoderKL, DDPMScheduler, UNet2DConditionModel, UNetMotionModel
        from transformers import CLIPTextModel, CLIPTokenizer

        check_keys(recipe.options, self.defaults, "options")
        self.options = options = {**self.defaults, **recipe.options}
        self._check_options()
        if not 0 <= options["shared_noise"] < 1:
            raise ValueError(f"options.shared_noise is {options['shared_noise']}; from 0, below 1")
        folder = Path(resolve(options["base"]))
        self.tokenizer = load_part(CLIPTokenizer, folder, subfolder="tokenizer")
        self.text_encoder = load_model(CLIPTextModel, folder, subfolder="text_encoder")
        self.text_encoder.requires_grad_(False).eval()
        self.schedule = load_part(DDPMScheduler, folder, subfolder="scheduler")
        vae = load_model(AutoencoderKL, folder, subfolder="vae").requires_grad_(False).eval()
        self._load_clips(vae)
        unet = load_model(UNet2DConditionModel, folder, subfolder="unet")
        self.adapter = self._make_adapter(unet)
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
                level_percentiles=self.table,
                flow=self.estimator,
                fps_rule=self.fps_rule,
                base=options["base"],
            )
            if options["read_text"]:
                self.intensity.fit_text(self._caption_states())

    # ---- what is trained on ----

    def _check_options(self) -> None:
        if not 2 <= self.options["frames"] <= self.options["clip_frames"]:
            raise ValueError(f"options.frames is {self.options['frames']}; 2 to options.clip_frames")
        part = self.options["frames"] < self.options["clip_frames"]
        if part and self.options["positions"] and self.options["inject"] is not None:
            raise ValueError(
                f"options.frames is {self.options['frames']} of {self.options['clip_frames']}, but options.positions "
                "tells a clip's first frame from its last: take all, or positions=False"
            )

    def _load_clips(self, vae: nn.Module) -> None:
        """Sets `length`, `data`, `clips`, `table`, `estimator`, `fps_rule`."""
        options = self.options
        self.clips = ClipLatents(
            vae, options["length"], frames=options["clip_frames"], two=options["two"], cache=options["cache"]
        )
        self.length = options["length"]
        self.data = f"Diorama clips of {options['clip_frames']} frames, train split, {self.length} scenes"
        self.table = percentile_table(self.clips.flow.mean(1))
        self.estimator = {"estimator": "farneback", "region": "objects", "size": 64, **FARNEBACK}
        self.fps_rule = "8 frames a second, every frame"

    def _make_adapter(self, unet: nn.Module) -> "MotionAdapter":
        from diffusers import MotionAdapter

        adapter = MotionAdapter(
            block_out_channels=tuple(unet.config.block_out_channels),
            motion_layers_per_block=unet.config.layers_per_block,
            motion_num_attention_heads=self.options["heads"],
            motion_norm_num_groups=unet.config.norm_num_groups,
            motion_max_seq_length=2 * self.options["clip_frames"],
        )
        for name, module in adapter.named_modules():  # the untrained adapter changes nothing
            if name.endswith("proj_out"):
                nn.init.zeros_(module.weight)
                nn.init.zeros_(module.bias)
        return adapter

    def frames_of(self, noise: KeyedNoise) -> list[int]:
        """The frames of each clip that this step sees: every second one, or some in a row; or all."""
        count, every = self.options["frames"], self.options["clip_frames"]
        rng = noise.generator(0, "frames")
        if 2 * count <= every and rng.random() < 0.5:
            first = int(rng.integers(every - 2 * count + 2))
            return list(range(first, first + 2 * count - 1, 2))
        first = int(rng.integers(every - count + 1))
        return list(range(first, first + count))

    def sample(self, index: int, noise: KeyedNoise) -> tuple[torch.Tensor, str, float | None]:
        """What a step sees of a clip: latents (F, 4, h, w), caption and level."""
        frames, scene = self.frames_of(noise), self.clips.scenes[index]
        backwards = reversible(scene) and bool(noise.uniform(index, (), "backwards") < self.options["backwards"])
        latents, flow = self.clips.latents[index], self.clips.flow[index]
        if backwards:
            latents, flow = latents.flip(0), flow.flip(0)
        level = level_of(float(flow[frames[0] : frames[-1]].mean()), self.table)
        text = clip_caption(scene, noise.generator(index, "caption"), backwards)
        if noise.uniform(index, (), "text") < self.options["text_drop"]:
            text = ""
        dropped = noise.uniform(index, (), "level") < self.options["level_drop"]
        return latents[frames].float(), text, None if dropped else level

    # ---- the engine's side ----

    def modules(self) -> dict[str, nn.Module]:
        return {"adapter": self.adapter} | ({"intensity": self.intensity} if self.intensity is not None else {})

    def _caption_states(self) -> torch.Tensor:
        """States (N, D) of the last token for the empty text and the captions."""
        texts = ["", *self._captions()]
        return torch.cat([self.encode(texts[i : i + 64])[:, -1] for i in range(0, len(texts), 64)])

    def _captions(self) -> list[str]:
        """Captions of every clip, forwards and backwards."""
        texts = []
        for i, scene in enumerate(self.clips.scenes):
            ways = (False, True) if reversible(scene) else (False,)
            texts += [clip_caption(scene, keyed("mojito captions", i), backwards) for backwards in ways]
        return texts

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
        with dial, at_positions(self.unet, self.frames_of(noise)):
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
