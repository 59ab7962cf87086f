"""`make demo`, the part that moves: three trajectories and five intensities of one prompt, with what was measured."""

import math
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from tqdm import tqdm

from wm_pipelines.diorama.judge import DioramaJudge
from wm_pipelines.hub import embedded
from wm_pipelines.hub.stock import load_model
from wm_pipelines.media.drawing import draw_boxes
from wm_pipelines.media.pages import Shown, write_page
from wm_pipelines.media.pictures import save_image, to_tensor
from wm_pipelines.media.sheets import Tile, sheet
from wm_pipelines.media.video import save_gif
from wm_pipelines.mojito.metrics import diorama_detector, object_flow, track_colour
from wm_pipelines.mojito.pipeline import MojitoPipeline
from wm_pipelines.mojito.run import load
from wm_pipelines.mojito.trajectories.objects import MotionObject
from wm_pipelines.runtime.reports import write_json

STEPS, FRAMES, FPS, LARGER = 16, 16, 8, 2
SHOWN = range(0, FRAMES, 3)  # frames in a row of the grids
TRAILING = 8  # the base listens to the end of the text too: it is steered with the phrase
STILL, MOVING, COLOUR = "a red cube", "a red cube moving right", "red"
PATHS = {
    "left to right": [(0.05, 0.4, 0.3, 0.65), (0.7, 0.4, 0.95, 0.65)],
    "right to left and nearer": [(0.68, 0.3, 0.9, 0.52), (0.08, 0.52, 0.4, 0.84)],
    "there and back": [(0.1, 0.5, 0.35, 0.75), (0.65, 0.5, 0.9, 0.75), (0.1, 0.5, 0.35, 0.75)],
}
LEVELS = (1.0, 3.0, 5.0, 7.0, 9.0)
Clip = dict[str, Any]  # what was measured, the name of its GIF, and its pictures


def demo(out: str | os.PathLike = "outputs/demo/mojito", seed: int = 0) -> Shown:
    """Writes a GIF per clip, `trajectories.png`, `intensities.png`, a self-contained `index.html` and `motion.json`.

    Args:
        out: folder for them.
        seed: of the noise, the same for every clip.
    """
    started = time.perf_counter()
    pipe = load()
    pipe.set_progress_bar_config(leave=False, desc="steps")
    judge = load_model(DioramaJudge, embedded("diorama-judge")).eval()
    folder = Path(out)
    folder.mkdir(parents=True, exist_ok=True)
    paths: list[Clip] = []
    levels: list[Clip] = []
    for name, boxes in tqdm(PATHS.items(), desc="trajectories"):
        paths.append(_path(pipe, judge, name, boxes, seed, folder))
    for level in tqdm(LEVELS, desc="intensities"):
        levels.append(_level(pipe, judge, level, seed, folder))
    for name, clips in (("trajectories.png", paths), ("intensities.png", levels)):
        rows = [(c["label"], [[Tile(c["pictures"][t])] for t in SHOWN]) for c in clips]
        save_image(sheet([f"frame {t}" for t in SHOWN], rows), folder / name)
    report = {
        "steps": STEPS,
        "frames": FRAMES,
        "seed": seed,
        "seconds": round(time.perf_counter() - started, 1),
        "trajectories": [{k: v for k, v in clip.items() if k not in ("pictures", "label")} for clip in paths],
        "intensities": [{k: v for k, v in clip.items() if k not in ("pictures", "label")} for clip in levels],
    }
    write_json(folder / "motion.json", report)
    write_page(__package__, "motion.html", folder, report)
    mean = sum(clip["iou"] for clip in paths) / len(paths)
    first = max(paths, key=lambda clip: clip["iou"])
    return Shown(
        title="Mojito: objects go where they are sent",
        said=f"Three paths of one cube, mean IoU with the box {mean:.2f}; five levels of the dial.",
        place=2,
        row=[Tile(first["pictures"][t], f"frame {t}") for t in SHOWN[:5]],
        files=[
            *((c["gif"], f"{c['title']}, IoU {c['iou']:.2f}") for c in paths),
            *((c["gif"], c["title"]) for c in levels),
        ],
        page="index.html",
    )


def _path(pipe: MojitoPipeline, judge: DioramaJudge, name: str, boxes: list, seed: int, folder: Path) -> Clip:
    """A clip whose cube is sent along `boxes`, which are drawn in its frames."""
    keyframes = [round(i * (FRAMES - 1) / (len(boxes) - 1)) for i in range(len(boxes))]
    cube = MotionObject("red cube", boxes=boxes, keyframes=keyframes)
    out = _sample(pipe, STILL, seed, objects=[cube], detector=diorama_detector(judge), trailing_tokens=TRAILING)
    wanted, report = out.plan[0].boxes[0].tolist(), out.report[0]
    drawn = [draw_boxes(frame, [box]) for frame, box in zip(_larger(out.frames[0]), wanted, strict=True)]
    return {
        "title": name,
        "label": f"{name}\n\n“{STILL}”, the cube sent into the box\nIoU {report.iou.mean():.2f}",
        "prompt": STILL,
        "gif": save_gif(drawn, folder / f"{name.replace(' ', '-')}.gif", FPS).name,
        "iou": round(float(report.iou.mean()), 3),
        "in_box": round(float(report.in_box.mean()), 3),
        "updates": report.iterations,
        "conflicts": report.conflicts,
        "pictures": drawn,
    }


def _level(pipe: MojitoPipeline, judge: DioramaJudge, level: float, seed: int, folder: Path) -> Clip:
    """A clip at one intensity."""
    frames = _sample(pipe, MOVING, seed, motion_intensity=level).frames[0]
    video = torch.stack([to_tensor(frame) for frame in frames])
    flow = object_flow(judge, video, [COLOUR])
    return {
        "title": f"intensity {level:g}",
        "label": f"intensity {level:g}\n\n“{MOVING}”\n{flow:.2f} px a frame",
        "prompt": MOVING,
        "gif": save_gif(_larger(frames), folder / f"intensity-{level:g}.gif", FPS).name,
        "flow": round(flow, 3) if math.isfinite(flow) else None,  # not a number where no cube is seen
        "seen": round(float(track_colour(judge, video, COLOUR).seen.float().mean()), 3),
        "pictures": _larger(frames),
    }


def _sample(pipe: MojitoPipeline, prompt: str, seed: int, **options: Any):
    return pipe(
        prompt,
        num_frames=FRAMES,
        num_inference_steps=STEPS,
        generator=torch.Generator().manual_seed(seed),
        **options,
    )


def _larger(frames: Sequence[Image.Image]) -> list[Image.Image]:
    """Each pixel as a square of pixels."""
    return [f.resize((LARGER * f.width, LARGER * f.height), Image.Resampling.NEAREST) for f in frames]
