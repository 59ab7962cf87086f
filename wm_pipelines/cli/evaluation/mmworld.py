"""`wm eval mmworld`: questions about videos of seven disciplines."""

from pathlib import Path
from typing import Annotated

import typer

from wm_pipelines.cli import evaluation_run as run
from wm_pipelines.evaluation.mcq.loading import Call


def mmworld(
    model: run.Model,
    root: Annotated[Path, typer.Option(help="folder with mmworld.json, or a file of questions, JSON or JSONL")],
    out: run.Out,
    videos: Annotated[
        Path | None, typer.Option(help="folder with VIDEO_ID.mp4 or VIDEO_ID/*.mp4; default: videos/ beside them")
    ] = None,
    endpoint: run.Endpoint = None,
    protocol: run.Protocol = "direct",
    controls: run.Controls = "blind,shuffle,circular",
    num_frames: run.NumFrames = 8,
    layout: run.Layout = "images",
    sampler: run.Sampler = "linspace",
    pad: run.Pad = "error",
    template: run.Template = None,
    max_new_tokens: run.NewTokens = None,
    subset: Annotated[str, typer.Option(help="main | synthetic_audio | synthetic_visual: which the file is")] = "main",
    limit: run.Limit = None,
    seed: run.Seed = 0,
    on_missing: run.Missing = "error",
    unfit: run.Unfit = "skip",
    executor: run.Executor = "here",
    workers: run.Workers = 1,
    gpus: run.Gpus = 0.0,
    device: run.Device = None,
    dtype: run.Dtype = None,
) -> None:
    """Ask a model the questions of MMWorld, with what would make its score worthless."""
    path = (root / "mmworld.json" if root.is_dir() else root).absolute()
    arguments = {"path": str(path), "videos": str((videos or path.parent / "videos").absolute()), "subset": subset}
    items = Call("wm_pipelines.mmworld.data.load_mmworld", {**arguments, "on_missing": on_missing})
    report = run.run(
        items,
        out=out,
        model=model,
        endpoint=endpoint,
        layout=layout,
        device=device,
        dtype=dtype,
        controls=controls,
        template=template,
        limit=limit,
        executor=executor,
        workers=workers,
        gpus=gpus,
        protocol=protocol,
        num_frames=num_frames,
        sampler=sampler,
        pad=pad,
        max_new_tokens=max_new_tokens,
        seed=seed,
        on_missing=on_missing,
        unfit=unfit,
    )
    macro = report["macro"].get("discipline")
    if macro is not None:
        typer.echo(f"mean of disciplines {100 * macro:.1f} %")
