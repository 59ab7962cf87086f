"""Binary glTF with `KHR_gaussian_splatting` (Khronos, ratified): a mesh of splats for each rigid object, moved by its
node's animation. y points up; quaternions have w last; scales are linear.
"""

import json
import os
import struct
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from wm_pipelines.morpho4d.formats.rigid import Part, RigidScene
from wm_pipelines.morpho4d.formats.splats import UPS, Splats
from wm_pipelines.morpho4d.quaternions import multiply, rotate, unit
from wm_pipelines.runtime.files import atomic

UP = "y"
EXTENSION = "KHR_gaussian_splatting"
MAGIC, JSON_CHUNK, BIN_CHUNK = 0x46546C67, 0x4E4F534A, 0x004E4942
FLOAT, BYTE = 5126, 5121
POINTS, ARRAY_BUFFER = 0, 34962


def attribute(name: str) -> str:
    """A name of the extension's own attributes."""
    return f"{EXTENSION}:{name}"


def harmonic(n: int) -> str:
    """The attribute of harmonic n, counted from 0 through all degrees."""
    degree = int(n**0.5)
    return attribute(f"SH_DEGREE_{degree}_COEF_{n - degree**2}")


def write_glb(scene: RigidScene, path: str | os.PathLike) -> Path:
    """Writes an animated GLB: a node, a mesh and, where it moves, a translation and a rotation channel for each part.

    Floats as they are. Viewers without the extension show the points in `COLOR_0`. A viewer must turn the harmonics
    with the node, as the extension asks; at degree 0 there is nothing to turn. Between keys places go on a line and
    rotations on the shorter arc.

    Args:
        scene: from `rigid_scene`, which says what does not fit into nodes.
    """
    writer = _Writer()
    parts = [_with_up(part) for part in scene.parts]
    nodes, meshes, samplers, channels = [], [], [], []
    times: dict[tuple[float, ...], int] = {}
    for n, part in enumerate(parts):
        meshes.append({"name": part.name, "primitives": [_primitive(writer, part.splats)]})
        place, turn = part.translations[0].tolist(), part.rotations[0][[1, 2, 3, 0]].tolist()
        extras = {"object_id": int(part.splats.object_id[0])}
        nodes.append({"name": part.name, "mesh": n, "translation": place, "rotation": turn, "extras": extras})
        if not part.moves:
            continue
        key = tuple(part.times.tolist())
        if key not in times:
            times[key] = writer.add(np.array(key, "<f4")[:, None], bounds=True)
        for kind, values in (("translation", part.translations), ("rotation", part.rotations[:, [1, 2, 3, 0]])):
            channels.append({"sampler": len(samplers), "target": {"node": n, "path": kind}})
            output = writer.add(values.numpy().astype("<f4"))
            samplers.append({"input": times[key], "output": output, "interpolation": "LINEAR"})
    document = {
        "asset": {"version": "2.0", "generator": "wm-pipelines"},
        "extensionsUsed": [EXTENSION],
        "scene": 0,
        "scenes": [{"nodes": list(range(len(nodes)))}],
        "nodes": nodes,
        "meshes": meshes,
        "accessors": writer.accessors,
        "bufferViews": writer.views,
        "buffers": [{"byteLength": len(writer.data)}],
    }
    if channels:
        document["animations"] = [{"name": "motion", "samplers": samplers, "channels": channels}]
    path = Path(path)
    with atomic(path) as partial:
        partial.write_bytes(binary_of(document, bytes(writer.data)))
    return path


def _with_up(part: Part) -> Part:
    """The part in axes with y up: its path turns in the world, its Gaussians stay as they are about its origin.

    They are turned all the same, so that a node at rest has no rotation and plain viewers see the part upright.
    """
    if part.splats.up == UP:
        return part
    q = torch.tensor(UPS[part.splats.up])
    back = q * torch.tensor([1.0, -1.0, -1.0, -1.0])
    turned = unit(multiply(multiply(q, part.rotations), back))
    shift = rotate(q.expand(len(part.times), 4), part.translations)
    return replace(part, splats=part.splats.with_up(UP), translations=shift, rotations=turned)


def _primitive(writer: "_Writer", splats: Splats) -> dict[str, Any]:
    colour = torch.cat([splats.rgb, splats.opacities[:, None]], dim=1).clamp(0, 1)
    attributes = {
        "POSITION": writer.add(splats.means.numpy(), True, bounds=True),
        "COLOR_0": writer.add((colour * 255).round().numpy().astype(np.uint8), True, normalized=True),
        attribute("ROTATION"): writer.add(splats.quats[:, [1, 2, 3, 0]].numpy(), True),
        attribute("SCALE"): writer.add(splats.scales.numpy(), True),
        attribute("OPACITY"): writer.add(splats.opacities[:, None].numpy(), True),
    }
    attributes |= {harmonic(n): writer.add(splats.sh[:, n].numpy(), True) for n in range(splats.sh.shape[1])}
    extension = {"kernel": "ellipse", "colorSpace": "srgb_rec709_display"}
    return {"mode": POINTS, "attributes": attributes, "extensions": {EXTENSION: extension}}


class _Writer:
    """Arrays one after another in one buffer, each with its view and accessor."""

    def __init__(self) -> None:
        self.data = bytearray()
        self.views: list[dict[str, Any]] = []
        self.accessors: list[dict[str, Any]] = []

    def add(self, array: np.ndarray, vertices: bool = False, bounds: bool = False, normalized: bool = False) -> int:
        """The accessor of an array (count, components) of float32 or bytes.

        Args:
            vertices: whether it goes to the graphics card. bounds: adds minimum and maximum.
        """
        kind = "SCALAR" if array.shape[1] == 1 else f"VEC{array.shape[1]}"
        component = BYTE if array.dtype == np.uint8 else FLOAT
        accessor = {"bufferView": len(self.views), "componentType": component, "count": len(array), "type": kind}
        if normalized:
            accessor["normalized"] = True
        if bounds:
            accessor |= {"min": array.min(0).tolist(), "max": array.max(0).tolist()}
        raw = np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("<")).tobytes()
        view = {"buffer": 0, "byteOffset": len(self.data), "byteLength": len(raw)}
        self.views.append(view | {"target": ARRAY_BUFFER} if vertices else view)
        self.data += raw + bytes(-len(raw) % 4)
        self.accessors.append(accessor)
        return len(self.accessors) - 1


def binary_of(document: dict[str, Any], data: bytes) -> bytes:
    """A GLB: header, the JSON `document`, and the buffer `data`."""
    text = json.dumps(document, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 4)
    chunks = struct.pack("<II", len(text), JSON_CHUNK) + text + struct.pack("<II", len(data), BIN_CHUNK) + data
    return struct.pack("<III", MAGIC, 2, 12 + len(chunks)) + chunks
