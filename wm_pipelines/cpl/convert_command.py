"""`wm convert cpl` and `wm convert cpl-negatives`."""

from pathlib import Path
from typing import Annotated

import typer


def cpl(
    checkpoint: Annotated[Path, typer.Argument(help="prompt_learner/model.pth.tar-10, as Dassl keeps it")],
    folder: Annotated[Path, typer.Argument(help="folder of a CPLPromptLearner to make")],
) -> None:
    """A prompt learner of CoCoOp or CPL (model.pth.tar) -> a CPLPromptLearner folder."""
    from wm_pipelines.cpl.convert import convert

    learner = convert(checkpoint, folder)
    typer.echo(f"{folder}: {sum(p.numel() for p in learner.parameters()):,} parameters")


def cpl_negatives(
    table: Annotated[Path, typer.Argument(help="score.npy, a pickled table")],
    target: Annotated[Path, typer.Argument(help="JSON file to make")],
) -> None:
    """CPL's table of negatives (score.npy) -> JSON."""
    from wm_pipelines.cpl.convert import convert_negatives

    typer.echo(f"{convert_negatives(table, target)} negatives in {target}")
