"""The world of KAdaptation's micro-experiments: 24x24 pictures, a small ViT trained on them, and the task it moves to.

See kadaptation_micro.py and kadaptation_lid.py, which run on it. The base learns to name one object (6 shapes x
4 colours) on a plain ground. The transfer task has 9 classes that the base was never asked for: how many objects
there are (1, 2, 3) and how the stripes of the ground lie (three directions). Every picture is keyed by the name of
its set and its place in it, so that sets never share pictures and any of them is drawn again alike.
"""

import hashlib
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from records import environment
from safetensors.torch import load_file, save_file
from torch import nn
from torch.nn import functional as F
from transformers import CLIPVisionConfig, CLIPVisionModel

from wm_pipelines.runtime.files import atomic_folder
from wm_pipelines.runtime.random import keyed

SIZE = 24
SHAPES = ("circle", "square", "triangle", "cross", "ring", "diamond")
COLOURS = {"red": (0.9, 0.2, 0.2), "green": (0.2, 0.8, 0.3), "blue": (0.2, 0.35, 0.95), "yellow": (0.95, 0.85, 0.2)}
NOISE = 0.08
DIRECTIONS = (0.0, np.pi / 3, 2 * np.pi / 3)
CLASSES = 9
KEPT_BASE = Path(__file__).parent / "kadaptation_micro_base"

_ROWS, _COLUMNS = np.mgrid[:SIZE, :SIZE].astype(np.float32) + 0.5


def _distance(shape: str, x: np.ndarray, y: np.ndarray, r: float) -> np.ndarray:
    """Signed distance (about) of points to a shape of radius r around 0, below 0 inside, y pointing down."""
    ax, ay = np.abs(x), np.abs(y)
    if shape == "circle":
        return np.hypot(x, y) - r
    if shape == "square":
        return np.maximum(ax, ay) - 0.85 * r
    if shape == "triangle":
        return np.maximum(0.87 * ax - 0.5 * y, y) - 0.55 * r
    if shape == "cross":
        long, short = r, 0.33 * r
        return np.minimum(np.maximum(ax - long, ay - short), np.maximum(ax - short, ay - long))
    if shape == "ring":
        return np.abs(np.hypot(x, y) - 0.75 * r) - 0.22 * r
    return (ax + ay - 1.15 * r) * 0.71  # diamond


def _paint(picture: np.ndarray, rng: np.random.Generator, shape: int, colour: int, x: float, y: float, r: float):
    turn = rng.uniform(-0.2, 0.2)
    dx, dy = _COLUMNS - x, _ROWS - y
    across, down = np.cos(turn) * dx + np.sin(turn) * dy, np.cos(turn) * dy - np.sin(turn) * dx
    cover = np.clip(0.5 - _distance(SHAPES[shape], across, down, r), 0, 1)
    tint = np.array(list(COLOURS.values())[colour], dtype=np.float32) + rng.uniform(-0.08, 0.08, 3)
    picture += cover * (tint[:, None, None].astype(np.float32) - picture)


