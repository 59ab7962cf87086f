"""Questions about pictures from the command line: answers along the graph, without it and along a random one."""

import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from wm_pipelines import hub
from wm_pipelines.config import CONFIG_NAME
from wm_pipelines.graph_transformer.compare import answer_rows, answer_three_ways
from wm_pipelines.graph_transformer.pipeline import GraphTransformerPipeline
from wm_pipelines.graph_transformer.tables import Table
from wm_pipelines.media.pages import write_page
from wm_pipelines.media.pictures import load_image, save_image
from wm_pipelines.pipeline import MODEL_INDEX, AutoWMPipeline
from wm_pipelines.runtime.claims import holding
from wm_pipelines.runtime.devices import machine, on_accelerator
from wm_pipelines.runtime.readers import read_text
from wm_pipelines.runtime.reports import report_folder
from wm_pipelines.text.parsers import make_parser


def load(model: str) -> GraphTransformerPipeline:
    """A pipeline from a checkpoint of this method, or on a plain checkpoint of ViLT.

    Args:
        model: embedded name, folder or Hub id.

    Raises:
        ValueError: a name that leads nowhere, altered or truncated files, another model, or one that reads no
            pictures.
    """
    folder = hub.resolve(model)
    if (folder / CONFIG_NAME).is_file():
        pipeline = AutoWMPipeline.from_pretrained(folder)
    elif (folder / MODEL_INDEX).is_file():
        hub.check_weights(folder)
        pipeline = GraphTransformerPipeline.from_pretrained(folder)
    else:
        pipeline = GraphTransformerPipeline.from_backbone(folder)
    if not isinstance(pipeline, GraphTransformerPipeline):
        raise ValueError(f"`model` {model!r} is a {type(pipeline).__name__}; it must be a graph transformer")
    if pipeline.image_processor is None:
        raise ValueError(
            f"`model` {model!r} reads features of a detector, which a picture file does not hold; call the pipeline "
            "with RegionFeatures from Python"
        )
    return pipeline


@holding("out")
def run(
    images: Sequence[str | os.PathLike],
    questions: Sequence[str],
    out: str | os.PathLike,
    model: str,
    context: str | None = None,
    table: str | os.PathLike | None = None,
    graph: str | os.PathLike | None = None,
    candidates: Sequence[str] = (),
    parser: str = "rules",
    regions: str | None = None,
    neighbours: int | None = None,
    seed: int = 0,
    top_k: int = 5,
    truncate: bool = False,
) -> dict[str, Any]:
    """Answers questions three ways and writes `report.json`, `index.html`, graphs and attention to `out`.

    Args:
        images, questions: one to one, or one of either with all of the other.
        model: as `load`.
        context: a text for all questions. table: a CSV file in its place.
        graph: a file with a graph for all questions, in any form of `parsing.read_graph`; the parser's without one.
        candidates: answers to choose from; all of the model when empty.
        parser: "rules", "spacy:MODEL" or "factual:FOLDER_OR_HUB_ID".
        regions, neighbours: which regions connect, as in the pipeline.
        seed: of the random graph. top_k: answers that are told. truncate: cut texts that are too long.

    Returns:
        The report that was written. The files move to `out` together when all are written.

    Raises:
        ValueError: before any pass; nothing is written then.
    """
    if context is not None and table is not None:
        raise ValueError("`context` and `table` exclude each other; give one of them")
    if type(top_k) is not int or top_k < 1:
        raise ValueError(f"`top_k` is {top_k!r}; an integer of 1 or more")
    if type(seed) is not int or seed < 0:
        raise ValueError(f"`seed` is {seed!r}; an integer of 0 or more")
    pictures = [load_image(path) for path in images]
    beside = Table.from_csv(table) if table is not None else context
    given = read_text(graph) if graph is not None else "auto"
    reader = make_parser(parser)
    pipeline = load(model)
    pipeline.parser = reader
    on_accelerator(pipeline)
    asked = {"regions": regions, "neighbours": neighbours}
    began = time.perf_counter()
    outputs = answer_three_ways(
        pipeline,
        pictures,
        list(questions),
        context=beside,
        graph=given,
        seed=seed,
        truncate=truncate,
        candidates=list(candidates) or None,
        **asked,
    )
    seconds = time.perf_counter() - began
    result = outputs["graph"]
    report = {
        "model": model,
        "parser": parser if graph is None else None,
        "seed": seed,
        "seconds": round(seconds, 3),
        "machine": machine(),
        "empty_graphs": len(result.empty),
        "questions": [],
    }
    with report_folder(out, report) as folder:
        for n in range(len(result.answers)):
            picture = pictures[n if len(pictures) > 1 else 0]
            question = questions[n if len(questions) > 1 else 0]
            bias = pipeline.compile(picture, question, context=beside, graph=given, truncate=truncate, **asked)
            entry = {
                "image": Path(images[n if len(images) > 1 else 0]).name,
                "file": f"question_{n}.png",
                "question": question,
                "context": beside.text() if isinstance(beside, Table) else beside,
                "nodes": len(result.graphs[n].nodes),
                "edges": len(result.graphs[n].edges),
                "density": round(float(bias.density[0]), 6),
                "empty": n in result.empty,
                "answers": answer_rows(outputs, pipeline.answers, n, top_k),
                "graph": result.graphs[n].to_dict(),
            }
            save_image(picture, folder / entry["file"])
            save_image(bias.plot(0, picture), folder / f"graph_{n}.png")
            save_image(result.attentions[n].overlay(picture), folder / f"attention_{n}.png")
            report["questions"].append(entry)
        write_page(__package__, "graph_transformer.html", folder, report)
    return report
