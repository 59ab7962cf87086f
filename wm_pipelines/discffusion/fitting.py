"""`DiscffusionPipeline.fit`: what it is given, made ready, the loop, and what the record says."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from wm_pipelines.clip.parts import reference
from wm_pipelines.config import TrainingRecord, WMConfig
from wm_pipelines.data.class_folders import Pictures, list_pictures
from wm_pipelines.discffusion import inputs
from wm_pipelines.discffusion.reading import Rule
from wm_pipelines.discffusion.settings import DiscffusionConfig
from wm_pipelines.discffusion.training import Item, Matcher
from wm_pipelines.media.pictures import Picture
from wm_pipelines.runtime.random import keyed
from wm_pipelines.text.captions import read_texts
from wm_pipelines.training import KeyedNoise
from wm_pipelines.training import record as facts

PAPER = "arXiv:2305.10722"
Triple = tuple[Picture, str, Any]
MOST_SEEDS = 2**63  # of torch's generator, which draws the adapter's start


@dataclass(frozen=True)
class Settings:
    """What decides a fit, apart from triples, base and rule: AdamW at a constant rate, gradients clipped at 1."""

    epochs: int = 10
    batch_size: int = 1
    learning_rate: float = 1e-4
    weight_decay: float = 1e-2
    margin: float = 0.1
    seed: int = 0

    def __post_init__(self) -> None:
        for name, least in (("epochs", 1), ("batch_size", 1), ("seed", 0)):
            inputs.whole(name, getattr(self, name), least)
        if self.seed >= MOST_SEEDS:
            raise ValueError(f"`seed` is {self.seed}; it must be an integer from 0 to 2**63 - 1")
        for name in ("learning_rate", "weight_decay"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < float("inf"):
                raise ValueError(f"`{name}` is {value!r}; it must be a finite number of at least 0")


def read_triples(triples: Sequence[Triple]) -> list[tuple[list[Picture], list[str]]]:
    """Of each (picture, caption, foil) its pictures and captions, the right ones first.

    Args:
        triples: a foil is a caption that does not fit the picture, a picture that does not fit the caption, or a list
            of either.

    Raises:
        ValueError: no triple, another form, or foils of both kinds in one.
    """
    if not isinstance(triples, Sequence) or isinstance(triples, str) or not triples:
        raise ValueError(f"`triples` must be a non-empty list of (picture, caption, foil), got {triples!r:.80}")
    found = []
    for n, triple in enumerate(triples):
        if not isinstance(triple, tuple | list) or len(triple) != 3 or not isinstance(triple[1], str):
            raise ValueError(f"`triples`[{n}] must be (picture, caption, foil), got {triple!r:.80}")
        picture, caption, foil = triple
        foils = _foils(foil, n)
        texts = [isinstance(one, str) for one in foils]
        if any(texts) and not all(texts):
            raise ValueError(f"`triples`[{n}] has captions and pictures as foils; give one kind")
        shown, said = ([picture], [caption, *foils]) if texts[0] else ([picture, *foils], [caption])
        read_texts(said)
        found.append((shown, said))
    return found


def _foils(foil: Any, n: int) -> list[Any]:
    if isinstance(foil, str):
        return [foil]
    if isinstance(foil, list | tuple):
        if not foil:
            raise ValueError(f"`triples`[{n}] has an empty list of foils; give at least one")
        return list(foil)
    return list_pictures(foil)


@torch.no_grad()
def prepare(
    pipeline: Any, read: Sequence[tuple[Pictures, list[str]]], size: Any, value_range: inputs.Range
) -> list[Item]:
    """Items with everything encoded that training does not change."""
    denoiser, device = pipeline.denoiser, pipeline._execution_device
    shown = []
    for n, (pictures, _) in enumerate(read):
        try:
            shown.append(inputs.read_pictures(list(pictures), value_range, size, denoiser.multiple))
        except ValueError as error:
            raise ValueError(f"`triples`[{n}]: {error}") from None
        if len({picture.shape for picture in shown[-1]}) > 1:
            raise ValueError(f"`triples`[{n}] has pictures of several sizes; pass size=(height, width)")
    return [
        Item(denoiser.encode_pictures(torch.stack(own).to(device)), denoiser.encode_texts(texts, device))
        for own, (_, texts) in zip(shown, read, strict=True)
    ]


def run(
    matcher: Matcher,
    items: Sequence[Item],
    trained: Sequence[torch.nn.Parameter],
    settings: Settings,
    on_step: Callable[[dict[str, float]], Any],
    on_epoch: Callable[[dict[str, float]], bool],
) -> list[dict[str, float]]:
    """Trains in place and returns a row for each epoch.

    Args:
        on_step: called with the loss of each step, and the share of its items whose right candidate led.
        on_epoch: called with the row of each epoch, the means of its steps; True stops.

    Raises:
        FloatingPointError: the loss is not finite.
    """
    optimiser = torch.optim.AdamW(trained, lr=settings.learning_rate, weight_decay=settings.weight_decay)
    rows, step = [], 0
    with torch.enable_grad():
        for epoch in range(settings.epochs):
            order = keyed("discffusion order", settings.seed, epoch).permutation(len(items)).tolist()
            losses, right = [], []
            for start in range(0, len(order), settings.batch_size):
                part = order[start : start + settings.batch_size]
                told = matcher.loss([items[i] for i in part], part, KeyedNoise(settings.seed, step))
                optimiser.zero_grad()
                told["loss"].backward()
                torch.nn.utils.clip_grad_norm_(trained, 1.0)
                optimiser.step()
                losses.append(float(told["loss"].detach()))
                right.append(float(told["right"]))
                on_step({"loss": losses[-1], "right": right[-1]})
                step += 1
            rows.append({"epoch": epoch + 1, "loss": float(np.mean(losses)), "right": float(np.mean(right))})
            if not np.isfinite(rows[-1]["loss"]):
                raise FloatingPointError(f"the loss is not finite in epoch {epoch + 1}; lower `learning_rate`")
            if on_epoch(rows[-1]):
                break
    return rows


def record(
    pipeline: Any,
    rule: Rule,
    head_weights: str,
    told: dict[str, Any],
    triples: int,
    seconds: float,
) -> WMConfig:
    """What a fit leaves in the pipeline's record.

    Args:
        told: what decided the fit, its `batch_size` and `seed` among it. seconds: that it took.
    """
    before, folder = pipeline.wm_config, pipeline.source_folder
    base = before.base_model if before is not None and before.method == "discffusion" else None
    if base is None and folder is not None:
        base = reference(pipeline.config.get("_name_or_path") or folder, folder)
    settings = {k: v for k, v in vars(rule).items() if k in DiscffusionConfig.model_fields}
    return WMConfig(
        method="discffusion",
        pipeline=type(pipeline).__name__,
        base_model=base,
        method_config={**settings, "head_weights": head_weights},
        vocabulary=before.vocabulary if before is not None else None,
        training=TrainingRecord(
            recipe=told,
            data=f"{triples} triples",
            seed=told["seed"],
            steps=len(pipeline.history) * -(-triples // told["batch_size"]),
            hardware=facts.hardware(1),
            wall_time_s=round(seconds, 3),
            code_commit=facts.code_commit(),
            versions=facts.versions(),
        ),
        paper=PAPER,
    )
