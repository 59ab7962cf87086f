"""Data sets of the miniature world: item i is the same on every machine, in any order, in any process (our design)."""

import math
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch.utils.data import Dataset

from wm_pipelines.diorama.actions import ACTIONS
from wm_pipelines.diorama.pairs import MIN_CHANGED, Chain, chain_kinds, sample_chain
from wm_pipelines.diorama.render import MAPS as ALL_MAPS
from wm_pipelines.diorama.render import render
from wm_pipelines.diorama.scene import FLOOR_PATTERNS, MAX_OBJECTS, PATTERNS, USUAL, Camera, Scene, sample_scene
from wm_pipelines.diorama.world import check_cameras
from wm_pipelines.runtime.random import keyed

if TYPE_CHECKING:
    from wm_pipelines.diorama.questions import Knobs

SAMPLE_KINDS = ("image", "video", "multiview", "pairs", "questions")
SPLITS = ("train", "val", "test")
COMPOSITIONS = ("iid", "held_out", "all")
MAPS = ("rgb", "ids", "depth")
CROWD = 0.2  # share of scenes with three or four objects


class DioramaDataset(Dataset):
    """Scenes with their exact maps and captions; rendered when asked for, nothing on disk.

    Args:
        kind: "image" (t = 0), "video" (`frames` frames), "multiview" (`frames` frames from `views` cameras around the
            scene, all of which see the same motions), "pairs" (states with an action between each and the next) or
            "questions" (multiple choice, about pictures and clips).
        split: "train", "val" or "test"; keys are disjoint, so no state occurs in two of them.
        composition: "iid" draws from the training composition; "held_out" shows only colour x shape pairs that never
            occur there (not for split "train"); "all" draws every pair (for judges, never for models under test).
        length: number of items.
        size: side of the square pictures, pixels.
        num_objects: fixed counts to choose from; None draws one or two objects of `min_pixels` 12 (at 64 x 64),
            and in a fifth of the scenes three or four. Where there may be more than four, all have `min_pixels` 6.
        same_shape: all objects of a scene share one shape.
        detail, relations: how captions are worded, as `wm_pipelines.diorama.language.caption` takes them.
        patterns: patterns to choose from.
        frames: frames of a video, which its motions fill; 16 unless given, and 1 (nothing moves) of a multiview item.
        views: cameras of a multiview item, 4 unless given; the first is the scene's own, the others stand on the
            circle around its target.
        camera_motion: the camera of a video moves too; those of a multiview video all in the same way.
        states, actions, min_changed: of pairs, as `wm_pipelines.diorama.pairs.sample_chain` takes them.
        name: first part of every key; another name is another world of scenes.
        maps: which maps an item holds, of `wm_pipelines.diorama.render.MAPS`.
        cameras: those of every multiview item, for example `ring_cameras(8)`, in place of the circle. Captions speak
            from the scene's own camera all the same.
        floor_pattern: "plain" or "chequered".
        families, context, world, knobs: of questions, as `wm_pipelines.diorama.questions.QuestionSource` takes them;
            what else shapes scenes and captions has no say in them.

    Items: dict with `index`, `scene`, `rgb` (3, H, W) float32 in [0, 1], `ids` (H, W) int64, `depth` (H, W) metres,
    `caption`, `spans` (object id -> character span); a video has a leading T axis on the maps, a multiview item a
    leading V axis, or (V, T) where it has more than one frame, and `cameras`. Of pairs `scene` is the first state; the
    maps have a leading axis of S states, and `states` (S scenes), `actions` and `phrases` (S - 1: what leads to the
    next state) stand beside them. A question has a leading T axis (1 for a picture), and instead of a caption `item`
    (question and clip), `question` (the record), `text` (its context and question), `options` and `answer` (an index).

    Example:
        >>> item = DioramaDataset(split="train", length=1000)[7]
        >>> item["rgb"].shape, item["depth"].shape
        (torch.Size([3, 64, 64]), torch.Size([64, 64]))
        >>> item["caption"][slice(*item["spans"][1])] in item["caption"]
        True
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
        patterns: tuple[str, ...] = PATTERNS,
        frames: int | None = None,
        name: str = "diorama",
        views: int | None = None,
        camera_motion: bool = False,
        states: int = 2,
        actions: Sequence[str] = ACTIONS,
        min_changed: int = MIN_CHANGED,
        maps: Sequence[str] = MAPS,
        cameras: Sequence[Camera] | None = None,
        floor_pattern: str = "plain",
        families: str | Sequence[str] | None = None,
        context: str | None = None,
        world: str = "normal",
        knobs: "Knobs | None" = None,
    ):
        from wm_pipelines.diorama.language import DETAILS

        for key, value, allowed in (
            ("kind", kind, SAMPLE_KINDS),
            ("split", split, SPLITS),
            ("composition", composition, COMPOSITIONS),
            ("detail", detail, DETAILS),
            ("floor_pattern", floor_pattern, FLOOR_PATTERNS),
        ):
            if value not in allowed:
                raise ValueError(f"`{key}` is {value!r}; allowed: {', '.join(allowed)}")
        if composition == "held_out" and split == "train":
            raise ValueError("`composition` 'held_out' has no train split: its pairs are held out of training")
        frames = (1 if kind == "multiview" else 16) if frames is None else frames
        cameras = self._check_cameras(kind, views, camera_motion, cameras)
        views = (4 if cameras is None else len(cameras)) if views is None else views
        counted = {"length": length, "size": size, "frames": frames, "views": views, "min_changed": min_changed}
        for key, value in counted.items():
            if value < 1:
                raise ValueError(f"`{key}` is {value}; it must be 1 or more")
        counts = (num_objects,) if isinstance(num_objects, int) else num_objects
        if counts is not None and (len(counts) == 0 or not all(0 <= n <= MAX_OBJECTS for n in counts)):
            raise ValueError(
                f"`num_objects` is {num_objects!r}; allowed: 0 to {MAX_OBJECTS}, one or several counts, or None"
            )
        if not patterns or not set(patterns) <= set(PATTERNS):
            raise ValueError(f"`patterns` is {patterns!r}; one or more of {', '.join(PATTERNS)}")
        if kind == "pairs":
            chain_kinds(states, actions, num_objects, composition)
            if same_shape:
                raise ValueError("`same_shape` is for the other kinds; what is added to pairs may have any shape")
        unknown = [m for m in maps if m not in ALL_MAPS]
        if not maps or unknown or isinstance(maps, str):
            raise ValueError(f"`maps` is {maps!r}; one or more of {', '.join(ALL_MAPS)}")
        self.kind, self.split, self.composition, self.length, self.size = kind, split, composition, length, size
        self.num_objects, self.same_shape, self.patterns = num_objects, same_shape, patterns
        self.detail, self.relations, self.frames, self.name = detail, relations, frames, name
        self.views, self.camera_motion = views, camera_motion
        self.states, self.actions, self.min_changed = states, actions, min_changed
        self.maps, self.given_cameras, self.floor_pattern = tuple(maps), cameras, floor_pattern
        if kind == "questions":
            from wm_pipelines.diorama.questions import Knobs, QuestionSource

            if floor_pattern != "plain":
                raise ValueError(f"`floor_pattern` is {floor_pattern!r}; questions are asked about plain floors")
            knobs = replace(knobs or Knobs(), camera_motion=True) if camera_motion else knobs
            self.questions = QuestionSource(families, context, world, knobs, frames, composition, (name, split))
        elif (families, context, world, knobs) != (None, None, "normal", None):
            raise ValueError(f"`families`, `context`, `world` and `knobs` are for questions; `kind` is {kind!r}")

    @staticmethod
    def _check_cameras(kind, views, camera_motion, cameras) -> list[Camera] | None:
        cameras = check_cameras(cameras)
        if cameras is None:
            return None
        if kind != "multiview":
            raise ValueError(f"`cameras` are given; those of `kind` {kind!r} are the scenes' own")
        if views not in (None, len(cameras)):
            raise ValueError(f"`views` is {views}, but `cameras` are {len(cameras)}")
        if camera_motion and any(c.motion for c in cameras):
            raise ValueError("`camera_motion` is True, but `cameras` have motions of their own")
        return cameras

    def __len__(self) -> int:
        return self.length

    def _moves(self) -> bool:
        return self.kind == "video" or (self.kind == "multiview" and self.frames > 1)

    def _key(self, index: int) -> tuple:
        if not 0 <= index < self.length:
            raise IndexError(f"item {index} of a data set of {self.length}")
        return (self.name, self.split, self.composition, index)

    def scene(self, index: int) -> Scene:
        """The state of item `index`, the first one of pairs."""
        if self.kind == "pairs":
            return self.chain(index).states[0]
        key = self._key(index)
        if self.kind == "questions":
            return self.questions.item(index).clip.scene
        counts, least = self.num_objects, 12.0
        if counts is not None and np.max(counts) > USUAL:
            least = 6.0
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
        if self.floor_pattern != "plain":
            scene = replace(scene, floor_pattern=self.floor_pattern)
        if self._moves():
            from wm_pipelines.diorama.motion import sample_motion

            # a motion to be seen needs four frames; a shorter video is the beginning of one
            scene = sample_motion(replace(scene, duration=max(4, self.frames)), *key, camera=self.camera_motion)
        return scene

    def chain(self, index: int) -> Chain:
        """The states and actions of item `index` of pairs."""
        chain = sample_chain(
            *self._key(index),
            states=self.states,
            actions=self.actions,
            composition="train" if self.composition == "iid" else self.composition,
            num_objects=self.num_objects,
            min_changed=self.min_changed,
            patterns=self.patterns,
        )
        floor = {"floor_pattern": self.floor_pattern}
        return replace(chain, states=tuple(replace(state, **floor) for state in chain.states))

    def cameras(self, index: int) -> list[Camera]:
        """The cameras of a multiview item: those given, or the scene's own and others on the circle around it."""
        return self._cameras(index, self.scene(index) if self.camera_motion else None)

    def _cameras(self, index: int, scene: Scene | None) -> list[Camera]:
        """Those of item `index`, which is `scene` where they move."""
        out = self.given_cameras or self._circle(index)
        return [replace(c, motion=scene.camera.motion) for c in out] if self.camera_motion else list(out)

    def _circle(self, index: int) -> list[Camera]:
        key, own = self._key(index), Camera()
        rng = keyed("views", *key)
        out = [own]
        for n in range(1, self.views):
            angle = 2 * math.pi * n / self.views + rng.uniform(-0.3, 0.3)
            x, y, z = own.eye
            dx, dy = x - own.target[0], y - own.target[1]
            c, s = math.cos(angle), math.sin(angle)
            eye = (own.target[0] + c * dx - s * dy, own.target[1] + s * dx + c * dy, z)
            out.append(replace(own, eye=tuple(float(np.float32(v)) for v in eye)))
        return out

    def __getitem__(self, index: int) -> dict:
        from wm_pipelines.diorama.language import caption

        if self.kind == "questions":
            self._key(index)
            return self.questions.rendered(index, self.size, self.maps)
        chain = self.chain(index) if self.kind == "pairs" else None
        scene = chain.states[0] if chain else self.scene(index)
        words = caption(scene, self.detail, seed=index, relations=self.relations)
        item = {"index": index, "scene": scene, "caption": words.text, "spans": words.spans}
        if chain:
            item |= {"states": chain.states, "actions": chain.actions, "phrases": chain.phrases(index)}
            out = render(chain.states, (0,), self.size, self.maps)
            return item | {name: getattr(out, name)[:, 0] for name in self.maps}
        if self.kind == "multiview":
            item["cameras"] = self._cameras(index, scene)
        times = range(self.frames) if self._moves() else (0,)
        out = render(scene, times, self.size, self.maps, cameras=item.get("cameras"))
        at = 0 if self._moves() else (0, slice(None), 0) if self.kind == "multiview" else (0, 0)
        return item | {name: getattr(out, name)[at] for name in self.maps}


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
        if dataset.floor_pattern != "plain":
            identity += f" on {dataset.floor_pattern} floors"
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
            out = render(scenes, size=s, maps=MAPS)
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
        from safetensors import SafetensorError, safe_open

        try:
            opened = safe_open(str(path), "pt")
        except (SafetensorError, OSError) as error:
            raise ValueError(f"`cache` {path} is no file of pictures ({error}); delete it or name another") from error
        with opened as file:
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
