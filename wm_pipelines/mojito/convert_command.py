"""`wm convert videocrafter2`."""

from pathlib import Path
from typing import Annotated

import typer


def videocrafter2(
    checkpoint: Annotated[Path, typer.Argument(help="model.ckpt, a torch file")],
    tokenizer: Annotated[Path, typer.Argument(help="folder of a CLIP tokenizer: tokenizer/ of a Stable Diffusion")],
    folder: Annotated[Path, typer.Argument(help="folder of a MojitoPipeline to make")],
) -> None:
    """VideoCrafter2's model.ckpt and a tokenizer -> a MojitoPipeline folder of stock parts, fp16."""
    from wm_pipelines.mojito.convert import convert

    typer.echo(f"{convert(checkpoint, tokenizer, folder)}: ready for MojitoPipeline")
