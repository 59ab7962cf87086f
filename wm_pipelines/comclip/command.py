"""`wm run comclip`."""

from pathlib import Path
from typing import Annotated

import typer


def comclip(
    image: Annotated[list[Path], typer.Option(help="picture; one for each text, or one for all")],
    text: Annotated[list[str], typer.Option(help="caption; one for each picture, or one for all")],
    boxes: Annotated[
        list[Path] | None, typer.Option(help="JSON file {label: [[x0,y0,x1,y1], ..]}, one for each picture")
    ] = None,
    out: Annotated[Path, typer.Option(help="folder for the results")] = Path("outputs/comclip"),
    base: Annotated[
        str, typer.Option(help="ComCLIP, CLIP, SigLIP or BLIP-2: embedded name, folder or Hub id")
    ] = "diorama-clip",
    detector: Annotated[
        str | None, typer.Option(help="Grounding DINO or OWLv2, where there are no boxes: folder or Hub id")
    ] = None,
    parser: Annotated[
        str, typer.Option(help="what reads captions: rules | spacy:MODEL | factual:FOLDER_OR_HUB_ID")
    ] = "rules",
    fusion: Annotated[str | None, typer.Option(help="released | gclip | late | equal")] = None,
    missing: Annotated[str | None, typer.Option(help="what a part without a box sees: full | blank")] = None,
    embed: Annotated[str | None, typer.Option(help="unit | raw")] = None,
    fit: Annotated[str | None, typer.Option(help="how a picture becomes square: pad | stretch | crop")] = None,
    strict: Annotated[bool, typer.Option("--strict", help="stop where a caption or box is missing its part")] = False,
) -> None:
    """How well pictures and captions go together, by the parts that a caption names."""
    from wm_pipelines.comclip.run import run

    report = run(
        images=image,
        texts=text,
        out=out,
        base=base,
        boxes=boxes or [],
        detector=detector,
        parser=parser,
        fit=fit,
        strict=strict,
        fusion=fusion,
        missing=missing,
        embed=embed,
    )
    for row in report["pairs"]:
        controls = f"plain {row['baseline']:.4f}, boxes {row['detector']:.2f}"
        typer.echo(f"{row['image']} / {row['text']}: {row['score']:.4f} ({controls})")
    for failure in report["failures"]:
        typer.echo(f"{failure['kind']}: {failure['message']}", err=True)
    typer.echo(f"sub-images, report.json and index.html in {out}")
