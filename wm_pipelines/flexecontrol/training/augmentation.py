"""What one training sample is shown: which conditions are kept, which are split by objects, and its slots."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from wm_pipelines.flexecontrol.network.slots import SlotInput


@dataclasses.dataclass(frozen=True)
class Shown:
    """One sample's conditions: type -> None (the whole map) or the objects that the map is split by."""

    conditions: dict[str, tuple[int, ...] | None]


def keep_conditions(
    types: Sequence[str],
    rng: np.random.Generator,
    keep_all: float = 0.1,
    drop_all: float = 0.1,
    drop: float = 0.5,
    keep_one: float = 0.0,
    alone: Sequence[str] | None = None,
) -> list[str]:
    """Uni-ControlNet's condition dropout: all kept, all dropped, else each dropped independently.

    `keep_one` is ours: the chance of a single type. Independent dropout leaves a given one of six types alone one time
    in 80, so a type that says less than the others, as depth does, is hardly learnt for itself. `alone` is what it is
    drawn from (`types` by default); a type that stands there twice is drawn twice as often.
    """
    alone = alone or types
    chance = rng.random()
    kept = [t for t, u in zip(types, rng.random(len(types)), strict=True) if u >= drop]
    if chance < keep_all:
        return list(types)
    if chance < keep_all + drop_all:
        return []
    return [alone[rng.integers(len(alone))]] if chance < keep_all + drop_all + keep_one else kept


def usable_objects(masks: torch.Tensor, least: float = 0.01, most: float = 0.9, overlap: float = 0.5) -> list[int]:
    """Indices of masks (P,H,W) fit to split by: share of the picture in [least, most], IoU with others <= overlap."""
    if not len(masks):
        return []
    flat = masks.flatten(1) > 0
    share = flat.float().mean(1)
    meet = flat.float() @ flat.float().T
    iou = meet / (flat.sum(1)[:, None] + flat.sum(1)[None] - meet).clamp(min=1)
    iou.fill_diagonal_(0)
    fine = (share >= least) & (share <= most) & (iou <= overlap).all(1)
    return fine.nonzero().flatten().tolist()


def choose(
    types: Sequence[str], objects: Sequence[int], rng: np.random.Generator, split: float = 0.5, **dropout: Any
) -> Shown:
    """Draw a sample's conditions. Same-type augmentation: with chance `split`, its maps are split by objects.

    Each kept map is then shown for a random, non-empty subset of `objects`, one slot for each.
    """
    kept = keep_conditions(types, rng, **dropout)
    if not objects or rng.random() >= split:
        return Shown(dict.fromkeys(kept))
    return Shown({t: _subset(objects, rng) for t in kept})


def _subset(objects: Sequence[int], rng: np.random.Generator) -> tuple[int, ...]:
    size = int(rng.integers(1, len(objects) + 1))
    return tuple(sorted(int(i) for i in rng.choice(list(objects), size, replace=False)))


def widen(masks: torch.Tensor, pixels: int = 1) -> torch.Tensor:
    """Masks (...,H,W) grown by `pixels`: an object's edge is drawn on either side of its outline."""
    flat = masks.reshape(-1, 1, *masks.shape[-2:]).float()
    return F.max_pool2d(flat, 2 * pixels + 1, stride=1, padding=pixels).reshape(masks.shape)


def box_layout(ids: torch.Tensor, depth: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """What a scene graph would draw of a scene: each object's visible box at its mean depth, nearer over farther.

    Args:
        ids: (H,W) integers, 0 = background. depth: (H,W) metres.

    Returns:
        ids of the same type, and depth with infinity where there is no box.
    """
    boxes, far = torch.zeros_like(ids), torch.full_like(depth, torch.inf)
    present = [i for i in ids.unique().tolist() if i]
    means = {i: float(depth[ids == i].mean()) for i in present}
    for i in sorted(present, key=lambda i: -means[i]):
        y, x = (ids == i).nonzero().unbind(1)
        place = (slice(int(y.min()), int(y.max()) + 1), slice(int(x.min()), int(x.max()) + 1))
        boxes[place], far[place] = i, means[i]
    return boxes, far


def build_slots(
    shown: Sequence[Shown], types: Sequence[str], map_of: Callable[[str, list[int]], torch.Tensor], masks: torch.Tensor
) -> list[SlotInput]:
    """Slots of a batch: the k-th part of each type, with strength 0 for samples that have none.

    Args:
        map_of: (type, rows) -> (len(rows),3,H,W), the whole maps of those samples; called only for shown types.
        masks: (B,P,H,W) object masks, not widened.
    """
    size = masks.shape[-2:]
    slots: list[SlotInput] = []
    for kind in types:
        rows = [b for b, sample in enumerate(shown) if kind in sample.conditions]
        if not rows:
            continue
        whole = torch.zeros(len(shown), 3, *size)
        whole[rows] = map_of(kind, rows).float()
        parts = [sample.conditions.get(kind) for sample in shown]
        for k in range(max(1, *(len(part or ()) for part in parts))):
            strength, region = torch.zeros(len(shown)), torch.ones(len(shown), 1, *size)
            for b in rows:
                if parts[b] is None:
                    strength[b] = float(k == 0)
                elif k < len(parts[b]):
                    strength[b], region[b, 0] = 1.0, widen(masks[b, parts[b][k]])
            slots.append(SlotInput(kind, whole, strength, region))
    return slots
