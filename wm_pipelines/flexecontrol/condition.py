"""A spatial condition as a user states it and as the sampler needs it (flexecontrol.md, sections 3.3, 10, 12)."""

import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import TypeAlias

import torch

from wm_pipelines.flexecontrol import fit as fitting
from wm_pipelines.flexecontrol.condition_text import parse_fields
from wm_pipelines.media import conditions as kinds
from wm_pipelines.media.pictures import Picture, open_image, to_mask, to_tensor

Source: TypeAlias = str | Path | Picture
SOURCES: tuple[str, ...] = ("map", "photo", "graph")
Region: TypeAlias = Source | tuple[float, float, float, float]


@dataclass(frozen=True, eq=False)
class Condition:
    """One map that the picture shall obey, with its weight, place, phrase and time.

    Args:
        type: a name or alias of `wm_pipelines.media.conditions.TYPES`.
        image: the finished map (path, PIL, array or tensor), values in [0, 1]; with `source="photo"` a photo.
        strength: 0 to 2; 0 removes the condition exactly.
        region: where it holds: a mask (path, PIL, array `(H, W)`, tensor `(1, H, W)`) or a box (x0, y0, x1, y1) in
            fractions of the output; None = everywhere.
        phrase: the words of the prompt that this condition shows; they are bound to its place.
        span: characters (start, end) of the phrase in the prompt, needed where the words occur twice.
        start, end: active from `start` to `end` of the sampling, fractions with 0 <= start < end <= 1.
        fit: "error" | "crop" | "pad" | "stretch", for map and region alike.
        source: "map"; "photo" to run our extractor of this type (see `from_photo`); "graph" for a map that a scene
            graph stands for, so that messages can say so.
        options: options of that extractor.

    Raises:
        ValueError: any value outside these ranges, or a file that is missing.
    """

    type: str
    image: Source
    strength: float = 1.0
    region: Region | None = None
    phrase: str | None = None
    span: tuple[int, int] | None = None
    start: float = 0.0
    end: float = 1.0
    fit: str = "error"
    source: str = "map"
    options: Mapping[str, object] = field(default_factory=dict)

    def __post_init__(self) -> None:
        object.__setattr__(self, "type", kinds.canonical_type(self.type))
        for name in ("strength", "start", "end"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
                raise ValueError(f"{name} must be a finite number, got {value!r}")
        if not 0 <= self.strength <= 2:
            raise ValueError(f"strength={self.strength}; it must lie in [0, 2]")
        if not 0 <= self.start < self.end <= 1:
            raise ValueError(f"start={self.start}, end={self.end}; they must satisfy 0 <= start < end <= 1")
        if self.fit not in fitting.FITS:
            raise ValueError(f"fit={self.fit!r}; choose from {', '.join(fitting.FITS)}")
        if self.source not in SOURCES:
            raise ValueError(f"source={self.source!r}; choose from {', '.join(SOURCES)}")
        if self.phrase is not None and (not isinstance(self.phrase, str) or not self.phrase.strip()):
            raise ValueError(f"phrase must be words of the prompt, got {self.phrase!r}")
        if self.span is not None:
            object.__setattr__(self, "span", _checked_span(self.span))
        if _is_box(self.region):
            try:
                kinds.box_mask(self.region, 1, 1)
            except ValueError as error:
                raise ValueError(f"region: {error}") from None
        if self.source == "photo":
            kinds.check_extractable(self.type, self.options)
        for name in ("image", "region"):
            value = getattr(self, name)
            if isinstance(value, str | Path) and not Path(value).is_file():
                raise ValueError(f"{name} of condition {self.type!r}: there is no file {str(value)!r}")

    @classmethod
    def from_photo(
        cls,
        type: str,
        photo: Source,
        *,
        fit: str = "error",
        options: Mapping[str, object] | None = None,
        **fields: object,
    ) -> "Condition":
        """A condition whose map our extractor makes from `photo`, once it is at the output's size.

        Args:
            type: a type with an offline extractor; depth and pose need `options={"estimator": ...}`.
            photo: path, PIL, array or tensor.
            fit: as in `Condition`, applied to the photo before extraction.
            options: passed to `wm_pipelines.media.conditions.extract`.
            fields: `strength`, `region`, `phrase`, `span`, `start`, `end`.
        """
        return cls(type, photo, fit=fit, source="photo", options=dict(options or {}), **fields)

    @classmethod
    def parse(cls, text: str) -> "Condition":
        """A condition as the command line writes it: `canny=photo.jpg,from=photo,fit=crop`; see `condition_text`."""
        return cls(**parse_fields(text))


def _is_box(region: object) -> bool:
    return isinstance(region, Sequence) and not isinstance(region, str | bytes)


def _checked_span(span: object) -> tuple[int, int]:
    try:
        start, end = (int(value) for value in span)
    except (TypeError, ValueError):
        raise ValueError(f"span must be two character positions (start, end), got {span!r}") from None
    if not 0 <= start < end:
        raise ValueError(f"span=({start}, {end}); it must satisfy 0 <= start < end")
    return start, end


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

    @property
    def name(self) -> str:
        """How messages call it: type and place in the list, from 1."""
        return _name(self.type, self.index, self.source)

    @cached_property
    def area(self) -> torch.Tensor:
        """bool `(1, H, W)`: its region (>= 0.5), else what its map marks, insides of outlines included."""
        if self.region is not None:
            return self.region >= 0.5
        return kinds.support(self.type, self.image, self.background, fill=True)


def _name(type: str, index: int, source: str) -> str:
    return f"the graph's {type} map" if source == "graph" else f"condition {type!r} #{index + 1}"


def prepare(
    conditions: Sequence[Condition],
    height: int,
    width: int,
    multiple: int,
    backgrounds: Mapping[str, float] = kinds.BACKGROUND,
) -> list[PreparedCondition]:
    """Load, extract, fit and check conditions for an output of `height` x `width`.

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
        prepared.append(_prepare_one(condition, index, (height, width), multiple, backgrounds[condition.type]))
        # Only imported Uni-ControlNet weights have black-on-white sketches, and only they know the models' maps.
        if condition.source == "photo" and condition.type in kinds.STAND_INS and backgrounds.get("sketch", 0) > 0.5:
            model = kinds.STAND_INS[condition.type]
            warnings.warn(f"{prepared[-1].name}: these weights were trained on {model} maps, not ours", stacklevel=2)
    return prepared


def _prepare_one(
    condition: Condition, index: int, size: tuple[int, int], multiple: int, background: float
) -> PreparedCondition:
    name = _name(condition.type, index, condition.source)
    photo = condition.source == "photo"
    try:
        # A photo's transparency is read as white paper; a map's as "no control".
        image = _load(condition.image, to_tensor, matte=1.0 if photo else background)
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from None
    given = tuple(image.shape[1:])
    if condition.fit == "error" and given != size:
        raise ValueError(
            f"{name} is {given[0]}x{given[1]}; height and width must be multiples of {multiple} and equal to "
            f"the output {size[0]}x{size[1]} (or pass fit='crop', 'pad' or 'stretch')"
        )
    try:
        image = _extract(condition, image, size, background) if photo else _fit_map(condition, image, size, background)
        region = _region(condition, given, size)
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from None
    warning = kinds.polarity_warning(condition.type, image, background)
    if condition.type in kinds.SPARSE and not kinds.support(condition.type, image, background).any():
        warning = "the map is empty, it controls nothing"
    if warning:
        warnings.warn(f"{name}: {warning}", stacklevel=4)
    return PreparedCondition(
        type=condition.type, image=image, region=region, strength=float(condition.strength), phrase=condition.phrase,
        span=condition.span, start=float(condition.start), end=float(condition.end), index=index,
        background=background, source=condition.source,
    )  # fmt: skip


def _load(source: Source, convert, **options: object) -> torch.Tensor:
    return convert(open_image(source) if isinstance(source, str | Path) else source, **options)


def _fit_map(condition: Condition, image: torch.Tensor, size: tuple[int, int], background: float) -> torch.Tensor:
    resize = {"depth": fitting.resize_depth, "seg": fitting.resize_seg}.get(
        condition.type, partial(fitting.resize_marks, background=background)
    )
    return fitting.fit_to(image, size, condition.fit, resize, background)[0]


def _extract(condition: Condition, photo: torch.Tensor, size: tuple[int, int], background: float) -> torch.Tensor:
    photo, (top, left, bottom, right) = fitting.fit_to(photo, size, condition.fit, fitting.resize_photo, None)
    extracted = kinds.extract(condition.type, photo, **condition.options)
    if kinds.BACKGROUND[condition.type] != background:
        extracted = 1 - extracted
    canvas = torch.full_like(extracted, background)
    canvas[:, top:bottom, left:right] = extracted[:, top:bottom, left:right]
    return canvas


def _region(condition: Condition, given: tuple[int, int], size: tuple[int, int]) -> torch.Tensor | None:
    if condition.region is None:
        return None
    if _is_box(condition.region):
        return kinds.box_mask(condition.region, *size)
    try:
        region = _load(condition.region, to_mask)
    except ValueError as error:
        raise ValueError(f"region: {error}") from None
    shape = tuple(region.shape[1:])
    if shape == given:
        region = fitting.fit_to(region, size, condition.fit, fitting.resize_marks)[0]
    elif shape != size:
        raise ValueError(
            f"region is {shape[0]}x{shape[1]}; it must have the size of the condition, {given[0]}x{given[1]}, "
            f"or of the output, {size[0]}x{size[1]}"
        )
    if float(region.max()) < 0.5:
        raise ValueError("region is empty: no pixel reaches 0.5")
    return region
