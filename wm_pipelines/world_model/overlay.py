"""What a world model drew, put in order for people: best first, its places that changed in red, a line for each."""

import math

import torch

from wm_pipelines.media.drawing import spread, tint
from wm_pipelines.world_model.outputs import WorldModelOutput

RED = (0.9, 0.1, 0.1)


def order_of(out: WorldModelOutput, row: int = 0) -> list[int]:
    """Candidates of a source: what is no near copy first, then by score; as drawn where none is known."""
    scores = out.scores[row].nan_to_num(0.0).tolist()
    return sorted(range(len(scores)), key=lambda n: (not bool(out.kept[row, n]), -scores[n], n))


def heat_maps(pictures: torch.Tensor, change: torch.Tensor) -> torch.Tensor:
    """Pictures `(N, 3, H, W)` in grey with what changed in red: the root of `change` `(N, h, w)` over its largest."""
    share = torch.stack([spread(one.sqrt(), pictures.shape[-2:], mode="nearest") for one in change])
    grey = pictures.mean(1, keepdim=True).expand(-1, 3, -1, -1)
    return tint(grey, 0.7 * share, RED)


def report_lines(out: WorldModelOutput, row: int = 0) -> list[str]:
    """A line for each candidate in `order_of`'s order, then whether the first one is accepted."""
    lines = []
    for place, n in enumerate(order_of(out, row), 1):
        score, margin = float(out.scores[row, n]), float(out.margins[row, n])
        said = [f"{place}: candidate {n + 1}"]
        said += [] if math.isnan(score) else [f"score {score:.3f}"]
        said += [] if math.isnan(margin) else [f"margin over the copy {margin:+.3f}"]
        said += [f"{int((out.change[row, n] > 0).sum())} of {out.change[row, n].numel()} places changed"]
        said += [] if out.kept[row, n] else ["near copy"]
        lines.append(", ".join(said))
    return [*lines, "accepted" if out.accepted[row] else "not accepted: no candidate passes"]
