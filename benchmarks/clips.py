"""Clips of `diorama-video` for measuring: prompts of one object, sampled with their own noise, decoded unclamped."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from wm_pipelines import AutoWMPipeline, embedded
from wm_pipelines.config import WMConfig
from wm_pipelines.diorama.judge import DioramaJudge
from wm_pipelines.diorama.scene import COLOURS, HELD_OUT, SHAPES
from wm_pipelines.hub import fingerprint
from wm_pipelines.mojito.outputs import MotionReport
from wm_pipelines.text.phrasing import with_article

STEPS, CFG, FRAMES = 20, 4.0, 16


def seen_object(rng: np.random.Generator) -> tuple[str, str]:
    """Words with their article, and colour, of an object whose pair of colour and shape was seen in training."""
    pairs = [(colour, shape) for colour in COLOURS for shape in SHAPES if (colour, shape) not in HELD_OUT]
    colour, shape = pairs[rng.integers(len(pairs))]
    return with_article(f"{colour} {shape}"), colour


def made_by(folder: Path | None) -> dict[str, Any]:
    """What a row's checkpoint was: a hash over its weights, and what its record says of guidance."""
    config = WMConfig.load(folder or embedded("diorama-video"))
    guidance = config.method_config.guidance
    return {"checkpoint": fingerprint(config), "guidance": guidance and guidance.model_dump(mode="json")}


def check_rows(rows: Sequence[dict[str, Any]], expected: dict[str, Any], out: Path) -> None:
    """Ends the program if a row has other values than `expected`: figures of two checkpoints are never mixed."""
    for row in rows:
        for name, value in expected.items():
            if row.get(name) != value:
                sys.exit(f"{out} holds rows of another {name}; name another --out or delete it")


class ClipMaker:
    """The pipeline of a checkpoint, and the judge that reads its clips."""

    def __init__(self, folder: Path | None):
        self.pipe = AutoWMPipeline.from_pretrained(folder or embedded("diorama-video"))
        self.pipe.set_progress_bar_config(disable=True)
        self.checkpoint = made_by(folder)["checkpoint"]
        self.judge = DioramaJudge.from_pretrained(embedded("diorama-judge")).eval()

    def make(
        self, prompts: Sequence[str], seed: int, indices: Sequence[int], steps: int = STEPS, **options: Any
    ) -> list[tuple[torch.Tensor, torch.Tensor, MotionReport]]:
        """For each prompt its clip (F, 3, H, W) in [0, 1], what the VAE decoded before it was clamped, and its report.

        Args:
            seed, indices: of the noise, one index a prompt; a batch of many has the noise of batches of one.
        """
        out = self.pipe(
            list(prompts),
            num_frames=FRAMES,
            num_inference_steps=steps,
            guidance_scale=CFG,
            output_type="latent",
            generator=[torch.Generator().manual_seed(1000 * seed + i) for i in indices],
            **options,
        )
        vae, made = self.pipe.vae, []
        for latents, report in zip(out.frames, out.report, strict=True):
            decoded = vae.decode(latents.transpose(0, 1) / vae.config.scaling_factor).sample
            made.append(((decoded / 2 + 0.5).clamp(0, 1), decoded, report))
        return made
