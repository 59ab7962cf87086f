"""Files and folders that are there whole or not at all: written aside, then renamed; and what a folder holds."""

import hashlib
import os
import secrets
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from pathlib import Path

from wm_pipelines.runtime.claims import beside, check_folder, claimed, real, work_folder
from wm_pipelines.runtime.swapping import merge_folder, replace_folder

LITTER = frozenset({"__macosx", "thumbs.db", "ehthumbs.db", "desktop.ini", "icon\r", "@eadir", "$recycle.bin"})
"""What systems leave in people's folders, in small letters; names that begin with a dot are such too."""


@contextmanager
def atomic(path: str | os.PathLike) -> Iterator[Path]:
    """A temporary path, with the name of `path`, that replaces `path` only if the block ends well."""
    with work_folder(path) as aside:
        temporary = aside / Path(path).name
        temporary.touch()
        with _disk_errors(path):
            yield temporary
        os.replace(temporary, path)


@contextmanager
def atomic_folder(
    target: str | os.PathLike,
    last: str | None = None,
    whole: bool = False,
    listed: Callable[[Path], Collection[str]] | None = None,
) -> Iterator[Path]:
    """A new folder whose files come to `target` only if the block ends well, those that replace others by one rename
    (`runtime.swapping`); no other run may write there meanwhile.

    Args:
        last: name of the file that speaks about the others, which comes last where files come one by one.
        whole: what the folder held goes; by default other files there stay.
        listed: names of files that were of the result that `target` holds, such as by its record; those that the new
            one has not go with it.

    Raises:
        ValueError: `target` is a file, can't be written, or is held by another run.
    """
    path = real(check_folder(target, "folder"))
    with claimed(target):
        # Inside a folder that is a mount point: either way a rename stays on one disk.
        with work_folder(path if beside(path) else path / path.name) as aside:
            partial = aside / (path.name or "root")
            partial.mkdir()
            with _disk_errors(path):
                yield partial
            if whole and beside(path):
                replace_folder(partial, path)
            else:
                merge_folder(partial, path, last, listed(path) if listed is not None and path.is_dir() else ())


@contextmanager
def _disk_errors(path: str | os.PathLike) -> Iterator[None]:
    """What safetensors says of a disk that is full or broken, as the OSError that everything else raises."""
    try:
        yield
    except Exception as error:
        if type(error).__name__ != "SafetensorError" or "I/O error" not in str(error):
            raise
        raise OSError(f"can't write into {os.fspath(path)!r}: {str(error).partition('I/O error: ')[2]}") from None


def write_atomic(path: Path, text: str) -> Path:
    """Write text to a temporary file in the same folder and rename it into place."""
    with atomic(path) as partial:
        partial.write_text(text, encoding="utf-8")
    return path


def sync(path: str | os.PathLike) -> None:
    """Force a file, or which entries a folder has, to disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def sha256(path: str | os.PathLike) -> str:
    """SHA-256 of a file's bytes, in hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def create(path: str | os.PathLike, data: bytes, durable: bool = True) -> bool:
    """Write a file that is whole from its first moment; False, and nothing done, where one is there already.

    Of several processes that create one file, on one machine or on several, exactly one gets True. The file system
    must have hard links.

    Args:
        durable: returns when the file would outlast a loss of power.
    """
    temporary = _beside(path)
    try:
        temporary.write_bytes(data)
        if durable:
            sync(temporary)
        os.link(temporary, path)
    except FileExistsError:
        return False
    finally:
        temporary.unlink(missing_ok=True)
    if durable:
        sync(temporary.parent)
    return True


def _beside(path: str | os.PathLike) -> Path:
    path = Path(os.path.abspath(path))
    path.parent.mkdir(parents=True, exist_ok=True)
    # Not `tempfile`: it makes private files, while what we write follows the user's umask like any other.
    return path.with_name(f".{path.stem}.{secrets.token_hex(4)}{path.suffix}")


def read_data(path: str | Path, most: int = 64 * 2**20) -> bytes:
    """The bytes of a file of tracks or boxes, for the readers of their formats.

    Raises:
        ValueError: no such file, an empty one, or one of more than `most` bytes.
    """
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"no file at {str(path)!r}: {'it is a folder' if path.is_dir() else 'the file is missing'}")
    size = path.stat().st_size
    if not 0 < size <= most:
        raise ValueError(f"{str(path)!r} has {size} bytes; a file of tracks or boxes has 1 to {most}")
    return path.read_bytes()


def visible(folder: str | os.PathLike) -> list[Path]:
    """The entries of a folder in the order of their names, without what a person did not put there."""
    entries = (path for path in Path(folder).iterdir() if not path.name.startswith("."))
    return sorted(path for path in entries if path.name.lower() not in LITTER)
