"""Who writes where: one run holds a folder at a time, and what a killed run left is removed by the next.

Both rest on `flock`, which a process loses with its life, however that ends. Where a file system or a system has none
(Windows, some network mounts) nothing is held, and nothing is removed.
"""

import errno
import functools
import inspect
import os
import secrets
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any, TypeVar

try:
    import fcntl
except ImportError:  # not a Unix
    fcntl = None

F = TypeVar("F", bound=Callable[..., Any])
WORK, LOCK, OLD = ".wm-part", ".wm-lock", "old"
# by context, not by process: another thread of the same process is another run
_held: ContextVar[frozenset[str]] = ContextVar("held", default=frozenset())
_swept: set[str] = set()


@contextmanager
def claimed(target: str | os.PathLike) -> Iterator[None]:
    """Hold a folder, there or not yet, that a run will write; within one thread of work as often as it likes.

    What dead runs left beside it or in it is removed first.

    Raises:
        ValueError: another run holds it, or it can't be written.
    """
    path = real(target)
    if str(path) in _held.get():
        yield
        return
    made = _make_parents(path)
    # not in the folder where that can be avoided: it may be exchanged for another, and a lock in it would go along
    place = path.parent if beside(path) else path
    lock = place / f".{path.name[:100]}{LOCK}"
    try:
        handle = _lock_file(lock, f"{os.fspath(target)!r} is in use by another run; wait for it, or name another")
        try:
            if path.is_dir() and not os.access(path, os.W_OK | os.X_OK):
                raise ValueError(f"can't write into {os.fspath(target)!r}: no permission, or a read-only disk")
            for folder in {path.parent, path}:
                sweep(folder)
            token = _held.set(_held.get() | {str(path)})
            try:
                yield
            finally:
                _held.reset(token)
        finally:
            lock.unlink(missing_ok=True)  # while it is held, so that no other run holds a file without a name
            os.close(handle)
    finally:
        for parent in made:  # those that stayed empty
            try:
                parent.rmdir()
            except OSError:
                break


def holding(name: str) -> Callable[[F], F]:
    """A function that holds the folder its argument `name` names from its first line to its last."""

    def decorate(function: F) -> F:
        signature = inspect.signature(function)

        @functools.wraps(function)
        def held(*args: Any, **kwargs: Any) -> Any:
            bound = signature.bind(*args, **kwargs)
            bound.apply_defaults()
            with claimed(check_folder(bound.arguments[name], name)):
                return function(*args, **kwargs)

        return held

    return decorate


def check_folder(path: Any, name: str = "out") -> str | os.PathLike:
    """`path`, if a folder is there or can be made there.

    Raises:
        ValueError: it is empty, no path, or a file; names the argument `name`.
    """
    if not isinstance(path, str | os.PathLike) or not os.fspath(path) or "\0" in os.fspath(path):
        raise ValueError(f"`{name}` must be the path of a folder, got {path!r}")
    if os.path.exists(path) and not os.path.isdir(path):
        raise ValueError(f"`{name}` {os.fspath(path)!r} is a file; name a folder")
    return path


def check_new_folder(path: str | os.PathLike, name: str = "folder") -> Path:
    """`path`, if nothing is there or an empty folder.

    Raises:
        ValueError: it is a file, or a folder that holds something; names the argument `name`.
    """
    target = Path(path)
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise ValueError(f"{name} {str(target)!r} exists and is not empty; choose another")
    return target


@contextmanager
def claimed_new_folder(path: str | os.PathLike, name: str = "folder") -> Iterator[Path]:
    """As `claimed`, a folder that is not there yet or empty; raises as `check_new_folder` too."""
    target = check_new_folder(path, name)
    with claimed(target):
        yield target


@contextmanager
def claimed_new_file(path: str | os.PathLike, name: str = "target") -> Iterator[Path]:
    """As `claimed`, a file that is not there yet.

    Raises:
        ValueError: something is there, another run makes it, or it can't be written; names the argument `name`.
    """
    target = Path(path)
    if os.path.lexists(target):
        raise ValueError(f"{name} {str(target)!r} exists; choose another")
    with claimed(target):
        yield target


@contextmanager
def work_folder(path: str | os.PathLike) -> Iterator[Path]:
    """A hidden folder beside `path` that its owner's process holds; gone after the block, or swept when that died."""
    path = Path(os.path.abspath(path))
    path.parent.mkdir(parents=True, exist_ok=True)
    if str(path.parent) not in _swept:
        _swept.add(str(path.parent))
        sweep(path.parent)
    while True:
        # Not `tempfile`: it makes private files, while what we write follows the user's umask like any other.
        folder = path.with_name(f".{path.name[:100]}.{secrets.token_hex(4)}{WORK}")
        folder.mkdir()
        handle = _flock(folder)
        if folder.is_dir():  # no sweeper came between
            break
        _close(handle)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        _close(handle)


def sweep(folder: Path) -> None:
    """Remove the work folders in `folder` whose owners are dead; what they had moved out of its place goes back."""
    try:
        with os.scandir(folder) as entries:
            left = [e.path for e in entries if e.name.endswith(WORK) and e.name.startswith(".") and _folder(e)]
    except OSError:
        return  # there is none, or it can't be read
    for path in map(Path, left):
        handle = _flock(path)
        if handle is None:
            continue
        for kept in (path / OLD).iterdir() if (path / OLD).is_dir() else ():
            if not (folder / kept.name).exists():
                os.rename(kept, folder / kept.name)
        shutil.rmtree(path, ignore_errors=True)
        _close(handle)


def real(path: str | os.PathLike) -> Path:
    """Where a folder really lies, links followed."""
    return Path(os.path.realpath(path))


def beside(path: Path) -> bool:
    """Whether work for `path` can be done beside it and renamed into place: not for a mount point or a working folder,
    nor where the parent can't be written."""
    parent = path.parent
    if not os.access(parent, os.W_OK | os.X_OK):
        return False
    return not path.exists() or path.stat().st_dev == parent.stat().st_dev and not os.path.ismount(path)


def _make_parents(path: Path) -> list[Path]:
    """The folders that were made so that `path` has a parent, innermost first."""
    missing = [parent for parent in path.parents if not parent.exists()]
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ValueError(f"can't make the folder {str(path.parent)!r}: {error.strerror}") from None
    return missing


def _lock_file(lock: Path, refusal: str) -> int:
    while True:
        try:
            handle = os.open(lock, os.O_RDWR | os.O_CREAT, 0o666)
        except OSError as error:
            raise ValueError(f"can't write into {str(lock.parent)!r}: {error.strerror}") from None
        try:
            if fcntl is not None:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in (errno.EWOULDBLOCK, errno.EACCES):
                os.close(handle)
                raise ValueError(refusal) from None
        if lock.exists() and os.path.samestat(os.fstat(handle), lock.stat()):
            return handle
        os.close(handle)  # its holder removed it between our two calls


def _flock(folder: Path) -> int | None:
    """A handle that holds a folder; None where another process does, or nothing can."""
    if fcntl is None:
        return None
    handle = None
    try:
        handle = os.open(folder, os.O_RDONLY)
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        _close(handle)
        return None
    return handle


def _close(handle: int | None) -> None:
    if handle is not None:
        os.close(handle)


def _folder(entry: os.DirEntry) -> bool:
    return entry.is_dir(follow_symlinks=False)
