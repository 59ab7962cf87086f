"""A scene of the miniature world for a person to look at: every map on one sheet, a GIF, the JSON."""

import os
from pathlib import Path

import torch

from wm_pipelines.diorama.language import caption
from wm_pipelines.diorama.motion import sample_motion
from wm_pipelines.diorama.render import render, tracks
from wm_pipelines.diorama.scene import sample_scene
from wm_pipelines.media.conditions import depth_to_map, seg_from_ids
from wm_pipelines.media.pictures import image_grid, save_image
from wm_pipelines.media.video import save_gif
from wm_pipelines.runtime.files import atomic_folder


def write_sheet(out: str | os.PathLike, seed: int = 0, size: int = 64) -> list[Path]:
    """Writes `scene.json`, `sheet.png` and `scene.gif` and returns their paths.

    Columns of the sheet: picture, unlit colours, ids, depth, normals, flow (red right, green down), seen in the next
    frame, tracks; rows: four times.
    """
    scene = sample_motion(sample_scene("sheet", seed, num_objects=(2, 3, 4)), "sheet", seed)
    times = range(scene.duration)
    maps = ("rgb", "albedo", "ids", "depth", "normals", "flow", "occlusion")
    r = render(scene, times, size, maps)
    xy, visible, _ = tracks(scene, times, points_per_object=6, size=size)
    rows = []
    for t in range(0, scene.duration, max(1, scene.duration // 4))[:4]:
        flow = torch.cat([r.flow[0, t] / 8 + 0.5, torch.full((1, size, size), 0.5)]).clamp(0, 1)
        dots = r.rgb[0, t].clone()
        for (x, y), seen in zip(xy[t].floor().long().tolist(), visible[t].tolist(), strict=True):
            if seen and 0 <= x < size and 0 <= y < size:
                dots[:, y, x] = 0.0
        rows += [
            r.rgb[0, t],
            r.albedo[0, t],
            seg_from_ids(r.ids[0, t], seed),
            depth_to_map(r.depth[0, t]),
            r.normals[0, t] / 2 + 0.5,
            flow,
            (~r.occlusion[0, t]).float().expand(3, -1, -1),
            dots,
        ]
    with atomic_folder(out) as folder:
        (folder / "scene.json").write_text(scene.to_json() + "\n", encoding="utf-8")
        save_image(image_grid(rows, 8, gap=2), folder / "sheet.png")
        save_gif(list(r.rgb[0]), folder / "scene.gif", scene.fps)
    print(caption(scene, "full", seed=seed).text)
    return [Path(out) / name for name in ("scene.json", "sheet.png", "scene.gif")]
