"""`wm eval leaderboard`: all runs of a folder, each tested against the next."""

from pathlib import Path
from typing import Annotated

import typer


def leaderboard(
    folder: Annotated[Path, typer.Argument(help="every rows.jsonl in it or under it is a run, or a part of one")],
    control: Annotated[str, typer.Option(help="of which rows are ranked")] = "full",
    by: Annotated[str | None, typer.Option(help="what macro is over; default: discipline, or facet")] = None,
    allow_mismatch: Annotated[
        bool, typer.Option("--allow-mismatch", help="also runs that saw other frames or prompts, or do not say")
    ] = False,
    out: Annotated[Path | None, typer.Option(help="JSON file for all figures")] = None,
) -> None:
    """Rank models; exact McNemar against the next place, adjusted by Holm over all these tests."""
    from wm_pipelines.cli.evaluation_data import OURS, run_rows
    from wm_pipelines.evaluation.mcq.compare import leaderboard as ranked
    from wm_pipelines.runtime.reports import write_json

    files = sorted(folder.rglob(OURS))
    if not files:
        raise ValueError(f"no {OURS} in or under {folder}")
    board = ranked([row for file in files for row in run_rows(file)], control, by, allow_mismatch)
    typer.echo(
        f"{'':<44}{'n':>6} {'micro':>6}  {'95 % over videos':<16}{'macro':>6}  {'no option':>9}  against the next"
    )
    for rank in board:
        low, high = 100 * rank.micro.low, 100 * rank.micro.high
        silent = 100 * (rank.format_failures + rank.truncated)
        line = f"{rank.model[:34] + ' (' + rank.protocol + ')':<44}{rank.n:>6,} {100 * rank.micro.value:>6.1f}  "
        line += f"{f'[{low:.1f}, {high:.1f}]':<16}{100 * rank.macro:>6.1f}  {silent:>8.1f}%"
        if rank.p is not None:
            line += f"  {100 * rank.gap:+.1f}, p = {rank.p:.2g}, Holm {rank.adjusted:.2g}"
            line += f", detectable {100 * rank.detectable:.1f}" if rank.detectable is not None else ""
        typer.echo(line)
    if out is not None:
        rows = [rank._asdict() | {"micro": vars(rank.micro)} for rank in board]
        typer.echo(write_json(out, rows))
