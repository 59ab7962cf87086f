"""A folder in place of another: by one rename on Linux, in an order that loses nothing elsewhere."""

import ctypes
import os
from collections.abc import Collection
from pathlib import Path

from wm_pipelines.runtime.claims import OLD

MAX_CARRIED = 10_000
"""Files of other origin that a folder may hold to be exchanged whole; in a larger one files are replaced singly."""

_AT_FDCWD, _RENAME_EXCHANGE = -100, 2


def replace_folder(new: Path, target: Path) -> None:
    """Put the folder `new` in place of `target`, whole; what stood there is left in the work folder around `new`.

    On Linux one rename exchanges the two. Elsewhere the old folder is renamed into the work folder first; after a kill
    between the two renames the next run puts it back.
    """
    if not target.exists():
        os.rename(new, target)
    elif not exchange(new, target):
        old = new.parent / OLD / target.name
        old.parent.mkdir(exist_ok=True)
        os.rename(target, old)
        os.rename(new, target)


def merge_folder(new: Path, target: Path, last: str | None, stale: Collection[str] = ()) -> None:
    """Put the files of `new` into `target`, where other files stay but those named `stale` that `new` lacks.

    If some of them replace files there, the two folders are exchanged by one rename, after the other files were linked
    into the new one. Files go singly, `last` at the end, if none replaces one; in a mount point, the working folder or
    one with more than `MAX_CARRIED` other files; on file systems without hard links; and on systems other than Linux.
    A kill in between then leaves some of the new files beside the old.
    """
    if not target.exists():
        os.rename(new, target)
        return
    ours = {path.relative_to(new) for path in new.rglob("*") if path.is_file()}
    gone = {path for path in map(Path, stale) if path not in ours and _is_own(target, path)}
    replaced = gone or any((target / path).exists() for path in ours)
    if not (replaced and not _inside_of_us(target) and _carry(target, new, gone) and exchange(new, target)):
        for path in sorted(ours, key=lambda path: path.name == last):
            if path.name == last:
                _remove(target, gone)
            (target / path).parent.mkdir(parents=True, exist_ok=True)
            os.replace(new / path, target / path)
        _remove(target, gone)
        return
    for path in set(_files(new)) - ours - gone:  # what others wrote there while we linked
        own = target / path
        if not (own.exists() and os.path.samestat(own.lstat(), (new / path).lstat())):
            own.parent.mkdir(parents=True, exist_ok=True)
            os.replace(new / path, own)


def _carry(target: Path, new: Path, gone: Collection[Path]) -> bool:
    """Link what `target` holds and `new` does not into `new`, but `gone`; False if it can't be."""
    device, count = target.stat().st_dev, 0
    try:
        new.chmod(target.stat().st_mode & 0o7777)
        for parent, folders, files in os.walk(target):
            own = new / os.path.relpath(parent, target)
            if os.stat(parent).st_dev != device:
                return False
            for name in folders:
                if os.path.islink(os.path.join(parent, name)):
                    files.append(name)
                elif (own / name).exists() and not (own / name).is_dir():
                    return False
                else:
                    (own / name).mkdir(exist_ok=True)
            for name in files:
                count += 1
                if count > MAX_CARRIED or (own / name).is_dir():
                    return False
                if not os.path.lexists(own / name) and Path(os.path.relpath(own / name, new)) not in gone:
                    os.link(os.path.join(parent, name), own / name, follow_symlinks=False)
    except OSError:
        return False
    _remove(new, gone)
    return True


def _is_own(folder: Path, path: Path) -> bool:
    """Whether a file is there, and not by way of a folder that is a link."""
    parent = (folder / path).parent
    return (folder / path).is_file() and parent.resolve() == Path(os.path.abspath(folder.resolve() / path.parent))


def _remove(folder: Path, gone: Collection[Path]) -> None:
    """Remove files of a folder, and the folders in it that they leave empty."""
    for path in gone:
        (folder / path).unlink(missing_ok=True)
        for parent in path.parents[:-1]:
            try:
                (folder / parent).rmdir()
            except OSError:
                break


def _files(folder: Path) -> list[Path]:
    return [path.relative_to(folder) for path in folder.rglob("*") if path.is_symlink() or not path.is_dir()]


def _inside_of_us(target: Path) -> bool:
    """Whether the process works in `target` or below, so that an exchange would take the ground from under it."""
    return Path.cwd().is_relative_to(target)


def exchange(one: Path, other: Path) -> bool:
    """Exchange two folders by one rename; False where the system has no such call or the file system refuses it."""
    try:
        rename = ctypes.CDLL(None, use_errno=True).renameat2  # glibc 2.28 and later, musl 1.2.6 and later
    except (OSError, AttributeError, TypeError):  # another system
        return False
    return rename(_AT_FDCWD, os.fsencode(one), _AT_FDCWD, os.fsencode(other), _RENAME_EXCHANGE) == 0
