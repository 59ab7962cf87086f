"""SPZ (Niantic Labs): a fifth of a PLY. Version 2 is written; 2, 3 and 4 are read. Stored with y up.

Before compression: places in 24-bit fixed point, scales as (ln s + 10) * 16, opacity and colour in bytes, rotations
as x, y, z in bytes with w >= 0 (version 2) or as the three smallest of ten bits each, harmonics as 128 + 128 c.
Versions 2 and 3 are one gzip stream, version 4 has a plain header and one zstd stream for each attribute.
"""

import math
import os
import struct
import zlib
from pathlib import Path

import numpy as np
import torch

from wm_pipelines.morpho4d.formats.data import Budget, opened, tensor
from wm_pipelines.morpho4d.formats.harmonics import COEFFICIENTS, MOST_DEGREE
from wm_pipelines.morpho4d.formats.splats import Splats
from wm_pipelines.morpho4d.quaternions import multiply
from wm_pipelines.runtime.files import atomic

UP = "y"
MAGIC = 0x5053474E
FRACTION_BITS = 12
"""Of a place when written: steps of 1/4096."""

COLOUR = 0.15
"""A byte of colour is 127.5 + 255 * this * dc."""

HEADER = struct.Struct("<IIIBBBB")
"""Magic, version, count, degree, bits of the fraction, flags, 0 (in version 4: how many streams)."""

ANTIALIASED, EXTENDED = 1, 2

MOST_RATIO = 64
"""Unpacked bytes for each packed one. Real Gaussians have about 2; gzip can make a thousand of zeros."""


def write_spz(splats: Splats, path: str | os.PathLike, antialiased: bool = False) -> Path:
    """Writes version 2.

    Scales outside e^-10 to e^5.93 are cut to that, colours to a dc of -3.33 to 3.33, harmonics to -1 to 1. Places have
    steps of 1/4096, scales of 6 %, the rest of a byte: in degree 1 five bits of it, above four. Rotations are those of
    the same ellipsoids, but not always the same rotations (`upright`).

    Args:
        antialiased: whether the Gaussians were fitted without a dilation of 0.3 pixels.

    Raises:
        ValueError: a place beyond 2047.
    """
    splats = splats.with_up(UP)
    fixed = (splats.means.double() * 2**FRACTION_BITS).round()
    if fixed.abs().max() >= 2**23:
        raise ValueError(f"`means` reaches {float(splats.means.abs().max()):g}; SPZ stores places below 2048")
    fixed = fixed.long().numpy()
    places = np.stack([(fixed >> shift) & 255 for shift in (0, 8, 16)], axis=-1)
    quats = upright(splats.quats)
    streams = [
        places,
        splats.opacities * 255,
        splats.sh[:, 0] * (COLOUR * 255) + 127.5,
        (splats.scales.double().log() + 10) * 16,
        quats[:, 1:] * 127.5 + 127.5,
        _bucketed(splats.sh[:, 1:]),
    ]
    header = HEADER.pack(MAGIC, 2, splats.count, splats.degree, FRACTION_BITS, ANTIALIASED * antialiased, 0)
    body = b"".join(_bytes(stream) for stream in streams)
    packer = zlib.compressobj(9, zlib.DEFLATED, 16 + zlib.MAX_WBITS)
    path = Path(path)
    with atomic(path) as partial:
        partial.write_bytes(packer.compress(header + body) + packer.flush())
    return path


def read_spz(path: str | os.PathLike) -> Splats:
    """Reads version 2, 3 or 4; y points up in what comes back.

    Raises:
        ValueError: another container or version, extensions, a degree above 3, a count that the bytes don't hold, more
            than `MOST_RATIO` unpacked bytes for a packed one, or values that `Splats` refuses; names the file.
        ImportError: version 4 without `zstandard`, which the extra [4d] brings.
    """
    with opened(path) as data:
        if data[:4] == MAGIC.to_bytes(4, "little"):
            return _splats(*_read_v4(data))
        if data[:2] == b"\x1f\x8b":
            return _splats(*_read_gzip(data))
        raise ValueError("it is no SPZ: neither gzip nor its own header")


