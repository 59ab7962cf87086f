"""What diorama-clip knows, on test renders of seen and of held-out pairs: zero-shot colour x shape, retrieval among
200 captions, and whether it tells left from right.

    python benchmarks/diorama_clip.py --out benchmarks/results/diorama_clip.jsonl
"""

import argparse
import json
from pathlib import Path

import numpy as np
import torch
from records import append, environment, mean_interval
from torch.nn import functional
from transformers import AutoTokenizer, CLIPModel

from wm_pipelines.diorama.clip_training import true_elsewhere
from wm_pipelines.diorama.datasets import DioramaDataset
from wm_pipelines.diorama.language import caption
from wm_pipelines.diorama.render import render
from wm_pipelines.diorama.scene import COLOURS, SHAPES, Scene, clear_relations
from wm_pipelines.hub import embedded
from wm_pipelines.text.phrasing import with_article

COMMAND = "python benchmarks/diorama_clip.py"
TEMPLATE = "a photo of a {}."
CLASSES = [(colour, shape) for colour in COLOURS for shape in SHAPES]
GALLERY = 200  # captions to choose from in retrieval


class Encoder:
    """Unit features of texts and of scenes."""

    def __init__(self, folder: Path):
        self.clip = CLIPModel.from_pretrained(folder).eval()
        self.tokenizer = AutoTokenizer.from_pretrained(folder)

    @torch.no_grad()
    def texts(self, texts: list[str], batch: int = 128) -> torch.Tensor:
        rows = []
        for i in range(0, len(texts), batch):
            tokens = self.tokenizer(texts[i : i + batch], padding=True, return_tensors="pt")
            rows.append(self.clip.get_text_features(**tokens).pooler_output)
        return functional.normalize(torch.cat(rows), dim=-1)

    @torch.no_grad()
    def scenes(self, scenes: list[Scene], batch: int = 128) -> torch.Tensor:
        rows = []
        for i in range(0, len(scenes), batch):
            pictures = (render(scenes[i : i + batch], maps=("rgb",)).rgb[:, 0] * 255).round() / 255
            rows.append(self.clip.get_image_features(pixel_values=pictures * 2 - 1).pooler_output)
        return functional.normalize(torch.cat(rows), dim=-1)


def zero_shot(encoder: Encoder, scenes: list[Scene]) -> dict[str, np.ndarray]:
    """Per scene of one object, whether the nearest of all 32 class sentences names it: both words, and either."""
    texts = encoder.texts([TEMPLATE.format(f"{colour} {shape}") for colour, shape in CLASSES])
    found = [CLASSES[i] for i in (encoder.scenes(scenes) @ texts.T).argmax(1).tolist()]
    truth = [(scene.objects[0].colour, scene.objects[0].shape) for scene in scenes]
    pairs = list(zip(found, truth, strict=True))
    return {
        "colour and shape": np.array([f == t for f, t in pairs], float),
        "colour": np.array([f[0] == t[0] for f, t in pairs], float),
        "shape": np.array([f[1] == t[1] for f, t in pairs], float),
    }


def retrieval(encoder: Encoder, scenes: list[Scene]) -> dict[str, np.ndarray]:
    """R@1 among the captions, or pictures, of these scenes; another caption that is true of a picture counts too."""
    texts = [caption(scene, "full", seed=i).text for i, scene in enumerate(scenes)]
    scores = encoder.scenes(scenes) @ encoder.texts(texts).T
    true = true_elsewhere(texts, scenes) | torch.eye(len(scenes), dtype=torch.bool)
    own = torch.arange(len(scenes))
    return {
        "R@1, picture to caption": true[own, scores.argmax(1)].numpy().astype(float),
        "R@1, caption to picture": true[scores.argmax(0), own].numpy().astype(float),
    }


def named(thing) -> str:
    return with_article(f"{thing.colour} {thing.shape}")


def left_right(encoder: Encoder, scenes: list[Scene]) -> dict[str, np.ndarray]:
    """Per scene of two objects, whether the true sentence scores above one with the other word, or the other order."""
    sentences = []
    for scene in scenes:
        first, second = scene.objects
        word, other = ("left", "right") if ("left of", first.id, second.id) in clear_relations(scene) else (
            "right", "left"
        )  # fmt: skip
        a, b = named(first), named(second)
        sentences += [f"{a} {word} of {b}", f"{a} {other} of {b}", f"{b} {word} of {a}"]
    texts = encoder.texts(sentences).unflatten(0, (len(scenes), 3))
    true, word, order = (encoder.scenes(scenes)[:, None] * texts).sum(-1).unbind(1)
    return {
        "left against right": (true > word).numpy().astype(float),
        "objects exchanged": (true > order).numpy().astype(float),
    }


def scenes_of(composition: str, count: int, objects: int | None, clear: bool = False) -> list[Scene]:
    """The first test scenes; `clear`: of those that are left or right of one another by a clear margin."""
    data = DioramaDataset(split="test", composition=composition, length=10**6, num_objects=objects)
    found: list[Scene] = []
    for index in range(len(data)):
        scene = data.scene(index)
        if not clear or any(predicate == "left of" for predicate, *_ in clear_relations(scene)):
            found.append(scene)
        if len(found) == count:
            return found
    raise ValueError(f"only {len(found)} of {count} scenes")


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clip", type=Path, help="folder; default: embedded diorama-clip")
    parser.add_argument("--scenes", type=int, default=1000, help="for zero-shot; half as many for left and right")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args(argv)
    encoder = Encoder(args.clip or embedded("diorama-clip"))
    for composition, pairs in (("iid", "seen pairs"), ("held_out", "held-out pairs")):
        tasks = {
            f"one object, {pairs}": ("zero-shot classification", zero_shot(
                encoder, scenes_of(composition, args.scenes, 1)
            ), {"colour and shape": 1 / 32, "colour": 1 / 8, "shape": 1 / 4}),
            f"one to four objects, {pairs}": ("retrieval among 200", retrieval(
                encoder, scenes_of(composition, GALLERY, None)
            ), None),
            f"two objects, {pairs}": ("relation", left_right(
                encoder, scenes_of(composition, max(1, args.scenes // 2), 2, clear=True)
            ), {"left against right": 0.5, "objects exchanged": 0.5}),
        }  # fmt: skip
        for data, (task, measured, chance) in tasks.items():
            row = {"benchmark": "diorama_clip", "task": task, "set": data}
            row["evaluation"] = [
                {
                    "task": task,
                    "dataset": f"Diorama test, {data}",
                    "metric": name,
                    "value": round(float(values.mean()), 4),
                    "ci95": mean_interval(values),
                    "n": len(values),
                    "seeds": [0],
                    "baseline": chance[name] if chance else 1 / GALLERY,
                    "command": COMMAND,
                }
                for name, values in measured.items()
            ]
            for item in row["evaluation"]:
                print(json.dumps({k: item[k] for k in ("dataset", "metric", "value", "ci95", "n", "baseline")}))
            if args.out:
                append(args.out, row | environment())


if __name__ == "__main__":
    main()
