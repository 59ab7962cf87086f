"""Boxes, heat and tints drawn over pictures, for people to look at."""

import colorsys
from collections.abc import Sequence

import torch
from PIL import Image, ImageDraw

from wm_pipelines.media.pictures import Picture, to_pil, to_tensor


def colour_of(index: int) -> tuple[int, int, int]:
    """The index-th colour of a sequence whose neighbours differ clearly, 8-bit RGB."""
    # Steps of the golden ratio never come back to a hue that was used.
    return tuple(round(255 * value) for value in colorsys.hsv_to_rgb(index * 0.6180339887 % 1, 0.85, 1.0))


def draw_boxes(
    image: Picture, boxes: Sequence[Sequence[float]], labels: Sequence[str] | None = None, width: int = 1
) -> Image.Image:
    """Draw boxes (x0, y0, x1, y1), in fractions of the picture, each with its own colour and label."""
    if labels is not None and len(labels) != len(boxes):
        raise ValueError(f"labels has {len(labels)} entries for {len(boxes)} boxes")
    picture = to_pil(image)
    pen = ImageDraw.Draw(picture)
    for index, (x0, y0, x1, y1) in enumerate(boxes):
        corners = (x0 * picture.width, y0 * picture.height, x1 * picture.width - 1, y1 * picture.height - 1)
        if corners[2] < corners[0] or corners[3] < corners[1]:
            raise ValueError(f"boxes[{index}] is {(x0, y0, x1, y1)}; it must satisfy x0 < x1 and y0 < y1")
        pen.rectangle(corners, outline=colour_of(index), width=width)
        if labels is not None:
            pen.text((corners[0] + width + 1, corners[1] + width), labels[index], fill=colour_of(index))
    return picture


def tint(picture: torch.Tensor, share: torch.Tensor, colour: torch.Tensor | Sequence[float]) -> torch.Tensor:
    """A picture with a colour laid over it where, and as far as, a share says.

    Args:
        picture: float `(..., 3, H, W)` in [0, 1].
        share: `(..., 1, H, W)` or a number, 0 to 1.
        colour: three numbers in [0, 1], or one for each pixel, `(..., 3, H, W)`.
    """
    if not isinstance(colour, torch.Tensor):
        colour = torch.tensor(colour).view(3, 1, 1)
    return picture * (1 - share) + colour * share


def spread(heat: torch.Tensor, size: Sequence[int], mode: str = "bilinear") -> torch.Tensor:
    """A map of what is not negative, as shares of its own maximum, over a picture.

    Args:
        heat: `(h, w)`. size: height and width of the picture. mode: of the interpolation, bilinear or nearest.

    Returns:
        float32 `(1, H, W)` in [0, 1] on the CPU.

    Raises:
        ValueError: another shape, or values that are negative or not finite.
    """
    if heat.ndim != 2 or not torch.isfinite(heat).all() or heat.min() < 0:
        raise ValueError(f"heat has shape {tuple(heat.shape)}; it must be (h, w), finite and not negative")
    heat = heat.detach().float().cpu()
    heat = (heat / heat.max().clamp_min(1e-6))[None, None]
    corners = None if mode == "nearest" else False
    return torch.nn.functional.interpolate(heat, tuple(size), mode=mode, align_corners=corners)[0]


def draw_heat(image: Picture, heat: torch.Tensor, opacity: float = 0.6) -> Image.Image:
    """Lay a map over a picture: blue where it is low, red at its own maximum.

    Args:
        heat (`torch.Tensor` of shape `(h, w)`, not negative): resized bilinearly to the picture.
        opacity: 0 to 1.

    Raises:
        ValueError: as `spread`.
    """
    picture = to_tensor(image)
    heat = spread(heat, picture.shape[1:])[0]
    # A plain blue, green, yellow, red ramp: each channel is a tent over the value.
    colours = torch.stack([(1.5 - (4 * heat - centre).abs()).clamp(0, 1) for centre in (3, 2, 1)])
    return to_pil(tint(picture, opacity, colours))
