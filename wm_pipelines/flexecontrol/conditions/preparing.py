"""From a condition as it was stated to a map at the output's size; each is loaded, resized and checked once a call."""

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path

import torch

from wm_pipelines.flexecontrol.conditions import resizing
from wm_pipelines.flexecontrol.conditions.condition import Condition, Source, is_box
from wm_pipelines.media.conditions import (
    BACKGROUND,
    SPARSE,
    STAND_INS,
    box_mask,
    extract,
    polarity_warning,
    support,
)
from wm_pipelines.media.pictures import open_image, to_mask, to_tensor

Size = tuple[int, int]
MOST_LOST = {"map": 0.02, "graph": 0.02, "photo": 0.35}
"""A crop that cuts off more is warned of: of what a map marks, or of a photo, whose marks are not known yet; of one of
3:2 a square leaves two thirds."""


@dataclass(frozen=True, eq=False)
class PreparedCondition:
    """A condition at the output's size, checked.

    Args:
        image (`torch.Tensor` of shape `(3, H, W)`, float32 in [0, 1]).
        region (`torch.Tensor` of shape `(1, H, W)`, float32 in [0, 1], or None): None = everywhere.
        index: its place in the user's list, from 0.
        background: the value of "no control" in `image`.
        source: "map", "photo" (our extractor made `image`) or "graph".
    """

    type: str
    image: torch.Tensor
    region: torch.Tensor | None
    strength: float
    phrase: str | None
    span: tuple[int, int] | None
    start: float
    end: float
    index: int
    background: float = 0.0
    source: str = "map"
    schedule: tuple[float, ...] | None = None

    @property
    def name(self) -> str:
        """How messages call it: type and place in the list, from 1."""
        return _name(self.type, self.index, self.source)

    @cached_property
    def area(self) -> torch.Tensor:
        """bool `(1, H, W)`: its region (>= 0.5), else what its map marks, insides of outlines included."""
        if self.region is not None:
            return self.region >= 0.5
        return support(self.type, self.image, self.background, fill=True)


def _name(type: str, index: int, source: str) -> str:
    return f"the graph's {type} map" if source == "graph" else f"condition {type!r} #{index + 1}"


def prepare(
    conditions: Sequence[Condition],
    height: int,
    width: int,
    multiple: int,
    backgrounds: Mapping[str, float] = BACKGROUND,
) -> list[PreparedCondition]:
    """Load, resize, extract and check conditions for an output of `height` x `width`.

    Args:
        conditions: what the user gave, in order.
        height, width: of the output, multiples of `multiple`.
        multiple: the step of sizes that the model can take.
        backgrounds: "no control" per type, the model's own if it was imported from Uni-ControlNet.

    Raises:
        ValueError: naming the condition by type and place (from 1) and what is wrong with it.
    """
    if height < 1 or width < 1 or height % multiple or width % multiple:
        raise ValueError(f"output is {height}x{width}; height and width must be multiples of {multiple}")
    prepared = []
    for index, condition in enumerate(conditions):
        if not isinstance(condition, Condition):
            raise ValueError(f"conditions[{index}] is a {type(condition).__name__}; it must be a Condition")
        prepared.append(prepare_one(condition, index, (height, width), multiple, backgrounds[condition.type]))
        # Only imported Uni-ControlNet weights have black-on-white sketches, and only they know the models' maps.
        if condition.source == "photo" and condition.type in STAND_INS and backgrounds.get("sketch", 0) > 0.5:
            model = STAND_INS[condition.type]
            warnings.warn(f"{prepared[-1].name}: these weights were trained on {model} maps, not ours", stacklevel=2)
    return prepared


