"""How `diorama-clip` is trained: `CLIPModel` on pictures and captions of the training composition."""

import json
import math
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from wm_pipelines.diorama.parser import parse_caption
from wm_pipelines.diorama.scene import HELD_OUT, HELD_OUT_RELATIONS, SHAPES, Scene, SceneObject
from wm_pipelines.diorama.tokenizer import MAX_LENGTH, build_tokenizer
from wm_pipelines.diorama.training import OPPOSITES, RELATION, SIZE, options_of, pictures_of, worded
from wm_pipelines.diorama.words import KINDS, VOCABULARY
from wm_pipelines.hub.stock import load_model
from wm_pipelines.hub.weights import save_half
from wm_pipelines.training import KeyedNoise, Recipe, Task

TEMPLATE = "a photo of {}."
TEMPLATED = 0.25  # share of captions put into the template that zero-shot classes come in
LARGEST_SCALE = 100.0  # of the logits, as in CLIP
CLIP_WORDS = (*VOCABULARY, "photo")  # the words that are one token each


class CLIPTask(Task):
    """Symmetric InfoNCE (Radford et al. 2021, arXiv 2103.00020) with a learned logit scale of at most 100.

    A caption that is true of another picture of the batch is no negative for it: see `true_elsewhere`. With the
    option `contradictions`, each picture must also prefer its caption to a false one that has nearly the same words,
    as in NegCLIP (Yuksekgonul et al. 2023, arXiv 2210.01936): see `contradiction`.
    """

    def __init__(self, recipe: Recipe):
        from transformers import CLIPConfig, CLIPModel

        self.options = options_of(recipe, {"length": 24000, "cache": None, "contradictions": False})
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
        saved = load_model(CLIPModel, folder)
        self.clip.load_state_dict(saved.state_dict())
        return {"parameters": sum(p.numel() for p in saved.parameters())}

    def words(self, index: int, noise: KeyedNoise) -> str:
        """The caption of scene `index` as this step words it."""
        return _said_of(self.scenes[index], noise.generator(index, "caption"))

    def false_words(self, index: int, noise: KeyedNoise) -> str | None:
        """What `contradiction` makes of `words(index, noise)`."""
        return contradiction(
            self.scenes[index],
            lambda scene: _said_of(scene, noise.generator(index, "caption")),
            noise.generator(index, "contradiction"),
        )

    def loss(self, indices: list[int], step: int, noise: KeyedNoise) -> dict[str, torch.Tensor]:
        captions = [self.words(i, noise) for i in indices]
        false = [self.false_words(i, noise) if self.options["contradictions"] else None for i in indices]
        lied = [n for n, text in enumerate(false) if text]
        pictures = (self.images.pictures(indices) * 2 - 1).to(self.device)
        images = self.clip.visual_projection(self.clip.vision_model(pictures).pooler_output)
        texts = self.text_features(captions + [false[n] for n in lied])
        with torch.no_grad():
            self.clip.logit_scale.clamp_(max=math.log(LARGEST_SCALE))
        scale = self.clip.logit_scale.exp()
        logits = scale * functional.normalize(images, dim=-1) @ functional.normalize(texts, dim=-1).T
        also = true_elsewhere(captions, [self.scenes[i] for i in indices]).to(self.device)
        own = torch.arange(len(indices), device=self.device)
        square = logits[:, : len(indices)].masked_fill(also, float("-inf"))
        against = torch.full_like(logits[:, :1], float("-inf"))  # a picture's own contradiction
        against[lied, 0] = logits[lied, len(indices) + torch.arange(len(lied), device=self.device)]
        wide = torch.cat([square, against], 1)
        loss = (functional.cross_entropy(wide, own) + functional.cross_entropy(square.T, own)) / 2
        right = ((square.argmax(0) == own).float().mean() + (square.argmax(1) == own).float().mean()) / 2
        said = {"loss": loss, "right": right, "scale": scale}
        if lied:
            said["contradicted"] = (wide.diagonal()[lied] > against[lied, 0]).float().mean()
        return said

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


def _said_of(scene: Scene, rng: np.random.Generator) -> str:
    templated = rng.random() < TEMPLATED
    text = worded(scene, rng)
    return TEMPLATE.format(text) if templated else text


def contradiction(scene: Scene, say: Callable[[Scene], str], rng: np.random.Generator) -> str | None:
    """A false caption of `scene` with nearly the words of the true one, `say(scene)`.

    With equal chance, of those that apply: one relation turned round (left and right, behind and in front, above and
    below), the colours of two objects exchanged, one object given another shape. It never names a held-out pair or
    relation: as a caption that is always false, it would teach that these don't exist.

    Returns:
        The caption, or None where the draw gives none.
    """
    text = say(scene)
    relations = list(RELATION.finditer(text))
    ways = ["turn"] * bool(relations) + ["exchange"] * (len(scene.objects) > 1) + ["shape"] * bool(scene.objects)
    if not ways:
        return None
    way = ways[rng.integers(len(ways))]
    if way == "turn":
        at = relations[rng.integers(len(relations))]
        false = text[: at.start()] + OPPOSITES[at.group()] + text[at.end() :]
    else:
        objects = list(scene.objects)
        if way == "exchange":
            i, j = rng.choice(len(objects), 2, replace=False)
            colours = objects[i].colour, objects[j].colour
            objects[j], objects[i] = (replace(objects[n], colour=c) for n, c in zip((j, i), colours, strict=True))
        else:
            i = rng.integers(len(objects))
            objects[i] = replace(objects[i], shape=SHAPES[rng.integers(len(SHAPES))])
        if _looks(objects) == _looks(scene.objects) or HELD_OUT & set(_looks(objects)):
            return None
        false = say(replace(scene, objects=tuple(objects)))
    said = parse_caption(_bare(false))
    if way == "turn" and any(said.objects.count(thing) > 1 for thing in said.objects):
        return None  # "a red cube left of another red cube" is true both ways round
    shapes = [thing["shape"] for thing in said.objects]
    return None if any((p, shapes[a], shapes[b]) in HELD_OUT_RELATIONS for a, p, b in said.relations) else false


def _looks(objects: Sequence[SceneObject]) -> list[tuple[str, str]]:
    return sorted((o.colour, o.shape) for o in objects)


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
