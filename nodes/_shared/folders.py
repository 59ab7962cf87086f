"""Which checkpoints and adapters the nodes offer: embedded ones and folders under ComfyUI's `models/wm_pipelines`."""

import json
import os
from collections.abc import Callable
from pathlib import Path, PurePosixPath, PureWindowsPath

KEY = "wm_pipelines"
EMBEDDED = "embedded/"
RECORD = "wm_config.json"
MODEL_INDEX = "model_index.json"
ADAPTER = "adapter_config.json"


def register() -> None:
    """Make `models/wm_pipelines` known to ComfyUI, beside the folders that `extra_model_paths.yaml` gave it."""
    import folder_paths

    # A key that a yaml file made has an empty set of extensions, which ComfyUI reads as "every file".
    paths, _ = folder_paths.folder_names_and_paths.get(KEY, ([], set()))
    default = os.path.join(folder_paths.models_dir, KEY)
    folder_paths.folder_names_and_paths[KEY] = ([*paths, *([] if default in paths else [default])], {".safetensors"})


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
    try:
        return bool(json.loads((folder / RECORD).read_text(encoding="utf-8")).get("pipeline"))
    except (OSError, ValueError, AttributeError):
        return False


def list_models(roots: list[Path]) -> list[str]:
    """Names for the loader's list: `embedded/<name>`, then local folders, one level deep (`a`) or two (`owner/a`)."""
    names = [EMBEDDED + path.name for path in _subfolders(embedded_root()) if is_pipeline(path)]
    return [*names, *_list(roots, is_pipeline)]


def is_adapter(folder: Path) -> bool:
    """Whether the folder holds a Kronecker adapter in PEFT's form."""
    try:
        return json.loads((folder / ADAPTER).read_text(encoding="utf-8")).get("peft_type") == "KRONECKER"
    except (OSError, ValueError, AttributeError):
        return False


def list_adapters(roots: list[Path]) -> list[str]:
    """Names of the Kronecker adapters in local folders, one level deep or two."""
    return _list(roots, is_adapter)


def resolve_adapter(name: str, roots: list[Path]) -> Path:
    """The folder behind a name of `list_adapters`.

    Raises:
        ValueError: the name would leave its folder, or no such adapter is there.
    """
    _check_offered("adapter", name, list_adapters(roots))
    return next(root / name for root in roots if is_adapter(root / name))


def is_clip(folder: Path) -> bool:
    """Whether the folder holds a CLIP with both towers, as transformers keeps it."""
    try:
        return json.loads((folder / "config.json").read_text(encoding="utf-8")).get("model_type") == "clip"
    except (OSError, ValueError, AttributeError):
        return False


def list_clips(roots: list[Path]) -> list[str]:
    """Names of the CLIPs that can be fitted: embedded ones, then local folders, one level deep or two."""
    names = [EMBEDDED + path.name for path in _subfolders(embedded_root()) if is_clip(path)]
    return [*names, *_list(roots, is_clip)]


def resolve_clip(name: str, roots: list[Path]) -> Path:
    """The folder behind a name of `list_clips`.

    Raises:
        ValueError: the name would leave its folder, or no such CLIP is there.
    """
    _check_offered("base", name, list_clips(roots))
    if name.startswith(EMBEDDED):
        return embedded_root() / name.removeprefix(EMBEDDED)
    return next(root / name for root in roots if is_clip(root / name))


def is_vlm(folder: Path) -> bool:
    """Whether the folder holds a model that reads pictures and writes text, as transformers keeps it."""
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        named = config["architectures"][0]
    except (OSError, ValueError, AttributeError, KeyError, IndexError, TypeError):
        return False
    return "vision_config" in config and str(named).endswith("ForConditionalGeneration")


def list_vlms(roots: list[Path]) -> list[str]:
    """Names of the models that read pictures and write text: embedded ones, then local folders."""
    names = [EMBEDDED + path.name for path in _subfolders(embedded_root()) if is_vlm(path)]
    return [*names, *_list(roots, is_vlm)]


def resolve_vlm(name: str, roots: list[Path]) -> Path:
    """The folder behind a name of `list_vlms`.

    Raises:
        ValueError: the name would leave its folder, or no such model is there.
    """
    _check_offered("model", name, list_vlms(roots))
    if name.startswith(EMBEDDED):
        return embedded_root() / name.removeprefix(EMBEDDED)
    return next(root / name for root in roots if is_vlm(root / name))


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
    if name.startswith(EMBEDDED):
        return embedded_root() / name.removeprefix(EMBEDDED)
    return next(root / name for root in roots if is_pipeline(root / name))


def fingerprint(folder: Path) -> list[tuple[str, int, int]]:
    """Name, size and time of every file in a checkpoint: changes when the checkpoint does."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return [(path.relative_to(folder).as_posix(), path.stat().st_size, path.stat().st_mtime_ns) for path in files]


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


def _check_offered(what: str, name: str, offered: list[str]) -> None:
    if not is_plain(name):
        raise ValueError(f"{what} {name!r} is not a name from the list: paths, drives and '..' are refused")
    if name not in offered:
        raise ValueError(f"{what} {name!r} is not there; found: {', '.join(offered) or 'none'}")
