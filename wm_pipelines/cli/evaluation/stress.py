"""`wm eval stress`: what a model learns from the questions of a data set alone."""

import json
from pathlib import Path
from typing import Annotated

import typer


def stress(
    data: Annotated[Path, typer.Argument(help="VLM4D's folder, MMWorld's questions, or items as JSONL")],
    out: Annotated[Path, typer.Option(help="JSONL file: a row with its bias score for each item")] = Path(
        "outputs/stress.jsonl"
    ),
    folds: Annotated[int, typer.Option(help="parts that videos are dealt to")] = 10,
    penalty: Annotated[float, typer.Option(help="of the weights' squares")] = 1.0,
    seed: Annotated[int, typer.Option(min=0, help="of the dealing")] = 0,
) -> None:
    """Train a text-only model on other videos' questions and ask it about each: what the text gives away."""
    from wm_pipelines.cli.evaluation_data import data_items
    from wm_pipelines.evaluation.mcq.figures import share
    from wm_pipelines.evaluation.mcq.stress import stress as found_by
    from wm_pipelines.evaluation.mcq.summary import percent
    from wm_pipelines.runtime.files import write_atomic

    items = data_items(data)
    found = found_by(items, folds, penalty, seed)
    write_atomic(out, "".join(json.dumps(bias._asdict(), ensure_ascii=False) + "\n" for bias in found))
    ways = {"all": lambda item: "", "subset": lambda i: i.subset, "facet": lambda i: i.facet, "type": lambda i: i.family}
    for way, value_of in ways.items():
        for value in sorted({value_of(item) for item in items}):
            some = [bias for item, bias in zip(items, found, strict=True) if value_of(item) == value]
            if way != "all" and (len(some) == len(items) or not value):
                continue
            told = percent(share([bias.correct for bias in some], [bias.cluster for bias in some]))
            chance = sum(bias.chance for bias in some) / len(some)
            typer.echo(f"{value or way:<32}{len(some):>7,}  text alone {told}, guessing {100 * chance:.1f} %")
    typer.echo(out)
