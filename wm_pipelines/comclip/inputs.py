"""What a call of ComCLIP may be given; every refusal says what came and what is allowed."""

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import PIL.Image
import torch

from wm_pipelines.data.class_folders import Pictures, list_pictures
from wm_pipelines.media.boxes import Box, Boxes, read_boxes
from wm_pipelines.media.pictures import Picture, to_tensor
from wm_pipelines.text.parser import ParsedText

Texts = str | Sequence[str]


def read_pictures(images: Pictures) -> list[torch.Tensor]:
    """Pictures as float32 `(3, H, W)` in [0, 1], each of its own size.

    Args:
        images: RGB `PIL.Image`, uint8 or float array `(H, W, 3)`, tensor `(3, H, W)`; a list of them, or one tensor
            `(N, 3, H, W)`.

    Raises:
        ValueError: no picture, another mode or number of channels, an empty one, NaN, or values outside [0, 1].
    """
    return [_picture(image) for image in list_pictures(images)]


def _picture(image: Picture) -> torch.Tensor:
    if isinstance(image, PIL.Image.Image) and image.mode != "RGB":
        raise ValueError(f"expected RGB, got mode {image.mode}; use image.convert('RGB')")
    if isinstance(image, np.ndarray) and (image.ndim != 3 or image.shape[-1] != 3):
        raise ValueError(f"expected RGB, got an array of shape {image.shape}; it must be (H, W, 3)")
    if isinstance(image, torch.Tensor) and (image.ndim != 3 or image.shape[0] != 3):
        raise ValueError(f"expected RGB, got a tensor of shape {tuple(image.shape)}; it must be (3, H, W)")
    return to_tensor(image)


def read_pairs(images: int, texts: int) -> list[tuple[int, int]]:
    """Which picture goes with which caption: one to one, or the only one of a side with all of the other.

    Raises:
        ValueError: the numbers don't go together.
    """
    if images != texts and 1 not in (images, texts):
        raise ValueError(
            f"{images} images and {texts} texts don't pair up; give equal numbers, one of either, or use matrix()"
        )
    return [(0 if images == 1 else n, 0 if texts == 1 else n) for n in range(max(images, texts))]


def read_grounding(
    boxes: Boxes | Sequence[Boxes | None] | None, pictures: Sequence[torch.Tensor], box_format: str
) -> list[dict[str, list[Box]] | None]:
    """Checked boxes of each picture; None where the grounder is to be asked.

    Raises:
        ValueError: as `read_boxes`, or another number of entries than pictures.
    """
    if boxes is None:
        return [None] * len(pictures)
    if not isinstance(boxes, Mapping | Sequence) or isinstance(boxes, str):
        raise ValueError(f"boxes must map labels to lists of boxes, or be a list of such maps, got {boxes!r}")
    listed = [boxes] if isinstance(boxes, Mapping) else list(boxes)
    if len(listed) != len(pictures):
        raise ValueError(f"boxes has {len(listed)} entries for {len(pictures)} images; give one for each image")
    return [
        None if one is None else read_boxes(one, tuple(picture.shape[-2:]), box_format)
        for one, picture in zip(listed, pictures, strict=True)
    ]


def read_parsed(parsed: ParsedText | Sequence[ParsedText | None] | None, texts: int) -> list[ParsedText | None]:
    """One parse for each caption; None where the parser is to be asked.

    Raises:
        ValueError: another type, or another number of entries than captions.
    """
    if not isinstance(parsed, ParsedText | Sequence | None) or isinstance(parsed, str):
        raise ValueError(f"parsed must hold ParsedText, got {type(parsed).__name__}; see text.parser.from_json")
    listed = [parsed] if isinstance(parsed, ParsedText) else [None] * texts if parsed is None else list(parsed)
    if len(listed) != texts:
        raise ValueError(f"parsed has {len(listed)} entries for {texts} texts; give one for each text")
    for one in listed:
        if one is not None and not isinstance(one, ParsedText):
            raise ValueError(f"parsed must hold ParsedText, got {type(one).__name__}; see text.parser.from_json")
    return listed


def picture_key(picture: torch.Tensor) -> Any:
    """What makes a picture the same picture: its size and a hash of its values."""
    return tuple(picture.shape), hashlib.blake2b(picture.contiguous().numpy().tobytes(), digest_size=16).digest()
