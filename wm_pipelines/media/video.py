"""Videos and GIFs: the only module that opens or writes such files; a frame is a picture as `pictures` has it."""

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from wm_pipelines.media.pictures import Picture, frame_arrays
from wm_pipelines.runtime.files import atomic


def save_gif(frames: Sequence[Picture], path: str | Path, fps: float = 8.0) -> Path:
    """Write pictures of one size as an endless GIF, atomically; GIF keeps time in hundredths of a second.

    Raises:
        ValueError: no frame, frames of different sizes, a suffix other than .gif, or fps outside (0, 50].
    """
    path = Path(path)
    if path.suffix.lower() != ".gif":
        raise ValueError(f"can't write a GIF as {path.name!r}: use the suffix .gif")
    # Viewers slow a delay below two hundredths down to ten.
    if not 0 < fps <= 50:
        raise ValueError(f"fps={fps}; a GIF plays more than 0 and at most 50 frames a second")
    first, *rest = [Image.fromarray(frame) for frame in frame_arrays(frames)]
    with atomic(path) as temporary:
        first.save(temporary, save_all=True, append_images=rest, duration=round(100 / fps) * 10, loop=0)
    return path


def write_video(frames: Sequence[Picture], path: str | Path, fps: float = 8.0, quality: int = 18) -> Path:
    """Write pictures of one size as a video (H.264 in .mp4, .mov or .mkv; VP9 in .webm), atomically.

    4:2:0 colour needs even sides: an odd one is made even by repeating its last row or column.

    Args:
        frames: pictures, or one tensor `(T, 3, H, W)`.
        quality: constant rate factor, 0 (best) to 51.

    Raises:
        ValueError: no frame, frames of different sizes, another suffix, or fps or quality out of range.
    """
    import av

    path = Path(path)
    codecs = {".mp4": "libx264", ".mov": "libx264", ".mkv": "libx264", ".webm": "libvpx-vp9"}
    if path.suffix.lower() not in codecs:
        raise ValueError(f"can't write a video as {path.name!r}: use a suffix among {', '.join(codecs)}")
    if not 0 < fps <= 1000 or not 0 <= quality <= 51:
        raise ValueError(f"fps={fps}, quality={quality}; fps must lie in (0, 1000] and quality in [0, 51]")
    arrays = frame_arrays(frames)
    height, width = arrays[0].shape[:2]
    with atomic(path) as temporary:
        with av.open(str(temporary), "w") as container:
            stream = container.add_stream(codecs[path.suffix.lower()], rate=Fraction(fps).limit_denominator(1000))
            stream.width, stream.height, stream.pix_fmt = width + width % 2, height + height % 2, "yuv420p"
            stream.options = {"crf": str(quality), "b": "0"} if path.suffix == ".webm" else {"crf": str(quality)}
            for array in arrays:
                array = np.pad(array, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")
                container.mux(stream.encode(av.VideoFrame.from_ndarray(array, format="rgb24")))
            container.mux(stream.encode())
    return path


def read_video(path: str | Path, max_frames: int | None = None) -> tuple[torch.Tensor, float]:
    """Read a video's first stream.

    Args:
        max_frames: stop after so many.

    Returns:
        uint8 `(T, 3, H, W)`, and frames per second.

    Raises:
        ValueError: no such file, not a video, a broken one, or one without a picture.
    """
    import av

    path = Path(path)
    if not path.is_file():
        raise ValueError(f"no video at {str(path)!r}: the file is missing")
    if max_frames is not None and max_frames < 1:
        raise ValueError(f"max_frames={max_frames}; it must be at least 1")
    frames = []
    try:
        with av.open(str(path)) as container:
            if not container.streams.video:
                raise ValueError(f"{str(path)!r} has no video stream")
            rate = container.streams.video[0].average_rate
            for frame in container.decode(video=0):
                frames.append(torch.from_numpy(frame.to_ndarray(format="rgb24")).permute(2, 0, 1))
                if len(frames) == max_frames:
                    break
    except av.error.FFmpegError as error:
        raise ValueError(f"{str(path)!r} is not a readable video: {error.strerror}") from None
    if not frames:
        raise ValueError(f"{str(path)!r} holds no frame")
    return torch.stack(frames), float(rate or 0)
