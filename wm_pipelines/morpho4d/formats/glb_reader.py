"""Reads GLB files of Gaussians, ours and others', without trusting what they say of themselves."""

import math
import os
import re
import struct
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from wm_pipelines.morpho4d.formats.data import Budget, opened, tensor
from wm_pipelines.morpho4d.formats.glb import BIN_CHUNK, EXTENSION, JSON_CHUNK, MAGIC, POINTS, UP, attribute, harmonic
from wm_pipelines.morpho4d.formats.harmonics import COEFFICIENTS
from wm_pipelines.morpho4d.formats.rigid import Part, RigidScene
from wm_pipelines.morpho4d.formats.splats import Splats
from wm_pipelines.morpho4d.quaternions import multiply, rotate, unit
from wm_pipelines.runtime.readers import decode_text, parse_json

MOST_DEPTH = 64
"""Nodes within one another."""

_COMPONENTS = {
    5120: ("i1", 127.0),
    5121: ("u1", 255.0),
    5122: ("<i2", 32767.0),
    5123: ("<u2", 65535.0),
    5126: ("<f4", 1.0),
}
_LISTS = ("scenes", "nodes", "meshes", "accessors", "bufferViews", "buffers", "animations")
_WIDTHS = {"SCALAR": 1, "VEC2": 2, "VEC3": 3, "VEC4": 4}
_SPACE = "srgb_rec709_display"


def read_glb(path: str | os.PathLike) -> RigidScene:
    """Reads every splat mesh of the file's scene; y points up in what comes back.

    Attributes may be floats or normalised integers, at any stride. Nodes may be within one another, turned, moved and
    scaled evenly; the node of a mesh may be animated, in lines. Where a scale is negative all are logarithms, as a
    draft had it. Object ids come from `extras.object_id`, else from the order, from 1.

    Raises:
        ValueError: another container, JSON that glTF does not allow or that is not read here (named), counts that the
            bytes don't hold, parts that together take more than eight times the file, or values that `Splats` refuses;
            names the file.
    """
    with opened(path) as data:
        document, binary = _chunks(data)
        return RigidScene(_Document(document, binary, len(data)).parts())


def _chunks(data: bytes) -> tuple[dict[str, Any], bytes]:
    if len(data) < 20:
        raise ValueError(f"it has {len(data)} bytes; a GLB has at least 20")
    magic, version, size = struct.unpack_from("<III", data)
    if magic != MAGIC or version != 2 or size != len(data):
        raise ValueError(f"its header says {magic:#x}, version {version}, {size} bytes; a GLB of version 2 is read")
    found: list[tuple[int, bytes]] = []
    at = 12
    while at < size:
        if at + 8 > size:
            raise ValueError("it ends within the header of a chunk")
        length, kind = struct.unpack_from("<II", data, at)
        if length > size - at - 8:
            raise ValueError(f"a chunk promises {length} bytes; {size - at - 8} follow")
        found.append((kind, data[at + 8 : at + 8 + length]))
        at += 8 + length
    if found[0][0] != JSON_CHUNK or len(found) > 1 and found[1][0] != BIN_CHUNK:
        raise ValueError("its first chunk must be JSON, its second binary")
    document = parse_json(decode_text(found[0][1]))
    if not isinstance(document, dict):
        raise ValueError("its JSON must be an object")
    return document, found[1][1] if len(found) > 1 else b""


def _whole(value: Any, what: str, least: int = 0) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise ValueError(f"{what} is {str(value)[:40]}; it must be a whole number from {least}")
    return value


