"""The small CLIP of the micro-experiments on `shapes`: one per seed, trained once and kept as a folder.

32x32 pictures in patches of 4, width 64, joint dimension 64, on scenes that are never seen twice. Start it again after
a kill and it goes on.
"""

import math
import tempfile
from pathlib import Path
from typing import Any

import torch
from shapes import SIDE, TEMPLATE, WORDS, render, training_scene
from torch import nn
from torch.nn import functional
from transformers import CLIPConfig, CLIPModel, CLIPTokenizer
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from wm_pipelines.diorama.tokenizer import build_tokenizer
from wm_pipelines.training import KeyedNoise, Recipe, Task, train

TEMPLATED = 0.25  # share of captions in the template that classes come in
LARGEST_SCALE = 100.0  # of the logits, as in CLIP


class ShapesClipTask(Task):
    """Symmetric InfoNCE; an equal caption of another picture of the batch is no negative. Endless data."""

    data = "scenes of benchmarks/shapes.py, each seen once"

    def __init__(self, recipe: Recipe):
        with tempfile.TemporaryDirectory() as folder:
            self.tokenizer = build_tokenizer(folder, WORDS)
        tower = {
            "hidden_size": 64, "intermediate_size": 256, "num_attention_heads": 4, "projection_dim": 64,
            "attention_dropout": 0.0,
        }  # fmt: skip
        text = {
            **tower, "num_hidden_layers": 2, "vocab_size": len(self.tokenizer),
            "bos_token_id": self.tokenizer.bos_token_id, "eos_token_id": self.tokenizer.eos_token_id,
            "pad_token_id": self.tokenizer.pad_token_id,
        }  # fmt: skip
        vision = {**tower, "num_hidden_layers": 3, "image_size": SIDE, "patch_size": 4}
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(recipe.seed)
            self.clip = CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=64))

    def modules(self) -> dict[str, nn.Module]:
        return {"clip": self.clip}

    def loss(self, indices: list[int], step: int, noise: KeyedNoise) -> dict[str, torch.Tensor]:
        rngs = [noise.generator(i, "scene") for i in indices]
        scenes = [training_scene(rng) for rng in rngs]
        captions = [
            TEMPLATE.format(s.caption) if rng.random() < TEMPLATED else s.caption
            for s, rng in zip(scenes, rngs, strict=True)
        ]
        ids = self.tokenizer(captions, padding=True, return_tensors="pt").input_ids.to(self.device)
        pixels = (render(scenes) * 2 - 1).to(self.device)
        images = self.clip.visual_projection(self.clip.vision_model(pixels).pooler_output)
        texts = self.clip.text_projection(self.clip.text_model(ids).pooler_output)
        with torch.no_grad():
            self.clip.logit_scale.clamp_(max=math.log(LARGEST_SCALE))
        logits = self.clip.logit_scale.exp() * functional.normalize(images, dim=-1) @ functional.normalize(texts).T
        codes = {text: n for n, text in enumerate(dict.fromkeys(s.caption for s in scenes))}
        code = torch.tensor([codes[s.caption] for s in scenes], device=self.device)
        own = torch.arange(len(scenes), device=self.device)
        same = (code[:, None] == code[None]) & (own[:, None] != own[None])
        logits = logits.masked_fill(same, float("-inf"))
        loss = (functional.cross_entropy(logits, own) + functional.cross_entropy(logits.T, own)) / 2
        return {"loss": loss, "right": (logits.argmax(1) == own).float().mean()}

    def export(self, folder: Path) -> None:
        self.tokenizer.save_pretrained(folder)
        image_processor().save_pretrained(folder)
        self.clip.save_pretrained(folder)


def image_processor() -> CLIPImageProcessorPil:
    """Reads 32x32 pictures as they are, into [-1, 1]."""
    side = {"height": SIDE, "width": SIDE}
    return CLIPImageProcessorPil(size=side, crop_size=side, image_mean=[0.5] * 3, image_std=[0.5] * 3)


def recipe_of(seed: int, steps: int, batch: int = 96) -> Recipe:
    return Recipe(
        task="shapes-clip", seed=seed, steps=steps, batch_size=batch, lr=1e-3, warmup=max(1, steps // 20),
        schedule="cosine", weight_decay=0.01, save_every=max(1, min(500, steps)), log_every=max(1, min(100, steps)),
    )  # fmt: skip


def shapes_clip(seed: int, steps: int, work: Path, batch: int = 96) -> dict[str, Any]:
    """Components `clip`, `tokenizer`, `image_processor` of the CLIP of `seed`; trained if `work` has none yet."""
    run = Path(work) / f"clip-{seed}-{steps}"
    if not (run / "record.json").exists():
        recipe = recipe_of(seed, steps, batch)
        train(ShapesClipTask(recipe), recipe, run)
    folder = run / "export"
    return {
        "clip": CLIPModel.from_pretrained(folder).requires_grad_(False).eval(),
        "tokenizer": CLIPTokenizer.from_pretrained(folder),
        "image_processor": CLIPImageProcessorPil.from_pretrained(folder),
    }
