"""What can be measured of a video of the miniature world: where an object is in every frame, how it moves, how much.

`diorama-judge` says which pixels show which colour; an object is the region of its colour. Positions are fractions of
the picture, motion is in px per frame of the video's own size.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from wm_pipelines.diorama.judge import DioramaJudge
from wm_pipelines.diorama.metrics import Found, look
from wm_pipelines.diorama.scene import COLOURS
from wm_pipelines.media.flow import measure_flow

WAYS = ("left", "right", "towards", "away")
LEAST_MOVE = 1 / 64  # of the picture: what moves less has no direction
OVER_RANGE = 1.15


@dataclass(frozen=True)
class Track:
    """One object over F frames; NaN where it is not seen.

    Attributes: `boxes` (F, 4) x0, y0, x1, y1 and `centres` (F, 2) x, y in [0, 1]; `areas` (F,), shares of the picture.
    """

    boxes: torch.Tensor
    centres: torch.Tensor
    areas: torch.Tensor

    @property
    def seen(self) -> torch.Tensor:
        """(F,) bool."""
        return self.areas.isfinite()


def track_colour(judge: DioramaJudge, frames: torch.Tensor, colour: str) -> Track:
    """Follows the object of a colour: the nearest region of that colour to where it was, at first the largest.

    Args:
        frames: (F, 3, H, W) in [0, 1].
    """
    _check_colour(colour)
    rows, last = [], None
    for found in look(judge, frames):
        same = [f for f in found if f.colour == colour]
        if not same:
            rows.append([np.nan] * 7)
            continue
        chosen: Found = same[0] if last is None else min(same, key=lambda f: _distance(f.centre, last))
        last = chosen.centre
        rows.append([*chosen.box, *chosen.centre, chosen.area])
    values = torch.tensor(rows, dtype=torch.float32)
    return Track(values[:, :4], values[:, 4:6], values[:, 6])


def _distance(a: Sequence[float], b: Sequence[float]) -> float:
    return float(np.hypot(a[0] - b[0], a[1] - b[1]))


def _check_colour(colour: str) -> None:
    if colour not in COLOURS:
        raise ValueError(f"colour is {colour!r}; allowed: {', '.join(COLOURS)}")


def diorama_detector(judge: DioramaJudge) -> Callable[[torch.Tensor, str], torch.Tensor]:
    """A detector for `MojitoPipeline`: (frames, phrase) -> boxes (F, 4), by the colour that the phrase names.

    It raises ValueError for a phrase without a colour of the miniature world.
    """

    def detect(frames: torch.Tensor, phrase: str) -> torch.Tensor:
        colours = [word for word in phrase.lower().split() if word in COLOURS]
        if len(colours) != 1:
            raise ValueError(f"phrase {phrase!r} names {len(colours)} colours; name one of {', '.join(COLOURS)}")
        return track_colour(judge, frames, colours[0]).boxes

    return detect


def centroid_error(centres: torch.Tensor, boxes: torch.Tensor) -> torch.Tensor:
    """Distance of centres (..., 2) from the middles of boxes (..., 4), as a share of the picture's diagonal."""
    middles = (boxes[..., :2] + boxes[..., 2:]) / 2
    return (centres - middles).square().sum(-1).sqrt() / 2**0.5


def persistence(track: Track) -> float:
    """Share of the frames in which the object is seen."""
    return float(track.seen.float().mean())


def direction(track: Track) -> str | None:
    """Where the object went, by the larger part of its way from the first to the last frame that shows it.

    Down in the picture is towards the camera, up is away, as for everything that stands on the floor. None if it moved
    less than a 64th of the picture, or is seen less than twice.
    """
    seen = track.centres[track.seen]
    if len(seen) < 2:
        return None
    x, y = (seen[-1] - seen[0]).tolist()
    if max(abs(x), abs(y)) < LEAST_MOVE:
        return None
    if abs(x) > abs(y):
        return "right" if x > 0 else "left"
    return "towards" if y > 0 else "away"


def acceleration(track: Track, side: int) -> float:
    """Mean length of the second difference of the centres, px of a picture of `side`; NaN if never seen in a row."""
    return float((track.centres.diff(n=2, dim=0) * side).square().sum(-1).sqrt().nanmean())


def speed(track: Track, side: int) -> float:
    """Mean distance from frame to frame, px of a picture of `side`."""
    return float((track.centres.diff(dim=0) * side).square().sum(-1).sqrt().nanmean())


@torch.no_grad()
def object_flow(judge: DioramaJudge, frames: torch.Tensor, colours: Sequence[str]) -> float:
    """Mean flow inside the objects of these colours, px per frame, by Farneback; NaN if none is ever seen.

    Args:
        frames: (F, 3, H, W) in [0, 1].
    """
    for colour in colours:
        _check_colour(colour)
    seen = judge(frames.to(judge.device, judge.dtype)).colour.argmax(1).cpu()
    wanted = torch.tensor([1 + list(COLOURS).index(colour) for colour in colours])
    return float(measure_flow(frames, torch.isin(seen, wanted)).nanmean())


def over_range(decoded: torch.Tensor) -> float:
    """Share of values beyond 1.15 in what a VAE decodes before it is clamped to [-1, 1]; real pictures have none."""
    return float((decoded.abs() > OVER_RANGE).float().mean())
