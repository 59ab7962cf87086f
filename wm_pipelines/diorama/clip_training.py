"""How `diorama-clip` is trained: `CLIPModel` on pictures and captions of the training composition."""

import json
import math
import tempfile
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import nn
from torch.nn import functional

from wm_pipelines.diorama.language import KINDS, VOCABULARY
from wm_pipelines.diorama.parser import parse_caption
from wm_pipelines.diorama.scene import Scene
from wm_pipelines.diorama.tokenizer import MAX_LENGTH, build_tokenizer
from wm_pipelines.diorama.training import SIZE, options_of, pictures_of, save_half, worded
from wm_pipelines.training import KeyedNoise, Recipe, Task

TEMPLATE = "a photo of {}."
TEMPLATED = 0.25  # share of captions put into the template that zero-shot classes come in
LARGEST_SCALE = 100.0  # of the logits, as in CLIP
CLIP_WORDS = (*VOCABULARY, "photo")  # the words that are one token each


class CLIPTask(Task):
    """Symmetric InfoNCE (Radford et al. 2021, arXiv 2103.00020) with a learned logit scale of at most 100.

    A caption that is true of another picture of the batch is no negative for it: see `true_elsewhere`.
    """

    def __init__(self, recipe: Recipe):
        from transformers import CLIPConfig, CLIPModel

        self.options = options_of(recipe, {"length": 24000, "cache": None})
        self.images = pictures_of(self.options)
        self.scenes, self.length = self.images.scenes, len(self.images)
        self.data = f"Diorama images, train split, {self.length} scenes"
        with tempfile.TemporaryDirectory() as folder:
            self.tokenizer = build_tokenizer(folder, CLIP_WORDS)
        tower = {
            "hidden_size": 128,
            "intermediate_size": 512,
            "num_hidden_layers": 4,
            "num_attention_heads": 4,
            "projection_dim": 128,
        }
        text = {
            **tower,
            "vocab_size": len(self.tokenizer),
            "max_position_embeddings": MAX_LENGTH,
            "bos_token_id": self.tokenizer.bos_token_id,
            "eos_token_id": self.tokenizer.eos_token_id,
            "pad_token_id": self.tokenizer.pad_token_id,
        }
        vision = {**tower, "image_size": SIZE, "patch_size": 8}
        self.clip = CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=128))

    def modules(self) -> dict[str, nn.Module]:
        return {"clip": self.clip}

    def load_weights(self, source: str) -> dict[str, int]:
        """Starts from a folder or embedded name of the same architecture."""
        from transformers import CLIPModel

        from wm_pipelines.hub import check_weights, resolve

        folder = resolve(source)
        check_weights(folder)
        saved = CLIPModel.from_pretrained(folder, use_safetensors=True)
        self.clip.load_state_dict(saved.state_dict())
        return {"parameters": sum(p.numel() for p in saved.parameters())}

    def words(self, index: int, noise: KeyedNoise) -> str:
        """The caption of scene `index` as this step words it."""
        rng = noise.generator(index, "caption")
        templated = rng.random() < TEMPLATED
        text = worded(self.scenes[index], rng)
        return TEMPLATE.format(text) if templated else text

    def loss(self, indices: list[int], step: int, noise: KeyedNoise) -> dict[str, torch.Tensor]:
        captions = [self.words(i, noise) for i in indices]
        pictures = (self.images.pictures(indices) * 2 - 1).to(self.device)
        images = self.clip.visual_projection(self.clip.vision_model(pictures).pooler_output)
        texts = self.text_features(captions)
        with torch.no_grad():
            self.clip.logit_scale.clamp_(max=math.log(LARGEST_SCALE))
        scale = self.clip.logit_scale.exp()
        logits = scale * functional.normalize(images, dim=-1) @ functional.normalize(texts, dim=-1).T
        also = true_elsewhere(captions, [self.scenes[i] for i in indices]).to(self.device)
        logits = logits.masked_fill(also, float("-inf"))
        own = torch.arange(len(indices), device=self.device)
        loss = (functional.cross_entropy(logits, own) + functional.cross_entropy(logits.T, own)) / 2
        right = ((logits.argmax(0) == own).float().mean() + (logits.argmax(1) == own).float().mean()) / 2
        return {"loss": loss, "right": right, "scale": scale}

    def text_features(self, captions: list[str]) -> torch.Tensor:
        """Projected features (N, D): the shorter half of the captions in one pass and the longer in another, each as
        long as its longest, for what follows the first end-of-text changes no feature."""
        order = sorted(range(len(captions)), key=lambda i: len(captions[i]))
        rows = []
        for part in (order[: len(order) // 2], order[len(order) // 2 :]):
            if part:
                tokens = self.tokenizer([captions[i] for i in part], padding=True, return_tensors="pt").input_ids
                rows.append(self.clip.text_projection(self.clip.text_model(tokens.to(self.device)).pooler_output))
        return torch.cat(rows)[torch.tensor(order).argsort().to(self.device)]

    def export(self, folder: Path) -> None:
        """Writes `CLIPModel` in fp16 with its tokenizer and image processor, whatever `CLIPProcessor` reads."""
        from transformers import CLIPImageProcessor, CLIPProcessor

        square = {"height": SIZE, "width": SIZE}
        images = CLIPImageProcessor(
            size=square, crop_size=square, do_center_crop=False, image_mean=[0.5] * 3, image_std=[0.5] * 3
        )
        CLIPProcessor(image_processor=images, tokenizer=self.tokenizer).save_pretrained(folder)
        images.save_pretrained(folder)  # preprocessor_config.json, for transformers 4
        build_tokenizer(folder, CLIP_WORDS)  # vocab.json and merges.txt as well
        save_half(self.clip, folder)
        for name in ("processor_config.json", "preprocessor_config.json"):
            path = folder / name
            path.write_text(json.dumps(json.loads(path.read_text()), indent=2, sort_keys=True) + "\n")


def true_elsewhere(captions: Sequence[str], scenes: Sequence[Scene]) -> torch.Tensor:
    """Where a caption is true of a scene that it was not made for, bool (scenes, captions), False on the diagonal.

    Known exactly for one object ("a red cube" is true of each single red cube, whatever its size); of two or more, for
    equal captions.
    """
    codes = {text: n for n, text in enumerate(dict.fromkeys(captions))}
    same = torch.tensor([codes[text] for text in captions])
    true = same[:, None] == same[None, :]
    alone = [n for n, scene in enumerate(scenes) if len(scene.objects) == 1]
    if alone:
        shown = torch.tensor([[_code(k, getattr(scenes[n].objects[0], k)) for k in KINDS] for n in alone])
        claims = [parse_caption(_bare(captions[n])).objects[0] for n in alone]
        said = torch.tensor([[_code(k, claim.get(k)) for k in KINDS] for claim in claims])
        fits = ((said[None] < 0) | (shown[:, None] == said[None])).all(-1)
        at = torch.tensor(alone)
        true[at[:, None], at[None, :]] |= fits
    return true.fill_diagonal_(False)


def _code(kind: str, value: str | None) -> int:
    return KINDS[kind].index(value) if value is not None else -1


def _bare(text: str) -> str:
    """The caption without the template."""
    start, end = TEMPLATE.split("{}")
    return text[len(start) : -len(end)] if text.startswith(start) else text