def _finish(picture: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    return np.clip(picture + NOISE * rng.standard_normal(picture.shape, dtype=np.float32), 0, 1) * 4 - 2


def named_objects(name: str, indices: range | np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
    """Pretraining pictures (N,3,24,24) in [-2, 2], labels (N,) in 0..23: one object, shape x 4 + colour."""
    pictures, labels = [], []
    for i in indices:
        rng = keyed("kadaptation objects", name, int(i))
        shape, colour = int(rng.integers(len(SHAPES))), int(rng.integers(len(COLOURS)))
        picture = np.full((3, SIZE, SIZE), rng.uniform(0.3, 0.7), dtype=np.float32)
        r = rng.uniform(3.5, 8.0)
        x, y = rng.uniform(r, SIZE - r, 2)
        _paint(picture, rng, shape, colour, x, y, r)
        pictures.append(_finish(picture, rng))
        labels.append(shape * len(COLOURS) + colour)
    return torch.from_numpy(np.stack(pictures)), torch.tensor(labels)


def striped_counts(name: str, length: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Transfer pictures (N,3,24,24) in [-2, 2], labels (N,) in 0..8, classes in turn: (objects - 1) x 3 + direction.

    Objects of any shapes and colours lie in different cells of a 3x3 grid; stripes have any colour, phase and period.
    Their contrast was set on seeds that no result uses, so that a linear probe is right for about 30 % of pictures:
    grey sine stripes of the first design were nearly invisible to the base (15 %).
    """
    pictures = []
    for i in range(length):
        rng, count, direction = keyed("kadaptation counts", name, i), i % CLASSES // 3 + 1, i % 3
        angle = DIRECTIONS[direction] + rng.uniform(-0.05, 0.05)
        wave = (np.cos(angle) * _COLUMNS + np.sin(angle) * _ROWS) / rng.uniform(6.0, 9.0) + rng.uniform()
        bars = 0.6 * np.clip(4 * np.sin(2 * np.pi * wave), 0, 1)
        tint = list(COLOURS.values())[int(rng.integers(len(COLOURS)))]
        picture = np.stack([0.5 + bars * (level - 0.5) for level in tint]).astype(np.float32)
        for cell in rng.choice(9, count, replace=False):
            r, jitter = rng.uniform(3.0, 4.0), rng.uniform(-0.5, 0.5, 2)
            y, x = 8 * (np.array(divmod(int(cell), 3)) + 0.5) + jitter
            _paint(picture, rng, int(rng.integers(len(SHAPES))), int(rng.integers(len(COLOURS))), x, y, r)
        pictures.append(_finish(picture, rng))
    return torch.from_numpy(np.stack(pictures)), torch.arange(length) % CLASSES


class Classifier(nn.Module):
    """A CLIP vision tower and a linear head on its pooled output; pictures (N,3,24,24) to logits (N,classes)."""

    def __init__(self, classes: int, width: int = 64, layers: int = 4):
        super().__init__()
        self.vision_model = CLIPVisionModel(
            CLIPVisionConfig(
                hidden_size=width, intermediate_size=4 * width, num_hidden_layers=layers, num_attention_heads=4,
                image_size=SIZE, patch_size=4,
            )
        )  # fmt: skip
        self.head = nn.Linear(width, classes)

    def forward(self, pictures: torch.Tensor) -> torch.Tensor:
        return self.head(self.vision_model(pixel_values=pictures).pooler_output)


def pretrain(sizes: dict[str, Any], folder: Path) -> None:
    """Train the base on fresh pictures at every step and keep it in `folder`, with its accuracy on new pictures."""
    began, steps, batch = time.process_time(), sizes["base_steps"], sizes["base_batch"]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = Classifier(len(SHAPES) * len(COLOURS), sizes["width"], sizes["layers"]).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3, weight_decay=0.01)
    warm = max(steps // 20, 1)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda s: min((s + 1) / warm, 0.5 * (1 + np.cos(np.pi * s / steps)))
    )
    for step in range(steps):
        pictures, labels = named_objects("train", range(step * batch, (step + 1) * batch))
        loss = F.cross_entropy(model(pictures), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        if step % 200 == 0 or step == steps - 1:
            print(f"base step {step}/{steps}: loss {loss.item():.3f}", flush=True)
    pictures, labels = named_objects("test", range(sizes["base_test"]))
    accuracy = float((predict(model.eval(), pictures) == labels).float().mean())
    record = {
        "kind": "base", "accuracy": accuracy, "test": sizes["base_test"], "steps": steps, "batch": batch,
        "cpu_s": round(time.process_time() - began, 1), **environment(),
    }  # fmt: skip
    with atomic_folder(folder, last="record.json") as partial:
        model.vision_model.save_pretrained(partial)
        save_file(model.head.state_dict(), partial / "head.safetensors")
        (partial / "record.json").write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")


class Base:
    """The frozen base that all arms and seeds share.

    Attributes: `record` (its accuracy and how it was made), `sha256` of its weights.
    """

    def __init__(self, folder: Path):
        self.record = json.loads((folder / "record.json").read_text(encoding="utf-8"))
        self.sha256 = hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()
        self._folder = folder
        self._weights = load_file(folder / "model.safetensors")

    def classifier(self, seed: int, classes: int = CLASSES) -> Classifier:
        """A new, frozen copy of the base with a head at zero; the generator of `seed` is left to what is added."""
        config = CLIPVisionConfig.from_pretrained(self._folder)
        torch.manual_seed(int(keyed("kadaptation init", seed).integers(2**63)))
        model = Classifier(classes, config.hidden_size, config.num_hidden_layers)
        model.vision_model.load_state_dict(self._weights)
        nn.init.zeros_(model.head.weight)
        nn.init.zeros_(model.head.bias)
        return model.requires_grad_(False).eval()


@torch.no_grad()
def predict(model: nn.Module, pictures: torch.Tensor) -> torch.Tensor:
    """Labels (N,) that the model gives."""
    return torch.cat([model(part).argmax(1) for part in pictures.split(250)])


def make_base(sizes: dict[str, Any], folder: Path, kept: bool) -> Base:
    """The base kept beside this script (`kept`), or the one in `folder`, which is trained first if need be."""
    if kept and KEPT_BASE.exists():
        return Base(KEPT_BASE)
    if not (folder / "record.json").exists():
        pretrain(sizes, folder)
    return Base(folder)
