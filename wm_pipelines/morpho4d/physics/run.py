"""The physics report from the command line: of a scene in time, or of a video."""

import json
import os
from pathlib import Path

import numpy as np
import torch

from wm_pipelines.media.pictures import save_image
from wm_pipelines.media.video import read_video
from wm_pipelines.morpho4d.physics.footage import footage_physics
from wm_pipelines.morpho4d.physics.plots import report_picture
from wm_pipelines.morpho4d.physics.report import PhysicsReport, clip_physics, scene_physics
from wm_pipelines.morpho4d.scene import Scene4D
from wm_pipelines.runtime.claims import check_folder
from wm_pipelines.runtime.files import atomic_folder, write_atomic
from wm_pipelines.runtime.readers import read_array, read_json


def run(
    source: str | os.PathLike,
    out: str | os.PathLike = "outputs/physics",
    masks: str | os.PathLike | None = None,
    depth: str | os.PathLike | None = None,
    cameras: str | os.PathLike | None = None,
    gravity: float = 9.81,
) -> PhysicsReport:
    """Measures a scene or a video, also against a simulator where MuJoCo is there, and writes `physics.json` and
    `physics.png`.

    Args:
        source: folder of a scene in time, or a video file.
        masks, depth: of a video, .npy files (T, H, W): object ids (0 = background), and metres along the optical axis.
        cameras: JSON of "K" (3 x 3, pixels) and "T_cw" (4 x 4, or one for each frame, world to camera, y down).
            Without all three the video is taken as one of the miniature world: `diorama-judge` says what is where, its
            camera is the world's own, and everything stands on the floor.

    Raises:
        ValueError: before anything is written.
    """
    given = {"masks": masks, "depth": depth, "cameras": cameras}
    missing = [name for name, value in given.items() if value is None]
    check_folder(out)
    if Path(source).is_dir():
        if len(missing) < 3:
            raise ValueError(f"`{next(n for n in given if n not in missing)}` goes with a video, not with a scene")
        report = scene_physics(Scene4D.from_pretrained(source), gravity=gravity, simulator=True)
    else:
        if 0 < len(missing) < 3:
            raise ValueError(f"`{missing[0]}` is missing; masks, depth and cameras go together")
        frames, fps = read_video(source)
        if missing:
            report = footage_physics(frames.float() / 255, fps, gravity)
        else:
            report = _own(frames, fps, given, gravity)
    with atomic_folder(out, last="physics.json") as folder:
        save_image(report_picture(report), folder / "physics.png")
        write_atomic(folder / "physics.json", json.dumps(report.to_dict(), indent=1, allow_nan=False) + "\n")
    return report


def _own(frames: torch.Tensor, fps: float, given: dict, gravity: float) -> PhysicsReport:
    masks, depth = read_array(given["masks"]), read_array(given["depth"])
    if masks.dtype.kind not in "iu" or depth.dtype.kind != "f":
        raise ValueError(f"`masks` is of {masks.dtype}, `depth` of {depth.dtype}; whole numbers, and floats")
    if masks.shape != (len(frames), *frames.shape[2:]):
        raise ValueError(f"`masks` is {masks.shape}; as the video it must be {(len(frames), *frames.shape[2:])}")
    said = read_json(given["cameras"])
    if not isinstance(said, dict) or set(said) != {"K", "T_cw"}:
        raise ValueError('`cameras` must be a JSON object of "K" and "T_cw"')
    try:
        camera = tuple(torch.tensor(said[name], dtype=torch.float32) for name in ("K", "T_cw"))
    except (TypeError, ValueError) as error:
        raise ValueError(f"`cameras` holds something that is no matrix of numbers: {error}") from None
    ids, away = torch.from_numpy(masks.astype(np.int64)), torch.from_numpy(depth.astype(np.float32))
    return clip_physics(ids, away, camera, fps=fps, gravity=gravity, simulator=True)
