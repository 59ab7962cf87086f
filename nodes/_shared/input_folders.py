"""Folders of labelled pictures under ComfyUI's input folder."""

from pathlib import Path

from .folders import is_plain


def input_root() -> Path:
    """ComfyUI's folder of inputs."""
    import folder_paths

    return Path(folder_paths.get_input_directory())


def list_class_folders(root: Path) -> list[str]:
    """Names of the folders in `root` that hold two folders or more, one for each class."""
    return [folder.name for folder in _subfolders(root) if len(_subfolders(folder)) > 1 and is_plain(folder.name)]


def resolve_class_folder(name: str, root: Path) -> Path:
    """The folder behind a name of `list_class_folders`.

    Raises:
        ValueError: the name would leave its folder, or no such folder is there.
    """
    if not is_plain(name):
        raise ValueError(f"folder {name!r} is not a name from the list: paths, drives and '..' are refused")
    offered = list_class_folders(root)
    if name not in offered:
        raise ValueError(f"folder {name!r} is not there; found: {', '.join(offered) or 'none'}")
    return root / name


def _subfolders(folder: Path) -> list[Path]:
    if not folder.is_dir():
        return []
    return sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))
