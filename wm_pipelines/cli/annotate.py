"""`wm annotate`: unlabelled videos to triplets that a world model learns from, in three steps."""

from pathlib import Path
from typing import Annotated

import typer

annotate_app = typer.Typer(no_args_is_help=True, help="Label unlabelled videos with a dynamics model.")
Folder = Annotated[Path, typer.Argument(help="folder that `wm annotate plan` made")]
Skip = Annotated[bool, typer.Option("--skip-failed", help="go on without shards that failed whole")]


@annotate_app.command()
def plan(
    videos: Annotated[Path, typer.Argument(help="folder of videos; those in CLASS/ are of that class")],
    out: Annotated[Path, typer.Argument(help="folder for everything that is made")],
    model: Annotated[str, typer.Option(help="dynamics model: folder or Hub id")],
    licence: Annotated[str, typer.Option(help="tag that every triplet carries, such as CC-BY-4.0")],
    base: Annotated[str | None, typer.Option(help="where the model's base is, if not as its record says")] = None,
    held_out: Annotated[
        Path | None, typer.Option(help="labelled pairs (folder or AURORA's .json) that the model has not seen")
    ] = None,
    least_accuracy: Annotated[float, typer.Option(help="share of these that it must say right")] = 0.5,
    frames: Annotated[int, typer.Option(help="most key frames of a clip")] = 6,
    spacing: Annotated[int, typer.Option(help="frames between two of them at least")] = 20,
    max_ssim: Annotated[float, typer.Option(help="pairs that are more alike are dropped")] = 0.95,
    max_border: Annotated[float, typer.Option(help="share of black edges above which a pair is dropped")] = 0.1,
    max_gap_s: Annotated[float, typer.Option(help="seconds beyond which a pair is dropped")] = 6.0,
    min_hash_distance: Annotated[int, typer.Option(help="bits of 64 in which a pair's hashes must differ")] = 1,
    cut_ssim: Annotated[float, typer.Option(help="frames in a row that are less alike begin a new shot")] = 0.35,
    resize: Annotated[str, typer.Option(help="to the model's size: pad | crop")] = "pad",
    max_new_tokens: Annotated[int, typer.Option(help="longest sentence")] = 48,
    num_action_samples: Annotated[
        int, typer.Option(help="sentences drawn for each pair; 0: its likeliest one alone")
    ] = 0,
    seed: Annotated[int, typer.Option(help="of sentences that are drawn")] = 0,
    shard_size: Annotated[int, typer.Option(help="videos of a shard")] = 100,
) -> None:
    """Write down what is to be annotated, by whom and how."""
    from wm_pipelines.dynamics.annotation.annotate import plan_annotation
    from wm_pipelines.dynamics.data import read_aurora, read_folder

    pairs = None
    if held_out is not None:
        pairs = read_aurora(held_out) if held_out.suffix == ".json" else read_folder(held_out)
    found = plan_annotation(
        videos,
        out,
        model=model,
        licence=licence,
        base=base,
        shard_size=shard_size,
        max_new_tokens=max_new_tokens,
        held_out=pairs,
        least_accuracy=least_accuracy,
        frames=frames,
        spacing=spacing,
        max_ssim=max_ssim,
        max_border=max_border,
        max_gap_s=max_gap_s,
        min_hash_distance=min_hash_distance,
        cut_ssim=cut_ssim,
        resize=resize,
        num_action_samples=num_action_samples,
        seed=seed,
    )
    typer.echo(f"{found['videos']} videos in {found['shards']} shards; next: wm annotate run {out}")


@annotate_app.command()
def run(
    out: Folder,
    executor: Annotated[str, typer.Option(help="here | processes | ranks | ray")] = "here",
    workers: Annotated[int, typer.Option(help="processes or actors")] = 1,
    videos: Annotated[Path | None, typer.Option(help="where the videos are on this machine")] = None,
    max_failures: Annotated[int, typer.Option(help="clips and shards that may fail")] = 100,
    num_gpus: Annotated[float, typer.Option(help="GPUs of each actor that labels (ray)")] = 0.0,
    skip_failed: Skip = False,
) -> None:
    """Find key frames and label pairs; kill it at any moment and start it again to go on."""
    from wm_pipelines.dynamics.annotation.annotate import run_annotation

    found = run_annotation(
        out, executor, workers, videos=videos, skip_failed=skip_failed, num_gpus=num_gpus, max_failures=max_failures
    )
    for step, report in found.items():
        typer.echo(f"{step}: {report.done} of {report.shards} shards, {report.rows} rows, {report.failures} failures")


@annotate_app.command()
def reduce(
    out: Folder,
    keep: Annotated[int, typer.Option(help="triplets to keep")] = 7000,
    least_margin: Annotated[
        float | None, typer.Option(help="leave out labels that are no likelier than for the unchanged source by this")
    ] = None,
    skip_failed: Skip = False,
) -> None:
    """Keep the surest labels, classes in turn, as one Parquet file for training."""
    from wm_pipelines.dynamics.annotation.annotate import reduce_annotation

    found = reduce_annotation(out, keep, least_margin=least_margin, skip_failed=skip_failed)
    typer.echo(f"{found['rows']} triplets of {len(found['classes'])} classes in {out / 'triplets'}")
    for why, count in found["dropped"].items():
        typer.echo(f"  dropped, {why}: {count}")
