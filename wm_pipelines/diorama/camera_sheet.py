"""A moving scene from a ring of cameras for a person to look at: a sheet, a GIF, the JSON with matrices."""

import json
import math
import os
from dataclasses import asdict, replace
from itertools import count, repeat
from pathlib import Path

from wm_pipelines.diorama.cameras import camera_matrices, ring_cameras
from wm_pipelines.diorama.language import caption
from wm_pipelines.diorama.motion import sample_motion
from wm_pipelines.diorama.render import check_size, render
from wm_pipelines.diorama.scene import Scene, sample_scene
from wm_pipelines.media.conditions import depth_to_map, seg_from_ids
from wm_pipelines.media.pictures import image_grid, save_image
from wm_pipelines.media.video import save_gif
from wm_pipelines.runtime.files import atomic_folder

FRAMES = 12
SHOWN = (0, 4, 8, 11)  # frames on the sheet
RADIUS = 8.0  # metres: from here nearly all objects are whole in the picture


def write_camera_sheet(out: str | os.PathLike, seed: int = 0, cameras: int = 8, size: int = 64) -> list[Path]:
    """Writes `scene.json`, `cameras.json`, `cameras.png` and `cameras.gif` and returns their paths.

    Rows of the sheet: cameras, counter-clockwise from the front; columns: four frames, then unlit colours, ids and
    depth of the last of them. The GIF shows all views side by side. `cameras.json` has, per camera, its place, K in
    pixels and T_cw; all stand still.

    Raises:
        ValueError: `cameras` or `size` is not 1 or more.
    """
    check_size(size)
    ring = ring_cameras(cameras, radius=RADIUS)
    scene = next(s for s in map(_scene, repeat(seed), count()) if any(o.motion for o in s.objects))
    r = render(scene, range(FRAMES), size, ("rgb", "albedo", "ids", "depth"), cameras=ring)
    last = SHOWN[-1]
    rows = []
    for v in range(cameras):
        rows += [r.rgb[0, v, t] for t in SHOWN]
        rows += [r.albedo[0, v, last], seg_from_ids(r.ids[0, v, last], seed), depth_to_map(r.depth[0, v, last])]
    k, poses = camera_matrices(scene, (0,), size, ring)
    matrices = [{**asdict(c), "K": k[v].tolist(), "T_cw": poses[v, 0].tolist()} for v, c in enumerate(ring)]
    columns = next(n for n in range(math.isqrt(cameras - 1) + 1, cameras + 1) if cameras % n == 0)
    frames = [image_grid(list(r.rgb[0, :, t]), columns, gap=2) for t in range(FRAMES)]
    with atomic_folder(out) as folder:
        (folder / "scene.json").write_text(scene.to_json() + "\n", encoding="utf-8")
        (folder / "cameras.json").write_text(json.dumps({"size": size, "cameras": matrices}) + "\n", encoding="utf-8")
        save_image(image_grid(rows, len(SHOWN) + 3, gap=2), folder / "cameras.png")
        save_gif(frames, folder / "cameras.gif", scene.fps)
    print(caption(scene, "full", seed=seed).text)
    return [Path(out) / name for name in ("scene.json", "cameras.json", "cameras.png", "cameras.gif")]


def _scene(seed: int, n: int) -> Scene:
    """The n-th scene of this seed; objects that stand close together do not move."""
    scene = sample_scene("camera sheet", seed, n, num_objects=(2, 3, 4))
    return sample_motion(replace(scene, duration=FRAMES, floor_pattern="chequered"), "camera sheet", seed, n)
