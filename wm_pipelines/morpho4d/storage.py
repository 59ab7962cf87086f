"""Scenes in folders: `scene4d.safetensors`, `config.json`, and the record of their hashes."""

import json
import os
from collections.abc import Iterable
from dataclasses import fields
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import Field, ValidationError

from wm_pipelines import hub
from wm_pipelines.config import CONFIG_NAME, WMConfig
from wm_pipelines.hub.store import check_safetensors
from wm_pipelines.morpho4d.gaussians import Cameras, Gaussians, check_tensor
from wm_pipelines.morpho4d.heads import FeatureHead
from wm_pipelines.morpho4d.layers import Layer
from wm_pipelines.morpho4d.motion import MOTIONS, Motion
from wm_pipelines.morpho4d.operations import EditOp
from wm_pipelines.record import Record, explain
from wm_pipelines.runtime.files import atomic_folder, write_atomic
from wm_pipelines.runtime.readers import read_json

TENSORS, CONFIG = "scene4d.safetensors", "config.json"
FORMAT_VERSION = 1
PARTS = ("gaussians", "motion", "cameras", "concepts", "edits", "heads")
Unit = Literal["m", "unknown"]


class SavedEdit(Record):
    """One edit of the log; its mask is a tensor."""

    operation: EditOp
    said: str = ""
    object_ids: dict[int, int] | None = None


class SceneConfig(Record):
    """What `config.json` says beside the tensors."""

    scene4d: Literal[1] = Field(description="version of the format")
    frames: int = Field(ge=1, le=100_000)
    fps: float = Field(gt=0)
    size: tuple[int, int] = Field(description="(height, width) of the cameras' pictures, pixels")
    motion: Literal["nodes", "bases", "polynomial", "fourier", "free"] | None
    names: dict[int, str] = Field(description="object id -> what it is called")
    background: tuple[float, float, float] = Field(description="sRGB, where nothing is")
    dilation: float = Field(ge=0, description="added to 2-D covariances while fitted, square pixels")
    up: Literal["z", "-y"]
    unit: Unit
    concepts: list[int] = Field(default_factory=list, description="object ids that features tell apart")
    edits: list[SavedEdit] = Field(default_factory=list)
    heads: list[str] = Field(default_factory=list, description="teachers whose features are made of the scene's")


def save(scene: Any, folder: str | os.PathLike) -> None:
    """As `Scene4D.save_pretrained`, of a scene that has been checked."""
    from safetensors.torch import save_file

    config = SceneConfig(
        scene4d=FORMAT_VERSION,
        frames=scene.frames,
        fps=scene.fps,
        size=scene.cameras.size,
        motion=scene.motion.kind if scene.motion is not None else None,
        names=scene.names,
        background=scene.background,
        dilation=scene.dilation,
        up=scene.up,
        unit=scene.unit,
        concepts=list(scene.concepts),
        edits=[SavedEdit(operation=x.op, said=x.said, object_ids=x.object_ids) for x in scene.layers],
        heads=list(scene.heads),
    )
    tensors = {f"gaussians.{name}": value for name, value in scene.gaussians.tensors().items()}
    tensors |= {"cameras.K": scene.cameras.K, "cameras.T_cw": scene.cameras.T_cw}
    if scene.motion is not None:
        tensors |= {f"motion.{name}": value for name, value in scene.motion.tensors().items()}
    tensors |= {f"concepts.{i}": value for i, value in scene.concepts.items()}
    tensors |= {f"edits.{n}": layer.mask for n, layer in enumerate(scene.layers)}
    tensors |= {f"heads.{name}.{n}": t for name, head in scene.heads.items() for n, t in head.tensors().items()}
    tensors = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
    with atomic_folder(folder, last=CONFIG_NAME, listed=hub.recorded_files) as partial:
        save_file(tensors, partial / TENSORS, metadata={"format": "pt"})
        text = json.dumps(config.model_dump(mode="json"), indent=2, ensure_ascii=False, allow_nan=False)
        write_atomic(partial / CONFIG, text + "\n")
        hub.seal(partial, WMConfig(method="morpho4d", paper="arXiv:2510.04390"))


