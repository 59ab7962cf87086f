"""`wm convert discffusion` and `wm convert refcocog`."""

from pathlib import Path
from typing import Annotated

import typer


def discffusion(
    source: Annotated[Path, typer.Argument(help="pytorch_model.bin, or the same in safetensors")],
    folder: Annotated[Path, typer.Argument(help="checkpoint folder to make")],
    base: Annotated[str, typer.Option(help="embedded name or Hub id of what it was trained on")] = (
        "stabilityai/stable-diffusion-2-1-base"
    ),
) -> None:
    """The authors' attention adapter (pytorch_model.bin) -> a checkpoint folder of Discffusion."""
    from wm_pipelines.discffusion.convert import convert_adapter

    typer.echo(f"{convert_adapter(source, folder, base):,} numbers in {folder}")


def refcocog(
    source: Annotated[Path, typer.Argument(help="refs(google).p, a pickle")],
    target: Annotated[Path, typer.Argument(help="JSON file to make, refs.json")],
) -> None:
    """RefCOCOg's references (refs(google).p) -> JSON."""
    from wm_pipelines.discffusion.convert import convert_refs

    typer.echo(f"{convert_refs(source, target)} references in {target}")
