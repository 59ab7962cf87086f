"""Which checkpoints and adapters the nodes offer: embedded ones and folders under ComfyUI's `models/wm_pipelines`."""

import json
import os
from collections.abc import Callable
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

KEY = "wm_pipelines"
EMBEDDED = "embedded/"
RECORD = "wm_config.json"
MODEL_INDEX = "model_index.json"
ADAPTER = "adapter_config.json"
ANIMATEDIFF = "animatediff_models"


def register() -> None:
    """Make `models/wm_pipelines` and `output/wm_pipelines` known to ComfyUI, behind what a yaml file gave it."""
    import folder_paths

    # A key that a yaml file made has an empty set of extensions, which ComfyUI reads as "every file".
    paths, _ = folder_paths.folder_names_and_paths.get(KEY, ([], set()))
    # As core does for what is saved from a graph, the output folder comes last.
    ours = (os.path.join(root, KEY) for root in (folder_paths.models_dir, folder_paths.get_output_directory()))
    paths = [*paths, *(path for path in ours if path not in paths)]
    folder_paths.folder_names_and_paths[KEY] = (paths, {".safetensors"})


def model_roots() -> list[Path]:
    """The registered folders, in the order in which a name is looked up."""
    import folder_paths

    return [Path(path) for path in folder_paths.get_folder_paths(KEY)]


def embedded_root() -> Path:
    """Where the package keeps its own checkpoints."""
    import wm_pipelines

    return Path(wm_pipelines.__file__).parent / "embedded"


def is_pipeline(folder: Path) -> bool:
    """Whether the folder holds a whole pipeline, or an adapter whose record names the pipeline it belongs to."""
    if (folder / MODEL_INDEX).is_file():
        return True
    return bool(_config(folder, RECORD).get("pipeline"))


def list_models(roots: list[Path]) -> list[str]:
    """Names for the loader's list: `embedded/<name>`, then local folders, one level deep (`a`) or two (`owner/a`)."""
    return [*_embedded(is_pipeline), *_list(roots, is_pipeline)]


def is_adapter(folder: Path) -> bool:
    """Whether the folder holds a Kronecker adapter in PEFT's form."""
    return _config(folder, ADAPTER).get("peft_type") == "KRONECKER"


def list_adapters(roots: list[Path]) -> list[str]:
    """Names of Kronecker adapters: embedded ones that belong to no pipeline, then local folders, one or two deep."""
    return [*_embedded(lambda folder: is_adapter(folder) and not is_pipeline(folder)), *_list(roots, is_adapter)]


def resolve_adapter(name: str, roots: list[Path]) -> Path:
    """The folder behind a name of `list_adapters`.

    Raises:
        ValueError: the name would leave its folder, or no such adapter is there.
    """
    _check_offered("adapter", name, list_adapters(roots))
    return _found(name, roots, is_adapter)


def list_kronecker(roots: list[Path]) -> list[str]:
    """Names of all Kronecker adapters: embedded ones, also those of pipelines, then local folders."""
    return [*_embedded(is_adapter), *_list(roots, is_adapter)]


def resolve_kronecker(name: str, roots: list[Path]) -> Path:
    """The folder behind a name of `list_kronecker`.

    Raises:
        ValueError: as `resolve_adapter`.
    """
    _check_offered("adapter", name, list_kronecker(roots))
    return _found(name, roots, is_adapter)


def is_clip(folder: Path) -> bool:
    """Whether the folder holds a CLIP with both towers, as transformers keeps it."""
    return _config(folder, "config.json").get("model_type") == "clip"


def list_clips(roots: list[Path]) -> list[str]:
    """Names of the CLIPs that can be fitted: embedded ones, then local folders, one level deep or two."""
    return [*_embedded(is_clip), *_list(roots, is_clip)]


def resolve_clip(name: str, roots: list[Path]) -> Path:
    """The folder behind a name of `list_clips`.

    Raises:
        ValueError: the name would leave its folder, or no such CLIP is there.
    """
    _check_offered("base", name, list_clips(roots))
    return _found(name, roots, is_clip)


def is_vlm(folder: Path) -> bool:
    """Whether the folder holds a model that reads pictures and writes text, as transformers keeps it."""
    config = _config(folder, "config.json")
    named = config.get("architectures")
    made = named[0] if isinstance(named, list) and named else ""
    return "vision_config" in config and str(made).endswith("ForConditionalGeneration")


def list_vlms(roots: list[Path]) -> list[str]:
    """Names of the models that read pictures and write text: embedded ones, then local folders."""
    return [*_embedded(is_vlm), *_list(roots, is_vlm)]


