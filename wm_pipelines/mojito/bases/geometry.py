"""Boxes of a clip's frames as boxes of a model's latent frames, and the grids of cells that its layers attend from."""

import math

import torch


def grid_of(cells: int, height: int, width: int) -> tuple[int, int]:
    """Height and width of a layer with so many cells a frame: each downsampling halves a side, rounding up.

    Raises:
        ValueError: no downsampling of a height x width latent has so many cells.
    """
    rows, columns = height, width
    while rows * columns > cells and (rows, columns) != (1, 1):
        rows, columns = math.ceil(rows / 2), math.ceil(columns / 2)
    if rows * columns != cells:
        raise ValueError(f"no downsampling of a {height}x{width} latent has {cells} cells")
    return rows, columns


def latent_boxes(boxes: torch.Tensor, frames: int, stride: int, first_alone: bool) -> torch.Tensor:
    """The mean box of the frames that each latent frame stands for.

    With `first_alone` latent 0 is frame 0 and latent i is frames s(i-1)+1 to s·i, s the stride (Wan and CogVideoX 4,
    LTX 8); without it latent i is frames s·i to s(i+1)-1. At stride 1, as in UNets, both leave the boxes as they are.

    Args:
        boxes (`torch.Tensor` of shape `(O, F, 4)`, fractions): one box for each frame of the clip.
        frames: latent frames of the model.
        stride: frames of the clip in a latent frame.
        first_alone: whether the first frame has a latent frame to itself.

    Returns:
        `(O, frames, 4)`.

    Raises:
        ValueError: another shape, or a number of frames that doesn't fit the stride.
    """
    if boxes.ndim != 3 or boxes.shape[-1] != 4:
        raise ValueError(f"boxes has shape {tuple(boxes.shape)}; it must be (O, F, 4)")
    if frames < 1 or stride < 1:
        raise ValueError(f"frames={frames}, stride={stride}; both must be at least 1")
    expected = (frames - 1) * stride + 1 if first_alone else frames * stride
    if boxes.shape[1] != expected:
        form = f"{stride}k+1" if first_alone else f"{stride}k"
        raise ValueError(
            f"boxes are given for {boxes.shape[1]} frames, but {frames} latent frames at a temporal stride of "
            f"{stride} hold {expected}; num_frames must be {form}"
        )
    if first_alone:
        first, rest = boxes[:, :1], boxes[:, 1:]
        return torch.cat([first, rest.unflatten(1, (frames - 1, stride)).mean(2) if frames > 1 else rest], dim=1)
    return boxes.unflatten(1, (frames, stride)).mean(2)
