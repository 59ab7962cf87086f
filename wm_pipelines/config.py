"""The record beside every checkpoint: `wm_config.json`, one schema for all methods.

It says what the method is, which base it stands on, how it was trained, what it scored and what its files hash to.
Architecture stays in `config.json` and adapter settings in `adapter_config.json`; a fact lives in exactly one of them.
"""

import difflib
import json
import os
import re
from pathlib import Path, PurePosixPath
from typing import Annotated, Any

from pydantic import Field, SerializeAsAny, StringConstraints, ValidationError, field_validator, model_validator

from wm_pipelines.methods import methods
from wm_pipelines.record import Record, explain
from wm_pipelines.runtime.files import write_atomic
from wm_pipelines.runtime.readers import parse_json, read_text

CONFIG_NAME = "wm_config.json"
SCHEMA_VERSION = "1.0"

Sha256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
Name = Annotated[str, StringConstraints(max_length=500)]  # messages repeat names, so they are short


class BaseModelRef(Record):
    """The checkpoint an adapter stands on: a Hub repository or an embedded name, never both."""

    repo_id: Name | None = Field(
        None, pattern=r"^[A-Za-z0-9_][\w.-]*/[A-Za-z0-9_][\w.-]*$", description="Hub repository, owner/name"
    )
    embedded: Name | None = Field(
        None, pattern=r"^[a-z0-9][a-z0-9-]*$", description="name of a checkpoint shipped with the package"
    )
    revision: Name | None = Field(None, description="commit sha of the repository")
    fingerprint: Sha256 | None = Field(None, description="hash over the base's recorded files, where it has a record")
    licence: Name | None = None

    @model_validator(mode="after")
    def _one_name(self) -> "BaseModelRef":
        if (self.repo_id is None) == (self.embedded is None):
            raise ValueError(
                "base_model needs exactly one of `repo_id` and `embedded`, "
                f"got repo_id={self.repo_id!r}, embedded={self.embedded!r}"
            )
        return self

    @property
    def name(self) -> str:
        """The name that `hub.resolve` takes."""
        return self.repo_id or self.embedded


class TrainingRecord(Record):
    """How the weights came to be; filled by the training engine, never by hand."""

    recipe: dict[str, Any] = Field(description="the recipe as it was run")
    data: str = Field("", description="data set and split, with its sampling key")
    seed: int
    steps: int = Field(ge=0)
    hardware: str = ""
    wall_time_s: float = Field(0.0, ge=0)
    code_commit: Name | None = None
    versions: dict[str, str] = Field(default_factory=dict, description="library -> version")
    stages: list[dict[str, Any]] = Field(default_factory=list, description="one entry for each stage of training")


class EvaluationRecord(Record):
    """One measured figure and the command that makes it again."""

    task: Name
    dataset: Name
    metric: Name
    value: float
    ci95: tuple[float, float] | None = Field(None, description="95 % confidence interval, low then high")
    n: int | None = Field(None, ge=1, description="number of samples")
    seeds: list[int] = Field(default_factory=list)
    baseline: float | None = Field(None, description="the same metric for chance or for the arm compared against")
    command: str = Field("", description="the script and arguments that reproduce the value")

    @field_validator("ci95")
    @classmethod
    def _ordered(cls, value: tuple[float, float] | None) -> tuple[float, float] | None:
        if value is not None and value[0] > value[1]:
            raise ValueError(f"ci95 must be (low, high), got {value}")
        return value


