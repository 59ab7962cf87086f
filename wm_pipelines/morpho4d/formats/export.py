"""A scene in time, written as whatever the name of a file asks for."""

import os
from collections.abc import Sequence
from pathlib import Path

from wm_pipelines.media.video import VIDEO_SUFFIXES, write_video
from wm_pipelines.morpho4d.formats.clip import Clip
from wm_pipelines.morpho4d.formats.container import write_4dgs
from wm_pipelines.morpho4d.formats.glb import write_glb
from wm_pipelines.morpho4d.formats.page import write_page
from wm_pipelines.morpho4d.formats.ply import write_ply, write_ply_sequence
from wm_pipelines.morpho4d.formats.rigid import TOLERANCE, rigid_scene
from wm_pipelines.morpho4d.formats.splat import write_splat
from wm_pipelines.morpho4d.formats.spz import write_spz
from wm_pipelines.morpho4d.scene import Scene4D

MOMENTS = (".ply", ".spz", ".splat")
"""Suffixes of files that hold one moment."""

WHOLE = (".glb", ".4dgs", ".html", *VIDEO_SUFFIXES)
"""Suffixes of files that hold all of it. A folder, without a suffix, takes a PLY for each frame."""


def export(
    scene: Scene4D,
    path: str | os.PathLike,
    times: Sequence[float] | None = None,
    *,
    view: int = 0,
    drop_sh: bool = False,
    tolerance: float = TOLERANCE,
    title: str = "Scene",
) -> Path:
    """Writes a scene; the suffix of `path` says how.

    .ply, .spz and .splat hold one moment. A folder holds PLY files frame_0001.ply and so on, which the SuperSplat
    editor plays. .glb and .4dgs hold the motion, .html a page with a viewer, .mp4, .mov, .mkv and .webm pictures.

    Args:
        times: in frames, rising, from 0; each frame by default. A file of one moment needs one time.
        view: number of the scene's camera that a video is seen from, and a page at first.
        drop_sh: leaves out what depends on the direction, where a format has no place for it.
        tolerance: how far an object in a .glb or .4dgs may be from rigid, in its radii.
        title: of a page.

    Raises:
        ValueError: an unknown suffix, times or a camera that are not there, or what the format does not hold.
    """
    path = Path(path)
    suffix = path.suffix.lower()
    if suffix and suffix not in (*MOMENTS, *WHOLE):
        allowed = ", ".join((*MOMENTS, *WHOLE))
        raise ValueError(f"`path` ends in {suffix!r}; allowed: {allowed}, or no suffix for a folder of PLY files")
    times = _checked(scene, times)
    if suffix in MOMENTS and len(times) != 1:
        raise ValueError(f"a {suffix} holds one moment, `times` has {len(times)}: pass times=[0], or name a folder")
    if suffix in (".html", *VIDEO_SUFFIXES) and not 0 <= view < len(scene.cameras):
        raise ValueError(f"`view` is {view!r}; the scene has cameras 0 to {len(scene.cameras) - 1}")
    if suffix in VIDEO_SUFFIXES:
        return write_video(scene.render(view, times).frames, path, scene.fps)
    clip = Clip.of(scene, times)
    match suffix:
        case "":
            write_ply_sequence(clip.frames, path)
        case ".ply":
            write_ply(clip.frames[0], path)
        case ".spz":
            write_spz(clip.frames[0], path, antialiased=scene.dilation == 0)
        case ".splat":
            write_splat(clip.frames[0], path, drop_sh)
        case ".glb":
            write_glb(rigid_scene(clip, tolerance), path)
        case ".4dgs":
            write_4dgs(clip, path, tolerance=tolerance)
        case ".html":
            camera = scene.cameras.at(view, times[0])
            write_page(clip, path, camera, scene.cameras.size, scene.background, scene.dilation, title)
    return path


def _checked(scene: Scene4D, times: Sequence[float] | None) -> list[float]:
    found = [float(time) for time in (range(scene.frames) if times is None else times)]
    rising = all(a < b for a, b in zip(found, found[1:], strict=False))
    if not found or not rising or not all(0 <= time <= scene.frames - 1 for time in found):
        raise ValueError(f"`times` is {found[:8]}; frames from 0 to {scene.frames - 1} that rise, at least one")
    return found
