"""Videos and GIFs: the only module that opens or writes such files; a frame is a picture as `pictures` has it.

A video is read frame by frame, upright as players show it, each frame with its time: rates may vary, so nothing is
chosen by a frame's number.
"""

import struct
from collections.abc import Iterator, Sequence
from fractions import Fraction
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np
import torch
from PIL import Image

from wm_pipelines.media.pictures import MAX_PIXELS, Picture, frame_arrays
from wm_pipelines.runtime.files import atomic
from wm_pipelines.runtime.limits import limit

VIDEO_SUFFIXES = (".mp4", ".webm", ".mov", ".mkv")
"""Endings of the video files that are looked for, in small letters."""

MAX_VIDEO_BYTES = limit("VIDEO_BYTES", 2**30)
"""Bytes of all frames of a video that `read_video` holds at once; `iter_video` holds one frame."""

GIF_RATES = (100 / 65535, 50.0)
"""Frames a second that a GIF can keep: a delay is up to 65535 hundredths; viewers slow those below two down to ten."""

VIDEO_RATES = (0.001, 1000.0)
"""Frames a second that every container keeps: within a thousandth, as they are read back."""


_UNENDING = (b"\x18\x53\x80\x67", b"\x1f\x43\xb6\x75")  # Matroska's segment and cluster


class Frame(NamedTuple):
    """A frame of a video: uint8 `(3, H, W)`, when it is shown (seconds), and the unit of the container's clock."""

    pixels: torch.Tensor
    time: Fraction
    tick: Fraction


def save_gif(frames: Sequence[Picture], path: str | Path, fps: float = 8.0) -> Path:
    """Write pictures of one size as an endless GIF, atomically.

    GIF keeps time in hundredths of a second: delays differ by one where that is needed to keep the rate.

    Raises:
        ValueError: no frame, frames of different sizes, a suffix other than .gif, or as `check_gif_rate`.
    """
    path = Path(path)
    if path.suffix.lower() != ".gif":
        raise ValueError(f"can't write a GIF as {path.name!r}: use the suffix .gif")
    check_gif_rate(fps, len(frames))
    first, *rest = [Image.fromarray(frame) for frame in frame_arrays(frames)]
    ends = [round(100 * (n + 1) / fps) for n in range(len(frames))]
    delays = [10 * (end - begin) for begin, end in zip([0, *ends], ends, strict=False)]
    with atomic(path) as temporary:
        first.save(temporary, save_all=True, append_images=rest, duration=delays, loop=0)
    return path


