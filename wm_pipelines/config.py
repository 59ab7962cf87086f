"""The record beside every checkpoint: `wm_config.json`, one schema for all methods.

It says what the method is, which base it stands on, how it was trained, what it scored and what its files hash to.
Architecture stays in `config.json` and adapter settings in `adapter_config.json`; a fact lives in exactly one of them.
"""

import difflib
import json
import os
import re
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SerializeAsAny,
    StringConstraints,
    ValidationError,
    field_validator,
    model_validator,
)

from wm_pipelines.runtime.files import atomic

CONFIG_NAME = "wm_config.json"
SCHEMA_VERSION = "1.0"

Sha256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]


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


class BaseModelRef(Record):
    """The checkpoint an adapter stands on: a Hub repository or an embedded name, never both."""

    repo_id: str | None = Field(None, description="Hub repository, owner/name")
    embedded: str | None = Field(None, description="name of a checkpoint shipped with the package")
    revision: str | None = Field(None, description="commit sha of the repository")
    fingerprint: Sha256 | None = Field(None, description="hash over the base's recorded files, where it has a record")
    licence: str | None = None

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
    code_commit: str | None = None
    versions: dict[str, str] = Field(default_factory=dict, description="library -> version")
    stages: list[dict[str, Any]] = Field(default_factory=list, description="one entry for each stage of training")


class EvaluationRecord(Record):
    """One measured figure and the command that makes it again."""

    task: str
    dataset: str
    metric: str
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


class DioramaSDConfig(Record):
    """Settings of the text-to-image base that its `config.json` files do not hold."""

    image_size: int = Field(64, ge=8, description="side in pixels that it was trained at")
    guidance_scale: float = Field(7.5, ge=1, description="recommended classifier-free guidance")
    num_inference_steps: int = Field(50, ge=1, description="recommended steps of the shipped scheduler")


class DioramaJudgeConfig(Record):
    """What the per-pixel judge names, in the order of its logits."""

    image_size: int = Field(64, ge=8)
    colours: list[str] = Field(min_length=1)
    shapes: list[str] = Field(min_length=1)


class DioramaClipConfig(Record):
    """How the contrastive base is asked; its architecture is in its `config.json`."""

    image_size: int = Field(64, ge=8, description="side in pixels that it was trained at")
    template: str = Field("a photo of a {}.", description="sentence that a class name is put into")


class FlexEControlConfig(Record):
    """Inference settings of a FlexEControl adapter; preset, ranks and types are in its `config.json`."""

    image_size: int = Field(64, ge=8)
    binding: Literal["attention", "none"] = "attention"
    map_convention: Literal["diorama", "uni-controlnet"] = Field(
        "diorama", description="polarity of the condition maps: Uni-ControlNet keeps sketches black on white"
    )
    guidance_scale: float = Field(7.5, ge=1)
    num_inference_steps: int = Field(50, ge=1)


class KAdaptationConfig(Record):
    """What a fitted classifier was asked; classes and head are in its `config.json`, the adapter in PEFT's file."""

    image_size: int = Field(224, ge=8, description="side in pixels that the base reads")
    templates: list[str] = Field(default_factory=list, description="sentences that the head started from")


class CPLConfig(Record):
    """How a prompt was fitted; its sizes are in its `config.json`."""

    image_size: int = Field(224, ge=8, description="side in pixels that the base reads")
    variant: Literal["released", "paper"] = Field("released", description="which form of the counterfactual loss")
    lambda_cf: float = Field(1.0, ge=0, description="weight of the counterfactual loss; 0 is CoCoOp")


class ComCLIPConfig(Record):
    """How pairs are scored; the method has no weights of its own."""

    fusion: Literal["released", "gclip", "late", "equal"] = Field("released", description="how components are added")
    missing: Literal["full", "blank"] = Field("full", description="what a component without a box sees")
    embed: Literal["unit", "raw"] = Field("unit", description="length of the embeddings that are added")
    clamp: bool = Field(True, description="negative similarities count as 0")
    fit: Literal["pad", "stretch", "crop"] = Field("pad", description="how a picture becomes square")


class GuidanceConfig(Record):
    """Defaults of directional motion control for one base, chosen on validation prompts."""

    eta: float = Field(30.0, ge=0, description="step size")
    iterations: int = Field(5, ge=0, description="updates of the latent a guided step, at most")
    fraction: float = Field(0.2, ge=0, le=1, description="share of the steps, from the first, that are guided")
    threshold: float = Field(0.2, ge=0, le=1, description="energy a frame below which a step is left")
    taps: list[str] | None = Field(None, description="blocks whose attention is read; None: by the base's family")


