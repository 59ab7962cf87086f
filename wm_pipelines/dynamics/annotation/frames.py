"""The first stage of annotation: the key frames of every clip, at the model's size, and which follow one another."""

import io
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from PIL import Image

from wm_pipelines.dynamics.annotation.keyframes import border, hash_distance, perceptual_hash, ssim, strongest
from wm_pipelines.dynamics.pictures import fit
from wm_pipelines.media.flow import measure_flow
from wm_pipelines.media.pictures import to_pil
from wm_pipelines.media.video import iter_video
from wm_pipelines.runtime.shards import Failed, Shard
from wm_pipelines.runtime.shards.stages import is_full, reason

CODE = 1  # counts changes of what this stage makes of the same clip
HELD_BYTES = 2**28  # frames of a clip that are kept while its flow is measured; a longer one is decoded twice
CHUNK = 16  # frames between which flow is measured at once
COLUMNS = {
    "video": "string", "class": "string", "frame": "int64", "time": "float64", "flow": "float32", "hash": "string",
    "dropped": "string", "picture": "binary",
}  # fmt: skip
"""Of a key frame. class: the first folder on the way to the video, "" without one. flow: mean magnitude of the motion
into the frame, in pixels at `flow_side`. dropped: why it makes no pair with the key frame before it; "" if it does or
if there is none. picture: PNG."""


@dataclass
class Watched:
    """What one look at a clip gives: flow into each frame, when it is shown, and the frames where they fit in."""

    flow: list[float] = field(default_factory=list)
    times: list[Fraction] = field(default_factory=list)
    frames: list[torch.Tensor] | None = field(default_factory=list)


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
    seen = watch(path, config["flow_side"])
    chosen = strongest(seen.flow, config["frames"], config["spacing"])
    before: tuple[np.ndarray, str, Fraction] | None = None
    for n, pixels in zip(chosen, _pick(path, seen, chosen), strict=True):
        fitted = fit([pixels], config["size"], config["resize"], config["pad_colour"], "video")[0]
        image = to_pil(fitted)
        grey = cv2.cvtColor(np.asarray(image), cv2.COLOR_RGB2GRAY)
        found = grey, perceptual_hash(grey), seen.times[n]
        file = io.BytesIO()
        image.save(file, "PNG")
        yield {
            "video": key,
            "class": key.split("/")[0] if "/" in key else "",
            "frame": n,
            "time": float(seen.times[n] - seen.times[0]),
            "flow": seen.flow[n],
            "hash": found[1],
            "dropped": "" if before is None else _dropped(before, found, config),
            "picture": file.getvalue(),
        }
        before = found


def watch(path: Path, side: int) -> Watched:
    """Decodes a clip once and measures its flow on pictures of at most `side` pixels along the longer edge."""
    seen, small, held = Watched(), [], 0
    for frame in iter_video(path):
        seen.times.append(frame.time)
        held += frame.pixels.numel()
        if held > HELD_BYTES:
            seen.frames = None
        if seen.frames is not None:
            seen.frames.append(frame.pixels)
        small.append(_shrunk(frame.pixels, side))
        if len(small) > CHUNK:
            seen.flow += measure_flow(torch.stack(small)).tolist()
            small = small[-1:]
    if len(small) > 1:
        seen.flow += measure_flow(torch.stack(small)).tolist()
    seen.flow.insert(0, 0.0)  # nothing leads into the first frame
    return seen


def _shrunk(pixels: torch.Tensor, side: int) -> torch.Tensor:
    height, width = pixels.shape[1:]
    factor = min(1.0, side / max(height, width))
    size = max(1, round(width * factor)), max(1, round(height * factor))
    array = cv2.resize(pixels.permute(1, 2, 0).numpy(), size, interpolation=cv2.INTER_AREA) if factor < 1 else None
    small = pixels if array is None else torch.from_numpy(array).permute(2, 0, 1)
    return small.float() / 255


def _pick(path: Path, seen: Watched, chosen: list[int]) -> Iterable[torch.Tensor]:
    if seen.frames is not None:
        return [seen.frames[n] for n in chosen]
    wanted = set(chosen)
    return [frame.pixels for n, frame in enumerate(iter_video(path)) if n in wanted]


def _dropped(before: tuple[np.ndarray, str, Fraction], after: tuple[np.ndarray, str, Fraction], config) -> str:
    """Why two key frames make no pair; "" if they do."""
    if max(border(before[0]), border(after[0])) > config["max_border"]:
        return "black border"
    if hash_distance(before[1], after[1]) < config["min_hash_distance"]:
        return "same hash"
    if ssim(before[0], after[0]) >= config["max_ssim"]:
        return "no change"
    if after[2] - before[2] > config["max_gap_s"]:
        return "long gap"
    return ""


def read_picture(data: bytes) -> torch.Tensor:
    """A row's `picture` as uint8 `(3, H, W)`."""
    with Image.open(io.BytesIO(data)) as image:
        return torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1)
