"""`wm run kadaptation` and `wm run lid`."""

from pathlib import Path
from typing import Annotated

import typer

GROUP = "Adapt"


def kadaptation(
    pictures: Annotated[list[Path] | None, typer.Argument(help="files and folders to classify")] = None,
    train: Annotated[Path | None, typer.Option(help="folder with a sub-folder of pictures for each class")] = None,
    out: Annotated[Path, typer.Option(help="folder for the results")] = Path("outputs/kadaptation"),
    base: Annotated[str, typer.Option(help="CLIP to fit: embedded name, folder or Hub id")] = "diorama-clip",
    model: Annotated[str, typer.Option(help="fitted checkpoint to use without --train")] = "kadaptation",
    validation: Annotated[Path | None, typer.Option(help="like --train; chooses the epoch")] = None,
    template: Annotated[list[str] | None, typer.Option(help="sentence with {} for the class")] = None,
    epochs: Annotated[int, typer.Option(min=0, help="0: by the class names alone")] = 50,
    seed: Annotated[int, typer.Option(min=0)] = 0,
    n: Annotated[int, typer.Option(min=1, help="size of the shared factors; divides the widths")] = 32,
    r: Annotated[int, typer.Option(min=1, help="rank of the factors of a layer")] = 1,
    probe: Annotated[bool, typer.Option("--probe", help="train the head alone, without an adapter")] = False,
) -> None:
    """Few-shot classification: fit a CLIP to folders of pictures, and classify more of them."""
    from wm_pipelines.kadaptation.run import TEMPLATES, run

    report = run(
        train=train,
        pictures=pictures or [],
        out=out,
        base=base,
        model=model,
        validation=validation,
        templates=template or TEMPLATES,
        n=n,
        r=r,
        epochs=epochs,
        seed=seed,
        probe=probe,
    )
    for row in report["predictions"]:
        typer.echo(f"{row['file']}: {row['label']} ({row['probs'][row['label']]:.2f})")
    typer.echo(f"report.json in {out}" + (f", the classifier in {out / 'model'}" if train else ""))


def lid(
    pictures: Annotated[Path, typer.Argument(help="folder with a folder of pictures for each class")],
    base: Annotated[str, typer.Option(help="embedded name, folder or Hub id of a CLIP model")],
    out: Annotated[Path, typer.Option(help="folder for the results")] = Path("outputs/lid"),
    projection: Annotated[str, typer.Option(help="fastfood | dense | sparse")] = "fastfood",
    seeds: Annotated[int, typer.Option(min=1)] = 3,
    steps: Annotated[int, typer.Option(min=1, help="of every training")] = 100,
    batch: Annotated[int, typer.Option(min=1, help="pictures a step")] = 32,
    max_dim: Annotated[int | None, typer.Option(min=1, help="highest dimension to try; default: all")] = None,
) -> None:
    """Local intrinsic dimension of attention and MLP in every layer: which of them your pictures need."""
    from wm_pipelines.kadaptation.subspace.run import run

    result = run(
        pictures=pictures,
        base=base,
        out=out,
        projection=projection,
        seeds=seeds,
        steps=steps,
        batch=batch,
        max_dim=max_dim,
        say=typer.echo,
    )
    for line in result.describe():
        typer.echo(line)
    typer.echo(f"lid.json and curves.svg in {out}")
