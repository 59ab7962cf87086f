"""`wm eval aurora`: editors on AURORA-Bench or on its twin in the miniature world."""

from pathlib import Path
from typing import Annotated

import typer

NAMES = ("change", "preserve", "success", "copied")


def aurora(
    model: Annotated[
        list[str], typer.Option(help="world model or editor of diffusers: folder, Hub id or 'copy'; several compare")
    ],
    out: Annotated[Path, typer.Option(help="folder for rows, pictures, report.json and index.html")],
    data: Annotated[str, typer.Option(help="the benchmark's test.json, or 'diorama'")] = "diorama",
    root: Annotated[Path | None, typer.Option(help="folder of its pictures, if not that of the file")] = None,
    task: Annotated[list[str] | None, typer.Option(help="of the items; default: all")] = None,
    side: Annotated[int | None, typer.Option(help="stretch every picture to this, in pixels")] = None,
    on_missing: Annotated[str, typer.Option(help="rows without their picture: error | skip")] = "error",
    count: Annotated[int, typer.Option(min=1, help="items of each task of the miniature world")] = 50,
    states: Annotated[int, typer.Option(min=2, max=5, help="of the miniature world's chains")] = 2,
    clip: Annotated[str | None, typer.Option(help="CLIP for CLIP-I and CLIP-T: folder or Hub id")] = None,
    dino: Annotated[str | None, typer.Option(help="DINO: folder or Hub id")] = None,
    endpoint: Annotated[str | None, typer.Option(help="address of an OpenAI-compatible judge, up to /v1")] = None,
    judge: Annotated[str | None, typer.Option(help="the judge's model there")] = None,
    runs: Annotated[int, typer.Option(min=1, help="how often each edit is judged")] = 3,
    candidates: Annotated[int, typer.Option(min=1, help="that a world model draws for each edit")] = 1,
    verifier: Annotated[str | None, typer.Option(help="dynamics model that picks, or 'likelihood'")] = None,
    seed: Annotated[int, typer.Option(min=0)] = 0,
) -> None:
    """Measure editors: change and preservation, beside those of a copy, with intervals and paired tests."""
    from wm_pipelines.aurora_bench.evaluate import evaluate
    from wm_pipelines.aurora_bench.items import read_bench
    from wm_pipelines.aurora_bench.judge import EditJudge
    from wm_pipelines.aurora_bench.twin import TASKS, twin_items
    from wm_pipelines.evaluation.mcq.endpoint import EndpointModel

    if (endpoint is None) != (judge is None):
        raise ValueError("`--endpoint` and `--judge` go together: where, and which model there")
    if data == "diorama":
        if side is not None or root is not None:
            raise ValueError("`--side` and `--root` are for files; the miniature world is drawn at 64 x 64")
        items = twin_items(count, task or TASKS, states=states)
    else:
        items = read_bench(data, root, task, side=side, on_missing=on_missing)
    asked = EditJudge(EndpointModel(endpoint, judge), runs) if endpoint else None
    report = evaluate(
        model, items, out, seed=seed, clip=clip, dino=dino, judge=asked, judge_name=f"{judge} at {endpoint}" if judge
        else "", num_candidates=candidates, verifier=verifier,
    )  # fmt: skip
    for found in report["models"]:
        figures = found["summary"]["all"]
        words = ", ".join(f"{name} {figures[name]['value']:.3f}" for name in NAMES if name in figures)
        typer.echo(f"{found['name']}: {words}")
    typer.echo(f"report.json and index.html in {out}")
