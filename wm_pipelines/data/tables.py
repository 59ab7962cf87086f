"""Names in a data set's tables in the user's own copy, and the files that they stand for."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from wm_pipelines.media.pictures import PICTURE_SUFFIXES
from wm_pipelines.runtime.readers import Source, located, parse_json, read_text


def read_json(path: Source) -> Any:
    """A JSON file; one that holds a string of JSON, as some scripts write, is decoded twice.

    Raises:
        ValueError: no such file, or no JSON.
    """
    with located(path):
        data = parse_json(read_text(path))
        return parse_json(data) if isinstance(data, str) else data


def check_inside(name: Any) -> str:
    """The name of a file below some folder, as it is.

    Raises:
        ValueError: no name, or one that leaves the folder.
    """
    leaves = not isinstance(name, str) or not name or Path(name).is_absolute() or ".." in Path(name).parts
    if leaves or len(name) > 1024:
        raise ValueError(f"a picture must be a file inside the pictures' folder, got {str(name)[:80]!r}")
    return name


def find_file(folder: Path, name: str, suffixes: Sequence[str]) -> Path | None:
    """The file NAME with one of `suffixes`, in small letters or capitals; None where there is none.

    Raises:
        ValueError: several, for it can't be known which is meant.
    """
    paths = [folder / f"{name}{case}" for suffix in suffixes for case in (suffix, suffix.upper())]
    found = [path for path in paths if path.is_file()]
    # where capitals don't count, two names are one file
    if len({path.stat().st_ino for path in found}) > 1:
        raise ValueError(f"{folder} has {found[0].name} and {found[-1].name}; keep one")
    return found[0] if found else None


def find_picture(folder: Path, name: str) -> Path:
    """The file of a picture whose name may lack its suffix; where there is none, the plain name.

    Raises:
        ValueError: a name that leaves the folder, or several files.
    """
    plain = folder / check_inside(name)
    return plain if plain.is_file() else find_file(folder, name, PICTURE_SUFFIXES) or plain