def upright(quats: torch.Tensor) -> torch.Tensor:
    """Unit quaternions (N, 4) of the same ellipsoids whose w is at least 1/2.

    A half turn about an axis of its own leaves an ellipsoid as it is and moves another component to w. From w the
    others follow, and near 0 they would follow badly (our design).
    """
    half_turns = torch.eye(4) * torch.tensor([1.0, -1.0, -1.0, -1.0])
    same = multiply(quats[:, None], half_turns)  # (N, 4, 4)
    best = same[..., 0].abs().argmax(dim=1)
    found = same[torch.arange(len(quats)), best]
    return torch.where(found[:, :1] < 0, -found, found)


def _bytes(values: torch.Tensor | np.ndarray) -> bytes:
    return np.asarray(values).round().clip(0, 255).astype(np.uint8).tobytes()


def _bucketed(rest: torch.Tensor) -> torch.Tensor:
    """Bytes (N, K - 1, 3) in buckets of 8 (degree 1) and 16, one of whose middles is 0: fewer values pack better."""
    step = torch.full((rest.shape[1], 1), 16.0)
    step[:3] = 8
    return ((rest * 128).round() + 128 + step / 2).div(step, rounding_mode="floor") * step


def _sizes(version: int, count: int, degree: int) -> list[int]:
    """Bytes of places, opacities, colours, scales, rotations and harmonics."""
    return [count * n for n in (9, 1, 3, 3, 3 if version == 2 else 4, 3 * (COEFFICIENTS[degree] - 1))]


def _header(data: bytes, versions: tuple[int, ...]) -> tuple[int, int, int, int, int]:
    """Version, count, degree, bits of the fraction, streams."""
    if len(data) < HEADER.size:
        raise ValueError("it ends within its header")
    magic, version, count, degree, bits, flags, streams = HEADER.unpack_from(data)
    if magic != MAGIC or version not in versions:
        raise ValueError(f"its header says {magic:#x}, version {version}; versions 2, 3 (gzip) and 4 are read")
    if degree > MOST_DEGREE or bits > 23 or count == 0:
        raise ValueError(f"its header says degree {degree}, {bits} bits, {count} Gaussians; 0 to 3, 0 to 23, from 1")
    if flags & ~ANTIALIASED:
        raise ValueError(f"its flags are {flags:#x}; extensions are not read")
    return version, count, degree, bits, streams


def _read_gzip(data: bytes) -> tuple[int, int, int, list[bytes]]:
    stream = zlib.decompressobj(16 + zlib.MAX_WBITS)
    try:
        head = stream.decompress(data, HEADER.size)
        version, count, degree, bits, _ = _header(head, (2, 3))
        wanted = sum(_sizes(version, count, degree))
        Budget(len(data), MOST_RATIO).take(wanted, "what its header promises")
        body = head[HEADER.size :] + stream.decompress(stream.unconsumed_tail, wanted + 1)
    except zlib.error as error:
        raise ValueError(f"it is damaged: {error}") from None
    if len(body) != wanted or not stream.eof or stream.unused_data:
        end = "" if len(body) < wanted else " or more"
        raise ValueError(f"its header promises {wanted} bytes; it has {len(body)}{end}, and must end there")
    return bits, degree, count, _cut(body, _sizes(version, count, degree))


def _read_v4(data: bytes) -> tuple[int, int, int, list[bytes]]:
    version, count, degree, bits, streams = _header(data, (4,))
    if len(data) < 32:
        raise ValueError("it ends within its header")
    sizes = [size for size in _sizes(version, count, degree) if size]
    table = int.from_bytes(data[16:20], "little")
    ends = table + 16 * streams
    if streams != len(sizes) or not 32 <= table <= len(data) - 16 * streams:
        raise ValueError(f"its header says {streams} streams listed at byte {table}; degree {degree} has {len(sizes)}")
    packed = struct.unpack_from(f"<{2 * streams}Q", data, table)
    if list(packed[1::2]) != sizes or sum(packed[::2]) != len(data) - ends:
        raise ValueError("its streams have other lengths than its header says")
    Budget(len(data), MOST_RATIO).take(sum(sizes), "what its header promises")
    parts = [unpack_zstd(part, size) for part, size in zip(_cut(data[ends:], list(packed[::2])), sizes, strict=True)]
    return bits, degree, count, parts + [b""] * (6 - len(parts))


