"""`wm convert aurora`."""

from pathlib import Path
from typing import Annotated

import typer


def aurora(
    checkpoint: Annotated[Path, typer.Argument(help="torch file of latent diffusion's layout")],
    folder: Annotated[Path, typer.Argument(help="folder of an InstructPix2Pix pipeline to make")],
    base: Annotated[Path, typer.Option(help="folder of an InstructPix2Pix pipeline, for its configurations")],
) -> None:
    """AURORA's checkpoint and configurations -> a StableDiffusionInstructPix2PixPipeline folder."""
    from wm_pipelines.world_model.convert import convert

    convert(checkpoint, base, folder)
    typer.echo(f"{folder}: ready for StableDiffusionInstructPix2PixPipeline")
