"""Morpho4D from the command line: a prompt to a scene, and a scene to an edited one, with clips and a report."""

import os
from pathlib import Path
from typing import Any

from wm_pipelines.media.pictures import image_grid, save_image
from wm_pipelines.media.video import save_gif, write_video
from wm_pipelines.morpho4d.capture import Capture
from wm_pipelines.morpho4d.language_model import LanguageModelParser
from wm_pipelines.morpho4d.outputs import Morpho4DOutput
from wm_pipelines.morpho4d.pipeline import Morpho4DPipeline
from wm_pipelines.morpho4d.scene import Scene4D
from wm_pipelines.morpho4d.worlds import prompt_capture
from wm_pipelines.runtime.claims import check_folder
from wm_pipelines.runtime.reports import report_folder

SOURCES = ("diorama", "mojito")
SHEET = 6
"""Frames in a row of the sheet."""


def run(
    prompt: str,
    out: str | os.PathLike = "outputs/morpho4d",
    size: int = 64,
    frames: int = 12,
    lit: bool = False,
    source: str = "diorama",
    **settings: Any,
) -> dict[str, Any]:
    """Fits the scene that a prompt describes, and writes `scene/`, `video.mp4`, `video.gif`, `frames.png` and
    `report.json`.

    Args:
        size: side of the pictures, 16 to 512 pixels.
        frames: 4 to 120.
        lit: with light and shadows.
        source: "diorama" renders the prompt in the miniature world, from six cameras; "mojito" samples a clip of one
            fixed camera, 64 x 64, with masks by the judge and depth from the floor: the report says in how many frames
            each object is seen and how well the clip is met, and is silent about other views, which nothing shows.
        settings: of `FitSettings`; what is None is the default.

    Returns:
        The report that was written.

    Raises:
        ValueError: before anything is written.
    """
    check_folder(out)
    for name, value, (low, high) in (("size", size, (16, 512)), ("frames", frames, (4, 120))):
        if not isinstance(value, int) or not low <= value <= high:
            raise ValueError(f"`{name}` is {value!r}; allowed: {low} to {high}")
    if source not in SOURCES:
        raise ValueError(f"`source` is {source!r}; allowed: {', '.join(SOURCES)}")
    if settings.get("steps") is not None and settings.get("seconds") is not None:
        raise ValueError("`seconds` stands in place of `steps`; give one of them")
    if source == "mojito" and (lit or size != 64):
        raise ValueError("`lit` and `size` are of the miniature world; a clip of Mojito is 64 x 64, as it learnt")
    captures = []

    def capture(text: str) -> Capture:
        if source == "diorama":
            captures.append(prompt_capture(text, size, frames, lit))
        else:
            from wm_pipelines.morpho4d.clips import mojito_capture

            captures.append(mojito_capture(text, frames, seed=settings.get("seed") or 0))
        return captures[0]

    made = Morpho4DPipeline(capture)(prompt, **{name: value for name, value in settings.items() if value is not None})
    about = {"prompt": prompt, "source": source, "fit": vars(made.report), "met": met(made, captures[0])}
    return _write(made.scene, out, about)


def met(made: Morpho4DOutput, capture: Capture) -> dict[str, Any]:
    """How well the first view is met, dB and share of pixels with the right object, and in which share of the frames
    each object is seen there."""
    error = (made.frames - capture.video[0]).square().mean()
    masks = capture.masks[0]
    seen = {name: float((masks == i).flatten(1).any(1).float().mean()) for i, name in capture.names.items()}
    return {
        "psnr": round(float(-10 * error.log10()), 2),
        "ids": round(float((made.object_ids == masks).float().mean()), 4),
        "seen": seen,
    }


def edit(
    scene: str | os.PathLike,
    instruction: str,
    out: str | os.PathLike,
    endpoint: str | None = None,
    model: str | None = None,
) -> dict[str, Any]:
    """Edits a saved scene by an English command, and writes what `run` writes of the new one.

    Args:
        endpoint, model: an OpenAI-compatible endpoint, and which model there makes operations of the command; None:
            the grammar does.

    Raises:
        ValueError: no such scene, a command that no rule reads, or one that is about nothing; nothing is written then.
    """
    check_folder(out)
    if (endpoint is None) != (model is None):
        raise ValueError("`endpoint` and `model` go together: where, and which model there")
    kept = Path(scene).resolve()
    if kept.is_dir() and (kept == Path(out).resolve() or kept in Path(out).resolve().parents):
        raise ValueError(f"`out` {str(out)!r} lies in the scene, which stays as it is; name a folder beside it")
    parser = LanguageModelParser(endpoint, model) if endpoint else None
    edited = Scene4D.from_pretrained(scene).edit(instruction, parser=parser)
    return _write(edited, out, {"scene": str(scene), "said": instruction})


def _write(scene: Scene4D, out: str | os.PathLike, about: dict[str, Any]) -> dict[str, Any]:
    shown = list(scene.render(0).frames)
    report = {
        **about,
        "objects": scene.names,
        "gaussians": len(scene),
        "frames": scene.frames,
        "edits": scene.edits,
    }
    with report_folder(out, report) as folder:
        scene.save_pretrained(folder / "scene")
        write_video(shown, folder / "video.mp4", scene.fps)
        save_gif(shown, folder / "video.gif", scene.fps)
        some = sorted({round(n * (len(shown) - 1) / (SHEET - 1)) for n in range(SHEET)})
        save_image(image_grid([shown[n] for n in some], columns=SHEET), folder / "frames.png")
    return report