class MojitoConfig(Record):
    """Clips that a motion adapter was trained on, and how it is best steered."""

    image_size: int = Field(64, ge=8, description="side in pixels")
    num_frames: int = Field(16, ge=1)
    guidance_scale: float = Field(7.5, ge=1, description="recommended classifier-free guidance")
    num_inference_steps: int = Field(50, ge=1)
    guidance: GuidanceConfig | None = None
    shared_noise: float = Field(
        0.0, ge=0, lt=1, description="share of the noise's variance that all frames of a clip have in common"
    )


METHOD_CONFIGS: dict[str, type[Record]] = {
    "diorama-sd": DioramaSDConfig,
    "diorama-judge": DioramaJudgeConfig,
    "diorama-clip": DioramaClipConfig,
    "flexecontrol": FlexEControlConfig,
    "kadaptation": KAdaptationConfig,
    "cpl": CPLConfig,
    "comclip": ComCLIPConfig,
    "diorama-video": MojitoConfig,
    "mojito": MojitoConfig,
}


class WMConfig(Record):
    """The whole record. `method` decides the type of `method_config`."""

    schema_version: str = Field(SCHEMA_VERSION, pattern=r"^\d+\.\d+$")
    method: Literal[
        "diorama-sd",
        "diorama-judge",
        "diorama-clip",
        "flexecontrol",
        "kadaptation",
        "cpl",
        "comclip",
        "diorama-video",
        "mojito",
    ]
    pipeline: str | None = Field(None, description="class that loads the checkpoint; None for a bare module")
    base_model: BaseModelRef | None = Field(None, description="set for an adapter, None for a whole checkpoint")
    method_config: SerializeAsAny[Record] = Field(default_factory=dict, validate_default=True)
    training: TrainingRecord | None = None
    evaluation: list[EvaluationRecord] = Field(default_factory=list)
    files: dict[str, Sha256] = Field(default_factory=dict, description="relative path -> sha256, without this file")
    vocabulary: list[str] | None = Field(None, description="all words the text encoder knows, if the list is closed")
    licence: str = "apache-2.0"
    paper: str | None = Field(None, description="arXiv identifier or address of the work")

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

    @field_validator("method_config", mode="before")
    @classmethod
    def _typed_by_method(cls, value: Any, info: Any) -> Any:
        kind = METHOD_CONFIGS.get(info.data.get("method"))
        if kind is None:
            return Record()  # `method` itself has already failed, and that is the error to show
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
                raise ValueError(f"files must be relative paths inside the folder, got {name!r}")
        return value

    @classmethod
    def load(cls, folder: str | os.PathLike) -> "WMConfig":
        """Read `wm_config.json` of a folder.

        Raises:
            ValueError: no such file, not JSON, unknown schema version, unknown or ill-typed field; names the file.
        """
        path = Path(folder) / CONFIG_NAME
        try:
            data = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise ValueError(f"{Path(folder)} has no {CONFIG_NAME}; it is not a checkpoint of this package") from None
        except (json.JSONDecodeError, UnicodeDecodeError) as error:
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


def explain(error: ValidationError) -> str:
    """One line for each problem: where it is, what is wrong, what came."""
    lines = []
    for item in error.errors(include_url=False):
        where = ".".join(str(part) for part in item["loc"])
        message = item["msg"].removeprefix("Value error, ")
        came = "" if item["type"] in ("value_error", "missing") else f" (got {item['input']!r})"
        lines.append(f"{where}: {message}{came}" if where else message)
    return "; ".join(lines)


def write_atomic(path: Path, text: str) -> Path:
    """Write text to a temporary file in the same folder and rename it into place."""
    with atomic(path) as partial:
        partial.write_text(text, encoding="utf-8")
    return path


def json_schema() -> dict[str, Any]:
    """JSON Schema (2020-12) of `wm_config.json`, with `method_config` chosen by `method`."""
    schema = WMConfig.model_json_schema()
    definitions = schema.setdefault("$defs", {})
    definitions.pop("Record", None)
    branches = []
    for method, kind in METHOD_CONFIGS.items():
        definition = kind.model_json_schema()
        definitions |= definition.pop("$defs", {})
        definitions[kind.__name__] = definition
        branches.append(
            {
                "if": {"properties": {"method": {"const": method}}, "required": ["method"]},
                "then": {"properties": {"method_config": {"$ref": f"#/$defs/{kind.__name__}"}}},
            }
        )
    schema["properties"]["method_config"] = {"type": "object", "title": "Method Config"}
    schema["allOf"] = branches
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}
