"""`wm run cpl`."""

from pathlib import Path
from typing import Annotated

import typer

GROUP = "Adapt"


def cpl(
    pictures: Annotated[list[Path] | None, typer.Argument(help="files and folders to classify")] = None,
    class_name: Annotated[
        list[str] | None, typer.Option(help="text to compare with; default: those of --train")
    ] = None,
    train: Annotated[Path | None, typer.Option(help="folder with a sub-folder of pictures for each class")] = None,
    out: Annotated[Path, typer.Option(help="folder for the results")] = Path("outputs/cpl"),
    base: Annotated[str, typer.Option(help="CLIP to fit on: embedded name, folder or Hub id")] = "diorama-clip",
    model: Annotated[str, typer.Option(help="fitted prompt to use without --train")] = "cpl",
    explain: Annotated[list[str] | None, typer.Option(help="FILE=NAME, twice: the first one's counterfactual")] = None,
    variant: Annotated[str, typer.Option(help="released | paper")] = "released",
    lambda_cf: Annotated[float | None, typer.Option(help="weight of the counterfactual loss; 0 is CoCoOp")] = None,
    epochs: Annotated[int, typer.Option(min=1)] = 10,
    batch_size: Annotated[int, typer.Option(min=1)] = 1,
    learning_rate: Annotated[float, typer.Option(help="of SGD")] = 2e-3,
    seed: Annotated[int, typer.Option(min=0)] = 0,
    benchmark: Annotated[
        str | None,
        typer.Option(help="instead: a protocol on a local data set, such as caltech101, folders, flickr30k"),
    ] = None,
    root: Annotated[Path | None, typer.Option(help="with --benchmark: the folder that holds the data set")] = None,
    shots: Annotated[int | None, typer.Option(min=1, help="with --benchmark: default 16, of flickr30k 145")] = None,
) -> None:
    """Few-shot prompts: fit one to folders of pictures, and compare pictures with any class names."""
    from wm_pipelines.cpl.run import run, run_benchmark

    settings = {"variant": variant, "lambda_cf": lambda_cf, "epochs": epochs, "batch_size": batch_size}
    settings["learning_rate"] = learning_rate
    if benchmark is not None or root is not None or shots is not None:
        if pictures or class_name or train or explain or model != "cpl":
            raise ValueError(
                "benchmark and root stand alone; leave pictures, class names, train, explain and model out"
            )
        run_benchmark(
            benchmark=benchmark,
            root=root,
            out=out,
            base=base,
            shots=shots,
            seed=seed,
            say=typer.echo,
            **settings,
        )
        typer.echo(f"benchmark.jsonl in {out}")
        return
    report = run(
        pictures=pictures or [],
        class_names=class_name or [],
        train=train,
        out=out,
        base=base,
        model=model,
        explain=explain or [],
        seed=seed,
        **settings,
    )
    for row in report["predictions"]:
        typer.echo(f"{row['file']}: {row['label']} ({row['probs'][row['label']]:.2f})")
    if "explanation" in report:
        told = report["explanation"]
        state = "flipped" if told["flipped"] else "did not flip"
        typer.echo(f"{len(told['swapped'])} entries swapped, the match {state}: explanation.png")
    typer.echo(f"report.json in {out}" + (f", the prompt in {out / 'model'}" if train else ""))
