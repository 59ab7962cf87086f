"""What the judge finds in pictures, and how well pictures obey a prompt."""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import permutations

import cv2
import numpy as np
import torch

from wm_pipelines.diorama.judge import DioramaJudge
from wm_pipelines.diorama.render import render
from wm_pipelines.diorama.scene import COLOURS, SHAPES, Scene
from wm_pipelines.media.boxes import mask_iou

LEAST_AREA = 0.003  # of the picture: 12 pixels of 64 x 64


@dataclass(frozen=True)
class Found:
    """One connected region that the judge sees. `box` (x0, y0, x1, y1) and `centre` (x, y) in [0, 1]; `area` is a
    share of the picture."""

    colour: str
    shape: str
    area: float
    box: tuple[float, float, float, float]
    centre: tuple[float, float]


@torch.no_grad()
def look(judge: DioramaJudge, pictures: torch.Tensor, batch: int = 32) -> list[list[Found]]:
    """The solids in each picture, largest first.

    Args:
        pictures: (B, 3, H, W) float in [0, 1].
    """
    found = []
    for start in range(0, len(pictures), batch):
        out = judge(pictures[start : start + batch].to(judge.device, judge.dtype))
        colours, shapes = out.colour.argmax(1).cpu().numpy(), out.shape.float().softmax(1).cpu().numpy()
        found += [_regions(c, s) for c, s in zip(colours, shapes, strict=True)]
    return found


@torch.no_grad()
def painted(judge: DioramaJudge, pictures: torch.Tensor) -> torch.Tensor:
    """What the judge sees, painted: (B, 3, H, W) in [0, 1], each solid in its colour's name, the background black."""
    palette = torch.tensor([(0.0, 0.0, 0.0), *COLOURS.values()])
    seen = judge(pictures.to(judge.device, judge.dtype)).colour.argmax(1).cpu()
    return palette[seen].movedim(-1, 1)


def _regions(colours: np.ndarray, shapes: np.ndarray) -> list[Found]:
    height, width = colours.shape
    found = []
    for c in np.unique(colours[colours > 0]):
        count, labels = cv2.connectedComponents((colours == c).astype(np.uint8), connectivity=8)
        for label in range(1, count):
            y, x = np.nonzero(labels == label)
            area = len(x) / colours.size
            if area < LEAST_AREA:
                continue
            shape = SHAPES[int(shapes[:, y, x].sum(1).argmax())]
            box = (x.min() / width, y.min() / height, (x.max() + 1) / width, (y.max() + 1) / height)
            centre = ((x.mean() + 0.5) / width, (y.mean() + 0.5) / height)
            found.append(Found(list(COLOURS)[c - 1], shape, area, tuple(map(float, box)), tuple(map(float, centre))))
    return sorted(found, key=lambda f: -f.area)


@torch.no_grad()
def judge_on_renders(judge: DioramaJudge, scenes: Sequence[Scene], batch: int = 32) -> dict[str, float]:
    """What the judge gets right on renders of known scenes: its own ceiling.

    Returns:
        colour, shape: share of the objects whose majority reading inside their visible mask is right; miou: mean IoU
        of the judge's region of each colour with the mask of the objects of that colour; n: objects.
    """
    names, right = list(COLOURS), {"colour": [], "shape": [], "miou": []}
    for start in range(0, len(scenes), batch):
        some = scenes[start : start + batch]
        truth = render(some, maps=("rgb", "ids"))
        out = judge(truth.rgb[:, 0].to(judge.device, judge.dtype))
        colours, shapes = out.colour.argmax(1).cpu(), out.shape.float().softmax(1).cpu()
        for scene, ids, seen, kinds in zip(some, truth.ids[:, 0], colours, shapes, strict=True):
            for o in scene.objects:
                mask, own = ids == o.id, names.index(o.colour) + 1
                if not mask.any():
                    continue
                same = torch.isin(ids, torch.tensor([p.id for p in scene.objects if p.colour == o.colour]))
                right["colour"].append(float(torch.bincount(seen[mask], minlength=9).argmax() == own))
                right["shape"].append(float(kinds[:, mask].sum(1).argmax() == SHAPES.index(o.shape)))
                right["miou"].append(float(mask_iou(seen == own, same)))
    return {k: float(np.mean(v)) for k, v in right.items()} | {"n": len(right["colour"])}


def matched(found: Sequence[Found], wanted: Sequence[Found]) -> list[tuple[Found, Found]] | None:
    """Every solid of one picture with its own of another: same colour and shape, the centres nearest in sum.

    Returns:
        Pairs (one of `found`, one of `wanted`); None where the two pictures don't show the same things.
    """
    pairs = []
    for kind in {(f.colour, f.shape) for f in (*found, *wanted)}:
        here = [f for f in found if (f.colour, f.shape) == kind]
        there = [f for f in wanted if (f.colour, f.shape) == kind]
        if len(here) != len(there):
            return None
        orders = ([*zip(here, order, strict=True)] for order in permutations(there))
        pairs += min(orders, key=lambda order: sum(math.dist(a.centre, b.centre) for a, b in order))
    return pairs


def obedience(wanted: Sequence[dict], found: Sequence[Found], relations: Sequence[tuple[int, str, int]] = ()) -> dict:
    """How much of a caption a picture shows, over its n largest solids when the caption names n.

    Args:
        wanted: one dict per object with `colour` and `shape`, as `parse_caption(text).objects` gives them.
        relations: (subject index, predicate, object index) into `wanted`.

    Returns:
        colour, shape, joint: share of the objects whose colour, shape, or both are there (as multisets); count: 1.0
        if as many solids are seen as named; all: 1.0 if every object is there jointly; relations: share of the
        relations that hold between the objects found (NaN where the caption has none).
    """
    n = len(wanted)
    if n == 0:
        empty = float(not found)
        return dict.fromkeys(("colour", "shape", "joint", "count", "all"), empty) | {"relations": float("nan")}
    top = list(found[:n])

    def share(key):
        there = Counter(key(f.colour, f.shape) for f in top)
        asked = Counter(key(w["colour"], w["shape"]) for w in wanted)
        return sum((there & asked).values()) / n

    joint = share(lambda c, s: (c, s))
    held = [_holds(wanted, top, *r) for r in relations]
    return {
        "colour": share(lambda c, s: c),
        "shape": share(lambda c, s: s),
        "joint": joint,
        "count": float(len(found) == n),
        "all": float(joint == 1.0),
        "relations": float(np.mean(held)) if held else float("nan"),
    }


def _holds(wanted, top, subject: int, predicate: str, other: int) -> bool:
    def all_of(index):
        return [f for f in top if (f.colour, f.shape) == (wanted[index]["colour"], wanted[index]["shape"])]

    return any(a is not b and _relation(predicate, a, b) for a in all_of(subject) for b in all_of(other))


def _relation(predicate: str, a: Found, b: Found) -> bool:
    """On a floor seen from above, what stands lower in the picture is nearer."""
    if predicate in ("right of", "in front of", "below"):
        a, b, predicate = b, a, {"right of": "left of", "in front of": "behind", "below": "above"}[predicate]
    if predicate == "left of":
        return a.centre[0] < b.centre[0]
    if predicate in ("behind", "above"):
        return a.box[3] < b.box[3]
    raise ValueError(f"`relations` has {predicate!r}; known: left of, right of, in front of, behind, above, below")
