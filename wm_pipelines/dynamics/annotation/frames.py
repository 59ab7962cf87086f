"""The first stage of annotation: the key frames of every clip, at the model's size, and which follow one another."""

import io
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
import torch
from PIL import Image

from wm_pipelines.dynamics.annotation.keyframes import border, hash_distance, perceptual_hash, ssim, strongest
from wm_pipelines.dynamics.pictures import to_size
from wm_pipelines.media.flow import measure_flow
from wm_pipelines.media.pictures import to_pil
from wm_pipelines.media.video import iter_video
from wm_pipelines.runtime.shards import Failed, Shard
from wm_pipelines.runtime.shards.stages import is_full, reason

CODE = 1  # counts changes of what this stage makes of the same clip
HELD_BYTES = 2**28  # frames of a clip that are kept while its flow is measured; a longer one is decoded twice
CHUNK = 16  # frames between which flow is measured at once
GLANCE = 64  # pixels along the longer edge of the pictures in which cuts are looked for
COLUMNS = {
    "video": "string", "class": "string", "frame": "int64", "time": "float64", "flow": "float32", "hash": "string",
    "dropped": "string", "picture": "binary",
}  # fmt: skip
"""Of a key frame. class: the first folder on the way to the video, "" without one. flow: mean magnitude of the motion
into the frame, in pixels at `flow_side`. dropped: why it makes no pair with the key frame before it; "" if it does or
if there is none. picture: PNG."""


@dataclass
class Watched:
    """What one look at a clip gives: flow into each frame (0 into the first of a shot), which frames begin a shot,
    when each is shown, and the frames themselves where they fit in."""

    flow: list[float] = field(default_factory=list)
    cuts: list[int] = field(default_factory=list)
    times: list[Fraction] = field(default_factory=list)
    frames: list[torch.Tensor] | None = field(default_factory=list)


class Glance(NamedTuple):
    """What pairs are judged by: a key frame in grey, its hash, its time, and the number of its shot."""

    grey: np.ndarray
    hash: str
    time: Fraction
    shot: int


def key_frames(shard: Shard) -> Iterator[dict[str, Any] | Failed]:
    """The stage: rows of `COLUMNS` for each video of a shard; one that can't be read is a dead letter."""
    for key, path in zip(shard.keys, shard.paths, strict=True):
        try:
            yield from list(frames_of(key, path, shard.config))
        except Exception as error:  # whatever a decoder throws at a broken file
            if is_full(error):
                raise
            yield Failed(key, reason(error))


def frames_of(key: str, path: Path, config: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Rows of one video; see `COLUMNS`."""
    seen = watch(path, config["flow_side"], config["cut_ssim"])
    chosen = strongest(seen.flow, config["frames"], config["spacing"])
    before: Glance | None = None
    for n, pixels in zip(chosen, _pick(path, seen, chosen), strict=True):
        fitted = to_size([pixels], config["size"], config["resize"], config["pad_colour"], "video")[0]
        image = to_pil(fitted)
        grey = cv2.cvtColor(np.asarray(image), cv2.COLOR_RGB2GRAY)
        shot = sum(cut <= n for cut in seen.cuts)
        found = Glance(grey, perceptual_hash(grey), seen.times[n], shot)
        file = io.BytesIO()
        image.save(file, "PNG")
        yield {
            "video": key,
            "class": key.split("/")[0] if "/" in key else "",
            "frame": n,
            "time": float(seen.times[n] - seen.times[0]),
            "flow": seen.flow[n],
            "hash": found.hash,
            "dropped": "" if before is None else _dropped(before, found, config),
            "picture": file.getvalue(),
        }
        before = found


def watch(path: Path, side: int, cut_ssim: float) -> Watched:
    """Decodes a clip once, measures its flow on pictures of at most `side` pixels along the longer edge, and finds its
    cuts, where two frames in a row are less alike than `cut_ssim`: there flow means nothing and is largest."""
    seen, small, held = Watched(), [], 0
    last: np.ndarray | None = None
    for frame in iter_video(path):
        seen.times.append(frame.time)
        held += frame.pixels.numel()
        if held > HELD_BYTES:
            seen.frames = None
        if seen.frames is not None:
            seen.frames.append(frame.pixels)
        small.append(_shrunk(frame.pixels, side))
        glance = _grey(small[-1])
        if last is not None and ssim(last, glance) < cut_ssim:
            seen.cuts.append(len(seen.times) - 1)
        last = glance
        if len(small) > CHUNK:
            seen.flow += measure_flow(torch.stack(small)).tolist()
            small = small[-1:]
    if len(small) > 1:
        seen.flow += measure_flow(torch.stack(small)).tolist()
    seen.flow.insert(0, 0.0)  # nothing leads into the first frame
    for cut in seen.cuts:
        seen.flow[cut] = 0.0
    return seen


def _shrunk(pixels: torch.Tensor, side: int) -> torch.Tensor:
    height, width = pixels.shape[1:]
    factor = min(1.0, side / max(height, width))
    size = max(1, round(width * factor)), max(1, round(height * factor))
    array = cv2.resize(pixels.permute(1, 2, 0).numpy(), size, interpolation=cv2.INTER_AREA) if factor < 1 else None
    small = pixels if array is None else torch.from_numpy(array).permute(2, 0, 1)
    return small.float() / 255


def _grey(picture: torch.Tensor) -> np.ndarray:
    """A picture `(3, H, W)` in [0, 1] as a small grey one."""
    pixels = (_shrunk((picture * 255).to(torch.uint8), GLANCE) * 255).to(torch.uint8)
    return cv2.cvtColor(pixels.permute(1, 2, 0).contiguous().numpy(), cv2.COLOR_RGB2GRAY)


def _pick(path: Path, seen: Watched, chosen: list[int]) -> Iterable[torch.Tensor]:
    if seen.frames is not None:
        return [seen.frames[n] for n in chosen]
    wanted = set(chosen)
    return [frame.pixels for n, frame in enumerate(iter_video(path)) if n in wanted]


def _dropped(before: Glance, after: Glance, config: dict[str, Any]) -> str:
    """Why two key frames make no pair; "" if they do."""
    if after.shot != before.shot:
        return "scene cut"
    if max(border(before.grey), border(after.grey)) > config["max_border"]:
        return "black border"
    if hash_distance(before.hash, after.hash) < config["min_hash_distance"]:
        return "same hash"
    if ssim(before.grey, after.grey) >= config["max_ssim"]:
        return "no change"
    if after.time - before.time > config["max_gap_s"]:
        return "long gap"
    return ""


def read_picture(data: bytes) -> torch.Tensor:
    """A row's `picture` as uint8 `(3, H, W)`."""
    with Image.open(io.BytesIO(data)) as image:
        return torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1)
