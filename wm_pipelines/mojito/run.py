"""Mojito from the command line: one prompt with its trajectories, to a video, a sheet of frames and a report."""

import os
from collections.abc import Sequence
from typing import Any

import torch

from wm_pipelines.media.pictures import image_grid, save_image
from wm_pipelines.media.video import check_gif_rate, save_gif, write_video
from wm_pipelines.mojito.outputs import frames_tensor
from wm_pipelines.mojito.overlay import describe, draw_report
from wm_pipelines.mojito.pipeline import MojitoPipeline
from wm_pipelines.mojito.trajectories.formats import canonical
from wm_pipelines.mojito.trajectories.objects import MotionObject
from wm_pipelines.mojito.trajectories.reading import TIMED_FORMATS, load_trajectory, parse_object
from wm_pipelines.mojito.trajectories.resampling import trajectory_frames
from wm_pipelines.mojito.trajectories.values import frame_count, real, whole
from wm_pipelines.pipeline import AutoWMPipeline
from wm_pipelines.runtime.claims import holding
from wm_pipelines.runtime.devices import on_accelerator
from wm_pipelines.runtime.reports import report_folder

SHEET = 8
"""Frames in a row of the sheet."""


def load(model: str = "diorama-video", base: str | None = None, verify: bool = True) -> MojitoPipeline:
    """A Mojito checkpoint by embedded name, folder or Hub id.

    Args:
        base: where to find the base that the record names.
        verify: compare files with their recorded hashes before any tensor is read.

    Raises:
        ValueError: a name that leads nowhere, altered or truncated files, or another method's checkpoint.
    """
    pipeline = AutoWMPipeline.from_pretrained(model, base=base, verify=verify)
    if not isinstance(pipeline, MojitoPipeline):
        raise ValueError(f"model {model!r} is a {type(pipeline).__name__}; name a Mojito checkpoint")
    return pipeline


@holding("out")
def run(
    prompt: str,
    objects: Sequence[str | MotionObject] = (),
    trajectories: Sequence[str | os.PathLike] = (),
    out: str | os.PathLike = "outputs/mojito",
    model: str = "diorama-video",
    base: str | None = None,
    format: str = "json",
    reading: dict[str, Any] | None = None,
    seed: int = 0,
    num_frames: int | None = 16,
    fps: float = 8.0,
    **options: Any,
) -> dict[str, Any]:
    """Samples and writes `video.mp4`, `video.gif`, `boxes.gif`, `frames.png`, `trajectory.json` and `report.json`.

    Runs on the accelerator if there is one; the noise comes from the CPU, so that a seed means the same everywhere.

    Args:
        objects: `MotionObject`s, or texts as `parse_object` reads them.
        num_frames: of the video; 0 or None: those that the objects' own keyframes and boxes are for. Files of
            `TIMED_FORMATS` and texts have none.
        trajectories: files of `format`, whose objects come before these.
        reading: options of `read_trajectory` for these files, besides `num_frames`, which those of
            `TIMED_FORMATS` get.
        options: passed to `MojitoPipeline.__call__`; an option that is None is left out.

    Returns:
        The report that was written.

    The files move to `out` together when all are written. Those of an earlier run stay unless they are overwritten.

    Raises:
        ValueError: before any sampling; nothing is written then.
    """
    if whole(seed) is None or not 0 <= whole(seed) < 2**63:
        raise ValueError(f"seed={seed!r}; it must be an integer from 0 to 2**63 - 1")
    if real(fps) is None:
        raise ValueError(f"fps={fps!r}; it must be a number")
    seed, fps = whole(seed), real(fps)
    own = num_frames is None or whole(num_frames) == 0
    if own and (any(isinstance(item, str) for item in objects) or (trajectories and format in TIMED_FORMATS)):
        raise ValueError(
            f"num_frames={num_frames!r} takes the frames of objects that say how many, which texts and files of "
            f"{', '.join(TIMED_FORMATS)} don't; give a number"
        )
    num_frames = None if own else frame_count(num_frames)
    reading = {name: value for name, value in (reading or {}).items() if value is not None}
    if format in TIMED_FORMATS:
        reading.setdefault("num_frames", num_frames)
    items = [item for path in trajectories for item in load_trajectory(path, format, **reading)]
    items += [item if isinstance(item, MotionObject) else parse_object(item, num_frames) for item in objects]
    kept = canonical.write(items) if items else None
    check_gif_rate(fps, num_frames or (items and trajectory_frames(items)) or 1)
    pipeline = load(model, base)
    on_accelerator(pipeline)
    result = pipeline(
        prompt,
        objects=items or None,
        num_frames=num_frames,
        generator=torch.Generator().manual_seed(seed),
        output_type="pt",
        **{name: value for name, value in options.items() if value is not None},
    )
    frames, measured = frames_tensor(result.frames[0]), result.report[0]
    phrases = result.plan[0].phrases if result.plan else []
    report = {
        "prompt": prompt,
        "phrases": phrases,
        "seed": seed,
        "num_frames": len(frames),
        "summary": describe(measured, phrases),
        **measured.to_dict(),
    }
    with report_folder(out, report) as folder:
        write_video(list(frames), folder / "video.mp4", fps)
        save_gif(list(frames), folder / "video.gif", fps)
        shown = draw_report(list(frames), measured, phrases)
        save_gif(shown, folder / "boxes.gif", fps)
        save_image(image_grid(shown, SHEET, gap=2), folder / "frames.png")
        if kept is not None:
            (folder / "trajectory.json").write_text(kept, encoding="utf-8")
    return report
