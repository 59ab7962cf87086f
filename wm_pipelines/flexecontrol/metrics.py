"""How well pictures obey their conditions: edge F1, per-object IoU and binding. Our design."""

from collections.abc import Sequence

import torch
from torch.nn import functional

from wm_pipelines.diorama.judge import DioramaJudge
from wm_pipelines.diorama.scene import COLOURS, Scene
from wm_pipelines.media.boxes import mask_iou
from wm_pipelines.media.conditions import extract


def edge_f1(pictures: torch.Tensor, edges: torch.Tensor, kind: str = "canny", tolerance: int = 1) -> torch.Tensor:
    """F1 of the edges of `pictures`, found by the extractor that made the condition, against the wanted edges.

    Args:
        pictures: (B, 3, H, W) in [0, 1]. edges: (B, 3 or 1, H, W), white on 0.
        tolerance: pixels that an edge may be off.

    Returns:
        (B,) float32; NaN where no edge is wanted.
    """
    found = extract(kind, pictures)[:, :1] > 0.5
    wanted = edges[:, :1] > 0.5

    def hits(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        near = functional.max_pool2d(b.float(), 2 * tolerance + 1, stride=1, padding=tolerance) > 0.5
        return (a & near).flatten(1).sum(1)

    precision = hits(found, wanted) / found.flatten(1).sum(1).clamp_min(1)
    recall = hits(wanted, found) / wanted.flatten(1).sum(1).clamp_min(1)
    f1 = 2 * precision * recall / (precision + recall).clamp_min(1e-9)
    return torch.where(wanted.flatten(1).any(1), f1, torch.nan)


@torch.no_grad()
def objects_obeyed(
    judge: DioramaJudge, pictures: torch.Tensor, ids: torch.Tensor, scenes: Sequence[Scene]
) -> list[list[dict[str, float]]]:
    """For each object of each scene: `iou` of the judge's region of its colour with its mask, and `bound`.

    `bound` is 1.0 where the majority of the judge's colours inside the mask is the object's own. An object that shows
    no pixel is left out. `chance` is the binding that a random assignment of the scene's own colours would reach.

    Args:
        pictures: (B, 3, H, W) in [0, 1]. ids: (B, H, W) integers, the masks by object id.
    """
    colours = judge(pictures.to(judge.device, judge.dtype)).colour.argmax(1).cpu()
    names = list(COLOURS)
    rows = []
    for seen, id_map, scene in zip(colours, ids.long().cpu(), scenes, strict=True):
        row = []
        for o in scene.objects:
            mask, own = id_map == o.id, names.index(o.colour) + 1
            if not mask.any():
                continue
            # another object of the same colour is not this one
            twins = [p.id for p in scene.objects if p.id != o.id and p.colour == o.colour]
            mine = (seen == own) & ~torch.isin(id_map, torch.tensor(twins, dtype=torch.long))
            inside = torch.bincount(seen[mask], minlength=len(names) + 1)
            row.append(
                {
                    "id": o.id,
                    "iou": float(mask_iou(mine, mask)),
                    "bound": float(inside.argmax() == own),
                    "chance": sum(p.colour == o.colour for p in scene.objects) / len(scene.objects),
                }
            )
        rows.append(row)
    return rows