class WMConfig(Record):
    """The whole record. `method` decides the type of `method_config`.

    Example:
        >>> record = WMConfig.load(embedded("flexecontrol"))
        >>> record.method, record.base_model.embedded
        ('flexecontrol', 'diorama-sd')
    """

    schema_version: str = Field(SCHEMA_VERSION, pattern=r"^\d+\.\d+$")
    method: Name
    pipeline: Name | None = Field(None, description="class that loads the checkpoint; None for a bare module")
    base_model: BaseModelRef | None = Field(None, description="set for an adapter, None for a whole checkpoint")
    method_config: SerializeAsAny[Record] = Field(default_factory=dict, validate_default=True)
    training: TrainingRecord | None = None
    evaluation: list[EvaluationRecord] = Field(default_factory=list)
    files: dict[str, Sha256] = Field(default_factory=dict, description="relative path -> sha256, without this file")
    vocabulary: list[str] | None = Field(None, description="all words the text encoder knows, if the list is closed")
    licence: Name = "apache-2.0"
    paper: Name | None = Field(None, description="arXiv identifier or address of the work")

    @model_validator(mode="before")
    @classmethod
    def _readable_version(cls, data: Any) -> Any:
        version = str(data.get("schema_version", SCHEMA_VERSION)) if isinstance(data, dict) else SCHEMA_VERSION
        if version.split(".")[0] != SCHEMA_VERSION.split(".")[0]:
            raise ValueError(
                f"schema_version {version!r} is not readable by this package, which knows {SCHEMA_VERSION!r}; "
                "install a wm-pipelines that reads it"
            )
        return data

    @field_validator("method")
    @classmethod
    def _known_method(cls, value: str) -> str:
        known = methods()
        if value not in known:
            nearest = difflib.get_close_matches(value, known, n=1)
            hint = f"; did you mean {nearest[0]!r}?" if nearest else ""
            raise ValueError(f"{value!r} is no method of this package; there are {', '.join(known)}{hint}")
        return value

    @field_validator("method_config", mode="before")
    @classmethod
    def _typed_by_method(cls, value: Any, info: Any) -> Any:
        if "method" not in info.data:
            return Record()  # `method` itself has already failed, and that is the error to show
        kind = methods()[info.data["method"]].settings
        if isinstance(value, Record) and not isinstance(value, kind):
            raise ValueError(
                f"method_config is a {type(value).__name__}, but method {info.data['method']!r} needs {kind.__name__}"
            )
        return kind.model_validate(value)

    @field_validator("files")
    @classmethod
    def _inside_folder(cls, value: dict[str, str]) -> dict[str, str]:
        for name in value:
            path = PurePosixPath(name)
            if path.is_absolute() or ".." in path.parts or "\\" in name or re.match(r"^[A-Za-z]:", name):
                raise ValueError(f"files must be relative paths inside the folder, got {name!r:.200}")
            if len(name) > 1024:
                raise ValueError(f"files must have names of at most 1024 characters, got {name[:80]!r} ...")
        return value

    @classmethod
    def load(cls, folder: str | os.PathLike) -> "WMConfig":
        """Read `wm_config.json` of a folder.

        Raises:
            ValueError: no such file, not JSON, unknown schema version, unknown or ill-typed field; names the file.
        """
        path = Path(folder) / CONFIG_NAME
        try:
            data = parse_json(read_text(path))
        except ValueError as error:
            if not path.is_file():
                raise ValueError(
                    f"{Path(folder)} has no {CONFIG_NAME}; it is not a checkpoint of this package"
                ) from None
            raise ValueError(f"{path} is not valid JSON: {error}") from None
        if not isinstance(data, dict):
            raise ValueError(f"{path} must hold a JSON object, got {type(data).__name__}")
        try:
            return cls.model_validate(data)
        except ValidationError as error:
            raise ValueError(f"{path}: {explain(error)}") from None

    def save(self, folder: str | os.PathLike) -> Path:
        """Write `wm_config.json` atomically and return its path."""
        text = json.dumps(self.model_dump(), indent=2, ensure_ascii=False, allow_nan=False) + "\n"
        return write_atomic(Path(folder) / CONFIG_NAME, text)


def json_schema() -> dict[str, Any]:
    """JSON Schema (2020-12) of `wm_config.json`, with `method_config` chosen by `method`."""
    schema = WMConfig.model_json_schema()
    definitions = schema.setdefault("$defs", {})
    definitions.pop("Record", None)
    kinds = {name: method.settings for name, method in methods().items()}
    branches, made = [], {}
    for method, kind in kinds.items():
        if definitions.get(kind.__name__) not in (None, made.get(kind)):
            raise ValueError(f"two settings classes are named {kind.__name__}; one is that of {method!r}")
        definition = kind.model_json_schema()
        definitions |= definition.pop("$defs", {})
        definitions[kind.__name__] = made[kind] = definition
        branches.append(
            {
                "if": {"properties": {"method": {"const": method}}, "required": ["method"]},
                "then": {"properties": {"method_config": {"$ref": f"#/$defs/{kind.__name__}"}}},
            }
        )
    schema["properties"]["method"] |= {"enum": list(kinds)}
    schema["properties"]["method_config"] = {"type": "object", "title": "Method Config"}
    schema["allOf"] = branches
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}
