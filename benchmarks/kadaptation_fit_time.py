"""How long KAdaptation takes to fit on CLIP ViT-B/32, beside a linear probe and a LoRA of equal rank.

    python benchmarks/kadaptation_fit_time.py           # rewrites results/kadaptation_fit_time.jsonl
    python benchmarks/kadaptation_fit_time.py --whole   # also runs the default fit to its end, to check the sum
    python benchmarks/kadaptation_fit_time.py --device cuda --out FILE

The tower is that of openai/clip-vit-base-patch32 with random weights, as time does not depend on their values. A fit
is the pipeline's default one (50 epochs, batches of 64) on 5 pictures of each of 10 classes, 256 x 256 pixels, so
that an epoch is one step. All three run through the pipeline's own training loop, in an order that changes from
repeat to repeat: two epochs, of which the second gives the seconds of a step and the first, less one step, what is
done once per fit (the probe's features). A whole fit is the sum: pictures prepared, once per fit, 50 steps; it is
extrapolated, and says so. Without a text tower the head starts at zero: reading class names is no part of it.
"""

import argparse
import copy
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from cpl_cost import small
from cpl_counts import config_of
from kronecker_speed import ratio
from peft import LoraConfig, PeftConfig, inject_adapter_in_model
from records import RESULTS, environment, write
from torch import nn
from transformers import CLIPVisionModelWithProjection
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from wm_pipelines.kadaptation import adapter, training
from wm_pipelines.kadaptation.modeling import KAdaptationHead
from wm_pipelines.kadaptation.pipeline import KAdaptationPipeline
from wm_pipelines.runtime.random import keyed

OURS, PROBE, LORA = "KAdaptation", "linear probe", "LoRA of equal rank"
ARMS: dict[str, Callable[[], PeftConfig | None]] = {
    OURS: adapter.default_config,
    PROBE: lambda: None,
    LORA: lambda: LoraConfig(r=32, lora_alpha=32, target_modules=list(adapter.TARGETS)),
}


def make_pipeline(tiny: bool, device: torch.device) -> KAdaptationPipeline:
    """The image tower with random weights, without a text tower."""
    config = (small() if tiny else config_of("ViT-B/32")).vision_config
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        tower = CLIPVisionModelWithProjection(config).requires_grad_(False).eval()
    side = {"height": config.image_size, "width": config.image_size}
    processor = CLIPImageProcessorPil(size={"shortest_edge": config.image_size}, crop_size=side)
    pipeline = KAdaptationPipeline(tower, processor).to(device)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def pictures_of(classes: int, shots: int, side: int) -> tuple[list[np.ndarray], list[int]]:
    """`shots` pictures of noise for each class, class by class, and their labels."""
    labels = [label for label in range(classes) for _ in range(shots)]
    rngs = [keyed("kadaptation fit time", i) for i in range(len(labels))]
    return [rng.integers(256, size=(side, side, 3), dtype=np.uint8) for rng in rngs], labels


class Arm:
    """One method on a tower of its own that shares the frozen weights with the others."""

    def __init__(self, tower: nn.Module, config: PeftConfig | None, classes: int):
        self.tower = copy.deepcopy(tower, {id(p): p for p in tower.parameters()})
        if config is not None:
            inject_adapter_in_model(config, self.tower)
        self.factors = [p for p in self.tower.parameters() if p.requires_grad]
        head = KAdaptationHead(tower.config.projection_dim, [str(i) for i in range(classes)])
        self.head, self.device = head.to(tower.device), tower.device

    def trainable(self) -> int:
        """Parameters of the adapter, without the head's."""
        return sum(p.numel() for p in self.factors)

    def seconds(self, train: training.Pictures) -> tuple[float, float]:
        """(one step, what comes once per fit) of two epochs; both have as many steps as batches."""
        times = [self._clock()]

        def done(row: dict[str, float]) -> bool:
            times.append(self._clock())
            return False

        recipe = training.FitRecipe(epochs=2)
        training.fit(
            self.tower, self.head, self.factors, train, None, recipe, on_step=lambda figures: None, on_epoch=done
        )
        first, second = np.diff(times)
        return second / training.steps_of(training.FitRecipe(), len(train[1]), "cosine", 1), max(0.0, first - second)

    def _clock(self) -> float:
        if self.device.type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter()