def unpack_zstd(data: bytes, size: int) -> bytes:
    """A Zstandard stream that must unpack to `size` bytes.

    Raises:
        ValueError: it is damaged, or of another size. ImportError: zstandard is not installed.
    """
    try:
        import zstandard
    except ImportError:
        raise ImportError('SPZ version 4 needs zstandard: pip install "wm-pipelines[4d]"') from None
    try:
        frame = zstandard.get_frame_parameters(data)
        if frame.content_size not in (size, zstandard.CONTENTSIZE_UNKNOWN):
            raise ValueError(f"a stream unpacks to {frame.content_size} bytes; its header says {size}")
        # the window is memory too, so it may not be larger than what is in it
        reader = zstandard.ZstdDecompressor(max_window_size=max(2 * size, 2**17)).stream_reader(data)
        found = reader.read(size + 1)
    except zstandard.ZstdError as error:
        raise ValueError(f"it is damaged: {error}") from None
    if len(found) != size:
        raise ValueError(f"a stream unpacks to {len(found)} bytes; its header says {size}")
    return found


def _cut(data: bytes, sizes: list[int]) -> list[bytes]:
    parts, at = [], 0
    for size in sizes:
        parts.append(data[at : at + size])
        at += size
    return parts


def _splats(bits: int, degree: int, count: int, streams: list[bytes]) -> Splats:
    places, opacities, colours, scales, rotations, rest = (np.frombuffer(s, np.uint8) for s in streams)
    fixed = places.reshape(-1, 3, 3).astype(np.int32) @ np.array([1, 2**8, 2**16], np.int32)
    fixed = np.where(fixed >= 2**23, fixed - 2**24, fixed)
    small = len(rotations) == 4 * count
    higher = (tensor(rest).reshape(count, COEFFICIENTS[degree] - 1, 3) - 128) / 128
    dc = (tensor(colours).reshape(-1, 3) / 255 - 0.5) / COLOUR
    return Splats(
        means=tensor(fixed / 2**bits),
        quats=_smallest_three(rotations) if small else _first_three(rotations),
        scales=(tensor(scales).reshape(-1, 3) / 16 - 10).exp(),
        opacities=tensor(opacities) / 255,
        sh=torch.cat([dc[:, None], higher], dim=1),
        up=UP,
    )


def _first_three(stored: np.ndarray) -> torch.Tensor:
    """(N, 4) from bytes of x, y and z."""
    xyz = tensor(stored).reshape(-1, 3) / 127.5 - 1
    w = (1 - (xyz * xyz).sum(-1, keepdim=True)).clamp_min(0).sqrt()
    return torch.cat([w, xyz], dim=-1)


def _smallest_three(stored: np.ndarray) -> torch.Tensor:
    """(N, 4) from 32 bits: which of x, y, z, w is largest, then sign and nine bits of each other, last one lowest."""
    packed = stored.view("<u4").astype(np.int64)
    largest = packed >> 30
    xyzw = np.zeros((len(packed), 4))
    for place in (3, 2, 1, 0):
        other = largest != place
        sign = np.where(packed & 512, -1.0, 1.0)
        xyzw[other, place] = (sign * (packed & 511) / 511 * math.sqrt(0.5))[other]
        packed = np.where(other, packed >> 10, packed)
    rest = np.clip(1 - (xyzw**2).sum(1), 0, None)
    xyzw[np.arange(len(packed)), largest] = np.sqrt(rest)
    return tensor(xyzw[:, [3, 0, 1, 2]])
