"""`wm run dynamics`."""

from pathlib import Path
from typing import Annotated

import typer

GROUP = "Judge"


def dynamics(
    source: Annotated[list[Path], typer.Option(help="picture before; one or several")],
    target: Annotated[list[Path], typer.Option(help="picture after, one for each source")],
    model: Annotated[str, typer.Option(help="dynamics model: folder or Hub id")],
    action: Annotated[
        list[str] | None, typer.Option(help="score it, one for each pair or one for all; else say the likeliest")
    ] = None,
    out: Annotated[Path, typer.Option(help="folder for report.json")] = Path("outputs/dynamics"),
    base: Annotated[str | None, typer.Option(help="where the model's base is, if not as its record says")] = None,
    resize: Annotated[str | None, typer.Option(help="for pictures of another size: pad | crop")] = None,
    max_new_tokens: Annotated[int, typer.Option(help="where a sentence is cut off")] = 48,
) -> None:
    """Which action leads from one picture to another, in words."""
    from wm_pipelines.dynamics.run import run

    report = run(
        sources=source, targets=target, actions=action, out=out, model=model, base=base, resize=resize,
        max_new_tokens=max_new_tokens,
    )  # fmt: skip
    for row in report["pairs"]:
        typer.echo(f"{row['source']} -> {row['target']}: {row['action']} ({row['score']:.3f})")
    typer.echo(f"report.json in {out}")
