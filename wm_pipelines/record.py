"""The ground of every record: frozen, and strict about names."""

import dataclasses
import difflib
import functools
import inspect
import json
import typing
from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict, PydanticUserError, TypeAdapter, ValidationError, model_validator


class Record(BaseModel):
    """Frozen model that refuses a field it does not know and names the nearest one it does."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _known_fields(cls, data: Any) -> Any:
        for name in data if isinstance(data, dict) else ():
            if name not in cls.model_fields:
                nearest = difflib.get_close_matches(str(name), cls.model_fields, n=1, cutoff=0.0)
                raise ValueError(f"unknown field {name!r} in {cls.__name__}; the nearest known one is {nearest[0]!r}")
        return data


def explain(error: ValidationError) -> str:
    """One line for each problem: where it is, what is wrong, what came."""
    lines = []
    for item in error.errors(include_url=False):
        where = ".".join(str(part) for part in item["loc"])
        message = item["msg"].removeprefix("Value error, ")
        came = "" if item["type"] in ("value_error", "missing") else f" (got {repr(item['input'])[:200]})"
        lines.append(f"{where}: {message}{came}" if where else f"{message}{came}")
    return "; ".join(line[:500] for line in lines[:20])


def check_values(kind: type, values: Mapping[str, Any]) -> None:
    """Check values of a JSON object against the annotations of `kind.__init__`, by pydantic, strictly.

    Raises:
        ValueError: a value of another type, such as "4" for an integer; names the class and the field.
    """
    known = _adapters(kind)
    for name in known.keys() & values.keys():
        try:
            known[name].validate_json(json.dumps(values[name]))
        except (ValidationError, TypeError) as error:
            said = explain(error) if isinstance(error, ValidationError) else str(error)
            raise ValueError(f"`{name}` of {kind.__name__}: {said}") from None


@functools.cache
def _adapters(kind: type) -> dict[str, TypeAdapter]:
    """What checks each argument of `kind.__init__`."""
    init = inspect.unwrap(kind.__init__)
    hints = typing.get_type_hints(kind if dataclasses.is_dataclass(kind) else init)
    return {name: _adapter(hints[name]) for name in inspect.signature(init).parameters if name in hints}


def _adapter(hint: Any) -> TypeAdapter:
    try:
        return TypeAdapter(hint, config=ConfigDict(strict=True, arbitrary_types_allowed=True))
    except PydanticUserError:  # a dataclass or a record, which has rules of its own
        return TypeAdapter(hint)