def check_gif_rate(fps: float, frames: int) -> None:
    """Refuses what `save_gif` could not keep.

    Raises:
        ValueError: fps outside `GIF_RATES`, or more than 655.35 seconds: a picture that stays can't last longer.
    """
    if not GIF_RATES[0] <= _rate(fps) <= GIF_RATES[1]:
        raise ValueError(f"fps={fps}; a GIF plays {GIF_RATES[0]:.4f} to {GIF_RATES[1]:g} frames a second")
    if frames / fps > 655.35:
        raise ValueError(f"fps={fps}: {frames} frames last {frames / fps:g} s; a GIF keeps up to 655.35 s")


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
    if path.suffix.lower() not in VIDEO_SUFFIXES:
        raise ValueError(f"can't write a video as {path.name!r}: use a suffix among {', '.join(VIDEO_SUFFIXES)}")
    if not VIDEO_RATES[0] <= _rate(fps) <= VIDEO_RATES[1] or not 0 <= quality <= 51:
        rates = f"[{VIDEO_RATES[0]:g}, {VIDEO_RATES[1]:g}]"
        raise ValueError(f"fps={fps}, quality={quality}; fps must lie in {rates} and quality in [0, 51]")
    codec = "libvpx-vp9" if path.suffix.lower() == ".webm" else "libx264"
    arrays = frame_arrays(frames)
    height, width = arrays[0].shape[:2]
    with atomic(path) as temporary:
        with av.open(str(temporary), "w") as container:
            stream = container.add_stream(codec, rate=Fraction(float(fps)).limit_denominator(1001))
            stream.width, stream.height, stream.pix_fmt = width + width % 2, height + height % 2, "yuv420p"
            stream.options = {"crf": str(quality), "b": "0"} if codec == "libvpx-vp9" else {"crf": str(quality)}
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
        uint8 `(T, 3, H, W)`, and frames per second: the mean, where the rate varies (`iter_video` gives the times).

    Raises:
        ValueError: as `iter_video`, or frames of more than `MAX_VIDEO_BYTES`.
    """
    path = Path(path)
    if max_frames is not None and max_frames < 1:
        raise ValueError(f"max_frames={max_frames}; it must be at least 1")
    frames: list[torch.Tensor] = []
    with OpenVideo(path) as video:
        declared = min(video.stream.frames, max_frames or video.stream.frames)
        _check_bytes(path, declared * 3 * video.stream.codec_context.width * video.stream.codec_context.height)
        for frame in video:
            frames.append(frame.pixels)
            _check_bytes(path, len(frames) * frame.pixels.numel())
            if len(frames) == max_frames:
                break
        return torch.stack(frames), float(video.rate or 0)


def iter_video(path: str | Path) -> Iterator[Frame]:
    """The frames of a video's first stream, upright, decoded one by one as they are asked for.

    Raises:
        ValueError: no such file, not a video, a broken one or one that ends before it should, one without a picture;
            frames of more than `MAX_PIXELS` pixels or of several sizes; or a display matrix that is no quarter turn.
    """
    with OpenVideo(Path(path)) as video:
        yield from video


def pick_frames(path: str | Path, count: int, fps: float) -> torch.Tensor:
    """`count` frames at `fps` a second from the first on, uint8 `(count, 3, H, W)`, chosen by their times.

    For each time the frame whose own is nearest; of two that are equally near, the one with the even number.

    Raises:
        ValueError: as `iter_video`; `count` below 1, fps not above 0; or a video that is too short.
    """
    path = Path(path)
    if count < 1 or not 0 < _rate(fps) < float("inf"):
        raise ValueError(f"count={count}, fps={fps}; count must be at least 1 and fps above 0")
    rate = Fraction(float(fps))
    step = 1 / (rate.limit_denominator(1001) if fps >= VIDEO_RATES[0] else rate)
    chosen: list[torch.Tensor] = []
    before: Frame | None = None
    start = gap = Fraction(0)
    with OpenVideo(path) as video:
        for number, frame in enumerate(video):
            if before is None:
                start, gap = frame.time, 1 / video.rate if video.rate else Fraction(0)
            else:
                gap = frame.time - before.time
                while len(chosen) < count and _is_nearer(before, frame, start + len(chosen) * step, number):
                    chosen.append(before.pixels)
            if len(chosen) == count:
                break
            before = frame
        else:  # the last frame is shown for as long as the one before it
            after = before._replace(time=before.time + gap)
            while len(chosen) < count and _is_nearer(before, after, start + len(chosen) * step, number + 1):
                chosen.append(before.pixels)
            if len(chosen) < count:
                mean = (before.time - start) / number if number else gap
                needed = max(round((count - 1) * step / mean) if mean else 0, number + 1) + 1
                raise ValueError(
                    f"{path.name} has {number + 1} frames; {count} at {fps:g} a second need {needed}: it ends after "
                    f"{float(after.time - start):g} s"
                )
    return torch.stack(chosen)


def _rate(fps: Any) -> float:
    if isinstance(fps, bool) or not isinstance(fps, int | float | np.number | Fraction):
        raise ValueError(f"`fps` must be a number of frames a second, got {fps!r}")
    return float(fps)


def _is_nearer(before: Frame, after: Frame, time: Fraction, number: int) -> bool:
    """Whether `time` belongs to `before` rather than to `after`, which is frame `number`."""
    past = 2 * time - before.time - after.time  # twice the way past the middle
    if abs(past) <= min(2 * after.tick, (after.time - before.time) / 4):  # the middle, as far as the clock tells
        return number % 2 == 1
    return past < 0


class OpenVideo:
    """An open video: `stream` and `rate` (mean, None if it says none), and its frames by iteration."""

    def __init__(self, path: Path):
        if not path.is_file():
            raise ValueError(f"no video at {str(path)!r}: the file is missing")
        self.path = path

    def __enter__(self) -> "OpenVideo":
        import av

        _check_length(self.path)
        try:
            # titles may be in any encoding
            self.container = av.open(str(self.path), metadata_errors="replace")
        except av.error.FFmpegError as error:
            raise ValueError(f"{str(self.path)!r} is not a readable video: {error.strerror}") from None
        try:
            if not self.container.streams.video:
                raise ValueError(f"{str(self.path)!r} has no video stream")
            self.stream = self.container.streams.video[0]
            if self.stream.codec_context is None:
                raise ValueError(f"{str(self.path)!r} is not a readable video: it does not say how it is coded")
            self.rate = self.stream.average_rate
            self._check_size(self.stream.codec_context.width, self.stream.codec_context.height)
        except BaseException:
            self.container.close()
            raise
        return self

    def __exit__(self, *error: object) -> None:
        self.container.close()

    def __iter__(self) -> Iterator[Frame]:
        import av

        size, number, ends, last, longest = None, 0, Fraction(0), None, Fraction(0)
        try:
            # all streams are read, for the file is as long as its longest
            for packet in self.container.demux():
                begins = packet.dts if packet.pts is None else packet.pts  # AVI has no other
                if begins is not None:
                    ends = max(ends, (begins + (packet.duration or 0)) * packet.time_base)
                for frame in packet.decode() if packet.stream.index == self.stream.index else ():
                    self._check_size(frame.width, frame.height)
                    if frame.is_corrupt:
                        raise ValueError(f"{str(self.path)!r} is damaged at frame {number}")
                    size = size or (frame.width, frame.height)
                    if size != (frame.width, frame.height):
                        raise ValueError(
                            f"{str(self.path)!r} has frames of two sizes, {size[0]}x{size[1]} and "
                            f"{frame.width}x{frame.height}"
                        )
                    time = self._time(frame, number)
                    longest = max(longest, time - last) if last is not None else longest
                    number, last = number + 1, time
                    pixels = self._upright(frame, frame.to_ndarray(format="rgb24"))
                    yield Frame(torch.from_numpy(pixels).permute(2, 0, 1), time, frame.time_base or Fraction(0))
        except av.error.FFmpegError as error:
            raise ValueError(f"{str(self.path)!r} is not a readable video: {error.strerror}") from None
        if not number:
            raise ValueError(f"{str(self.path)!r} holds no frame")
        self._check_end(ends, max(longest, 1 / self.rate if self.rate else 0))
        _check_length(self.path, inside=True)

    def _time(self, frame: Any, number: int) -> Fraction:
        if frame.pts is not None and frame.time_base:
            return frame.pts * frame.time_base
        if not self.rate:
            raise ValueError(f"{str(self.path)!r} says neither when a frame is shown nor how many are a second")
        return number / self.rate

    def _upright(self, frame: Any, pixels: np.ndarray) -> np.ndarray:
        """The picture `(H, W, 3)` turned and mirrored as the frame's display matrix says."""
        matrix = frame.side_data.get("DISPLAYMATRIX")
        if matrix is None:
            return pixels
        # x' = a x + c y and y' = b x + d y, in 16.16
        a, b, _, c, d = struct.unpack("=9i", bytes(matrix)[:36])[:5]
        noise = max(map(abs, (a, b, c, d))) / 1000
        a, b, c, d = (0 if abs(value) <= noise else value for value in (a, b, c, d))
        if not any((a, b, c, d)):  # some writers leave it empty
            return pixels
        if a and d and not b and not c:
            across, down = a, d
        elif b and c and not a and not d:
            pixels, across, down = pixels.swapaxes(0, 1), c, b
        else:
            raise ValueError(f"{str(self.path)!r} has a display matrix {(a, b, c, d)} that is no quarter turn")
        return np.ascontiguousarray(pixels[:: 1 if down > 0 else -1, :: 1 if across > 0 else -1])

    def _check_size(self, width: int, height: int) -> None:
        if width * height > MAX_PIXELS:
            raise ValueError(f"{str(self.path)!r} has frames of {width}x{height} pixels, more than {MAX_PIXELS}")

    def _check_end(self, ends: Fraction, gap: Fraction) -> None:
        """ValueError if the container says that it goes on; only where it does say so and does not guess."""
        says = {"matroska", "avi", "flv"} & set(self.container.format.name.split(","))
        duration = Fraction(self.container.duration or 0, 1_000_000)
        if says and duration - ends > gap * 3 / 2:
            raise ValueError(
                f"{str(self.path)!r} is damaged: it lasts {float(duration):g} s, but ends after {float(ends):g} s"
            )


