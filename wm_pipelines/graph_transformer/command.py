"""`wm run graph-transformer`."""

from pathlib import Path
from typing import Annotated

import typer

GROUP = "Judge"


def graph_transformer(
    image: Annotated[list[Path], typer.Option(help="picture; one for each question, or one for all")],
    question: Annotated[list[str], typer.Option(help="question; one for each picture, or one for all")],
    model: Annotated[str, typer.Option(help="graph transformer, or plain ViLT: folder or Hub id")],
    context: Annotated[str | None, typer.Option(help="text beside the pictures, for all questions")] = None,
    table: Annotated[Path | None, typer.Option(help="CSV file with a header, in place of --context")] = None,
    graph: Annotated[
        Path | None, typer.Option(help="file with a graph: our JSON, SceneGraphParser's, or FACTUAL's facts")
    ] = None,
    out: Annotated[Path, typer.Option(help="folder for the results")] = Path("outputs/graph-transformer"),
    candidate: Annotated[list[str] | None, typer.Option(help="answer to choose from; default: all")] = None,
    parser: Annotated[
        str, typer.Option(help="what reads the texts: rules | spacy:MODEL | factual:FOLDER_OR_HUB_ID")
    ] = "rules",
    regions: Annotated[str | None, typer.Option(help="which regions connect: full | knn | iou")] = None,
    neighbours: Annotated[int | None, typer.Option(help="of a region, for knn")] = None,
    seed: Annotated[int, typer.Option(help="of the random graph")] = 0,
    top_k: Annotated[int, typer.Option(help="answers to tell")] = 5,
    truncate: Annotated[bool, typer.Option("--truncate", help="cut texts that are too long")] = False,
) -> None:
    """Answer questions about pictures along a graph, beside the same model without it and with a random one."""
    from wm_pipelines.graph_transformer.run import run

    report = run(
        images=image,
        questions=question,
        out=out,
        model=model,
        context=context,
        table=table,
        graph=graph,
        candidates=candidate or [],
        parser=parser,
        regions=regions,
        neighbours=neighbours,
        seed=seed,
        top_k=top_k,
        truncate=truncate,
    )
    for row in report["questions"]:
        typer.echo(f"{row['image']} / {row['question']}")
        typer.echo(f"  {'answer':<20} graph  without  random graph")
        for line in row["answers"]:
            typer.echo(f"  {line['answer']:<20} {line['graph']:.3f}  {line['without']:.3f}    {line['random']:.3f}")
        told = f"{row['nodes']} phrases and boxes, {row['edges']} edges, {row['density']:.0%} of the cells open"
        typer.echo(f"  {'the graph is empty: the padding mask alone' if row['empty'] else told}")
    typer.echo(f"graphs, attention, report.json and index.html in {out}")
