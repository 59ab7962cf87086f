"""Small readers for a data set's tables and lists in the user's own copy: every error names the file and the line."""

import json
import os
from pathlib import Path
from typing import Any

Source = str | os.PathLike
SUFFIXES = ("", ".jpg", ".png", ".jpeg", ".webp")


def read_text(path: Source) -> str:
    """The text of a UTF-8 file.

    Raises:
        ValueError: it is not there, or holds something else.
    """
    try:
        return Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"can't read {path}: {error}") from None


def read_json(path: Source) -> Any:
    """A JSON file; one that holds a string of JSON, as some scripts write, is decoded twice.

    Raises:
        ValueError: no such file, or no JSON.
    """
    with located(path):
        data = json.loads(read_text(path))
        return json.loads(data) if isinstance(data, str) else data


def find_picture(folder: Path, name: str) -> Path:
    """The file of a picture whose name may lack its suffix; where there is none, the plain name."""
    return next((folder / (name + s) for s in SUFFIXES if (folder / (name + s)).is_file()), folder / name)


class located:
    """Puts the file, and the line if there is one, before the message of a ValueError."""

    def __init__(self, path: Source, line: int | None = None):
        self.where = f"{path}" if line is None else f"{path}, line {line}"

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        if isinstance(error, ValueError) and not str(error).startswith(("can't read", str(self.where))):
            raise ValueError(f"{self.where}: {error}") from None
