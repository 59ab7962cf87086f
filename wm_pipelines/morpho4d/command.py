"""`wm run morpho4d`."""

from pathlib import Path
from typing import Annotated

import typer

GROUP = "Make"


def morpho4d(
    prompt: Annotated[str, typer.Argument(help='such as "a red cube slides right and a ball bounces"')],
    out: Annotated[Path, typer.Option(help="folder for the results")] = Path("outputs/morpho4d"),
    size: Annotated[int, typer.Option(help="side of the pictures, pixels")] = 64,
    frames: Annotated[int, typer.Option(help="length of the clip")] = 12,
    steps: Annotated[int | None, typer.Option(help="of the fit")] = None,
    seconds: Annotated[float | None, typer.Option(help="of CPU time for the fit, in place of steps")] = None,
    motion: Annotated[str | None, typer.Option(help="nodes | bases | polynomial | fourier | free")] = None,
    seed: Annotated[int, typer.Option()] = 0,
    lit: Annotated[bool, typer.Option("--lit", help="with light and shadows")] = False,
    source: Annotated[str, typer.Option(help="diorama: six true cameras | mojito: a sampled clip of one")] = "diorama",
) -> None:
    """A scene in time from a command, to play from any camera and to edit."""
    from wm_pipelines.morpho4d.run import run

    given = {"steps": steps, "seconds": seconds, "motion": motion, "seed": seed}
    report = run(prompt, out=out, size=size, frames=frames, lit=lit, source=source, **given)
    fit = report["fit"]
    took = f"{fit['steps']} steps in {fit['seconds']:.1f} s"
    typer.echo(f"{report['gaussians']} Gaussians, {took}; scene and clips in {out}")
