"""`wm convert uni-controlnet`."""

from pathlib import Path
from typing import Annotated

import typer

DTYPES = ("float16", "bfloat16", "float32")


def uni_controlnet(
    checkpoint: Annotated[Path, typer.Argument(help="uni.ckpt, a torch file of about 6 GB")],
    folder: Annotated[Path, typer.Argument(help="folder of a FlexEControlModel to make")],
    dtype: Annotated[str, typer.Option(help=", ".join(DTYPES))] = "float16",
    types: Annotated[str | None, typer.Option(help="what the slots mean, in order: canny,lines,...")] = None,
) -> None:
    """Uni-ControlNet's uni.ckpt -> a FlexEControlModel folder, preset "uni"."""
    if dtype not in DTYPES:
        raise ValueError(f"`dtype` is {dtype!r}; allowed: {', '.join(DTYPES)}")
    import torch

    from wm_pipelines.flexecontrol.convert import convert
    from wm_pipelines.media.conditions import TYPES

    model = convert(checkpoint, folder, TYPES if types is None else types.split(","), getattr(torch, dtype))
    typer.echo(f"{folder}: {sum(p.numel() for p in model.parameters()):,} parameters")
