"""`wm convert morpho4d`."""

from pathlib import Path
from typing import Annotated

import typer


def morpho4d(
    source: Annotated[Path, typer.Argument(help="folder of a run, with finetune_s_model.pth and its like")],
    folder: Annotated[Path, typer.Argument(help="folder of a scene in time to make")],
    size: Annotated[tuple[int, int], typer.Option(help="height and width of the pictures, pixels")],
    fps: Annotated[float, typer.Option(help="frames a second")] = 8.0,
) -> None:
    """A scene of the authors' release (finetune_*.pth) -> a Scene4D folder."""
    from wm_pipelines.morpho4d.convert import convert

    scene = convert(source, folder, size, fps)
    typer.echo(f"{len(scene)} Gaussians, {scene.frames} frames: {folder}")
