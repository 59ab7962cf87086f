"""What a run is: a `Recipe`, read from YAML, with every unknown key refused by name."""

import difflib
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import Field, ValidationError, model_validator

from wm_pipelines.record import Record, explain
from wm_pipelines.runtime.readers import parse_yaml, read_text


class Recipe(Record):
    """Everything that decides the numbers of a run.

    One optimiser step sees `batch_size * grad_accum * processes` samples: `batch_size` is what one process puts
    through `Task.loss` at once.
    """

    task: str
    seed: int = Field(0, ge=0)
    steps: int = Field(ge=1, description="optimiser steps in all")
    batch_size: int = Field(ge=1, description="samples per process and micro-batch")
    grad_accum: int = Field(1, ge=1, description="micro-batches per optimiser step")
    lr: float = Field(1e-4, gt=0)
    warmup: int = Field(0, ge=0, description="steps of linear rise from lr/warmup to lr")
    schedule: Literal["constant", "cosine"] = "constant"
    weight_decay: float = Field(0.0, ge=0, description="decoupled; only parameters with two or more dimensions")
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = Field(1e-8, gt=0)
    clip: float = Field(1.0, ge=0, description="largest global gradient norm; 0 switches clipping off")
    ema: float = Field(0.0, ge=0, lt=1, description="decay of averaged weights, reached gradually; 0: none")
    precision: Literal["fp32", "bf16"] = Field("fp32", description="bf16: autocast; weights and optimiser stay fp32")
    init_from: str | None = Field(None, description="weights to start from, given to Task.load_weights")
    save_every: int = Field(500, ge=1)
    log_every: int = Field(50, ge=1)
    options: dict[str, Any] = Field(default_factory=dict, description="what only the task understands")

    @model_validator(mode="after")
    def _consistent(self) -> "Recipe":
        if self.schedule == "cosine" and self.warmup >= self.steps:
            raise ValueError(f"warmup ({self.warmup}) must be below steps ({self.steps}) for schedule cosine")
        if not all(0 <= beta < 1 for beta in self.betas):
            raise ValueError(f"betas must lie in [0, 1), got {self.betas}")
        return self


# What may differ between a state and the recipe that resumes it, because no number of the run depends on it.
_FREE = {"save_every", "log_every"}


def changed_fields(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[str]:
    """Names of the fields that keep a state made with recipe `before` from going on with `after`.

    `steps` may differ while the schedule is constant: nothing that happened depends on how long the run lasts.
    """
    changed = [k for k in {**before, **after} if k not in _FREE and before.get(k) != after.get(k)]
    if before.get("schedule") == after.get("schedule") == "constant" and "steps" in changed:
        changed.remove("steps")
    return changed


def check_keys(given: Iterable[str], allowed: Iterable[str], where: str) -> None:
    """Refuse keys that are not in `allowed`.

    Raises:
        ValueError: names the key, its nearest allowed neighbour and all allowed keys.
    """
    allowed = sorted(allowed)
    for key in given:
        if key not in allowed:
            near = difflib.get_close_matches(str(key), allowed, n=1, cutoff=0.5)
            hint = f", did you mean {near[0]!r}?" if near else ";"
            raise ValueError(f"{where}: unknown {key!r}{hint} allowed: {', '.join(allowed) or 'none'}.")


class _Loader(yaml.SafeLoader):
    """YAML 1.1 reads `1e-4` as a string; people who write recipes mean the number."""


_EXPONENT = re.compile(r"^[-+]?\d+(\.\d*)?[eE][-+]?\d+$")
_Loader.add_implicit_resolver("tag:yaml.org,2002:float", _EXPONENT, list("-+0123456789"))


def parse_overrides(overrides: Mapping[str, Any] | Iterable[str] | None) -> dict[str, Any]:
    """`["lr=1e-4", "options.size=64"]` to `{"lr": 0.0001, "options.size": 64}`; a mapping passes through."""
    if overrides is None or isinstance(overrides, Mapping):
        return dict(overrides or {})
    parsed = {}
    for item in overrides:
        key, equals, value = item.partition("=")
        if not equals or not key.strip():
            raise ValueError(f"override {item!r} must have the form key=value")
        try:
            parsed[key.strip()] = parse_yaml(value, _Loader)
        except ValueError as error:
            raise ValueError(f"override {item[:200]!r}: the value is not YAML ({error})") from None
    return parsed


def load_recipe(path: str | Path, overrides: Mapping[str, Any] | Iterable[str] | None = None) -> Recipe:
    """Read a recipe file and apply overrides (`key=value`, or dotted `options.key=value`).

    Raises:
        ValueError: the file is missing, not YAML, not a mapping, has an unknown key (the nearest one is named), or a
            value is out of range.
    """
    path = Path(path)
    try:
        text = read_text(path)
    except ValueError as error:
        raise ValueError(f"recipe {str(path)!r} cannot be read: {error}") from None
    try:
        data = parse_yaml(text, _Loader)
    except ValueError as error:
        raise ValueError(f"recipe {str(path)!r} is not YAML: {error}") from None
    if not isinstance(data, dict):
        raise ValueError(f"recipe {str(path)!r} must be a mapping of keys to values, got {type(data).__name__}")
    for key, value in parse_overrides(overrides).items():
        head, *rest = key.split(".")
        check_keys([head], Recipe.model_fields, "override")
        if rest and head != "options":
            raise ValueError(f"override {key!r}: only 'options' has keys of its own")
        target = data
        for name, inner in zip([head, *rest], rest, strict=False):
            target = target.setdefault(name, {})
            if not isinstance(target, dict):
                raise ValueError(f"override {key!r}: {name!r} is not a mapping, so it has no key {inner!r}")
        target[[head, *rest][-1]] = value
    try:
        return Recipe.model_validate(data)
    except ValidationError as error:
        raise ValueError(f"recipe {path.name}: {explain(error)}") from None
