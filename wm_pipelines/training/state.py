"""The state folder of a run: written aside, synced, renamed into place, and only then the previous one removed.

`<run>/state/step-00000500/` holds `model.safetensors`, `optimizer.safetensors`, `ema.safetensors` (with averaging)
and `state.json`, which has the scalars and the size and SHA-256 of the tensor files. Names that end in `.tmp` are
leftovers.
"""

import json
import os
import shutil
import warnings
from pathlib import Path
from typing import Annotated, Any

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from safetensors.torch import save_file

from wm_pipelines.record import explain
from wm_pipelines.runtime.files import sha256, sync
from wm_pipelines.runtime.readers import read_json
from wm_pipelines.runtime.tensors import read_tensors

FORMAT = 1


def write_json(path: Path, value: Any) -> None:
    """Write JSON so that a reader sees the old file or the new one, never half of one."""
    temporary = path.with_name(path.name + ".tmp")
    with open(temporary, "w", encoding="utf-8") as file:
        json.dump(value, file, indent=1)
        file.write("\n")
        file.flush()
        os.fsync(file.fileno())  # a state that is named must outlast a loss of power
    os.replace(temporary, path)


def remove(folder: Path) -> None:
    """Remove a folder so that a kill in between leaves only a `.tmp` name behind."""
    doomed = folder.with_name(folder.name + ".old.tmp")
    if doomed.exists():
        shutil.rmtree(doomed)
    os.rename(folder, doomed)
    shutil.rmtree(doomed)


def replace(temporary: Path, folder: Path) -> None:
    """Rename `temporary` to `folder`; what stood there is removed first (a folder cannot be replaced in one call)."""
    if folder.exists():
        remove(folder)
    os.rename(temporary, folder)
    sync(folder.parent)


def save_state(root: Path, step: int, tensors: dict[str, dict[str, torch.Tensor]], scalars: dict[str, Any]) -> Path:
    """Write the state of `step` under `root` and remove older ones.

    Args:
        tensors: file stem to named tensors, for example {"model": {...}, "optimizer": {...}}.
        scalars: JSON values kept in `state.json`.
    """
    final = root / f"step-{step:08d}"
    temporary = final.with_name(final.name + ".tmp")
    if temporary.exists():
        shutil.rmtree(temporary)
    temporary.mkdir(parents=True)
    files = {}
    try:
        for stem, named in tensors.items():
            path = temporary / f"{stem}.safetensors"
            save_file(_unshared(named), path)
            sync(path)
            files[path.name] = {"bytes": path.stat().st_size, "sha256": sha256(path)}
        write_json(temporary / "state.json", {**scalars, "format": FORMAT, "step": step, "files": files})
        sync(temporary)
    except Exception:  # a full disk, which half a state would keep full
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    replace(temporary, final)
    for other in _steps(root):
        if other != final:
            remove(other)
    return final


def read_state(folder: Path) -> tuple[dict[str, dict[str, torch.Tensor]], dict[str, Any]]:
    """Tensors by file stem, and the scalars.

    Raises:
        ValueError: a file is missing, truncated or altered, or the format is another one.
    """
    try:
        scalars = read_json(folder / "state.json")
        told = _State.model_validate(scalars)
    except ValidationError as error:
        raise ValueError(f"state {str(folder)!r}: state.json is damaged ({explain(error)[:500]})") from None
    except ValueError as error:
        raise ValueError(f"state {str(folder)!r}: state.json is missing or damaged ({error})") from None
    if told.format != FORMAT:
        raise ValueError(f"state {str(folder)!r} has format {told.format!r}; this version reads {FORMAT}")
    tensors = {}
    for name, expected in told.files.items():
        path = folder / name
        size = path.stat().st_size if path.is_file() else None
        if size != expected.bytes or sha256(path) != expected.sha256:
            raise ValueError(f"state {str(folder)!r}: {name} is damaged ({size} bytes, written {expected.bytes})")
        tensors[path.stem] = read_tensors(path)
    return tensors, scalars


class _Written(BaseModel):
    bytes: int
    sha256: str


class _State(BaseModel):
    """Of what `state.json` says, what is read here; the rest is the trainer's."""

    model_config = ConfigDict(strict=True)
    format: int
    step: int = Field(ge=0)
    files: dict[Annotated[str, Field(pattern=r"^[a-z_]+\.safetensors$")], _Written]


def newest_state(root: Path) -> tuple[dict[str, dict[str, torch.Tensor]], dict[str, Any]] | None:
    """The newest state under `root` that is whole, or None where there is none at all.

    Raises:
        ValueError: there are states, and all of them are damaged.
    """
    errors: list[str] = []
    for folder in reversed(_steps(root)):
        try:
            found = read_state(folder)
        except ValueError as error:
            errors.append(str(error))
            continue
        for error in errors:
            warnings.warn(f"{error}; going back to step {found[1]['step']}", stacklevel=2)
        return found
    if errors:
        raise ValueError("no state can be resumed: " + "; ".join(errors) + f". Remove {str(root)!r} to start again.")
    return None


def clean(root: Path, keep: int | None = None) -> None:
    """Remove leftovers of a killed run, and every state but that of step `keep` (all states stay for None)."""
    for path in root.glob("*.tmp"):
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    for folder in _steps(root):
        if keep is not None and folder.name != f"step-{keep:08d}":
            remove(folder)


def _steps(root: Path) -> list[Path]:
    return sorted(path for path in root.glob("step-*") if path.is_dir() and path.suffix != ".tmp")


def _unshared(named: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Contiguous tensors on the CPU; tied ones are written twice, because safetensors refuses shared memory."""
    seen: set[int] = set()
    out = {}
    for name, tensor in named.items():
        tensor = tensor.detach().cpu().contiguous()
        storage = tensor.untyped_storage().data_ptr()
        out[name] = tensor.clone() if storage in seen else tensor
        seen.add(storage)
    return out
