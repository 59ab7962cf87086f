"""The ground of every record: frozen, and strict about names."""

import difflib
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError, model_validator


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
        came = "" if item["type"] in ("value_error", "missing") else f" (got {item['input']!r})"
        lines.append(f"{where}: {message}{came}" if where else message)
    return "; ".join(lines)
