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


def record_of(kind: type, values: Any, **made: Any) -> Any:
    """A dataclass of the values of a JSON object, strictly.

    Args:
        made: fields that are made of their values already; `values` need not have them.

    Raises:
        ValueError: no object, an unknown or missing field, or a value of another type; names class and field.
    """
    if not isinstance(values, Mapping):
        raise ValueError(f"a {kind.__name__} is {values!r:.200}; it must be an object")
    known = {field.name: field for field in dataclasses.fields(kind) if field.init}
    unknown = sorted(set(values) - set(known))
    needed = (f.name for f in known.values() if f.default is f.default_factory is dataclasses.MISSING)
    lacking = [name for name in needed if name not in values and name not in made]
    if unknown or lacking:
        what = f"has the unknown field {unknown[0]!r:.200}" if unknown else f"lacks the field {lacking[0]!r}"
        raise ValueError(f"a {kind.__name__} {what}; it has {', '.join(known)}")
    plain = {name: value for name, value in values.items() if name not in made}
    check_values(kind, plain)
    return kind(**plain, **made)


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