def measure(arms: dict[str, Arm], train: training.Pictures, repeats: int) -> dict[str, np.ndarray]:
    """{arm: (repeats, 2)} seconds of a step and of what comes once, after one run of each that is not counted."""
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in arms}
    for arm in arms.values():
        arm.seconds(train)
    for repeat in range(repeats):
        for i in keyed("kadaptation fit time order", repeat).permutation(len(arms)):
            name = list(arms)[i]
            found[name].append(arms[name].seconds(train))
    return {name: np.array(values) for name, values in found.items()}


def whole(pipeline: KAdaptationPipeline, pictures: list[np.ndarray], labels: list[int], epochs: int) -> float:
    """Seconds of a fit by the pipeline, from the pictures on."""
    began = time.perf_counter()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="the pipeline has no text_model")
        pipeline.fit(pictures, labels, epochs=epochs)
    return time.perf_counter() - began


def rows_of(args: argparse.Namespace) -> list[dict[str, Any]]:
    """A row for each arm's step and whole fit, for the ratios, and for the fit that was run to its end."""
    device = torch.device(args.device)
    pipeline = make_pipeline(args.tiny, device)
    pictures, labels = pictures_of(args.classes, args.shots, 48 if args.tiny else 256)
    began = time.perf_counter()
    train = pipeline.preprocess(pictures), torch.tensor(labels)
    preparing = time.perf_counter() - began
    recipe = training.FitRecipe()
    steps = training.steps_of(recipe, len(labels), "cosine", recipe.epochs)
    arms = {name: Arm(pipeline.vision_model, config(), args.classes) for name, config in ARMS.items()}
    times = measure(arms, train, args.repeats)
    rows = []
    for name, found in times.items():
        step, once = (float(np.median(column)) for column in found.T)
        sizes = {"trainable": arms[name].trainable(), "steps": steps, "repeats": len(found)}
        spread = [round(float(q), 5) for q in np.quantile(found[:, 0], (0.2, 0.8))]
        rows.append({"figure": "training step", "arm": name, "seconds": step, "p20_p80_s": spread, **sizes})
        total = {"seconds": preparing + once + steps * step, "preparing_s": preparing, "once_s": once}
        rows.append({"figure": "default fit, extrapolated", "arm": name, **total, **sizes})
    for other in (LORA, PROBE):
        both = ratio(times[OURS][:, 0].tolist(), times[other][:, 0].tolist())
        rows.append({"figure": f"training step / {other}", "arm": OURS, **both})
    if args.whole:
        seconds = whole(pipeline, pictures, labels, recipe.epochs)
        rows.append({"figure": "default fit, measured once", "arm": OURS, "seconds": seconds, "steps": steps})
    return rows


def line(row: dict[str, Any]) -> str:
    """A row in words."""
    if "ratio" in row:
        low, high = row["ci95"]
        return f"{row['arm']:<20}{row['figure']}: {row['ratio']:.3f} [{low:.3f}, {high:.3f}]"
    return f"{row['arm']:<20}{row['figure']}: {row['seconds']:.3f} s"


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=RESULTS / "kadaptation_fit_time.jsonl")
    parser.add_argument("--classes", type=int, default=10)
    parser.add_argument("--shots", type=int, default=5)
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--whole", action="store_true", help="also run the default fit to its end")
    parser.add_argument("--tiny", action="store_true", help="a smoke run on a tiny tower")
    args = parser.parse_args(argv)
    for name in ("classes", "shots", "repeats", "threads"):
        if getattr(args, name) < (2 if name == "classes" else 1):
            parser.error(f"--{name} must be at least {2 if name == 'classes' else 1}, got {getattr(args, name)}")
    torch.set_num_threads(args.threads)
    model = "tiny" if args.tiny else "ViT-B/32, random weights"
    where = {"model": model, "device": args.device, "threads": args.threads, **environment()}
    rows = rows_of(args)
    for row in rows:
        print(line(row), flush=True)
    sizes = {"benchmark": "kadaptation_fit_time", "classes": args.classes, "shots": args.shots}
    write(args.out, [{**sizes, **row, **where} for row in rows])
    return 0


if __name__ == "__main__":
    sys.exit(main())
