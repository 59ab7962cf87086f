"""`wm eval vlm4d`: whether a model reads motion in real and synthetic clips."""

from pathlib import Path
from typing import Annotated

import typer

from wm_pipelines.cli import evaluation_run as run
from wm_pipelines.evaluation.mcq.loading import Call


def vlm4d(
    model: run.Model,
    root: Annotated[Path, typer.Option(help="folder with QA/ or data/, videos_real/ and videos_synthetic/")],
    out: run.Out,
    endpoint: run.Endpoint = None,
    protocol: run.Protocol = "direct",
    controls: run.Controls = "blind,shuffle,circular,mirror,reverse",
    num_frames: run.NumFrames = 8,
    layout: run.Layout = "images",
    sampler: run.Sampler = "linspace",
    pad: run.Pad = "error",
    template: run.Template = None,
    max_new_tokens: run.NewTokens = None,
    subset: Annotated[list[str] | None, typer.Option(help="real, synthetic; default: both")] = None,
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
    """Ask a model the questions of VLM4D, with what would make its score worthless."""
    chosen = {"subsets": subset} if subset else {}
    items = Call(
        "wm_pipelines.vlm4d.data.load_vlm4d", {"root": str(root.absolute()), "on_missing": on_missing, **chosen}
    )
    run.run(
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
