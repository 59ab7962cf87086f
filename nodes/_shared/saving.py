"""Where a node may save a folder of its own: inside ComfyUI's output folder, and over nothing of anybody else's."""

from pathlib import Path, PurePosixPath

from .folders import KEY, RECORD, is_plain

NUMBERED = "add a number"
REPLACE = "replace"
REFUSE = "refuse"
EXISTING = (NUMBERED, REPLACE, REFUSE)
"""What becomes of a folder that is there already."""

MOST_LEVELS = 2
"""Of a name, for the loader looks no deeper."""


def saving_root() -> Path:
    """`output/wm_pipelines`, where WM_LoadPipeline looks too."""
    import folder_paths

    return Path(folder_paths.get_output_directory()) / KEY


def saved_folder(root: Path, name: str, existing: str) -> Path:
    """The folder to save under a name; it is not made here.

    Args:
        root: from `saving_root`.
        name: of the folder, or `owner/name`.
        existing: one of `EXISTING`.

    Raises:
        ValueError: the name would leave the root, is hidden, or is one of somebody else's folder or file.
    """
    parts = PurePosixPath(name.strip()).parts
    if not is_plain(name) or not 0 < len(parts) <= MOST_LEVELS or any(part.startswith(".") for part in parts):
        raise ValueError(
            f"name {name!r} is not a folder's name: one or two joined by '/', with no path, drive, '..' or dot before"
        )
    if existing not in EXISTING:
        raise ValueError(f"existing {existing!r} is unknown; choose from {', '.join(EXISTING)}")
    wanted = root.joinpath(*parts)
    if not wanted.resolve().is_relative_to(root.resolve()):
        raise ValueError(f"name {name!r} leads out of {root}, through a link")
    if not wanted.exists():
        return wanted
    if existing == NUMBERED:
        number = 2
        while (free := wanted.with_name(f"{wanted.name}_{number}")).exists():
            number += 1
        return free
    if existing == REFUSE:
        raise ValueError(f"{name!r} is there already in {root}; choose another name, or another choice of existing")
    if not (wanted / RECORD).is_file() and (wanted.is_file() or any(wanted.iterdir())):
        raise ValueError(f"{name!r} in {root} was not saved by WM Save Pipeline (it has no {RECORD}), so it stays")
    return wanted
