"""Data sets of the miniature world: item i is the same on every machine, in any order, in any process (our design)."""

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch.utils.data import Dataset

from wm_pipelines.diorama.render import render
from wm_pipelines.diorama.scene import Scene, sample_scene
from wm_pipelines.random import keyed

KINDS = ("image", "video")
SPLITS = ("train", "val", "test")
COMPOSITIONS = ("iid", "held_out", "all")
CROWD = 0.2  # share of scenes with three or four objects


class DioramaDataset(Dataset):
    """Scenes with their exact maps and captions; rendered when asked for, nothing on disk.

    Args:
        kind: "image" (t = 0) or "video" (`frames` frames).
        split: "train", "val" or "test"; keys are disjoint, so no state occurs in two of them.
        composition: "iid" draws from the training composition; "held_out" shows only colour x shape pairs that never
        occur
            there (not for split "train"); "all" draws every pair (for judges, never for models under test).
        length: number of items.
        size: side of the square pictures, pixels.
        num_objects: fixed counts to choose from; None draws one or two objects of at least 12 pixels (at 64 x 64),
        and in a
            fifth of the scenes three or four.
        same_shape: all objects of a scene share one shape.
        detail, relations: how captions are worded, as `wm_pipelines.diorama.language.caption` takes them.
        patterns: patterns to choose from.
        frames: frames of a video.

    Items: dict with `index`, `scene`, `rgb` (3, H, W) float32 in [0, 1], `ids` (H, W) int64, `depth` (H, W) metres,
    `caption`, `spans` (object id -> character span); a video has a leading T axis on the maps.
    """

    def __init__(
        self,
        kind: str = "image",
        split: str = "train",
        composition: str = "iid",
        length: int = 1000,
        size: int = 64,
        num_objects: int | Sequence[int] | None = None,
        same_shape: bool = False,
        detail: str = "full",
        relations: bool | None = None,
        patterns: tuple[str, ...] = ("plain", "striped"),
        frames: int = 16,
        name: str = "diorama",
    ):
        for key, value, allowed in (
            ("kind", kind, KINDS),
            ("split", split, SPLITS),
            ("composition", composition, COMPOSITIONS),
        ):
            if value not in allowed:
                raise ValueError(f"`{key}` is {value!r}; allowed: {', '.join(allowed)}")
        if composition == "held_out" and split == "train":
            raise ValueError("`composition` 'held_out' has no train split: its pairs are held out of training")
        if length < 1 or size < 1:
            raise ValueError(f"`length` is {length}, `size` is {size}; both must be 1 or more")
        self.kind, self.split, self.composition, self.length, self.size = kind, split, composition, length, size
        self.num_objects, self.same_shape, self.patterns = num_objects, same_shape, patterns
        self.detail, self.relations, self.frames, self.name = detail, relations, frames, name

    def __len__(self) -> int:
        return self.length

    def scene(self, index: int) -> Scene:
        """The state of item `index`."""
        if not 0 <= index < self.length:
            raise IndexError(f"item {index} of a data set of {self.length}")
        key = (self.name, self.split, self.composition, index)
        counts, least = self.num_objects, 12.0
        if counts is None:
            crowd = keyed("crowd", *key).random() < CROWD
            counts, least = ((3, 4), 6.0) if crowd else ((1, 2), 12.0)
        scene = sample_scene(
            *key,
            num_objects=counts,
            composition="train" if self.composition == "iid" else self.composition,
            min_pixels=least,
            same_shape=self.same_shape,
            patterns=self.patterns,
        )
        if self.kind == "video":
            from wm_pipelines.diorama.motion import sample_motion

            scene = sample_motion(scene, *key)
        return scene

    def __getitem__(self, index: int) -> dict:
        from wm_pipelines.diorama.language import caption

        scene = self.scene(index)
        times = range(self.frames) if self.kind == "video" else (0,)
        out = render(scene, times, self.size, ("rgb", "ids", "depth"))
        words = caption(scene, self.detail, seed=index, relations=self.relations)
        item = {"index": index, "scene": scene, "caption": words.text, "spans": words.spans}
        for name in ("rgb", "ids", "depth"):
            value = getattr(out, name)[0]
            item[name] = value if self.kind == "video" else value[0]
        return item


class RenderedImages:
    """Every picture of an image data set, rendered once and held in memory; optionally kept in one file between runs.

    Attributes: `scenes` (list), `rgb` (N, 3, H, W) uint8, `ids` (N, H, W) uint8, `depth` (N, H, W) float16.
    """

    def __init__(
        self, dataset: DioramaDataset, cache: str | Path | None = None, batch: int = 64, progress: bool = True
    ):
        if dataset.kind != "image":
            raise ValueError(f"`dataset` is of kind {dataset.kind!r}; only 'image' can be held as pictures")
        self.dataset = dataset
        fields = ("name", "split", "composition", "length", "size", "num_objects", "same_shape", "patterns")
        identity = repr([getattr(dataset, f) for f in fields])
        if cache is not None and Path(cache).exists():
            self._load(Path(cache), identity)
            return
        from tqdm import tqdm

        n, s = len(dataset), dataset.size
        self.scenes: list[Scene] = []
        self.rgb = torch.empty(n, 3, s, s, dtype=torch.uint8)
        self.ids = torch.empty(n, s, s, dtype=torch.uint8)
        self.depth = torch.empty(n, s, s, dtype=torch.float16)
        for start in tqdm(range(0, n, batch), desc=f"render {dataset.split}", disable=not progress):
            scenes = [dataset.scene(i) for i in range(start, min(n, start + batch))]
            out = render(scenes, size=s, maps=("rgb", "ids", "depth"))
            at = slice(start, start + len(scenes))
            self.scenes += scenes
            self.rgb[at] = (out.rgb[:, 0] * 255).round().to(torch.uint8)
            self.ids[at] = out.ids[:, 0].to(torch.uint8)
            self.depth[at] = out.depth[:, 0].to(torch.float16)
        if cache is not None:
            self._save(Path(cache), identity)

    def _save(self, path: Path, identity: str) -> None:
        from safetensors.torch import save_file

        path.parent.mkdir(parents=True, exist_ok=True)
        states = np.frombuffer("\n".join(s.to_json() for s in self.scenes).encode(), dtype=np.uint8)
        tensors = {"rgb": self.rgb, "ids": self.ids, "depth": self.depth, "scenes": torch.from_numpy(states.copy())}
        temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
        save_file(tensors, str(temporary), metadata={"identity": identity})
        os.replace(temporary, path)

    def _load(self, path: Path, identity: str) -> None:
        from safetensors import safe_open

        with safe_open(str(path), "pt") as file:
            found = (file.metadata() or {}).get("identity")
            if found != identity:
                raise ValueError(f"`cache` {path} holds {found}, asked for {identity}; delete it or name another file")
            self.rgb, self.ids, self.depth = (file.get_tensor(k) for k in ("rgb", "ids", "depth"))
            states = file.get_tensor("scenes").numpy().tobytes().decode()
        self.scenes = [Scene.from_json(line) for line in states.split("\n")]

    def __len__(self) -> int:
        return len(self.scenes)

    def pictures(self, indices: Sequence[int]) -> torch.Tensor:
        """(N, 3, H, W) float32 in [0, 1]."""
        return self.rgb[torch.as_tensor(indices)].float() / 255
