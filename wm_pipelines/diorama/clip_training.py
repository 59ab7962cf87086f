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

from wm_pipelines.diorama.clip_reader import Reader, dye, said_in, shown_in, without_colours
from wm_pipelines.diorama.parser import parse_caption
from wm_pipelines.diorama.scene import HELD_OUT, HELD_OUT_RELATIONS, SHAPES, Scene, SceneObject
from wm_pipelines.diorama.tokenizer import MAX_LENGTH, build_tokenizer
from wm_pipelines.diorama.training import OPPOSITES, RELATION, SIZE, options_of, pictures_of, worded
from wm_pipelines.diorama.words import ATTRIBUTES, VOCABULARY
from wm_pipelines.hub.stock import load_model
from wm_pipelines.hub.weights import save_half
from wm_pipelines.training import KeyedNoise, Recipe, Task

TEMPLATE = "a photo of {}."
TEMPLATED = 0.25  # share of captions put into the template that zero-shot classes come in
LARGEST_SCALE = 100.0  # of the logits, as in CLIP
CLIP_WORDS = (*VOCABULARY, "photo")  # the words that are one token each


class CLIPTask(Task):
    """Symmetric InfoNCE (Radford et al. 2021, arXiv 2103.00020) with a learned logit scale of at most 100.

    A caption that is true of another picture of the batch is no negative for it: see `true_elsewhere`.

    Options:
        contradictions: how many false captions that have nearly the words of its own each picture must rank below it,
            as in NegCLIP (Yuksekgonul et al. 2023, arXiv 2210.01936): see `contradiction`. Where a relation is said,
            the first has one turned round.
        read: weight of what `clip_reader.Reader` must read from each picture and caption.
        dyed: share of pictures whose objects get any colour, but none near one that their shape is held out in, and
            whose captions name none. Else shapes are learnt by colour: a picture tower that never saw a red cone takes
            it for another shape more often than chance would.
        layers: of both towers.
    """

    def __init__(self, recipe: Recipe):
        from transformers import CLIPConfig, CLIPModel

        self.options = options_of(
            recipe, {"length": 24000, "cache": None, "contradictions": 0, "read": 0.0, "dyed": 0.0, "layers": 4}
        )
        self.images = pictures_of(self.options)
        self.scenes, self.length = self.images.scenes, len(self.images)
        self.data = f"Diorama images, train split, {self.length} scenes"
        with tempfile.TemporaryDirectory() as folder:
            self.tokenizer = build_tokenizer(folder, CLIP_WORDS)
        tower = {
            "hidden_size": 128,
            "intermediate_size": 512,
            "num_hidden_layers": self.options["layers"],
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
        self.reader = Reader(128) if self.options["read"] else None

    def modules(self) -> dict[str, nn.Module]:
        return {"clip": self.clip} | ({"reader": self.reader} if self.reader else {})

    def load_weights(self, source: str) -> dict[str, int]:
        """Starts from a folder or embedded name of the same architecture."""
        from transformers import CLIPModel

        from wm_pipelines.hub import check_weights, resolve

        folder = resolve(source)
        check_weights(folder)
        saved = load_model(CLIPModel, folder)
        self.clip.load_state_dict(saved.state_dict())
        return {"parameters": sum(p.numel() for p in saved.parameters())}

    def is_dyed(self, index: int, noise: KeyedNoise) -> bool:
        """Whether scene `index` is shown in other colours."""
        return bool(noise.uniform(index, (), "dyed") < self.options["dyed"])

    def words(self, index: int, noise: KeyedNoise) -> str:
        """The caption of scene `index` as this step words it."""
        text = _said_of(self.scenes[index], noise.generator(index, "caption"))
        return without_colours(text) if self.is_dyed(index, noise) else text

    def false_words(self, index: int, noise: KeyedNoise) -> list[str]:
        """What `contradiction` makes of `words(index, noise)`, up to `options.contradictions` captions."""
        if self.is_dyed(index, noise):
            return []
        rng = noise.generator(index, "contradiction")
        made = [
            contradiction(
                self.scenes[index],
                lambda scene: _said_of(scene, noise.generator(index, "caption")),
                rng,
                turn=n == 0 and self.options["contradictions"] > 1,
            )
            for n in range(self.options["contradictions"])
        ]
        return list(dict.fromkeys(text for text in made if text))

    def loss(self, indices: list[int], step: int, noise: KeyedNoise) -> dict[str, torch.Tensor]:
        count = len(indices)
        captions = [self.words(i, noise) for i in indices]
        lies = [(n, text) for n, i in enumerate(indices) for text in self.false_words(i, noise)]
        pictures, dyed = self.pictures(indices, noise)
        images = self.clip.visual_projection(self.clip.vision_model(pictures * 2 - 1).pooler_output)
        texts = self.text_features(captions + [text for _, text in lies])
        with torch.no_grad():
            self.clip.logit_scale.clamp_(max=math.log(LARGEST_SCALE))
        scale = self.clip.logit_scale.exp()
        logits = scale * functional.normalize(images, dim=-1) @ functional.normalize(texts, dim=-1).T
        also = true_elsewhere(captions, [self.scenes[i] for i in indices]).to(self.device)
        own = torch.arange(count, device=self.device)
        square = logits[:, :count].masked_fill(also, float("-inf"))
        liar = torch.tensor([n for n, _ in lies], dtype=torch.long, device=self.device)
        against = logits[:, count:].masked_fill(liar[None] != own[:, None], float("-inf"))
        wide = torch.cat([square, against], 1)
        loss = (functional.cross_entropy(wide, own) + functional.cross_entropy(square.T, own)) / 2
        right = ((square.argmax(0) == own).float().mean() + (square.argmax(1) == own).float().mean()) / 2
        said = {"loss": loss, "right": right, "scale": scale}
        if lies:
            said["contradicted"] = (wide.diagonal()[liar] > against[liar, torch.arange(len(lies))]).float().mean()
        if self.reader:
            self._read(said, images, texts[:count], indices, captions, dyed)
        return said

    def pictures(self, indices: list[int], noise: KeyedNoise) -> tuple[torch.Tensor, list[bool]]:
        """Pictures (N, 3, 64, 64) in [0, 1], and which of them are dyed."""
        dyed = [self.is_dyed(i, noise) for i in indices]
        pictures = list(self.images.pictures(indices))
        for n, index in enumerate(indices):
            if dyed[n]:
                rng = noise.generator(index, "dye")
                pictures[n] = dye(pictures[n], self.images.ids[index], self.scenes[index], rng)
        return torch.stack(pictures).to(self.device), dyed

    def _read(self, said: dict, images: torch.Tensor, texts: torch.Tensor, indices, captions, dyed) -> None:
        """Adds the reader's losses, the mean of both modalities, to those that are said."""
        shown = [shown_in(self.scenes[i], d) for i, d in zip(indices, dyed, strict=True)]
        told = [said_in(parse_caption(_bare(text))) for text in captions]
        for name, read in (("seen", self.reader(images, shown)), ("read", self.reader(texts, told))):
            placed = read.pop("placed", None)
            said["loss"] = said["loss"] + self.options["read"] / 2 * sum(read.values())
            if placed is not None:
                said[f"placed_{name}"] = placed

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


def contradiction(
    scene: Scene, say: Callable[[Scene], str], rng: np.random.Generator, turn: bool = False
) -> str | None:
    """A false caption of `scene` with nearly the words of the true one, `say(scene)`.

    With equal chance, of those that apply: one relation turned round (left and right, behind and in front, above and
    below), the colours of two objects exchanged, one object given another shape. It never names a held-out pair or
    relation: as a caption that is always false, it would teach that these don't exist.

    Args:
        turn: a relation, where one is said.

    Returns:
        The caption, or None where the draw gives none.
    """
    text = say(scene)
    relations = list(RELATION.finditer(text))
    ways = ["turn"] * bool(relations) + ["exchange"] * (len(scene.objects) > 1) + ["shape"] * bool(scene.objects)
    if not ways:
        return None
    way = "turn" if turn and relations else ways[rng.integers(len(ways))]
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
        shown = torch.tensor([[_code(k, getattr(scenes[n].objects[0], k)) for k in ATTRIBUTES] for n in alone])
        claims = [parse_caption(_bare(captions[n])).objects[0] for n in alone]
        said = torch.tensor([[_code(k, claim.get(k)) for k in ATTRIBUTES] for claim in claims])
        fits = ((said[None] < 0) | (shown[:, None] == said[None])).all(-1)
        at = torch.tensor(alone)
        true[at[:, None], at[None, :]] |= fits
    return true.fill_diagonal_(False)


def _code(kind: str, value: str | None) -> int:
    return ATTRIBUTES[kind].index(value) if value is not None else -1


def _bare(text: str) -> str:
    """The caption without the template."""
    start, end = TEMPLATE.split("{}")
    return text[len(start) : -len(end)] if text.startswith(start) else text
