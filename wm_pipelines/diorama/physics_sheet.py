"""A physical event of the miniature world for a person to look at: frames with its contacts marked, curves, a GIF, the
JSON."""

import json
import os
from dataclasses import asdict
from pathlib import Path

import torch
from PIL import Image, ImageDraw

from wm_pipelines.diorama.physics import PhysicsSetup, Simulated, sample_physics
from wm_pipelines.diorama.render import render
from wm_pipelines.diorama.scene import COLOURS, project
from wm_pipelines.media.pictures import image_grid, save_image, to_pil
from wm_pipelines.media.video import save_gif
from wm_pipelines.runtime.files import atomic_folder

FILES = ("scene.json", "physics.json", "sheet.png", "curves.png", "scene.gif")
START = 0.1  # frames: what touches by then lay there from the start


def write_physics_sheet(out: str | os.PathLike, family: str, seed: int = 0, size: int = 64) -> list[Path]:
    """Writes the event of `family` that belongs to `seed` and returns the paths of its files.

    `sheet.png` has all frames, with a ring where two objects begin to touch and a cross where one begins to touch the
    floor; `curves.png` has heights, speeds and energies, contacts of two objects as lines; `physics.json` has what
    set off how, the world's numbers, contacts and energies; `scene.json` the scene with its sampled motions;
    `scene.gif` the clip.

    Args:
        family: as `sample_physics` takes it. size: side of the frames, pixels.
    """
    setup = sample_physics(family, "sheet", seed)
    found = setup.simulated
    frames = render(found.scene, range(found.scene.duration), size).rgb[0]
    with atomic_folder(out) as folder:
        (folder / "scene.json").write_text(found.scene.to_json() + "\n", encoding="utf-8")
        (folder / "physics.json").write_text(json.dumps(_record(setup), indent=1) + "\n", encoding="utf-8")
        save_image(image_grid(marked(found, frames), 8, gap=2), folder / "sheet.png")
        _curves(found, folder / "curves.png")
        save_gif(list(frames), folder / "scene.gif", found.scene.fps)
    return [Path(out) / name for name in FILES]


def marked(found: Simulated, frames: torch.Tensor) -> list[Image.Image]:
    """The frames (T, 3, H, W), each with the contacts that begin in it."""
    pictures = [to_pil(frame) for frame in frames]
    for c in found.contacts:
        if c.time < START:
            continue
        frame = min(round(c.time), len(pictures) - 1)
        picture = pictures[frame]
        (x, y), r = project([c.point], found.scene.camera)[0][0] * picture.size, max(2, picture.width // 24)
        draw = ImageDraw.Draw(picture)
        if c.second:
            draw.ellipse((x - r, y - r, x + r, y + r), outline="black", width=max(1, r // 3))
        else:
            draw.line((x - r, y, x + r, y), fill="black")
            draw.line((x, y - r, x, y + r), fill="black")
    return pictures


def _record(setup: PhysicsSetup) -> dict:
    found = setup.simulated
    return {
        "family": setup.family,
        "world": dict(setup.world),
        "starts": {id: asdict(start) for id, start in setup.starts.items()},
        "masses": dict(zip((o.id for o in found.scene.objects), found.masses.tolist(), strict=True)),
        "contacts": [asdict(c) for c in found.contacts],
        "kinetic": found.kinetic.sum(1).tolist(),
        "potential": found.potential.sum(1).tolist(),
        "momentum": found.momentum.sum(1).tolist(),
    }


def _curves(found: Simulated, path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(3, 1, figsize=(7, 7), sharex=True, layout="constrained")
    speeds = (found.velocities**2).sum(-1) ** 0.5
    for n, o in enumerate(found.scene.objects):
        for ax, values in zip(axes, (found.centres[..., 2], speeds), strict=False):
            ax.plot(found.times, values[:, n], color=COLOURS[o.colour], label=f"{o.id} {o.colour} {o.shape}")
    kinetic, potential = found.kinetic.sum(1), found.potential.sum(1)
    for name, values in (("kinetic", kinetic), ("potential", potential), ("sum", kinetic + potential)):
        axes[2].plot(found.times, values, label=name)
    for ax, label in zip(axes, ("height of the centre of mass (m)", "speed (m/s)", "energy (J)"), strict=True):
        ax.set_facecolor("0.85")
        ax.set_ylabel(label)
        for c in found.contacts:
            if c.second:
                ax.axvline(c.time, color="black", linewidth=0.8)
    axes[0].legend(fontsize="small")
    axes[2].legend(fontsize="small")
    axes[2].set_xlabel("frame")
    figure.savefig(path)
    pyplot.close(figure)
