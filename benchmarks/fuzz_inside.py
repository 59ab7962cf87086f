"""Changes that leave a file's form whole: inside containers, with lengths and sums that fit, and in JSON's lines."""

import gzip
import io
import json
import struct
import zipfile
import zlib
from collections.abc import Callable
from typing import Any

import numpy as np

Change = Callable[[bytes], bytes]


def changed(data: bytes, change: Change, rng: np.random.Generator) -> bytes:
    """The container with something in it changed; what is no container is changed itself."""
    for begins, inside in (
        (b"\x1f\x8b", _gzip), (b"PK\x03\x04", _zip), (b"\x89PNG", _png), (b"glTF", _glb), (b"PAR1", _footer),
    ):  # fmt: skip
        if data.startswith(begins):
            try:
                return inside(data, change, rng)
            except Exception:  # an earlier change broke it
                return change(data)
    if data[8:9] == b"{" and int.from_bytes(data[:8], "little") <= len(data):
        end = 8 + int.from_bytes(data[:8], "little")
        header = change(data[8:end])
        return len(header).to_bytes(8, "little") + header + data[end:]
    return change(data)


def json_part(data: bytes, rng: np.random.Generator) -> tuple[int, int]:
    """Where a JSON value stands in a file: all of it, or one of its lines."""
    lines = data.split(b"\n")
    starts = [n for n, line in enumerate(lines) if line[:1] in (b"{", b"[") and line[-1:] in (b"}", b"]")]
    if len(starts) < 2:
        return 0, len(data)
    chosen = starts[int(rng.integers(len(starts)))]
    begin = sum(len(line) + 1 for line in lines[:chosen])
    return begin, begin + len(lines[chosen])


def yaml_tree(text: bytes) -> Any:
    """The mapping or list of a YAML text; None where it is none."""
    import yaml

    if b": " not in text or len(text) > 20_000 or b"\0" in text:
        return None
    try:
        tree = yaml.load(text.decode(), getattr(yaml, "CSafeLoader", yaml.SafeLoader))
        json.dumps(tree)
    except (ValueError, TypeError, AttributeError, RecursionError, yaml.YAMLError):
        return None
    return tree if isinstance(tree, dict | list) else None


def yaml_text(tree: Any) -> str:
    """The inverse."""
    import yaml

    return yaml.safe_dump(tree, allow_unicode=True)


def _gzip(data: bytes, change: Change, rng: np.random.Generator) -> bytes:
    return gzip.compress(change(gzip.decompress(data)), 1)


def _zip(data: bytes, change: Change, rng: np.random.Generator) -> bytes:
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        parts = [(info, archive.read(info)) for info in archive.infolist()]
    chosen = int(rng.integers(len(parts)))
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for n, (info, part) in enumerate(parts):
            archive.writestr(info.filename, change(part) if n == chosen else part, info.compress_type)
    return file.getvalue()


def _png(data: bytes, change: Change, rng: np.random.Generator) -> bytes:
    chunks, at = [], 8
    while at < len(data):
        (size,) = struct.unpack_from(">I", data, at)
        chunks.append((data[at + 4 : at + 8], data[at + 8 : at + 8 + size]))
        at += size + 12
    chosen = int(rng.integers(len(chunks)))
    name, part = chunks[chosen]
    part = zlib.compress(change(zlib.decompress(part)), 1) if name == b"IDAT" and rng.random() < 0.5 else change(part)
    chunks[chosen] = name, part
    out = b"".join(struct.pack(">I", len(p)) + n + p + struct.pack(">I", zlib.crc32(n + p)) for n, p in chunks)
    return data[:8] + out


def _glb(data: bytes, change: Change, rng: np.random.Generator) -> bytes:
    size = struct.unpack_from("<I", data, 12)[0]
    text = change(data[20 : 20 + size])
    text += b" " * (-len(text) % 4)
    rest = data[20 + size :]
    return b"glTF" + struct.pack("<IIII", 2, 20 + len(text) + len(rest), len(text), 0x4E4F534A) + text + rest


def _footer(data: bytes, change: Change, rng: np.random.Generator) -> bytes:
    """Parquet: its description, which stands at the end."""
    size = struct.unpack_from("<I", data, len(data) - 8)[0]
    start = len(data) - 8 - size
    part = change(data[start : start + size])
    return data[:start] + part + struct.pack("<I", len(part)) + b"PAR1"
