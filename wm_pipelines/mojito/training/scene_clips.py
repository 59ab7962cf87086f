"""Clips of the miniature world for training motion: what moves how, captions that say it, latents and their flow."""

import re
from collections.abc import Sequence
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

import numpy as np
import torch
from torch import nn

from wm_pipelines.diorama.datasets import DioramaDataset
from wm_pipelines.diorama.language import caption, motion_words
from wm_pipelines.diorama.motion import stays_clear
from wm_pipelines.diorama.primitives import DIRECTIONS, TURNS, Motion
from wm_pipelines.diorama.render import render
from wm_pipelines.diorama.scene import Scene
from wm_pipelines.media.flow import measure_flow
from wm_pipelines.runtime.caches import read_cache
from wm_pipelines.runtime.files import atomic
from wm_pipelines.runtime.random import keyed

TRIES = 60  # scenes drawn for one motion before a slower one is tried
# how often an object moves in which way
MOTION_SHARES = {"translate": 0.62, "stop": 0.12, "bounce": 0.1, "turn": 0.08, "still": 0.08}
OPPOSITE = {"left": "right", "towards the camera": "away", "clockwise": "counterclockwise"}
OPPOSITE |= {b: a for a, b in OPPOSITE.items()}


def draw_clip(
    index: int, split: str = "train", frames: int = 16, two: float = 0.15, composition: str = "iid"
) -> Scene:
    """Scene `index` of a split, with motions that fill `frames` frames; a share `two` of them has two objects.

    A direction and a distance are drawn first, then scenes until one has room for them: what moves left starts right.
    """
    rng = keyed("mojito-clip", split, composition, index)
    count = 2 if rng.random() < two else 1
    worlds = DioramaDataset(
        split=split,
        composition=composition,
        length=1 << 40,
        num_objects=count,
        patterns=("plain", "striped"),
        name="mojito",
    )
    ways = [_draw_way(rng, frames) for _ in range(count)]
    for attempt in range(1 << 20):
        scene = replace(worlds.scene(index * 4096 + attempt % 4096), duration=frames)
        slower = 0.75 ** (attempt // TRIES)
        moving = [replace(o, motion=_slowed(way, slower)) for o, way in zip(scene.objects, ways, strict=True)]
        scene = replace(scene, objects=tuple(moving))
        if all(stays_clear(scene, o) for o in moving):
            return scene
    raise ValueError(f"no scene has room for the motions of clip {index}")


def _draw_way(rng: np.random.Generator, frames: int) -> tuple[Motion, ...]:
    end, half, seconds = frames - 1, frames // 2, (frames - 1) / 8
    way = str(rng.choice(list(MOTION_SHARES), p=list(MOTION_SHARES.values())))
    flat, spin = DIRECTIONS[rng.integers(4)], TURNS[rng.integers(2)]
    # what moves along the line of sight moves little in the picture
    speed = rng.uniform(0.3, 2.6) * (1.5 if flat in ("towards", "away") else 1.0) / seconds
    if way == "translate":
        return (Motion("translate", 0, end, flat, round(speed, 3)),)
    if way == "stop":
        return (Motion("translate", 0, half, flat, round(speed, 3)), Motion("stop", half, end))
    if way == "bounce":
        return (Motion("bounce", 0, end, height=round(rng.uniform(0.3, 0.8), 2), count=int(rng.integers(1, 4))),)
    if way == "turn":
        return (Motion("turn", 0, end, spin, round(rng.uniform(0.6, 2.4), 2)),)
    return (Motion("still", 0, end),)


def _slowed(way: tuple[Motion, ...], factor: float) -> tuple[Motion, ...]:
    return tuple(
        replace(m, height=m.height * factor) if m.kind == "bounce" else replace(m, speed=m.speed * factor) for m in way
    )


def clip_caption(scene: Scene, rng: np.random.Generator, backwards: bool = False) -> str:
    """Words for a clip, of the objects and their motions, never where they are; `backwards` for the clip reversed.

    A tenth say nothing of motion. A single object is named by colour and shape in two thirds of the cases.
    """
    seed, chance = int(rng.integers(1 << 30)), rng.random()
    if chance < 0.1:
        return caption(scene, "objects", seed=seed, relations=False).text
    if len(scene.objects) == 1 and chance < 0.7:
        text = caption(scene, "objects", seed=seed, relations=False).text
        text += motion_words(scene.objects[0].motion)
    else:
        text = caption(scene, "full", seed=seed, relations=False).text
    return reversed_words(text) if backwards else text


def reversed_words(text: str) -> str:
    """The caption of the clip played backwards: directions and turns become their opposites."""
    words = "|".join(sorted(OPPOSITE, key=len, reverse=True))
    return re.sub(rf"\b({words})\b", lambda m: OPPOSITE[m[0]], text)


def reversible(scene: Scene) -> bool:
    """Whether the clip played backwards has a caption: nothing that begins to move after it stood still."""
    return all(m.kind != "stop" for o in scene.objects for m in o.motion)


class ClipLatents:
    """Clips drawn, rendered and encoded once, and kept in one file between runs.

    Attributes: `scenes` (list), `latents` (N, F, 4, h, w) float16, scaled means of the VAE, `flow` (N, F-1) float32,
    px per frame by Farneback inside the objects, zero where no object is seen.

    Args:
        vae: what encodes them.
        length, frames, two: clips, their frames, and the share with two objects.

    Raises:
        ValueError: the file holds other clips.
    """

    def __init__(
        self, vae: nn.Module, length: int, frames: int = 16, two: float = 0.15, cache: str | Path | None = None
    ):
        weights = sha256(b"".join(p.detach().cpu().numpy().tobytes() for p in vae.parameters())).hexdigest()[:12]
        self.scenes = [draw_clip(i, frames=frames, two=two) for i in range(length)]
        identity = sha256(repr([weights, frames, [s.to_json() for s in self.scenes]]).encode()).hexdigest()
        if cache is not None and Path(cache).exists():
            self._load(Path(cache), identity)
            return
        from tqdm import tqdm

        latents, flow = [], []
        for start in tqdm(range(0, length, 2), desc="clips"):
            a, b = self._encode(vae, self.scenes[start : start + 2], frames)
            latents.append(a)
            flow.append(b)
        self.latents, self.flow = torch.cat(latents), torch.cat(flow)
        if cache is not None:
            from safetensors.torch import save_file

            with atomic(cache) as partial:
                save_file({"latents": self.latents, "flow": self.flow}, partial, metadata={"identity": identity})

    @torch.no_grad()
    def _encode(self, vae, scenes: Sequence[Scene], frames: int) -> tuple[torch.Tensor, torch.Tensor]:
        out = render(scenes, range(frames), maps=("rgb", "ids"))
        flow = torch.stack([measure_flow(rgb, ids > 0) for rgb, ids in zip(out.rgb, out.ids, strict=True)])
        pictures = (out.rgb.flatten(0, 1) * 2 - 1).to(vae.device, vae.dtype)
        means = torch.cat([vae.encode(p).latent_dist.mean for p in pictures.split(8)]) * vae.config.scaling_factor
        return means.unflatten(0, (len(scenes), frames)).to("cpu", torch.float16), flow.nan_to_num(0.0)

    def _load(self, path: Path, identity: str) -> None:
        found = read_cache(path, identity, "clips", ("latents", "flow"), "options.cache:")
        self.latents, self.flow = found["latents"], found["flow"]