def _check_bytes(path: Path, size: int) -> None:
    if size > MAX_VIDEO_BYTES:
        raise ValueError(
            f"the frames of {str(path)!r} have more than {MAX_VIDEO_BYTES} bytes; give max_frames, or use iter_video"
        )


def _check_length(path: Path, inside: bool = False) -> None:
    """ValueError if a Matroska, WebM or AVI file is shorter than it says: FFmpeg reads what is left without a word.

    Args:
        inside: look into a Matroska file that does not say how long it is.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        head = file.read(12)
        if head.startswith(b"\x1a\x45\xdf\xa3"):
            promised = _matroska_end(file, size, inside)
        else:
            promised = 8 + int.from_bytes(head[4:8], "little") if head[:4] == b"RIFF" and head[8:11] == b"AVI" else 0
    if promised > size:
        raise ValueError(f"{str(path)!r} is damaged: it has {size} bytes of {promised}")


def _matroska_end(file: IO[bytes], size: int, inside: bool) -> int:
    """Where the last element of a Matroska file ends, as it says itself.

    Streams are written before anyone knows their length: there `inside` goes through the elements one by one.
    """
    at = 0
    while at < size:
        file.seek(at)
        head = file.read(12)
        name = 5 - (head[0] >> 4).bit_length()
        start, length = _vint(head, name)
        if name > 4:
            return 0
        if start > len(head):  # it ends within a name or a length
            return size + 1
        if length is not None:
            at += start + length
        elif inside and head[:name] in _UNENDING:
            at += start
        else:
            return 0
    return at


def _vint(data: bytes, at: int) -> tuple[int, int | None]:
    """(where it ends, its value) of a size in EBML; None for one that is not known."""
    length = 9 - data[at].bit_length() if at < len(data) else 9
    if length > 8 or at + length > len(data):
        return len(data) + 1, None
    value = int.from_bytes(data[at : at + length], "big") & ((1 << 7 * length) - 1)
    return at + length, None if value == (1 << 7 * length) - 1 else value
