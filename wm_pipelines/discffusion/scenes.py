"""`wm train discffusion`: captions of the miniature world with pictures and captions that are nearly right.

Recipe options (defaults in `DEFAULTS`):
    base: embedded name, folder or Hub id of a Stable-Diffusion-shaped pipeline. length: scenes, the "few shots".
    r: rank of the LoRA. head_weights, score, sites, token_mask, cond_only, bias_weight, lse_lambda, margin,
    shared_noise: as `DiscffusionPipeline.fit`. captions: share of the samples whose foils are captions; of the others
    they are pictures.
"""

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from wm_pipelines.diorama.datasets import DioramaDataset
from wm_pipelines.diorama.render import render
from wm_pipelines.diorama.scene import COLOURS, SHAPES, Scene, clear_relations
from wm_pipelines.discffusion import adapter
from wm_pipelines.discffusion.pipeline import DiscffusionPipeline
from wm_pipelines.discffusion.reading import Rule
from wm_pipelines.discffusion.training import Item, Matcher, make_heads, rule_for
from wm_pipelines.hub import resolve
from wm_pipelines.runtime.random import keyed
from wm_pipelines.text.phrasing import with_article
from wm_pipelines.training import KeyedNoise, Recipe, Task, check_keys

DEFAULTS: dict[str, Any] = {
    "base": "diorama-sd", "length": 400, "r": 4, "head_weights": "uniform", "score": "lse+dc", "sites": "released",
    "token_mask": "all", "cond_only": False, "bias_weight": 1.0, "lse_lambda": 1.0, "margin": 0.1,
    "shared_noise": True, "captions": 0.5,
}  # fmt: skip
RULE = ("score", "sites", "token_mask", "cond_only", "bias_weight", "lse_lambda")


def foils_of(scene: Scene, key: int) -> tuple[list[str], list[Scene]] | None:
    """The true caption and four false ones, and the scenes they are true of, the true one first.

    A foil has another first object, another second one, the two in each other's places, or their colours exchanged.
    None where the two objects share a colour or a shape, or nothing is clear about where they stand.
    """
    a, b = scene.objects
    said = sorted(predicate for predicate, subject, _ in clear_relations(scene) if subject == a.id)
    if a.colour == b.colour or a.shape == b.shape or not said:
        return None
    rng = keyed("discffusion foils", key)
    relation = said[rng.integers(len(said))]
    kinds = {(a.colour, a.shape), (b.colour, b.shape)}
    others = [{"colour": c, "shape": s} for c in COLOURS for s in SHAPES if (c, s) not in kinds]
    first, second = (others[n] for n in rng.integers(len(others), size=2))
    pairs = [
        (a, b), (replace(a, **first), b), (a, replace(b, **second)),
        (replace(a, position=b.position), replace(b, position=a.position)),
        (replace(a, colour=b.colour), replace(b, colour=a.colour)),
    ]  # fmt: skip
    if (relation, a.id, b.id) in clear_relations(replace(scene, objects=pairs[3])):
        return None
    words = [[with_article(f"{o.colour} {o.shape}") for o in pair] for pair in pairs]
    words[3].reverse()  # in each other's places
    return [f" {relation} ".join(pair) for pair in words], [replace(scene, objects=pair) for pair in pairs]


class SceneTask(Task):
    """A new LoRA on a frozen base."""

    def __init__(self, recipe: Recipe):
        check_keys(recipe.options, DEFAULTS, "options")
        options = self.options = {**DEFAULTS, **recipe.options}
        self.pipe = DiscffusionPipeline.from_pretrained(str(resolve(options["base"])))
        denoiser = self.pipe.denoiser
        rule = rule_for(Rule(**{name: options[name] for name in RULE}), options["head_weights"])
        for part in (denoiser.model, self.pipe.vae, self.pipe.text_encoder):
            part.requires_grad_(False).eval()
        adapter.start(denoiser.model, adapter.default_config(options["r"]), recipe.seed)
        heads = make_heads(denoiser, rule, options["head_weights"])
        with torch.no_grad():
            empty = denoiser.encode_texts([""], torch.device("cpu"))
        told = {name: options[name] for name in ("margin", "shared_noise")}
        self.matcher = Matcher(denoiser, rule=rule, empty=empty, heads=heads, **told)
        self.items = self._items(options["length"])
        self.length = len(self.items)
        self.data = f"Diorama images, train split, {self.length} scenes of two objects with four foils each"

    @torch.no_grad()
    def _items(self, count: int) -> list[tuple[Item, Item]]:
        """Of each scene, five pictures of its caption, and five captions of its picture."""
        data = DioramaDataset(split="train", length=1 << 20, num_objects=2, patterns=("plain",), name="discffusion")
        found, index, denoiser, cpu = [], 0, self.pipe.denoiser, torch.device("cpu")
        while len(found) < count:
            made = foils_of(data.scene(index), index)
            index += 1
            if made is None:
                continue
            texts, scenes = made
            pictures = render(scenes, size=64, maps=("rgb",)).rgb[:, 0]
            latents = denoiser.encode_pictures(pictures * 2 - 1)
            captions = denoiser.encode_texts(texts, cpu)
            found.append((Item(latents, captions.rows([0])), Item(latents[:1], captions)))
        return found

    def modules(self) -> dict[str, nn.Module]:
        return {"denoiser": self.pipe.denoiser.model, "heads": self.matcher.heads}

    def loss(self, indices: list[int], step: int, noise: KeyedNoise) -> dict[str, torch.Tensor]:
        sides = [int(noise.generator(i, "side").random() < self.options["captions"]) for i in indices]
        items = [_moved(self.items[i][side], self.device) for i, side in zip(indices, sides, strict=True)]
        self.matcher.empty = _moved(Item(items[0].latents, self.matcher.empty), self.device).captions
        return self.matcher.loss(items, indices, noise)

    def export(self, folder: Path) -> None:
        """The adapter in fp16, in PEFT's form, with the weights of the heads where they were learnt."""
        adapter.save(self.pipe.denoiser.model, folder, torch.float16)
        if self.options["head_weights"] != "uniform":
            sites, weights = self.matcher.sites, self.matcher.heads.final().cpu()
            rows = weights.split([layer.heads for layer in sites.values()])
            adapter.save_heads(folder, {name: row.tolist() for name, row in zip(sites, rows, strict=True)})


def _moved(item: Item, device: torch.device) -> Item:
    captions = item.captions
    pooled = None if captions.pooled is None else captions.pooled.to(device)
    moved = type(captions)(captions.embeds.to(device), captions.kinds.to(device), pooled)
    return Item(item.latents.to(device), moved)
