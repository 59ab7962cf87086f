"""`wm run world-model`."""

from pathlib import Path
from typing import Annotated

import typer

GROUP = "Make"


def world_model(
    source: Annotated[Path, typer.Option(help="picture before")],
    action: Annotated[list[str], typer.Option(help="what happens, in words; several follow one another")],
    model: Annotated[str, typer.Option(help="world model or editor of diffusers: folder or Hub id")],
    out: Annotated[Path, typer.Option(help="folder for pictures and report.json")] = Path("outputs/world-model"),
    base: Annotated[str | None, typer.Option(help="where the model's base is, if not as its record says")] = None,
    verifier: Annotated[
        str, typer.Option(help="dynamics model that ranks: folder or Hub id; or 'likelihood', or 'none'")
    ] = "likelihood",
    candidates: Annotated[int, typer.Option(help="how many to draw for each action")] = 4,
    temperature: Annotated[float, typer.Option(help="0 takes the likeliest; low values copy the source")] = 1.0,
    seed: Annotated[int, typer.Option(help="of the candidates")] = 0,
    history: Annotated[int, typer.Option(help="earlier steps that the model sees beside the last")] = 0,
    resize: Annotated[str | None, typer.Option(help="for a picture of another size: pad | crop")] = None,
) -> None:
    """What actions in words make of a picture."""
    from wm_pipelines.world_model.run import run

    report = run(
        source=source, actions=action, out=out, model=model, base=base, verifier=verifier, candidates=candidates,
        temperature=temperature, seed=seed, history=history, resize=resize,
    )  # fmt: skip
    for step in report["steps"]:
        word = "accepted" if step["accepted"] else "no candidate passes"
        typer.echo(f"{step['action']}: {step['chosen']} ({word})")
    typer.echo(f"pictures and report.json in {out}")
