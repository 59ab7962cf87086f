"""A spatial condition as a user states it, in Python or as the command line writes it."""

import difflib
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeAlias

from wm_pipelines.flexecontrol.conditions.resizing import FITS
from wm_pipelines.media.conditions import box_mask, canonical_type, check_extractable
from wm_pipelines.media.pictures import Picture
from wm_pipelines.runtime.factors import checked_factors

Source: TypeAlias = str | Path | Picture
SOURCES: tuple[str, ...] = ("map", "photo", "graph")
Region: TypeAlias = Source | tuple[float, float, float, float]

KEYS: tuple[str, ...] = ("from", "fit", "phrase", "strength", "region", "start", "end", "span")

_ITEM = re.compile(r"""\s*([^=,"']*?)\s*=\s*("[^"]*"|'[^']*'|[^,"']*)\s*(,|$)""")


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
        schedule: factors on the strength, 0 to 1, at equally spaced times from the first step of the sampling to its
            last, linear between; None: 1 all the time.

    Raises:
        ValueError: any value outside these ranges, or a file that is missing.

    Example:
        >>> layout = torch.zeros(64, 64)
        >>> layout[20:44, 8:32] = 1
        >>> cube = Condition("canny", layout, phrase="red cube", strength=0.7, region=(0, 0, 0.5, 1), end=0.8)
        >>> cube.type, cube.strength
        ('canny', 0.7)
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
    schedule: Sequence[float] | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "type", canonical_type(self.type))
        for name in ("strength", "start", "end"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
                raise ValueError(f"{name} must be a finite number, got {value!r}")
        if not 0 <= self.strength <= 2:
            raise ValueError(f"strength={self.strength}; it must lie in [0, 2]")
        if not 0 <= self.start < self.end <= 1:
            raise ValueError(f"start={self.start}, end={self.end}; they must satisfy 0 <= start < end <= 1")
        if self.schedule is not None:
            object.__setattr__(self, "schedule", checked_factors(self.schedule, "schedule"))
            if not any(self.schedule):
                raise ValueError(f"schedule={self.schedule!r} never acts; give strength=0 to leave a condition out")
        if self.fit not in FITS:
            raise ValueError(f"fit={self.fit!r}; choose from {', '.join(FITS)}")
        if self.source not in SOURCES:
            raise ValueError(f"source={self.source!r}; choose from {', '.join(SOURCES)}")
        if self.phrase is not None and (not isinstance(self.phrase, str) or not self.phrase.strip()):
            raise ValueError(f"phrase must be words of the prompt, got {self.phrase!r}")
        if self.span is not None:
            object.__setattr__(self, "span", _checked_span(self.span))
        if is_box(self.region):
            try:
                box_mask(self.region, 1, 1)
            except ValueError as error:
                raise ValueError(f"region: {error}") from None
        if self.source == "photo":
            check_extractable(self.type, self.options)
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
            fields: `strength`, `region`, `phrase`, `span`, `start`, `end`, `schedule`.
        """
        return cls(type, photo, fit=fit, source="photo", options=dict(options or {}), **fields)

    @classmethod
    def parse(cls, text: str) -> "Condition":
        """A condition as the command line writes it: `canny=photo.jpg,from=photo,fit=crop`; see `parse_fields`."""
        return cls(**parse_fields(text))


def is_box(region: object) -> bool:
    return isinstance(region, Sequence) and not isinstance(region, str | bytes)


def _checked_span(span: object) -> tuple[int, int]:
    try:
        start, end = (int(value) for value in span)
    except (TypeError, ValueError):
        raise ValueError(f"span must be two character positions (start, end), got {span!r}") from None
    if not 0 <= start < end:
        raise ValueError(f"span=({start}, {end}); it must satisfy 0 <= start < end")
    return start, end


# ---- as the command line writes it: `seg=layout.png,phrase="red cube, shiny",strength=0.7` ----


def parse_fields(text: str) -> dict[str, object]:
    """The arguments of `Condition` that `text` states.

    It is `TYPE=FILE` and then `,KEY=VALUE` with the keys of `KEYS`, each at most once. A value that holds a comma or
    a quote stands in single or double quotes. `from` is `map` (default) or `photo`; `region` a mask file or
    `"x0,y0,x1,y1"` in fractions of the output; `span` is `START:END`, characters of the prompt.

    Raises:
        ValueError: naming the part that is wrong; for an unknown key, the nearest known one.
    """
    pairs = _pairs(text)
    (type, image), rest = pairs[0], pairs[1:]
    if not image:
        raise ValueError(f"condition {text!r}: {type!r} has no file")
    fields: dict[str, object] = {"type": canonical_type(type), "image": image}
    for key, value in rest:
        if key not in KEYS:
            near = difflib.get_close_matches(key, KEYS, n=1, cutoff=0.0)[0]
            known = ", ".join(KEYS)
            raise ValueError(f"condition {text!r}: unknown key {key!r}; did you mean {near!r}? known: {known}")
        name = "source" if key == "from" else key
        if name in fields:
            raise ValueError(f"condition {text!r}: {key!r} is given twice")
        if not value:
            raise ValueError(f"condition {text!r}: {key!r} has no value")
        if key == "from" and value not in ("map", "photo"):
            raise ValueError(f"condition {text!r}: from={value!r}; choose from map, photo")
        fields[name] = _value(text, key, value)
    return fields


def _pairs(text: str) -> list[tuple[str, str]]:
    pairs, position = [], 0
    while True:
        item = _ITEM.match(text, position)
        if not item or not item[1]:
            raise ValueError(
                f"condition {text!r}: can't read {text[position:]!r}; write TYPE=FILE,KEY=VALUE,... "
                "and quote values that hold a comma"
            )
        value = item[2]
        pairs.append((item[1], value[1:-1] if value[:1] in ("'", '"') else value.strip()))
        position = item.end()
        if not item[3]:
            return pairs


def _value(text: str, key: str, value: str) -> object:
    try:
        if key in ("strength", "start", "end"):
            return float(value)
        if key == "span":
            start, end = value.split(":")
            return int(start), int(end)
    except ValueError:
        shape = "START:END, two whole numbers" if key == "span" else "a number"
        raise ValueError(f"condition {text!r}: {key}={value!r} must be {shape}") from None
    if key == "region":
        # Four numbers are a box; a file may be called anything else.
        try:
            box = tuple(float(number) for number in value.split(","))
        except ValueError:
            return value
        return box if len(box) == 4 else value
    return value
