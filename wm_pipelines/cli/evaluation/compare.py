"""`wm eval compare`: two runs on the same items."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer


def compare(
    first: Annotated[Path, typer.Argument(help="folder of a run, or its rows.jsonl")],
    second: Annotated[Path, typer.Argument(help="the baseline, likewise")],
    control: Annotated[str, typer.Option(help="of which rows are compared")] = "full",
    allow_mismatch: Annotated[
        bool, typer.Option("--allow-mismatch", help="also runs that saw other frames or prompts, or do not say")
    ] = False,
    out: Annotated[Path | None, typer.Option(help="JSON file for all figures, with the items that differ")] = None,
) -> None:
    """Exact McNemar and the difference with its interval over videos."""
    from wm_pipelines.cli.evaluation_data import run_rows
    from wm_pipelines.evaluation.mcq.compare import compare as compared
    from wm_pipelines.runtime.reports import write_json

    found = compared(run_rows(first), run_rows(second), control, allow_mismatch)
    gap, test = found.difference, found.test
    for name, accuracy in zip((found.first, found.second), found.accuracies, strict=True):
        typer.echo(f"{name}: {100 * accuracy:.1f} %")
    low, high = 100 * gap.low, 100 * gap.high
    typer.echo(
        f"difference {100 * gap.value:+.1f} [{low:+.1f}, {high:+.1f}] points over {gap.clusters:,} videos, "
        f"{found.n:,} items; McNemar p = {test.p:.3g} ({test.only_first} and {test.only_second} only one got)"
    )
    if found.detectable is not None:
        typer.echo(f"smallest gap found with 80 % power: {100 * found.detectable:.1f} points")
    for number, what in ((found.unanswered, "items not answered by both"), (found.unshared, "items of one run only")):
        if number:
            typer.echo(f"left out: {number:,} {what}")
    for share, what in ((found.other_frames, "other frames"), (found.other_prompts, "other prompts"),
                        (found.unknown, "unknown frames and prompts")):  # fmt: skip
        if share:
            typer.echo(f"beware: {100 * share:.1f} % of items with {what}")
    if out is not None:
        typer.echo(write_json(out, asdict(found)))
