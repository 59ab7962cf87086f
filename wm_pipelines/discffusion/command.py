"""`wm run discffusion`."""

from pathlib import Path
from typing import Annotated

import typer

GROUP = "Judge"


def discffusion(
    image: Annotated[list[Path] | None, typer.Option(help="picture; each is scored with each text")] = None,
    text: Annotated[list[str] | None, typer.Option(help="caption")] = None,
    model: Annotated[
        str, typer.Option(help="Discffusion adapter, or a plain base: embedded name, folder or Hub id")
    ] = "diorama-sd",
    out: Annotated[Path, typer.Option(help="folder for the results")] = Path("outputs/discffusion"),
    score: Annotated[str | None, typer.Option(help="lse | dc | lse+dc")] = None,
    timesteps: Annotated[int | None, typer.Option(help="of the authors' table; more is slower and surer")] = None,
    token_mask: Annotated[str | None, typer.Option(help="all | no_bos | content")] = None,
    size: Annotated[int | None, typer.Option(help="stretch pictures to a square of this side")] = None,
    benchmark: Annotated[
        str | None, typer.Option(help="comvg | refcocog | vqa | winoground | pairs, in place of --image and --text")
    ] = None,
    root: Annotated[Path | None, typer.Option(help="folder that holds the benchmark")] = None,
    clip: Annotated[str | None, typer.Option(help="CLIP to compare with in a benchmark")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="only the first examples of a benchmark")] = None,
    seed: Annotated[int, typer.Option(min=0, help="of the noise")] = 0,
    truncate: Annotated[bool, typer.Option("--truncate", help="cut captions that are too long")] = False,
) -> None:
    """How well pictures and captions go together, by a text-to-image model."""
    from wm_pipelines.discffusion.run import run

    report = run(
        out=out,
        images=image or [],
        texts=text or [],
        model=model,
        benchmark=benchmark,
        root=root,
        clip=clip,
        limit=limit,
        score=score,
        timesteps=timesteps,
        token_mask=token_mask,
        size=None if size is None else (size, size),
        seed=seed,
        truncate=truncate,
    )
    for row in report.get("pairs", ()):
        told = f"lse {row['lse']:.4f}" + ("" if row["dc"] is None else f", dc {row['dc']:.4f}")
        typer.echo(f"{row['file']} / {row['text']}: {row['score']:.4f} ({told})")
    for metric, by_kind in report.items() if benchmark else ():
        if isinstance(by_kind, dict) and "all" in by_kind:
            shares = ", ".join(f"{arm} {100 * v['accuracy']:.1f}" for arm, v in by_kind["all"].items())
            typer.echo(f"{metric} of {report['n']}, per cent: {shares}")
    if report.get("failed"):
        typer.echo(f"{len(report['failed'])} examples could not be scored and count as wrong", err=True)
    if benchmark:
        typer.echo(report["note"])
    typer.echo(f"report.json in {out}")