def prepare_one(condition: Condition, index: int, size: Size, multiple: int, background: float) -> PreparedCondition:
    """A condition's map at `size`, `background` where it says nothing; `index` and `multiple` are for messages."""
    name = _name(condition.type, index, condition.source)
    photo = condition.source == "photo"
    try:
        # A photo's transparency is read as white paper; a map's as "no control".
        given = _load(condition.image, to_tensor, matte=1.0 if photo else background)
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from None
    came = tuple(given.shape[1:])
    if condition.fit == "error" and came != size:
        raise ValueError(
            f"{name} is {came[0]}x{came[1]}; height and width must be multiples of {multiple} and equal to "
            f"the output {size[0]}x{size[1]} (or pass fit='crop', 'pad' or 'stretch')"
        )
    if condition.fit == "crop" and (lost := _lost(condition, given, size, background)) > MOST_LOST[condition.source]:
        what = "the photo" if photo else "what the map marks"
        warnings.warn(f"{name}: fit='crop' cuts off {lost:.0%} of {what}; fit='pad' keeps all", stacklevel=4)
    try:
        image = (_extracted if photo else _resized)(condition, given, size, background)
        region = _region(condition, came, size)
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from None
    doubt = polarity_warning(condition.type, image, background)
    if condition.type in SPARSE and not support(condition.type, image, background).any():
        doubt = "the map is empty, it controls nothing"
    if doubt:
        warnings.warn(f"{name}: {doubt}", stacklevel=4)
    return PreparedCondition(
        type=condition.type, image=image, region=region, strength=float(condition.strength), phrase=condition.phrase,
        span=condition.span, start=float(condition.start), end=float(condition.end), index=index,
        background=background, source=condition.source, schedule=condition.schedule,
    )  # fmt: skip


def _load(source: Source, convert: Callable[..., torch.Tensor], **options: object) -> torch.Tensor:
    return convert(open_image(source) if isinstance(source, str | Path) else source, **options)


def _resized(condition: Condition, image: torch.Tensor, size: Size, background: float) -> torch.Tensor:
    """A finished map at the output's size."""
    marks = partial(resizing.resize_marks, background=background)
    resize = {"depth": resizing.resize_depth, "seg": resizing.resize_seg}.get(condition.type, marks)
    return resizing.place(image, size, condition.fit, resize, background)[0]


def _lost(condition: Condition, given: torch.Tensor, size: Size, background: float) -> float:
    """Share, 0 to 1, of a map's marks, or of a photo, that a crop of `given` (3, h, w) to `size` cuts off."""
    rows, columns = resizing.crop_window(tuple(given.shape[1:]), size)
    said = torch.ones_like(given[:1]) if condition.source == "photo" else support(condition.type, given, background)
    return float(said.sum() - said[:, rows, columns].sum()) / max(1.0, float(said.sum()))


def _extracted(condition: Condition, photo: torch.Tensor, size: Size, background: float) -> torch.Tensor:
    """What our extractor finds in a photo at the output's size; nothing outside the photo."""
    photo, (top, left, bottom, right) = resizing.place(photo, size, condition.fit, resizing.resize_photo, None)
    extracted = extract(condition.type, photo, **condition.options)
    if BACKGROUND[condition.type] != background:
        extracted = 1 - extracted
    canvas = torch.full_like(extracted, background)
    canvas[:, top:bottom, left:right] = extracted[:, top:bottom, left:right]
    return canvas


def _region(condition: Condition, came: Size, size: Size) -> torch.Tensor | None:
    """Where the condition holds: a box, a mask that moves with its map (of size `came`), or one of the output's."""
    if condition.region is None:
        return None
    if is_box(condition.region):
        return box_mask(condition.region, *size)
    try:
        region = _load(condition.region, to_mask)
    except ValueError as error:
        raise ValueError(f"region: {error}") from None
    shape = tuple(region.shape[1:])
    if shape == came:
        region = resizing.place(region, size, condition.fit, resizing.resize_marks)[0]
    elif shape != size:
        raise ValueError(
            f"region is {shape[0]}x{shape[1]}; it must have the size of the condition, {came[0]}x{came[1]}, "
            f"or of the output, {size[0]}x{size[1]}"
        )
    if float(region.max()) < 0.5:
        raise ValueError("region is empty: no pixel reaches 0.5")
    return region
