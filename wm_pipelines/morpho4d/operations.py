"""Edits as data: what each operation says, as strict records of JSON (our design; nothing in them is ever run)."""

import math
from typing import Annotated, Literal

from pydantic import Field, TypeAdapter, ValidationError, model_validator

from wm_pipelines.record import Record, explain
from wm_pipelines.runtime.readers import concise

DIRECTIONS = ("left", "right", "up", "down", "towards", "away")
Share = Annotated[float, Field(ge=0, le=1)]
Colour = tuple[Share, Share, Share]
Vector = tuple[float, float, float]
Direction = Literal["left", "right", "up", "down", "towards", "away"]


class Target(Record):
    """What an operation is about: exactly one of these."""

    query: str | None = Field(None, min_length=1, description="words; every object that they fit")
    object_id: int | None = Field(None, ge=0, description="0 is the background")
    box: tuple[Vector, Vector] | None = Field(None, description="lowest and highest corner, metres, at frame `time`")
    point: tuple[float, float] | None = Field(None, description="(right, down) in pixels of `view` at frame `time`")
    view: int = Field(0, ge=0)
    time: float = Field(0.0, ge=0)

    @model_validator(mode="after")
    def _one(self) -> "Target":
        given = [n for n in ("query", "object_id", "box", "point") if getattr(self, n) is not None]
        if len(given) != 1:
            raise ValueError(f"a target needs exactly one of query, object_id, box and point, got {given or 'none'}")
        return self


class _Shift(Record):
    """A way to go: `by` in metres of the world, or a direction as the first camera sees it and an amount."""

    by: Vector | None = None
    direction: Direction | None = None
    amount: float | None = Field(None, ge=0, description="metres")

    def _check_way(self, needed: bool) -> None:
        if (self.direction is None) != (self.amount is None):
            raise ValueError("`direction` and `amount` go together")
        if self.by is not None and self.direction is not None:
            raise ValueError("give `by`, or `direction` and `amount`, not both")
        if needed and self.by is None and self.direction is None:
            raise ValueError("give `by`, or `direction` and `amount`")


class Remove(Record):
    """Makes the target vanish."""

    op: Literal["remove"] = "remove"
    target: Target


class Extract(Record):
    """Makes everything else vanish, but the background where it is kept."""

    op: Literal["extract"] = "extract"
    target: Target
    background: bool = False


class Recolor(Record):
    """Colours the target: with one colour, with its hue at the brightness that is there, or by multiplication."""

    op: Literal["recolor"] = "recolor"
    target: Target
    rgb: Colour
    mode: Literal["assign", "hue", "multiply"] = "assign"
    keep_shading: Share = 1.0


class Move(_Shift):
    """Moves the target, and turns it about the upright through its middle; evenly from frame `start` to `end`."""

    op: Literal["move"] = "move"
    target: Target
    turn: float = Field(0.0, description="degrees, counter-clockwise seen from above")
    start: float | None = Field(None, ge=0, description="None: from the first frame on")
    end: float | None = Field(None, ge=0, description="None: all at once at `start`")

    @model_validator(mode="after")
    def _whole(self) -> "Move":
        self._check_way(needed=not self.turn)
        if self.end is not None and not (self.start or 0) < self.end:
            raise ValueError(f"`end` is {self.end}; it must be after `start`, {self.start or 0}")
        return self


class Retime(Record):
    """Plays the target at frame `offset + rate t`, from the end where it is reversed, held at both ends."""

    op: Literal["retime"] = "retime"
    target: Target
    rate: float = Field(1.0, gt=0, le=1000)
    offset: float = Field(0.0, description="frames; below 0 it comes later")
    reverse: bool = False


class SetTime(Record):
    """Holds the target, or everything, as it is at frame `time`."""

    op: Literal["set_time"] = "set_time"
    target: Target | None = None
    time: float = Field(ge=0)


class Duplicate(_Shift):
    """Puts a copy of the target beside it, an object of its own."""

    op: Literal["duplicate"] = "duplicate"
    target: Target

    @model_validator(mode="after")
    def _whole(self) -> "Duplicate":
        self._check_way(needed=True)
        return self


class Scale(Record):
    """Makes the target larger or smaller about the middle of its lower side."""

    op: Literal["scale"] = "scale"
    target: Target
    factor: float = Field(gt=0, le=1000)


EditOp = Annotated[Remove | Extract | Recolor | Move | Retime | SetTime | Duplicate | Scale, Field(discriminator="op")]
_ADAPTER = TypeAdapter(list[EditOp])


MOST = 100
"""Operations at once: each costs as much as all before it."""


@concise()
def read_operations(data: object) -> list[Record]:
    """The operations of JSON's `data`, a list of objects or one.

    Raises:
        ValueError: an unknown operation, an unknown or missing field, or a value out of range, which is named; or more
            than 100 operations.
    """
    data = [data] if isinstance(data, dict) else data
    if not isinstance(data, list) or not data:
        raise ValueError(f"`operations` is {data!r:.80}; a list of objects, one or more")
    if len(data) > MOST:
        raise ValueError(f"`operations` has {len(data)} entries; allowed at once: 1 to {MOST}")
    try:
        found = _ADAPTER.validate_python(data)
    except ValidationError as error:
        raise ValueError(f"`operations`: {explain(error)}") from None
    for op in found:
        for name, value in op:
            if isinstance(value, float) and not math.isfinite(value):
                raise ValueError(f"`operations`: {name} is {value}")
    return found


def operations_schema() -> dict:
    """The JSON schema of what `read_operations` reads."""
    return _ADAPTER.json_schema()


def as_json(op: Record) -> dict:
    """An operation as JSON's values, without what is at its default."""
    return {"op": op.op} | op.model_dump(mode="json", exclude_defaults=True)