class _Document:
    def __init__(self, document: dict[str, Any], binary: bytes, size: int):
        self.document, self.binary, self.budget = document, binary, Budget(size)
        self.used: set[int] = set()
        self.lists = {kind: _objects(document, kind) for kind in _LISTS if kind in document}

    def parts(self) -> tuple[Part, ...]:
        required = self.document.get("extensionsRequired", [])
        if not isinstance(required, list) or set(map(str, required)) - {EXTENSION}:
            raise ValueError(f"it requires the extensions {str(required)[:80]}; only {EXTENSION} is read")
        for buffer in self.lists.get("buffers", []):
            if "uri" in buffer or _whole(buffer.get("byteLength"), "`byteLength`") > len(self.binary):
                raise ValueError("its buffer must be the binary chunk, and no longer")
        tracks = self._tracks()
        found: list[Part] = []
        scene = self._one("scenes", self.document.get("scene", 0))
        at_rest = (torch.tensor([1.0, 0, 0, 0]), torch.zeros(3), 1.0)
        open_nodes = [(n, at_rest, 1) for n in reversed(_list(scene, "nodes"))]
        seen: set[int] = set()
        while open_nodes:
            number, above, depth = open_nodes.pop()
            node = self._one("nodes", number)
            if number in seen or depth > MOST_DEPTH:
                raise ValueError(f"its node {number} is there twice, or under more than {MOST_DEPTH} others")
            seen.add(number)
            keys = tracks.get(number, {})
            children = _list(node, "children")
            if keys and children:
                raise ValueError(f"its node {number} is animated and has children; only a mesh may move")
            local = _placed(node)
            if "mesh" in node:
                self._once(node["mesh"])
                found += self._mesh(node, len(found), above, local, keys)
            open_nodes += [(child, _under(above, local), depth + 1) for child in reversed(children)]
        if not found:
            raise ValueError(f"it holds no primitive with {EXTENSION}")
        if len({part.splats.degree for part in found}) > 1:
            raise ValueError("its primitives have harmonics of different degrees")
        return tuple(found)

    def _once(self, mesh: Any) -> None:
        if mesh in self.used:
            raise ValueError(f"its mesh {mesh} belongs to two nodes; instances are not read")
        self.used.add(_whole(mesh, "the mesh of a node"))

    def _mesh(self, node: dict, number: int, above: tuple, local: tuple, keys: dict) -> list[Part]:
        found: list[Part] = []
        for primitive in _objects(self._one("meshes", node["mesh"]), "primitives"):
            extension = primitive.get("extensions", {})
            if not isinstance(extension, dict) or EXTENSION not in extension:
                continue
            settings = extension[EXTENSION]
            if not isinstance(settings, dict) or primitive.get("mode") != POINTS:
                raise ValueError(f"a primitive with {EXTENSION} must be of mode {POINTS}")
            if settings.get("kernel") != "ellipse" or settings.get("colorSpace") != _SPACE:
                raise ValueError(f"its {EXTENSION} is {str(settings)[:80]}; kernel ellipse, colour space {_SPACE}")
            extras = node.get("extras")
            given = extras.get("object_id") if isinstance(extras, dict) else None
            object_id = number + len(found) + 1 if given is None else _whole(given, "`object_id`")
            name = str(node.get("name", f"object {object_id}"))
            splats = self._splats(primitive, object_id)
            found.append(self._part(name, splats, above, local, keys))
        return found

    def _part(self, name: str, splats: Splats, above: tuple, local: tuple, keys: dict) -> Part:
        turn, shift, size = local
        times = [times for times, _ in keys.values()]
        if len(times) == 2 and not torch.equal(*times):
            raise ValueError(f"{name[:40]!r} has keys at different times for its place and its rotation")
        length = len(times[0]) if times else 1
        self.budget.take(64 * length, f"the path of {name[:40]!r}")
        shifts = keys["translation"][1] if "translation" in keys else shift.expand(length, 3)
        turns = keys["rotation"][1] if "rotation" in keys else turn.expand(length, 4)
        q, p, s = above
        return Part(
            name=name,
            splats=replace(splats, means=splats.means * (size * s), scales=splats.scales * (size * s)),
            times=times[0] if times else torch.zeros(1, dtype=torch.float64),
            translations=rotate(q.expand(length, 4), shifts * s) + p,
            rotations=_aligned(unit(multiply(q.expand(length, 4), turns))),
        )

    def _splats(self, primitive: dict, object_id: int) -> Splats:
        attributes = primitive.get("attributes")
        if not isinstance(attributes, dict):
            raise ValueError("a primitive has no attributes")
        harmonics = [n for n in range(COEFFICIENTS[-1]) if harmonic(n) in attributes]
        others = [a for a in attributes if re.match(f"{EXTENSION}:SH_", a)]
        if len(harmonics) not in COEFFICIENTS or len(others) != len(harmonics) or harmonics[-1] != len(harmonics) - 1:
            raise ValueError(f"a primitive has {len(others)} harmonics; allowed: whole degrees from 0, {COEFFICIENTS}")
        columns = [("POSITION", 3), (attribute("ROTATION"), 4), (attribute("SCALE"), 3), (attribute("OPACITY"), 1)]
        columns += [(harmonic(n), 3) for n in harmonics]
        read = [self._array(attributes.get(name), name, width) for name, width in columns]
        count = len(read[0])
        if {len(values) for values in read} != {count}:
            raise ValueError(f"a primitive has attributes of {sorted({len(values) for values in read})} Gaussians")
        means, turns, scales, opacities, *sh = read
        if (scales < 0).any():
            if scales.max() > math.log(1e30):
                raise ValueError("its scales are no logarithms, nor above 0")
            scales = scales.exp()
        return Splats(
            means=means,
            quats=turns[:, [3, 0, 1, 2]],
            scales=scales,
            opacities=opacities[:, 0],
            sh=torch.stack(sh, dim=1),
            object_id=torch.full((count,), object_id),
            up=UP,
        )

    def _array(self, index: Any, what: str, width: int) -> torch.Tensor:
        """The values (count, width) of an accessor."""
        accessor = self._one("accessors", index)
        view = self._one("bufferViews", accessor.get("bufferView"))
        kind, divisor = _COMPONENTS.get(accessor.get("componentType"), (None, 1.0))
        if kind is None or _WIDTHS.get(accessor.get("type")) != width or "sparse" in accessor:
            raise ValueError(f"`{what}` is {str(accessor)[:80]}; it must have {width} components, and not be sparse")
        plain = kind == "<f4"
        if plain == bool(accessor.get("normalized", False)):
            raise ValueError(f"`{what}` must be of floats, or of integers that are normalised")
        count = _whole(accessor.get("count"), f"the count of `{what}`", 1)
        dtype = np.dtype((kind, (width,)))
        start, length = (_whole(view.get(key, 0), f"`{key}`") for key in ("byteOffset", "byteLength"))
        offset = _whole(accessor.get("byteOffset", 0), "`byteOffset`")
        stride = _whole(view.get("byteStride", dtype.itemsize), "`byteStride`", dtype.itemsize)
        if view.get("buffer") != 0 or start + length > len(self.binary):
            raise ValueError(f"the view of `{what}` goes beyond the file's {len(self.binary)} bytes")
        if offset + (count - 1) * stride + dtype.itemsize > length:
            raise ValueError(f"`{what}` promises {count} values, which its view of {length} bytes does not hold")
        self.budget.take(4 * width * count, f"`{what}`")
        strides = (stride, np.dtype(kind).itemsize)
        values = tensor(np.ndarray((count, width), np.dtype(kind), self.binary, start + offset, strides))
        if not values.isfinite().all():
            raise ValueError(f"`{what}` has values that are not finite")
        return values if plain else (values / divisor).clamp_min(-1)

    def _tracks(self) -> dict[int, dict[str, tuple[torch.Tensor, torch.Tensor]]]:
        """node -> "translation" or "rotation" -> seconds and values; of the first animation."""
        found: dict[int, dict[str, tuple[torch.Tensor, torch.Tensor]]] = {}
        for animation in self.lists.get("animations", [])[:1]:
            samplers = _objects(animation, "samplers")
            for channel in _objects(animation, "channels"):
                target = channel.get("target")
                if not isinstance(target, dict) or "node" not in target:
                    continue
                path, node = target.get("path"), _whole(target["node"], "the node of a channel")
                number = _whole(channel.get("sampler"), "the sampler of a channel")
                if path not in ("translation", "rotation") or path in found.get(node, {}) or number >= len(samplers):
                    raise ValueError(f"a channel of node {node} is {str(path)[:40]!r}; one translation, one rotation")
                found.setdefault(node, {})[path] = self._keys(samplers[number], path)
        return found

    def _keys(self, sampler: dict, path: str) -> tuple[torch.Tensor, torch.Tensor]:
        if sampler.get("interpolation", "LINEAR") != "LINEAR":
            raise ValueError(f"a sampler is {str(sampler['interpolation'])[:40]!r}; only LINEAR is read")
        times = self._array(sampler.get("input"), "input", 1)[:, 0].double()
        values = self._array(sampler.get("output"), path, 3 if path == "translation" else 4)
        if len(times) != len(values) or times[0] < 0 or not (times.diff() > 0).all():
            raise ValueError(f"a sampler has {len(values)} values at {len(times)} times; as many, rising from 0")
        if path == "rotation":
            if not ((values.norm(dim=-1) - 1).abs() < 0.05).all():
                raise ValueError("a sampler has rotations that are no unit quaternions")
            values = unit(values[:, [3, 0, 1, 2]])
        return times, values

    def _one(self, kind: str, index: Any) -> dict:
        found = self.lists.get(kind, [])
        if _whole(index, f"an index into `{kind}`") >= len(found):
            raise ValueError(f"it names {kind} {index}; there are {len(found)}")
        return found[index]


