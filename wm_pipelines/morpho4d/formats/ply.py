"""PLY as 3D Gaussian splatting writes it, and folders of one file a frame, as the SuperSplat editor plays them.

Binary, little-endian; x y z nx ny nz f_dc_0..2 f_rest_* opacity scale_0..2 rot_0..3 in that order: the opacity a
logit, the scales logarithms, the rotation w first, f_rest all red, then green, then blue. Axes: y down, z forward.
"""

import math
import os
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from wm_pipelines.morpho4d.formats.data import Budget, opened, tensor
from wm_pipelines.morpho4d.formats.harmonics import COEFFICIENTS
from wm_pipelines.morpho4d.formats.splats import Splats
from wm_pipelines.runtime.files import atomic, atomic_folder, visible

UP = "-y"

MOST_HEADER = 2**16
"""Bytes of a header."""

CLOSEST = 1e-6
"""Opacities keep this distance from 0 and 1, whose logits are infinite."""

FRAME = re.compile(r"(.*?)(\d+)\.ply")

_TYPES = {
    "char": "i1", "uchar": "u1", "short": "<i2", "ushort": "<u2", "int": "<i4", "uint": "<u4", "float": "<f4",
    "double": "<f8", "int8": "i1", "uint8": "u1", "int16": "<i2", "uint16": "<u2", "int32": "<i4", "uint32": "<u4",
    "float32": "<f4", "float64": "<f8",
}  # fmt: skip
_PLACE, _DC = ("x", "y", "z"), ("f_dc_0", "f_dc_1", "f_dc_2")
_SCALE, _ROT = ("scale_0", "scale_1", "scale_2"), ("rot_0", "rot_1", "rot_2", "rot_3")


def write_ply(splats: Splats, path: str | os.PathLike, object_ids: bool = False) -> Path:
    """Writes a PLY of 17 floats a Gaussian and 9, 24 or 45 more for harmonics.

    Opacities nearer than `CLOSEST` to 0 or 1 become that; nothing else is lost but the last bits of float32.

    Args:
        object_ids: adds a last property, `object_id` (uint), which other readers ignore.
    """
    splats = splats.with_up(UP)
    rest = 3 * (splats.sh.shape[1] - 1)
    names = [*_PLACE, "nx", "ny", "nz", *_DC, *(f"f_rest_{n}" for n in range(rest)), "opacity", *_SCALE, *_ROT]
    dtype = np.dtype([(name, "<f4") for name in names] + ([("object_id", "<u4")] if object_ids else []))
    rows = np.zeros(splats.count, dtype)
    opacities = splats.opacities.double().clamp(CLOSEST, 1 - CLOSEST)
    columns = {
        _PLACE: splats.means,
        _DC: splats.sh[:, 0],
        tuple(f"f_rest_{n}" for n in range(rest)): splats.sh[:, 1:].transpose(1, 2).flatten(1),
        ("opacity",): opacities.logit()[:, None],
        _SCALE: splats.scales.double().log(),
        _ROT: splats.quats,
    }
    for group, values in columns.items():
        for name, column in zip(group, values.T, strict=True):
            rows[name] = column.numpy()
    if object_ids:
        rows["object_id"] = splats.object_id.numpy()
    header = ["ply", "format binary_little_endian 1.0", f"element vertex {splats.count}"]
    header += [f"property float {name}" for name in names] + ["property uint object_id"] * object_ids
    path = Path(path)
    with atomic(path) as partial, partial.open("wb") as file:
        file.write("\n".join([*header, "end_header", ""]).encode())
        file.write(rows.tobytes())
    return path


def read_ply(path: str | os.PathLike) -> Splats:
    """Reads a PLY of Gaussians; y points down in what comes back.

    The properties may come in any order and of any type, others beside them are passed over; so are elements after the
    Gaussians that hold no lists. `object_id` is read where it is there.

    Raises:
        ValueError: no binary little-endian PLY, a header that is too long or wrong, properties that are missing, more
            or fewer bytes than the header promises, or values that `Splats` refuses; names the file.
    """
    with opened(path) as data:
        begins, count, dtype = _header(data)
        Budget(len(data)).take(count * 4 * len(dtype), "`vertex`")
        rows = np.frombuffer(data, dtype, count, begins)
        return _splats(rows)


def write_ply_sequence(frames: Sequence[Splats], folder: str | os.PathLike, object_ids: bool = False) -> list[Path]:
    """Writes frame_0001.ply and so on into a folder, all or none.

    Raises:
        ValueError: no frame; or the folder holds PLY files already, which a player would take for frames.
    """
    folder = Path(folder)
    if not frames:
        raise ValueError("`frames` is empty; at least one is needed")
    there = [path.name for path in visible(folder) if path.suffix.lower() == ".ply"] if folder.is_dir() else []
    if there:
        raise ValueError(f"{str(folder)!r} holds PLY files already ({there[0]}); name a folder without")
    digits = max(4, len(str(len(frames))))
    names = [f"frame_{n:0{digits}d}.ply" for n in range(1, len(frames) + 1)]
    with atomic_folder(folder) as partial:
        for name, splats in zip(names, frames, strict=True):
            write_ply(splats, partial / name, object_ids)
    return [folder / name for name in names]


