"""`make demo`, the part in time: the embedded scene from a new camera, and three edits beside what they truly give."""

import json
import os
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from wm_pipelines.diorama.cameras import ring_cameras
from wm_pipelines.diorama.scene import Scene
from wm_pipelines.hub import embedded
from wm_pipelines.media.pages import Shown
from wm_pipelines.media.pictures import save_image
from wm_pipelines.media.sheets import Tile, sheet
from wm_pipelines.media.video import save_gif
from wm_pipelines.morpho4d.formats.export import export
from wm_pipelines.morpho4d.physics.plots import report_picture
from wm_pipelines.morpho4d.physics.report import scene_physics
from wm_pipelines.morpho4d.scene import Scene4D
from wm_pipelines.morpho4d.worlds import capture_scene, embedded_world
from wm_pipelines.runtime.files import write_atomic

LARGER = 3
SHOWN = (0, 4, 8, 11)
"""Frames of the sheet."""
NEW_CAMERA = (8, 5.2, 26.0, 42.0, (0.0, 0.0, 0.35), 22.5)
"""Between two of the scene's own, farther away and lower; as `ring_cameras` takes it, of which it is the first."""
Edit = tuple[str, Callable[[Scene], Scene]]


def demo(out: str | os.PathLike = "outputs/demo/morpho4d", seed: int = 0) -> Shown:
    """Writes `camera.gif`, `edits.png` (of each edit the scene above, the true render below, then their difference),
    `physics.png` (the physics report of the scene), `scene.html`, which opens in a browser, and `scene.json`.

    Args:
        out: folder for them.
        seed: nothing is drawn.
    """
    began = time.perf_counter()
    folder = Path(out)
    folder.mkdir(parents=True, exist_ok=True)
    scene, world = Scene4D.from_pretrained(embedded("morpho4d")), embedded_world()
    plain = compare(scene, world)
    seen = plain.pop("frames")
    save_gif([_larger(frame) for frame in seen], folder / "camera.gif", scene.fps)
    tiles = [Tile(seen[0], "from a new camera"), Tile(seen[SHOWN[2]], "later")]
    rows, report = [], []
    for said, change in EDITS:
        made = compare(scene.edit(said), change(world))
        frames, true = made.pop("frames"), made.pop("true")
        for label, pictures in (
            (f"“{said}”\n\nthe edited scene", frames),
            ("its true render", true),
            ("their difference", (frames - true).abs()),
        ):
            rows.append((label, [[Tile(pictures[t])] for t in SHOWN]))
        tiles.append(Tile(frames[SHOWN[2]], said))
        report.append({"said": said, **made})
    save_image(sheet([f"frame {t}" for t in SHOWN], rows), folder / "edits.png")
    export(scene, folder / "scene.html")
    physics = scene_physics(scene)
    save_image(report_picture(physics), folder / "physics.png")
    plain.pop("true")
    edited = ", ".join(f"{edit['psnr']:.1f}" for edit in report)
    seconds = round(time.perf_counter() - began, 1)
    found = {"camera": plain, "edits": report, "physics": physics.to_dict(), "seconds": seconds}
    write_atomic(folder / "scene.json", json.dumps(found, indent=2) + "\n")
    return Shown(
        title="Morpho4D: a scene in time to take apart",
        said=f"A new camera is met at {plain['psnr']:.1f} dB, three edits at {edited} dB of their true renders.",
        place=4,
        row=tiles,
        files=[
            ("camera.gif", "from a camera that the fit had not"),
            ("edits.png", "three edits beside what they truly give"),
            ("physics.png", "how physical it is"),
        ],
        page="scene.html",
    )


def compare(scene: Scene4D, world: Scene) -> dict[str, Any]:
    """What the new camera sees of a scene and of a world, (T, 3, H, W) each, and how near they are, dB."""
    true = capture_scene(world, ring_cameras(*NEW_CAMERA)[:1], range(scene.frames), size=64)
    frames = scene.render((true.cameras.K[0], true.cameras.T_cw[0])).frames
    error = (frames - true.video[0]).square().mean()
    return {"frames": frames, "true": true.video[0], "psnr": round(float(-10 * error.log10()), 2)}


def _without_cube(world: Scene) -> Scene:
    return replace(world, objects=world.objects[1:])


def _slow_ball(world: Scene) -> Scene:
    cube, ball, cone = world.objects
    slow = tuple(replace(m, end=2 * m.end, speed=m.speed / 2) for m in ball.motion)
    return replace(world, objects=(cube, replace(ball, motion=slow), cone))


def _purple_cone(world: Scene) -> Scene:
    cube, ball, cone = world.objects
    return replace(world, objects=(cube, ball, replace(cone, colour="purple")))


EDITS: tuple[Edit, ...] = (
    ("remove the red cube", _without_cube),
    ("slow the blue ball down to half speed", _slow_ball),
    ("paint the green cone purple", _purple_cone),
)


def _larger(picture: torch.Tensor) -> torch.Tensor:
    return picture.repeat_interleave(LARGER, 1).repeat_interleave(LARGER, 2)
