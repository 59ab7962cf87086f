"""`wm run flexecontrol`."""

from pathlib import Path
from typing import Annotated

import typer

GROUP = "Make"


def flexecontrol(
    prompt: Annotated[str | None, typer.Option(help="the text; may be left out with --scene-graph")] = None,
    condition: Annotated[
        list[str] | None,
        typer.Option(
            help="TYPE=FILE[,from=photo][,fit=crop|pad|stretch][,phrase=..][,strength=..][,region=..][,start=..][,end=..]"
        ),
    ] = None,
    scene_graph: Annotated[Path | None, typer.Option(help="JSON file of a scene graph")] = None,
    out: Annotated[Path, typer.Option(help="folder for the results")] = Path("outputs/flexecontrol"),
    base: Annotated[
        str | None, typer.Option(help="embedded name, folder or Hub id; default: the adapter's own")
    ] = None,
    control: Annotated[str, typer.Option(help="embedded name, folder or Hub id")] = "flexecontrol",
    negative_prompt: Annotated[str | None, typer.Option()] = None,
    seed: Annotated[int, typer.Option(help="picture i uses seed + i")] = 0,
    images: Annotated[int, typer.Option(min=1, help="number of pictures")] = 1,
    steps: Annotated[int | None, typer.Option(min=1, help="default: the checkpoint's own")] = None,
    guidance: Annotated[
        float | None, typer.Option(help="classifier-free guidance; default: the checkpoint's own")
    ] = None,
    height: Annotated[int | None, typer.Option()] = None,
    width: Annotated[int | None, typer.Option()] = None,
    binding: Annotated[str, typer.Option(help="attention | none")] = "attention",
    on_conflict: Annotated[str, typer.Option(help="warn | error | ignore")] = "warn",
) -> None:
    """Text to picture under any number of conditions."""
    from wm_pipelines.flexecontrol.run import run

    report = run(
        prompt=prompt,
        conditions=condition or [],
        out=out,
        base=base,
        control=control,
        scene_graph=scene_graph,
        seed=seed,
        images=images,
        height=height,
        width=width,
        negative_prompt=negative_prompt,
        num_inference_steps=steps,
        guidance_scale=guidance,
        binding=binding,
        on_conflict=on_conflict,
    )
    for conflict in report["conflicts"]:
        typer.echo(f"conflict: {conflict['message']}", err=True)
    typer.echo(f"{images} picture(s) and report.json in {out}")