def read_ply_sequence(folder: str | os.PathLike) -> list[Splats]:
    """The frames of a folder, in the order of the digits that their names end in.

    Raises:
        ValueError: no such folder, no PLY in it, names that are not one prefix and digits, digits twice; or as
            `read_ply`.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise ValueError(f"no folder at {str(folder)!r}")
    paths = [path for path in visible(folder) if path.suffix.lower() == ".ply"]
    matches = [FRAME.fullmatch(path.name) for path in paths]
    if not paths or None in matches or len({match[1] for match in matches}) > 1:
        raise ValueError(f"{str(folder)!r} must hold PLY files of one prefix and digits, frame_0001.ply and so on")
    numbers = [int(match[2]) for match in matches]
    if len(set(numbers)) < len(numbers):
        raise ValueError(f"{str(folder)!r} has two files of frame {max(numbers, key=numbers.count)}")
    return [read_ply(path) for _, path in sorted(zip(numbers, paths, strict=True))]


def _header(data: bytes) -> tuple[int, int, np.dtype]:
    """Where the Gaussians begin, how many there are, and what each is made of."""
    end = data.find(b"end_header", 0, MOST_HEADER)
    line = data.find(b"\n", end, end + 12)
    if not data.startswith((b"ply\n", b"ply\r\n")) or end < 0 or line < 0:
        raise ValueError(f"it is no PLY: no header of at most {MOST_HEADER} bytes")
    lines = [words for words in (row.split() for row in data[:end].decode("latin-1").splitlines()[1:]) if words]
    elements: list[tuple[str, int, list[tuple[str, str]]]] = []
    form = None
    for words in lines:
        if words[0] == "format":
            form = words[1:]
        elif words[0] == "element":
            elements.append((*_element(words), []))
        elif words[0] == "property":
            _property(words, elements)
        elif words[0] not in ("comment", "obj_info"):
            raise ValueError(f"its header has {words[0][:40]!r}")
    if form != ["binary_little_endian", "1.0"]:
        raise ValueError(f"its format is {' '.join(form or [])[:60]!r}; only binary_little_endian 1.0 is read")
    if not elements or elements[0][0] != "vertex":
        raise ValueError("its first element must be `vertex`; a compressed PLY has to be converted first")
    begins = line + 1
    wanted = sum(count * np.dtype(properties).itemsize for _, count, properties in elements)
    if wanted != len(data) - begins:
        raise ValueError(f"its header promises {wanted} bytes; {len(data) - begins} follow")
    return begins, elements[0][1], np.dtype(elements[0][2])


def _element(words: list[str]) -> tuple[str, int]:
    if len(words) != 3 or not re.fullmatch(r"\d{1,18}", words[2]):
        raise ValueError(f"its header has {' '.join(words)[:60]!r}; an element has a name and a count")
    return words[1], int(words[2])


def _property(words: list[str], elements: list) -> None:
    if not elements or len(words) != 3 or words[1] not in _TYPES:
        raise ValueError(f"its header has {' '.join(words)[:60]!r}; a property has a type and a name, and is no list")
    if words[2] in dict(elements[-1][2]):
        raise ValueError(f"its header has the property {words[2][:40]!r} twice")
    elements[-1][2].append((words[2], _TYPES[words[1]]))


def _splats(rows: np.ndarray) -> Splats:
    names = rows.dtype.names or ()
    missing = [name for name in (*_PLACE, *_DC, "opacity", *_SCALE, *_ROT) if name not in names]
    if missing:
        raise ValueError(f"it lacks {', '.join(missing)}; these are no Gaussians")
    rest = [name for name in names if re.fullmatch(r"f_rest_\d+", name)]
    counts = [3 * (k - 1) for k in COEFFICIENTS]
    if len(rest) not in counts or set(rest) != {f"f_rest_{n}" for n in range(len(rest))}:
        raise ValueError(f"it has {len(rest)} properties f_rest_*; allowed: {counts}, numbered from 0")
    higher = _columns(rows, tuple(f"f_rest_{n}" for n in range(len(rest))))
    higher = higher.reshape(len(rows), 3, len(rest) // 3).transpose(1, 2)  # red, green, blue, each (N, K - 1)
    logs, logits = _columns(rows, _SCALE), _columns(rows, ("opacity",))[:, 0]
    for name, values, most in (("scale", logs, math.log(1e30)), ("opacity", logits, math.inf)):
        if values.isnan().any() or (values.abs() > most).any():
            raise ValueError(f"its `{name}` has {float(values.abs().max()):g}, which is no logarithm of a number")
    ids = torch.from_numpy(rows["object_id"].astype(np.int64)) if "object_id" in names else None
    return Splats(
        means=_columns(rows, _PLACE),
        quats=_columns(rows, _ROT),
        scales=logs.double().exp().float(),
        opacities=logits.double().sigmoid().float(),
        sh=torch.cat([_columns(rows, _DC)[:, None], higher], dim=1),
        object_id=ids,
        up=UP,
    )


def _columns(rows: np.ndarray, names: tuple[str, ...]) -> torch.Tensor:
    """(N, len(names))."""
    if not names:
        return torch.zeros(len(rows), 0)
    with np.errstate(over="ignore", invalid="ignore"):
        return tensor(np.stack([rows[name] for name in names], axis=1).astype(np.float32))
