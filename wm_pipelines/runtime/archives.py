"""ZIP archives of others: opened and read with every fault of theirs as a ValueError, sizes checked before memory."""

import os
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def opened(path: str | os.PathLike) -> Iterator[zipfile.ZipFile]:
    """An archive to read.

    Raises:
        ValueError: it is none, or damaged.
    """
    try:
        archive = zipfile.ZipFile(path)
    except Exception as error:  # zipfile raises errors of many kinds for archives that are damaged
        raise ValueError(f"it is no ZIP archive that can be read: {str(error)[:200]}") from None
    with archive:
        yield archive


def member(archive: zipfile.ZipFile, name: str, most: int) -> bytes:
    """The bytes of a file in an archive.

    Raises:
        ValueError: no such file, one of more than `most` bytes, damaged, locked, or packed in a way that is not known.
    """
    info = next((info for info in archive.infolist() if info.filename == name), None)
    if info is None or info.file_size > most:
        raise ValueError(f"it has no {name!r}" if info is None else f"{name!r} has more than {most} bytes")
    try:
        return archive.read(info)
    except Exception as error:  # as above, and zlib's
        raise ValueError(f"{name!r} can't be read: {str(error)[:200]}") from None
