"""`wm convert flickr30k`."""

from pathlib import Path
from typing import Annotated

import typer


def flickr30k(
    source: Annotated[Path, typer.Argument(help="flickr30k_test.pkl, a pickled pandas table")],
    target: Annotated[Path, typer.Argument(help="JSON file to make")],
) -> None:
    """ComCLIP's Flickr30k table (flickr30k_test.pkl) -> JSON."""
    from wm_pipelines.comclip.convert import convert

    typer.echo(f"{convert(source, target)} rows in {target}")
