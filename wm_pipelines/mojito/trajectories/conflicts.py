"""What prompt and trajectories disagree about, found before sampling.

Who wins follows from how sampling works, nothing else: boxes act on the attention of the first steps, which settle
where things lie; words act in every step, but only through that attention; objects pull with their weights; inside one
cell of a grid no place can be told from another.
"""

from collections.abc import Iterator, Sequence
from itertools import combinations

import torch

from wm_pipelines.media.boxes import box_iou
from wm_pipelines.mojito.trajectories.objects import MotionObject, decimals, frame_ranges
from wm_pipelines.mojito.words.directions import said_directions
from wm_pipelines.mojito.words.verbs import DIRECTIONS, Said
from wm_pipelines.text.prompts import Span, locate

MOVED = 0.05
"""Shorter ways than this, in fractions of the picture, count as staying."""

SAME_BOX = 0.5
"""Intersection over union from which two boxes count as one."""

RESIZED = 1.1
"""Ratio of areas from which a box counts as growing or shrinking."""


def find_conflicts(
    prompt: str, objects: Sequence[MotionObject], boxes: torch.Tensor, grids: Sequence[tuple[int, int]]
) -> list[str]:
    """All conflicts, each in one line that says what will win and why.

    Args:
        prompt: the text that the phrases are part of.
        objects: O objects; one without a span is looked up in the prompt.
        boxes (`torch.Tensor` of shape `(O, F, 4)`, fractions): where they are to be.
        grids: rows and columns of the tapped attention layers.

    Raises:
        ValueError: a phrase that can't be located, or boxes of another shape.
    """
    if boxes.ndim != 3 or boxes.shape[0] != len(objects) or boxes.shape[2] != 4:
        raise ValueError(f"boxes has shape {tuple(boxes.shape)} for {len(objects)} objects; it must be (O, F, 4)")
    boxes = boxes.detach().cpu().double()
    spans = [locate(prompt, item.phrase, item.span) for item in objects]
    found: list[str] = []
    for index, item in enumerate(objects):
        others = [span for n, span in enumerate(spans) if n != index]
        name = f'objects[{index}] ("{item.phrase}")'
        found += _against_words(name, said_directions(prompt, spans[index], others), boxes[index])
        found += _thin(name, boxes[index], grids)
    for a, b in combinations(range(len(objects)), 2):
        names = f'objects[{a}] and objects[{b}] ("{objects[a].phrase}", "{objects[b].phrase}")'
        found += _shared_words(names, spans[a], spans[b], boxes[a], boxes[b])
        found += _same_box(names, objects[a], objects[b], boxes[a], boxes[b])
    return found


def _against_words(name: str, said: list[Said], boxes: torch.Tensor) -> Iterator[str]:
    """Words of direction that the path contradicts.

    One direction is held against the whole way; of several, each must be kept somewhere along it.
    """
    centres = (boxes[:, :2] + boxes[:, 2:]) / 2  # (F, 2)
    sides = boxes[:, 2:] - boxes[:, :2]
    growth = float(sides[-1].prod() / sides[0].prod())
    way = centres[-1] - centres[0]
    several = len({direction for direction, _ in said}) > 1
    wins = (
        "the boxes win: they act on the attention of the first steps, which settle where things lie, "
        "and words only act through it"
    )
    for direction, words in said if several else said[:1]:
        start = f'{name} is said to be "{words}", but its boxes'
        if direction in DIRECTIONS:
            along = centres @ torch.tensor(DIRECTIONS[direction], dtype=centres.dtype)  # (F,)
            if several:
                kept = float((along - along.cummin(0).values).max()) > MOVED
            else:
                kept = float(along[-1] - along[0]) > max(MOVED, 0.5 * float(way.norm()))
            if not kept:
                yield f"{start} {_way(centres)}; {wins}"
        elif direction == "still" and not several and float((centres - centres[0]).norm(dim=1).max()) > MOVED:
            yield f"{start} {_way(centres)}; {wins}"
        elif direction == "towards" and growth < 1 / RESIZED or direction == "away" and growth > RESIZED:
            change = "shrink" if growth < 1 else "grow"
            yield f"{start} {change} to {growth:.2g} times the area; {wins}"


def _way(centres: torch.Tensor) -> str:
    """Where a path leads, in words."""
    x, y = (centres[-1] - centres[0]).tolist()
    parts = [f"{abs(x):.2f} to the {'right' if x > 0 else 'left'}"] if abs(x) > MOVED else []
    parts += [f"{abs(y):.2f} {'down' if y > 0 else 'up'}"] if abs(y) > MOVED else []
    if parts:
        return f"go {' and '.join(parts)}"
    farthest = float((centres - centres[0]).norm(dim=1).max())
    return "end where they began" if farthest > MOVED else "stay where they are"


def _thin(name: str, boxes: torch.Tensor, grids: Sequence[tuple[int, int]]) -> Iterator[str]:
    """A box narrower or lower than a cell fills none, so no attention can lie wholly inside it."""
    sides = boxes[:, 2:] - boxes[:, :2]  # (F, 2): width, height
    every = sorted(set(tuple(grid) for grid in grids))
    thin = [g for g in every if bool((sides * torch.tensor((g[1], g[0])) < 1 - 1e-6).any())]
    if not thin:
        return
    cells = [f"{float((sides.prod(1)).min()) * h * w:.1f} cells at {h}x{w}" for h, w in thin]
    h, w = thin[0]
    frames = (sides * torch.tensor((w, h)) < 1 - 1e-6).any(1).nonzero().flatten().tolist()
    finer = [f"{h}x{w}" for h, w in every if (h, w) not in thin]
    wins = (
        f"the finer grid {', '.join(finer)} decides where it lies within a cell"
        if finer
        else "its cell wins: a place within it can't be told from another"
    )
    yield (
        f"{name}: its box covers {' and '.join(cells)} in {_frames(frames)}; raise its size above "
        f"{decimals(1 / w)} x {decimals(1 / h)} or add a finer tap such as up_blocks.2; {wins}"
    )


def _shared_words(names: str, a: Span, b: Span, boxes_a: torch.Tensor, boxes_b: torch.Tensor) -> Iterator[str]:
    if a[0] < b[1] and b[0] < a[1] and float(box_iou(boxes_a, boxes_b).min()) < SAME_BOX:
        yield (
            f"{names} share words but not their boxes; neither is sure to win: a word has one place in the "
            "attention, which then splits between them"
        )


def _same_box(
    names: str, a: MotionObject, b: MotionObject, boxes_a: torch.Tensor, boxes_b: torch.Tensor
) -> Iterator[str]:
    overlap = box_iou(boxes_a, boxes_b)
    frames = (overlap > SAME_BOX).nonzero().flatten().tolist()
    if not frames:
        return
    if a.weight == b.weight:
        wins = f"neither is sure to win: both pull at the same cells with weight {a.weight:g}"
    else:
        heavy, light = (a, b) if a.weight > b.weight else (b, a)
        wins = f'"{heavy.phrase}" pulls harder: weight {heavy.weight:g} against {light.weight:g}'
    yield f"{names} are in one box in {_frames(frames)} (IoU up to {float(overlap.max()):.2f}); {wins}"


def _frames(frames: list[int]) -> str:
    """Frame numbers as ranges: "frames 0 to 3, 7"."""
    return ("frame " if len(frames) == 1 else "frames ") + frame_ranges(frames)