def resolve_vlm(name: str, roots: list[Path]) -> Path:
    """The folder behind a name of `list_vlms`.

    Raises:
        ValueError: the name would leave its folder, or no such model is there.
    """
    _check_offered("model", name, list_vlms(roots))
    return _found(name, roots, is_vlm)


def is_motion_adapter(folder: Path) -> bool:
    """Whether the folder holds a motion adapter of AnimateDiff, as diffusers keeps it."""
    return _config(folder, "config.json").get("_class_name") == "MotionAdapter"


def list_motion_adapters(roots: list[Path]) -> list[str]:
    """Names of motion adapters: embedded ones, local folders, then AnimateDiff's files where another pack is there."""
    return [*_embedded(is_motion_adapter), *_list(roots, is_motion_adapter), *list_files(ANIMATEDIFF)]


def resolve_motion_adapter(name: str, roots: list[Path]) -> Path:
    """The folder or file behind a name of `list_motion_adapters`.

    Raises:
        ValueError: the name would leave its folder, or no such adapter is there.
    """
    _check_offered("motion_adapter", name, list_motion_adapters(roots))
    if name in list_files(ANIMATEDIFF):
        return resolve_file("motion_adapter", ANIMATEDIFF, name)
    return _found(name, roots, is_motion_adapter)


def list_files(kind: str) -> list[str]:
    """Names of the safetensors files in one of ComfyUI's folders, such as `loras`; none if it has no such folder."""
    import folder_paths

    if kind not in folder_paths.folder_names_and_paths:
        return []
    return [name for name in folder_paths.get_filename_list(kind) if name.endswith(".safetensors")]


def resolve_file(what: str, kind: str, name: str) -> Path:
    """The file behind a name of `list_files(kind)`.

    Args:
        what: the input that it was chosen for.

    Raises:
        ValueError: no such file is there.
    """
    import folder_paths

    if name not in list_files(kind):
        raise ValueError(f"{what} {name!r:.200} is not there; found: {', '.join(list_files(kind)) or 'none'}")
    return Path(folder_paths.get_full_path_or_raise(kind, name))


def is_plain(name: str) -> bool:
    """Whether a name stays inside its folder: relative, no `..`, no drive, no backslash, no control character."""
    parts = PurePosixPath(name).parts
    return (
        bool(name.strip())
        and name.isprintable()
        and "\\" not in name
        and not PureWindowsPath(name).drive
        and not name.startswith(("/", "~"))
        and ".." not in parts
    )


def resolve_model(name: str, roots: list[Path]) -> Path:
    """The folder behind a name of the list.

    Raises:
        ValueError: the name would leave its folder, or no such checkpoint is there.
    """
    _check_offered("model", name, list_models(roots))
    return _found(name, roots, is_pipeline)


def fingerprint(folder: Path) -> list[tuple[str, int, int]]:
    """Name, size and time of every file in a checkpoint, or of the one file: changes when the checkpoint does."""
    files = [folder] if folder.is_file() else sorted(path for path in folder.rglob("*") if path.is_file())
    return [(path.relative_to(folder).as_posix(), path.stat().st_size, path.stat().st_mtime_ns) for path in files]


def _config(folder: Path, name: str) -> dict[str, Any]:
    """The JSON object of a file; empty where there is none that can be read."""
    try:
        read = json.loads((folder / name).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return read if isinstance(read, dict) else {}


def _embedded(wanted: Callable[[Path], bool]) -> list[str]:
    return [EMBEDDED + path.name for path in _subfolders(embedded_root()) if wanted(path)]


def _subfolders(folder: Path) -> list[Path]:
    if not folder.is_dir():
        return []
    return sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))


def _list(roots: list[Path], wanted: Callable[[Path], bool]) -> list[str]:
    names: list[str] = []
    for root in roots:
        for folder in _subfolders(root):
            inner = [folder] if wanted(folder) else [path for path in _subfolders(folder) if wanted(path)]
            names += [path.relative_to(root).as_posix() for path in inner]
    return list(dict.fromkeys(name for name in names if is_plain(name)))


def _found(name: str, roots: list[Path], wanted: Callable[[Path], bool]) -> Path:
    """The folder of a name that is offered."""
    if name.startswith(EMBEDDED):
        return embedded_root() / name.removeprefix(EMBEDDED)
    return next(root / name for root in roots if wanted(root / name))


def _check_offered(what: str, name: str, offered: list[str]) -> None:
    if not is_plain(name):
        raise ValueError(f"{what} {name!r} is not a name from the list: paths, drives and '..' are refused")
    if name not in offered:
        raise ValueError(f"{what} {name!r} is not there; found: {', '.join(offered) or 'none'}")
