"""Local intrinsic dimension from the command line: which layers of a CLIP vision tower your own pictures need."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import torch
from torch import nn
from transformers import CLIPVisionModel

from wm_pipelines import hub
from wm_pipelines.clip.parts import image_processor, model_type, preprocess
from wm_pipelines.data.class_folders import class_folders
from wm_pipelines.hub.stock import load_model
from wm_pipelines.kadaptation.subspace.dimension import LocalIntrinsicDimension
from wm_pipelines.kadaptation.subspace.groups import block_groups
from wm_pipelines.kadaptation.subspace.results import LIDResult
from wm_pipelines.kadaptation.subspace.training import ClassificationTask, Labelled
from wm_pipelines.media.pictures import load_image
from wm_pipelines.runtime.claims import holding
from wm_pipelines.runtime.devices import on_accelerator
from wm_pipelines.runtime.files import atomic_folder
from wm_pipelines.runtime.random import keyed

T = TypeVar("T")
HEAD_RATE = 1e-2
MODEL_TYPES = ("clip", "clip_vision_model")
RATES = (1e-3, 1e-2, 1e-1)


class Tower(nn.Module):
    """A CLIP vision tower and a linear head at zero; pixel values (B,3,H,W) to logits (B,classes)."""

    def __init__(self, vision_model: CLIPVisionModel, classes: int):
        super().__init__()
        self.vision_model = vision_model
        self.head = nn.Linear(vision_model.config.hidden_size, classes)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def forward(self, pixel_values: torch.Tensor) -> torch.Tensor:
        return self.head(self.vision_model(pixel_values=pixel_values).pooler_output)


def load_tower(folder: Path, classes: int) -> Tower:
    """The image tower of a CLIP checkpoint in float32, with a head for so many classes.

    Raises:
        ValueError: the folder holds another model, no preprocessor, or weights that are not whole.
    """
    kind = model_type(folder)
    if kind not in MODEL_TYPES:
        wanted = ", ".join(MODEL_TYPES)
        raise ValueError(f"base {folder} has model_type {kind!r} in its config.json, needs one of {wanted}")
    if not (folder / "preprocessor_config.json").is_file():
        raise ValueError(f"base {folder} has no preprocessor_config.json; name a CLIP checkpoint")
    hub.check_weights(folder)
    return Tower(load_model(CLIPVisionModel, folder, dtype=torch.float32), classes)


def files_of_classes(folder: str | os.PathLike) -> dict[str, list[Path]]:
    """{class: its files, by name} of a folder that has one folder of pictures for each class.

    Raises:
        ValueError: as in `data.class_folders.class_folders`, or a class of fewer than three pictures.
    """
    found: dict[str, list[Path]] = {}
    for path, name in zip(*class_folders(folder), strict=True):
        found.setdefault(name, []).append(path)
    for name, files in found.items():
        if len(files) < 3:
            raise ValueError(
                f"class {name!r} has {len(files)} pictures; three or more are needed: to train on, to choose the "
                "learning rate on, to measure on"
            )
    return found


def split_classes(classes: dict[str, list[T]]) -> list[list[tuple[T, int]]]:
    """[train, validation, test] as (item, label); a fifth of each class, at least one, in either of the last two."""
    parts: list[list[tuple[T, int]]] = [[], [], []]
    for label, (name, files) in enumerate(classes.items()):
        order, held = keyed("lid split", name).permutation(len(files)), max(len(files) // 5, 1)
        for place, i in enumerate(order):
            parts[1 if place < held else 2 if place < 2 * held else 0].append((files[i], label))
    return parts


@holding("out")
def run(
    pictures: str | os.PathLike,
    base: str,
    out: str | os.PathLike = "outputs/lid",
    projection: str = "fastfood",
    seeds: int = 3,
    steps: int = 100,
    batch: int = 32,
    max_dim: int | None = None,
    say: Callable[[str], None] = print,
) -> LIDResult:
    """Measures attention and MLP of every layer; writes `lid.json` and `curves.svg` to `out`.

    Args:
        pictures: folder with a folder of pictures for each class.
        base: embedded name, folder or Hub id of a CLIP model or its vision tower.
        steps, batch: budget of every training. max_dim: top of the ladder of dimensions.
        say: called with a line for every point measured.

    Raises:
        ValueError: before any training, for anything that is not there or does not fit.
    """
    for name, value in (("steps", steps), ("batch", batch)):
        if value < 1:
            raise ValueError(f"{name}={value}; it must be an integer above 0")
    classes = files_of_classes(pictures)
    folder = hub.resolve(base)
    model = load_tower(folder, len(classes))
    lid = LocalIntrinsicDimension(
        model.eval(), block_groups(model), projection, head=["head"], seeds=seeds, max_dim=max_dim
    )
    processor = image_processor(folder)
    device = next(on_accelerator(model).parameters()).device

    def load(part: list[tuple[Path, int]]) -> Labelled:
        images = preprocess(processor, [load_image(file) for file, _ in part])
        return images.to(device), torch.tensor([label for _, label in part], device=device)

    parts = [load(part) for part in split_classes(classes)]
    task = ClassificationTask(*parts, steps=steps, batch=batch, head_rate=HEAD_RATE, rates=RATES)
    result = lid.measure(task.train, task.evaluate, _Said(say))
    with atomic_folder(out, last="lid.json") as partial:
        result.plot(partial / "curves.svg")
        result.save(partial / "lid.json")
    return result


class _Said(dict):
    """Points of a measurement that are told as they come."""

    def __init__(self, say: Callable[[str], None]):
        super().__init__()
        self.say = say

    def __setitem__(self, key: tuple, scores: list[float]) -> None:
        super().__setitem__(key, scores)
        group, dim, seed = key
        self.say(f"{group or ('whole model' if dim == 'full' else 'head')} d={dim} seed {seed}: "
                 f"{sum(scores) / max(len(scores), 1):.3f}")  # fmt: skip
