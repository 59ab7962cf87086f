"""Pictures, videos, conditions, boxes, flow and pages: the only room that opens or writes such files."""

from .pictures import (
    PICTURE_SUFFIXES,
    Picture,
    image_grid,
    load_image,
    load_mask,
    open_image,
    read_labels,
    save_image,
    to_mask,
    to_pil,
    to_tensor,
)
from .video import VIDEO_SUFFIXES, iter_video, pick_frames, read_video, save_gif, write_video

__all__ = [
    "PICTURE_SUFFIXES",
    "VIDEO_SUFFIXES",
    "Picture",
    "image_grid",
    "iter_video",
    "load_image",
    "load_mask",
    "open_image",
    "pick_frames",
    "read_labels",
    "read_video",
    "save_gif",
    "save_image",
    "to_mask",
    "to_pil",
    "to_tensor",
    "write_video",
]