def _objects(holder: dict, key: str) -> list[dict]:
    found = holder.get(key)
    if not isinstance(found, list) or not all(isinstance(item, dict) for item in found):
        raise ValueError(f"its `{key}` must be a list of objects")
    return found


def _list(holder: dict, key: str) -> list[int]:
    found = holder.get(key, [])
    if not isinstance(found, list):
        raise ValueError(f"its `{key}` must be a list")
    return [_whole(number, f"one of `{key}`") for number in found]


def _numbers(node: dict, key: str, default: list[float]) -> torch.Tensor:
    values = node.get(key, default)
    fits = isinstance(values, list) and len(values) == len(default)
    if not fits or not all(isinstance(v, int | float) and not isinstance(v, bool) and abs(v) < 1e30 for v in values):
        raise ValueError(f"the `{key}` of a node is {str(values)[:60]}; {len(default)} finite numbers")
    return torch.tensor(values, dtype=torch.float32)


def _placed(node: dict) -> tuple[torch.Tensor, torch.Tensor, float]:
    """Rotation, translation and even scale of a node."""
    if "matrix" in node:
        raise ValueError("a node has a `matrix`; translation, rotation and scale are read")
    turn, shift = _numbers(node, "rotation", [0.0, 0, 0, 1]), _numbers(node, "translation", [0.0] * 3)
    size = _numbers(node, "scale", [1.0] * 3)
    if abs(float(turn.norm()) - 1) > 0.05:
        raise ValueError("a node has a `rotation` that is no unit quaternion")
    if float(size.min()) <= 0 or float(size.max() - size.min()) > 1e-5 * float(size.max()):
        raise ValueError(f"a node has a `scale` of {size.tolist()}; it must be even, above 0")
    return unit(turn[[3, 0, 1, 2]]), shift, float(size[0])


def _under(above: tuple, local: tuple) -> tuple[torch.Tensor, torch.Tensor, float]:
    (q, p, s), (turn, shift, size) = above, local
    return unit(multiply(q, turn)), rotate(q, shift * s) + p, s * size


def _aligned(quats: torch.Tensor) -> torch.Tensor:
    """Each on the side of the one before it."""
    flips = (quats[1:] * quats[:-1]).sum(-1) < 0
    odd = torch.cat([torch.zeros(1, dtype=torch.bool), flips.cumsum(0) % 2 == 1])
    return torch.where(odd[:, None], -quats, quats)