def load(source: str | os.PathLike, verify: bool = True) -> dict[str, Any]:
    """The arguments of `Scene4D`, as its `from_pretrained` says; each part is of the right kind, but they need not fit
    each other."""
    folder = Path(hub.resolve(source))
    if verify:
        hub.verify(folder)
    config = _read_config(folder / CONFIG)
    path = folder / TENSORS
    if not path.is_file():
        raise ValueError(f"{folder} has no {TENSORS}; it is not a scene of this package")
    tensors = _read_tensors(path)
    parts = {part: _part(tensors, part) for part in PARTS}
    unknown = sorted(set(tensors) - {f"{p}.{name}" for p, found in parts.items() for name in found})
    if unknown:
        raise ValueError(f"{path} has the tensor {unknown[0]!r}, which no scene has")
    made = {
        "gaussians": Gaussians(**_only(parts["gaussians"], [f.name for f in fields(Gaussians)], "gaussians", path)),
        "motion": _motion(config, parts["motion"], path),
        "cameras": Cameras(**_only(parts["cameras"], ["K", "T_cw"], "cameras", path), size=config.size),
        "concepts": _numbered(parts["concepts"], config.concepts, "concepts", path),
        "layers": _layers(config, parts["edits"], path),
        "heads": _heads(config, parts["heads"], path),
    }
    return made | config.model_dump(exclude={"scene4d", "size", "motion", "concepts", "edits", "heads"})


def _numbered(
    found: dict[str, torch.Tensor], numbers: Iterable[int], part: str, path: Path
) -> dict[int, torch.Tensor]:
    named = _only(found, [str(n) for n in numbers], part, path)
    return {n: named[str(n)] for n in numbers}


def _layers(config: SceneConfig, found: dict[str, torch.Tensor], path: Path) -> tuple[Layer, ...]:
    masks = _numbered(found, range(len(config.edits)), "edits", path)
    for n, mask in masks.items():
        check_tensor(f"edits.{n}", mask, (None,), torch.float32)
    edits = enumerate(config.edits)
    return tuple(Layer(edit.operation, masks[n], edit.said, edit.object_ids) for n, edit in edits)


def _heads(config: SceneConfig, found: dict[str, torch.Tensor], path: Path) -> dict[str, FeatureHead]:
    parts = {name: _part(found, name) for name in config.heads}
    unknown = sorted(set(found) - {f"{name}.{n}" for name, part in parts.items() for n in part})
    if unknown:
        raise ValueError(f"{path} has heads.{unknown[0]}, which no head has")
    return {name: FeatureHead.from_tensors(part, f"{path}: heads.{name}") for name, part in parts.items()}


def _read_config(path: Path) -> SceneConfig:
    data = read_json(path)
    if not isinstance(data, dict):
        raise ValueError(f"{path} must hold a JSON object, got {type(data).__name__}")
    if data.get("scene4d") != FORMAT_VERSION:
        found = repr(data.get("scene4d"))[:200]
        raise ValueError(f"{path}: `scene4d` is {found}; this package reads version {FORMAT_VERSION}")
    try:
        return SceneConfig.model_validate(data)
    except ValidationError as error:
        raise ValueError(f"{path}: {explain(error)}") from None


def _read_tensors(path: Path) -> dict[str, torch.Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    check_safetensors(path)
    try:
        return {name: value.clone() for name, value in load_file(path).items()}
    except SafetensorError as error:
        raise ValueError(f"can't read {path}: {error}") from None


def _part(tensors: dict[str, torch.Tensor], part: str) -> dict[str, torch.Tensor]:
    return {name.split(".", 1)[1]: value for name, value in tensors.items() if name.startswith(f"{part}.")}


def _only(found: dict[str, torch.Tensor], names: list[str], part: str, path: Path) -> dict[str, torch.Tensor]:
    absent, unknown = sorted(set(names) - set(found)), sorted(set(found) - set(names))
    if absent or unknown:
        raise ValueError(
            f"{path} lacks {part}.{absent[0]}" if absent else f"{path} has {part}.{unknown[0]}, which no scene has"
        )
    return found


def _motion(config: SceneConfig, found: dict[str, torch.Tensor], path: Path) -> Motion | None:
    if config.motion is None:
        _only(found, [], "motion", path)
        return None
    kind = MOTIONS[config.motion]
    names = [f.name for f in fields(kind) if f.name != "length"]
    plain = {"length": config.frames} if any(f.name == "length" for f in fields(kind)) else {}
    made = _only(found, names, "motion", path)
    for name in ("node_xyz", "translations", "coefficients", "waves", "offsets"):
        if name in made and made[name].dim() < 3:
            raise ValueError(f"{path}: `motion.{name}` is {tuple(made[name].shape)}; it must have three sides or more")
    if "knn_index" in made and made["knn_index"].dim() != 2:
        raise ValueError(f"{path}: `motion.knn_index` is {tuple(made['knn_index'].shape)}; it must be (D, k)")
    return kind(**made, **plain)
