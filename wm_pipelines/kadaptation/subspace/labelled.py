"""Local intrinsic dimension on labelled pictures in memory."""

from collections.abc import MutableMapping, Sequence
from typing import Any

import torch

from wm_pipelines.data.class_folders import Pictures, list_pictures, read_classes, read_labels
from wm_pipelines.kadaptation.subspace.dimension import LocalIntrinsicDimension, Point
from wm_pipelines.kadaptation.subspace.groups import block_groups
from wm_pipelines.kadaptation.subspace.results import LIDResult
from wm_pipelines.kadaptation.subspace.run import HEAD_RATE, RATES, Tower, split_classes
from wm_pipelines.kadaptation.subspace.training import ClassificationTask, Labelled


def measure_labelled(
    tower: Tower,
    preprocess: Any,
    images: Pictures,
    labels: Sequence[str],
    *,
    projection: str = "fastfood",
    seeds: int = 3,
    steps: int = 100,
    batch: int = 32,
    max_dim: int | None = None,
    points: MutableMapping[Point, list[float]] | None = None,
) -> LIDResult:
    """Attention and MLP of every layer of a CLIP image tower, as `wm run kadaptation` measures them on a folder.

    Args:
        tower: with a head of as many classes as `labels` has; measured on its device, and left as it was.
        preprocess: from a list of pictures to pixel values `(N, 3, H, W)`.
        images, labels: three pictures of each class or more; a fifth of each, at least one, chooses the learning rate,
            and another fifth is measured on.
        steps, batch: budget of every training. points: as in `LocalIntrinsicDimension.measure`.

    Raises:
        ValueError: another number of labels, a class of fewer than three pictures, or a budget below 1.
    """
    for name, value in (("steps", steps), ("batch", batch)):
        if type(value) is not int or value < 1:
            raise ValueError(f"`{name}` must be a positive integer, got {value!r}")
    pictures, names = list_pictures(images), read_classes(labels, None)
    rows: dict[str, list[int]] = {name: [] for name in names}
    for n, index in enumerate(read_labels(labels, names, len(pictures))):
        rows[names[index]].append(n)
    scarce = next((name for name, own in rows.items() if len(own) < 3), None)
    if scarce is not None or tower.head.out_features != len(names):
        raise ValueError(
            f"class {scarce!r} has {len(rows[scarce])} pictures; three or more are needed"
            if scarce is not None
            else f"`tower` has {tower.head.out_features} classes, `labels` {len(names)}"
        )
    device = tower.head.weight.device

    def encoded(part: list[tuple[int, int]]) -> Labelled:
        pixels = preprocess([pictures[n] for n, _ in part])
        return pixels.to(device), torch.tensor([label for _, label in part], device=device)

    lid = LocalIntrinsicDimension(
        tower.eval(), block_groups(tower), projection, head=["head"], seeds=seeds, max_dim=max_dim
    )
    parts = [encoded(part) for part in split_classes(rows)]
    task = ClassificationTask(*parts, steps=steps, batch=batch, head_rate=HEAD_RATE, rates=RATES)
    return lid.measure(task.train, task.evaluate, points)
