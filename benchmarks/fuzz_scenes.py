"""Readers of Morpho4D's scenes, edits and file formats, for `fuzz.py`."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from fuzz import Reader

from wm_pipelines.runtime.random import keyed


def readers(work: Path) -> list[Reader]:
    """All of them. `work` is an empty folder."""
    from wm_pipelines.morpho4d.formats.container import read_4dgs, write_4dgs
    from wm_pipelines.morpho4d.formats.glb import write_glb
    from wm_pipelines.morpho4d.formats.glb_reader import read_glb
    from wm_pipelines.morpho4d.formats.ply import read_ply, read_ply_sequence, write_ply, write_ply_sequence
    from wm_pipelines.morpho4d.formats.rigid import rigid_scene
    from wm_pipelines.morpho4d.formats.splat import read_splat, write_splat
    from wm_pipelines.morpho4d.formats.spz import read_spz, write_spz
    from wm_pipelines.morpho4d.grammar import parse_instruction
    from wm_pipelines.morpho4d.operations import read_operations
    from wm_pipelines.runtime.readers import read_json, read_text

    first, second, clip = splats(24, 0), splats(24, 1), moving(4)
    files = {
        "ply": [write_ply(first, work / "a.ply"), write_ply(second, work / "b.ply", object_ids=True)],
        "spz": [write_spz(first, work / "a.spz"), write_spz(second, work / "b.spz")],
        "splat": [write_splat(first, work / "a.splat")],
        "glb": [write_glb(rigid_scene(clip), work / "a.glb")],
        "4dgs": [write_4dgs(clip, work / "a.4dgs")],
    }
    data = {kind: tuple(path.read_bytes() for path in paths) for kind, paths in files.items()}
    write_ply_sequence(clip.frames, work / "frames")
    target = {"query": "red cube"}
    told = [
        {"op": "move", "target": target, "direction": "left", "amount": 0.5, "turn": 90.0, "start": 1, "end": 3},
        {"op": "recolor", "target": {"object_id": 1}, "rgb": [1, 0.5, 0]},
        {"op": "scale", "target": {"box": [[-9, -9, -9], [9, 9, 9]]}, "factor": 2},
        {"op": "retime", "target": {"object_id": 1, "time": 1.0}, "rate": 0.5, "reverse": True},
        {"op": "duplicate", "target": target, "by": [0, 0, 1]},
        {"op": "remove", "target": target},
    ]
    said = b"remove the red cube, then move the ball left by half a metre from frame 2 to frame 8 and paint it blue"
    operations = tuple(json.dumps(value).encode() for value in (told, told[0], told[:5:2]))
    folders = {kind: scene_folder(work / f"scene-{kind}", kind) for kind in ("nodes", "fourier")}
    edited = folders["nodes"]

    def edit(path: Path) -> Any:
        from wm_pipelines.morpho4d.scene import Scene4D

        if not hasattr(edit, "scene"):
            edit.scene = Scene4D.from_pretrained(edited, verify=False)
        return edit.scene.edit(read_operations(read_json(path))).at(1.0)

    return [
        Reader("ply", read_ply, data["ply"], ".ply"),
        Reader("ply sequence", read_ply_sequence, folder=work / "frames"),
        Reader("spz", read_spz, data["spz"], ".spz"),
        Reader("splat", read_splat, data["splat"], ".splat"),
        Reader("glb", read_glb, data["glb"], ".glb"),
        Reader("4dgs", lambda path: read_4dgs(path).at(0.1), data["4dgs"], ".4dgs"),
        Reader("edits", lambda path: read_operations(read_json(path)), operations, ".json"),
        Reader("edits, made", edit, operations, ".json"),
        Reader("instruction", lambda path: parse_instruction(read_text(path)), (said,), ".txt"),
        *(Reader(f"scene folder, {kind}", _posed, folder=folder) for kind, folder in folders.items()),
    ]


def splats(count: int, degree: int) -> Any:
    """Gaussians of three objects and a background."""
    from wm_pipelines.morpho4d.formats.splats import Splats

    g = keyed("fuzz", count, degree)

    def tensor(values: Any) -> torch.Tensor:
        return torch.from_numpy(np.asarray(values, np.float32))

    return Splats(
        means=tensor(g.normal(size=(count, 3))), quats=tensor(g.normal(size=(count, 4))),
        scales=tensor(g.uniform(0.02, 0.3, (count, 3))), opacities=tensor(g.uniform(0.02, 0.98, count)),
        sh=tensor(g.uniform(-0.8, 0.8, (count, (degree + 1) ** 2, 3))), object_id=torch.arange(count) % 4,
    )  # fmt: skip


def moving(frames: int) -> Any:
    """A clip in which one object slides."""
    from dataclasses import replace

    from wm_pipelines.morpho4d.formats.clip import Clip

    first = splats(24, 0)
    slides = (first.object_id == 1)[:, None] * torch.tensor([0.1, 0.0, 0.2])
    found = tuple(replace(first, means=first.means + n * slides) for n in range(frames))
    return Clip(found, tuple(n / 8 for n in range(frames)), {1: "red cube", 2: "ball", 3: "cone"})


def scene_folder(folder: Path, kind: str) -> Path:
    """A saved scene with one edit."""
    from wm_pipelines.morpho4d.gaussians import Cameras, Gaussians
    from wm_pipelines.morpho4d.motion import FourierMotion, NodeMotion
    from wm_pipelines.morpho4d.scene import Scene4D

    g = torch.Generator().manual_seed(7)

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=g)

    still, moves, frames, nodes = 6, 5, 4, 3
    count = still + moves
    gaussians = Gaussians(
        draw(count, 3), torch.nn.functional.normalize(draw(count, 4), dim=-1), -2 + 0.2 * draw(count, 3),
        1 + draw(count), 0.5 * draw(count, 1, 3), draw(count, 8), torch.tensor([0] * still + [1] * moves),
        torch.arange(count) >= still,
    )  # fmt: skip
    if kind == "nodes":
        index, weight = torch.randint(0, nodes, (moves, 2), generator=g), torch.softmax(draw(moves, 2), -1)
        motion = NodeMotion(draw(frames, nodes, 3), draw(frames, nodes, 4), index, weight, torch.zeros(moves))
    else:
        motion = FourierMotion(draw(moves, 2, 2, 3), frames)
    pose = torch.eye(4).expand(1, frames, 4, 4).clone()
    k = torch.tensor([[[20.0, 0, 8], [0, 20, 8], [0, 0, 1]]])
    scene = Scene4D(gaussians, motion, Cameras(k, pose, (16, 16)), frames, 8.0, {1: "red cube"}, concepts={1: draw(8)})
    edit = {"op": "move", "target": {"object_id": 1}, "by": [0, 0, 1]}
    scene.edit([edit, {"op": "remove", "target": {"query": "red cube"}}]).save_pretrained(folder)
    return folder


def _posed(path: Path) -> Any:
    from wm_pipelines.morpho4d.scene import Scene4D

    scene = Scene4D.from_pretrained(path, verify=False)
    return scene.at(1.5), scene.undo(1), scene.render(times=[0.0])
