"""The sub-images of a scored pair side by side, with a line for each."""

import torch

from wm_pipelines.comclip.pipeline import ComCLIPOutput
from wm_pipelines.comclip.subimages import subimage


def stack_subimages(picture: torch.Tensor, output: ComCLIPOutput) -> tuple[torch.Tensor, list[str]]:
    """What the components of the first pair saw, `(K, 3, H, W)`, the picture without any; and lines about them.

    Args:
        picture: `(3, H, W)` of that pair.
    """
    parts = output.components[0]
    seen = [subimage(picture, part.seen) for part in parts] or [picture]
    lines = [
        f"score {float(output.score[0]):.4f}, plain {float(output.baseline[0]):.4f}, "
        f"entities with a box {float(output.detector[0]):.2f}"
    ]
    for n, part in enumerate(parts, 1):
        lines.append(
            f"{n}: {part.kind} '{part.text}', weight {part.weight:.3f}" + (", no box" if part.missing else "")
        )
    lines += [f"{failure.kind}: {failure.message}" for failure in output.failures]
    return torch.stack(seen), lines
