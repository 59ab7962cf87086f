"""`wm eval rescore`: what others logged, with our extractor and our statistics."""

import re
from pathlib import Path
from typing import Annotated

import typer


def rescore(
    files: Annotated[
        list[Path],
        typer.Argument(
            help="predictions of VLM4D (.json), samples of lmms-eval (.jsonl), tables of VLMEvalKit (.xlsx, .tsv), "
            "submissions of MMWorld (.json); those of one model are taken together"
        ),
    ],
    data: Annotated[Path | None, typer.Option(help="VLM4D's folder, MMWorld's questions, or items as JSONL")] = None,
    out: Annotated[Path, typer.Option(help="folder; a run each in folders of their own")] = Path("outputs/rescore"),
    model: Annotated[str | None, typer.Option(help="name of the model; default: what the file says")] = None,
    protocol: Annotated[str | None, typer.Option(help="direct, cot; default: what the file says")] = None,
    judged: Annotated[bool, typer.Option("--judged", help="keep the judge's verdicts of VLM4D's files")] = False,
) -> None:
    """Score what others logged, without a judge: rows, figures with intervals, a page for each run."""
    from wm_pipelines.cli.evaluation_data import data_items, logged_rows
    from wm_pipelines.evaluation.mcq.page import write_report
    from wm_pipelines.evaluation.mcq.rows import Row, write_rows
    from wm_pipelines.evaluation.mcq.summary import headline, summarise
    from wm_pipelines.runtime.reports import report_folder

    items = data_items(data) if data is not None else None
    runs: dict[tuple[str, str], list[Row]] = {}
    for file in files:
        for row in logged_rows(file, items, model=model, protocol=protocol, judged=judged):
            runs.setdefault((row.model, row.protocol), []).append(row)
    logged = {"logged": [str(file) for file in files], "skipped": [], "unfit": {}}
    reports = {run: summarise(rows) | logged for run, rows in runs.items()}
    folders = {run: out / re.sub(r"[^\w.@+-]+", "_", "-".join(run)) for run in runs}
    if len(set(folders.values())) < len(folders):
        raise ValueError(f"two runs would share a folder: {', '.join(map(' '.join, runs))}; name them by `--model`")
    out.mkdir(parents=True, exist_ok=True)
    for run, rows in runs.items():
        folder = folders[run]
        with report_folder(folder, reports[run]) as partial:
            write_rows(partial / "rows.jsonl", rows)
            write_report(partial, reports[run], [], [])
        typer.echo(headline(reports[run]))
        typer.echo(f"  {folder}" + (f"; {len(rows):,} of {len(items):,} items" if items else ""))
