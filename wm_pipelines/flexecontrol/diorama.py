"""Scenes of the miniature world as conditions, and how well pictures obeyed them. Our design."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch.nn import functional

from wm_pipelines.diorama.judge import DioramaJudge
from wm_pipelines.diorama.language import caption
from wm_pipelines.diorama.metrics import Found, look, obedience
from wm_pipelines.diorama.parser import parse_caption
from wm_pipelines.diorama.render import render
from wm_pipelines.diorama.scene import Scene
from wm_pipelines.flexecontrol.conditions.condition import Condition
from wm_pipelines.flexecontrol.metrics import objects_obeyed
from wm_pipelines.media.conditions import depth_to_map, extract, seg_from_ids

KINDS = ("canny", "lines", "softedge", "sketch", "depth", "seg")
"""What a render tells exactly, or an offline extractor finds in it."""

REACH = 1
"""Pixels around an object that belong to its condition: an edge lies on both sides of a border."""


def scene_conditions(scene: Scene, kind: str, size: int = 64) -> tuple[Condition, ...]:
    """A condition for each visible object of a scene at t = 0, bound to its phrase in `caption(scene)`.

    Args:
        kind: one of `KINDS`: the map of the whole picture, which holds where the object is.
        size: side of the picture in pixels.

    Raises:
        ValueError: an unknown kind.
    """
    if kind not in KINDS:
        raise ValueError(f"`kind` must be one of {', '.join(KINDS)}, got {kind!r}")
    truth = render(scene, size=size)
    ids = truth.ids[0, 0]
    if kind == "depth":
        shown = depth_to_map(truth.depth[0, 0])
    elif kind == "seg":
        shown = seg_from_ids(ids)
    else:
        shown = extract(kind, truth.rgb[0, 0])
    said = caption(scene)
    found = []
    for o in scene.objects:
        mask = (ids == o.id).float()[None]
        if o.id in said.spans and mask.any():
            region = functional.max_pool2d(mask, 2 * REACH + 1, stride=1, padding=REACH)
            start, end = said.spans[o.id]
            found.append(Condition(kind, shown, region=region, phrase=said.text[start:end], span=(start, end)))
    return tuple(found)


@dataclass(frozen=True)
class Obeyed:
    """What a judge makes of one picture.

    Args:
        score: what the picture is ranked by, in [0, 1]: the mean IoU of the scene's objects, or without a scene the
            share of the caption's objects that are there in colour and shape.
        objects: for each visible object of the scene its words, `iou`, and whether it is `bound` to its place.
        caption: as `obedience` gives it; empty where no caption was given.
        found: what the judge sees, largest first.
    """

    score: float
    objects: tuple[tuple[str, float, bool], ...]
    caption: dict[str, float]
    found: tuple[Found, ...]

    def line(self) -> str:
        """All of it in a line."""
        parts = [f"score {self.score:.3f}"]
        parts += [
            f"{words}: IoU {iou:.2f}, {'in' if bound else 'not in'} its place" for words, iou, bound in self.objects
        ]
        parts += [f"{name} {value:.2f}" for name, value in self.caption.items() if value == value]
        return "; ".join([*parts, f"sees {', '.join(f'{f.colour} {f.shape}' for f in self.found) or 'nothing'}"])


def obeyed(
    judge: DioramaJudge, pictures: torch.Tensor, scene: Scene | None = None, text: str | None = None
) -> list[Obeyed]:
    """Judge pictures by the scene that they were to follow, by a caption of the miniature world, or by both.

    Args:
        pictures: (B, 3, H, W) in [0, 1], H and W multiples of 4.
        scene: at t = 0. text: a caption that `parse_caption` reads.

    Raises:
        ValueError: neither a scene nor a caption, or pictures that the judge can't read.
    """
    if scene is None and text is None:
        raise ValueError("`scene` and `text` are None; one of them must say what the pictures should show")
    said = None if text is None else parse_caption(text)
    objects: list[Sequence[dict]] = [()] * len(pictures)
    if scene is not None:
        ids = render(scene, size=tuple(pictures.shape[-2:]), maps=("ids",)).ids[0]
        objects = objects_obeyed(judge, pictures, ids.expand(len(pictures), -1, -1), [scene] * len(pictures))
        if not objects[0]:
            raise ValueError("no object of the scene shows a pixel at this size, so there is nothing to obey")
    words = {} if scene is None else {o.id: f"{o.size} {o.colour} {o.shape}" for o in scene.objects}
    verdicts = []
    for rows, found in zip(objects, look(judge, pictures), strict=True):
        held = {} if said is None else obedience(said.objects, found, said.relations)
        score = held["joint"] if scene is None else sum(row["iou"] for row in rows) / len(rows)
        seen = tuple((words[row["id"]], row["iou"], bool(row["bound"])) for row in rows)
        verdicts.append(Obeyed(score, seen, held, tuple(found)))
    return verdicts
