"""ATI's track files (`.pth`): an npz in a pickled string in a zip, read without executing any pickle.

Whatever a file says of sizes is checked before memory is taken for it.
"""

import io
import math
import pickletools
import zipfile
from typing import IO, Any

import numpy as np

from wm_pipelines.mojito.trajectories.formats.points import Tracks, hide, read_kjnodes

SCALE = 8
"""Coordinates and visibility are stored times this."""

POINTS = 121
"""Points of a track: five seconds at 24 a second."""

MOST_TRACKS = 10_000
"""Tracks of a file."""

MOST_BYTES = 64 * 2**20
"""Of any part of a file, unpacked."""

# What pickling one string of bytes needs, and nothing else: protocol 2 (torch.save) writes it as latin-1 text.
_OPCODES = frozenset(
    "PROTO FRAME GLOBAL BINPUT LONG_BINPUT MEMOIZE BINUNICODE SHORT_BINUNICODE BINBYTES SHORT_BINBYTES TUPLE2 REDUCE "
    "STOP".split()
)


def read_ati(data: Any) -> Tracks:
    """The tracks of a file or string, 121 points each, in pixels of the picture they were drawn on.

    Neither says how large that was. Point k lies at k / 120 of the clip, whatever its length. A string of more points
    is cut after 121, in one of fewer the missing ones are hidden (`pad_pts` and `process_tracks` of ComfyUI's
    `nodes_wan.py`, `wan/utils/motion.py` and `tools/trajectory_editor/app.py` of bytedance/ATI).

    Args:
        data: the file: an npz with `array` `(N, 121, 1, 3)` (x, y, visible, each times 8), as such or inside what
            `torch.save` writes for bytes; or the JSON that ATI's node takes, which is KJNodes'.

    Raises:
        ValueError: another container, content that would need pickle, or another shape.
    """
    if not isinstance(data, bytes | bytearray):
        return [padded(track) for track in read_kjnodes(data)]
    data = bytes(data)
    if data.removeprefix(b"\xef\xbb\xbf").lstrip()[:1] == b"[":
        return [padded(track) for track in read_kjnodes(data)]
    array = _array(_npz(data))
    array = array[:, :, 0].astype(np.float64) / SCALE  # (N, 121, 3)
    return hide(array[..., :2], array[..., 2] > 0.5, "the track file")


def padded(track: np.ndarray) -> np.ndarray:
    """A track of 121 points: cut, or with hidden ones behind."""
    missing = max(POINTS - len(track), 0)
    return np.concatenate([track[:POINTS], np.full((missing, 2), np.nan)])


def _npz(data: bytes) -> bytes:
    """The npz itself."""
    with _zip(data) as archive:
        pickles = [name for name in archive.namelist() if name.split("/")[-1] == "data.pkl"]
        if not pickles:
            return data
        with _member(archive, pickles[0]) as file:
            pickled = _read(file, MOST_BYTES)
    found = None
    try:
        # Only listed, never run: a pickle of bytes needs no more than these codes.
        for opcode, argument, _ in pickletools.genops(pickled):
            if opcode.name not in _OPCODES or (opcode.name == "GLOBAL" and argument != "_codecs encode"):
                raise _Refused(f"the track file holds more than bytes ({opcode.name} {argument}); it is not read")
            if isinstance(argument, str) and opcode.name != "GLOBAL" and argument != "latin1":
                found = argument.encode("latin-1")
            elif isinstance(argument, bytes):
                found = argument
    except _Refused:
        raise
    except Exception as error:  # genops reads lengths that a damaged pickle may say anything in
        raise ValueError(f"the track file holds a damaged pickle: {str(error)[:80]}") from None
    if found is None:
        raise ValueError("the track file holds no npz")
    return found


class _Refused(ValueError):
    """A pickle that is whole, but holds what is not read."""


def _array(npz: bytes) -> np.ndarray:
    """The array of an npz, `(N, 121, 1, 3)` numbers."""
    with _zip(npz) as archive:
        names = archive.namelist()
        if "array.npy" not in names:
            listed = ", ".join(name.removesuffix(".npy") for name in names[:8]) or "nothing"
            raise ValueError(f"the track file has {listed} in it, but no 'array'")
        with _member(archive, "array.npy") as file:
            try:
                version = np.lib.format.read_magic(file)
                read = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
                shape, fortran, dtype = read[version](file)
            except Exception as error:  # NumPy parses the header as Python, which fails in many ways
                raise ValueError(f"the track file's array has no header that can be read: {str(error)[:80]}") from None
            # before any memory is taken for what the header says
            need = f"it must be numbers (N, {POINTS}, 1, 3), N from 1 to {MOST_TRACKS}"
            if dtype.hasobject:
                raise ValueError(f"the track file holds {dtype} {shape}, for pickle (allow_pickle=False); {need}")
            if len(shape) != 4 or shape[1:] != (POINTS, 1, 3) or not 1 <= shape[0] <= MOST_TRACKS:
                raise ValueError(f"the track file holds {dtype} {shape}; {need}")
            if dtype.kind not in "iuf" or dtype.itemsize > 8:
                raise ValueError(f"the track file holds {dtype} {shape}; {need}")
            size = math.prod(shape) * dtype.itemsize
            content = _read(file, size)
            if len(content) != size:
                raise ValueError(f"the track file ends after {len(content)} of the {size} bytes of its array")
    return np.frombuffer(content, dtype).reshape(shape, order="F" if fortran else "C")


def _zip(data: bytes) -> zipfile.ZipFile:
    try:
        if zipfile.is_zipfile(io.BytesIO(data)):
            return zipfile.ZipFile(io.BytesIO(data))
    except Exception as error:
        raise _damaged(error) from None
    raise ValueError("the track file is no ATI file (an npz in a .pth): it is no zip archive")


def _member(archive: zipfile.ZipFile, name: str) -> IO[bytes]:
    info = archive.getinfo(name)
    if info.file_size > MOST_BYTES:
        raise ValueError(f"the track file holds {name!r} of {info.file_size} bytes; {MOST_BYTES} at most")
    try:
        return archive.open(info)
    except Exception as error:
        raise _damaged(error) from None


def _read(file: IO[bytes], most: int) -> bytes:
    try:
        return file.read(most)
    except Exception as error:
        raise _damaged(error) from None


def _damaged(error: Exception) -> ValueError:
    """For what Python's zipfile raises, of many kinds, on archives that are damaged, locked or packed otherwise."""
    return ValueError(f"the track file is no ATI file (an npz in a .pth): {str(error)[:80]}")
