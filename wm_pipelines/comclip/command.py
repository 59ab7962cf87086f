"""`wm run comclip`."""

from pathlib import Path
from typing import Annotated

import typer

GROUP = "Judge"


def comclip(
    image: Annotated[list[Path] | None, typer.Option(help="picture; one for each text, or one for all")] = None,
    text: Annotated[list[str] | None, typer.Option(help="caption; one for each picture, or one for all")] = None,
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
    benchmark: Annotated[
        str | None, typer.Option(help="instead: comvg | svo-probes | winoground | vl-checklist | flickr30k")
    ] = None,
    data: Annotated[Path | None, typer.Option(help="with --benchmark: the folder that holds it")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="with --benchmark: the first so many examples")] = None,
) -> None:
    """How well pictures and captions go together, by the parts that a caption names."""
    from wm_pipelines.comclip.benchmark import headlines
    from wm_pipelines.comclip.run import run, run_benchmark

    rule = {"fusion": fusion, "missing": missing, "embed": embed}
    if benchmark is not None or data is not None or limit is not None:
        if benchmark is None or data is None:
            raise ValueError("benchmark and data belong together: name the benchmark and the folder that holds it")
        if image or text or boxes or strict:
            raise ValueError("benchmark and data stand alone; leave image, text, boxes and strict out")
        report = run_benchmark(
            benchmark=benchmark,
            data=data,
            out=out,
            base=base,
            detector=detector,
            parser=parser,
            fit=fit,
            limit=limit,
            **rule,
        )
        for line in [*headlines(benchmark, report), f"{len(report['failed'])} of {report['n']} failed"]:
            typer.echo(line)
        typer.echo(f"report.json in {out}")
        return
    if not image or not text:
        raise ValueError("image and text belong together; give at least one of each, or a benchmark")
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
        **rule,
    )
    for row in report["pairs"]:
        controls = f"plain {row['baseline']:.4f}, boxes {row['detector']:.2f}"
        typer.echo(f"{row['image']} / {row['text']}: {row['score']:.4f} ({controls})")
    for failure in report["failures"]:
        typer.echo(f"{failure['kind']}: {failure['message']}", err=True)
    typer.echo(f"sub-images, report.json and index.html in {out}")
