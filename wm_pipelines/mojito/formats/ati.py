"""ATI's track files (`.pth`): an npz in a pickled string in a zip, read without executing any pickle."""

import io
import pickletools
import zipfile

import numpy as np

from wm_pipelines.mojito.formats.points import Tracks, hide, read_kjnodes

SCALE = 8
"""Coordinates and visibility are stored times this."""

POINTS = 121
"""Points of a track: five seconds at 24 a second."""

# What pickling one string of bytes needs, and nothing else: protocol 2 (torch.save) writes it as latin-1 text.
_OPCODES = frozenset(
    "PROTO FRAME GLOBAL BINPUT LONG_BINPUT MEMOIZE BINUNICODE SHORT_BINUNICODE BINBYTES SHORT_BINBYTES TUPLE2 REDUCE "
    "STOP".split()
)


def read_ati(data: bytes | str) -> Tracks:
    """The tracks of a file or string, in pixels of the picture they were drawn on (neither says its size).

    Args:
        data: the file: an npz with `array` `(N, 121, 1, 3)` (x, y, visible, each times 8), as such or inside what
            `torch.save` writes for bytes; or the JSON that ATI's node takes, which is KJNodes'.

    Raises:
        ValueError: another container, content that would need pickle, or another shape.
    """
    if isinstance(data, str) or data.lstrip()[:1] == b"[":
        return read_kjnodes(data if isinstance(data, str) else data.decode("utf-8"))
    try:
        with np.load(io.BytesIO(_npz(data)), allow_pickle=False) as file:
            if "array" not in file.files:
                raise ValueError(f"the track file has {', '.join(file.files) or 'nothing'} in it, but no 'array'")
            array = file["array"]
    except (zipfile.BadZipFile, OSError, EOFError) as error:
        raise ValueError(f"the track file is no ATI file (an npz in a .pth): {error}") from None
    if array.ndim != 4 or array.shape[1:] != (POINTS, 1, 3) or not len(array) or array.dtype.kind not in "iuf":
        raise ValueError(f"the track file holds {array.dtype} {array.shape}; it must be numbers (N, {POINTS}, 1, 3)")
    array = array[:, :, 0].astype(np.float64) / SCALE  # (N, 121, 3)
    return hide(array[..., :2], array[..., 2] > 0.5, "the track file")


def _npz(data: bytes) -> bytes:
    """The npz itself."""
    if not zipfile.is_zipfile(io.BytesIO(data)):
        raise ValueError("the track file is no ATI file (an npz in a .pth): it is no zip archive")
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        pickles = [name for name in archive.namelist() if name.split("/")[-1] == "data.pkl"]
        if not pickles:
            return data
        pickled = archive.read(pickles[0])
    found = None
    # Only listed, never run: a pickle of bytes needs no more than these codes.
    for opcode, argument, _ in pickletools.genops(pickled):
        if opcode.name not in _OPCODES or (opcode.name == "GLOBAL" and argument != "_codecs encode"):
            raise ValueError(f"the track file holds more than bytes ({opcode.name} {argument}); it is not read")
        if isinstance(argument, str) and opcode.name != "GLOBAL" and argument != "latin1":
            found = argument.encode("latin-1")
        elif isinstance(argument, bytes):
            found = argument
    if found is None:
        raise ValueError("the track file holds no npz")
    return found
