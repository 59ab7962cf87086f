"""`wm convert vqgan`."""

from pathlib import Path
from typing import Annotated

import typer


def vqgan(
    checkpoint: Annotated[Path, typer.Argument(help="torch file, safetensors file, or a folder of safetensors")],
    folder: Annotated[Path, typer.Argument(help="folder of a VQModel to make")],
    config: Annotated[Path | None, typer.Option(help="vqgan.yaml; Chameleon's architecture without it")] = None,
    prefix: Annotated[str, typer.Option(help="of the VQGAN's names in the checkpoint")] = "",
) -> None:
    """A VQGAN of taming-transformers, Chameleon, Anole or Liquid -> a VQModel folder."""
    from wm_pipelines.tokens.convert import convert, read_config

    vq = convert(checkpoint, folder, None if config is None else read_config(config), prefix)
    typer.echo(f"{folder}: {sum(p.numel() for p in vq.parameters()):,} parameters")
