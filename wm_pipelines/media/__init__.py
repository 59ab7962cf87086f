"""Pictures, videos, conditions, boxes, flow and pages: the only room that opens or writes such files."""

from .pictures import (
    Picture,
    image_grid,
    load_image,
    load_mask,
    open_image,
    save_image,
    to_mask,
    to_pil,
    to_tensor,
)
from .video import read_video, save_gif, write_video

__all__ = [
    "Picture",
    "image_grid",
    "load_image",
    "load_mask",
    "open_image",
    "read_video",
    "save_gif",
    "save_image",
    "to_mask",
    "to_pil",
    "to_tensor",
    "write_video",
]
