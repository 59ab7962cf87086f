"""`wm eval diorama`: questions about clips of the miniature world, whose truth is exact."""

from typing import Annotated

import typer

from wm_pipelines.cli import evaluation_run as run
from wm_pipelines.evaluation.mcq.loading import Call


def diorama(
    model: run.Model,
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
    count: Annotated[int, typer.Option(min=1, help="questions")] = 110,
    family: Annotated[list[str] | None, typer.Option(help="kind of question; default: all over clips")] = None,
    world: Annotated[str, typer.Option(help="normal | counter, which contradicts common sense | both")] = "normal",
    frames: Annotated[int, typer.Option(min=8, max=64, help="of a clip")] = 16,
    size: Annotated[int, typer.Option(min=8, help="side of a frame in pixels")] = 64,
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
    """Ask a model questions about the miniature world, with exact truth for every control."""
    drawn = {"count": count, "seed": seed, "families": family, "world": world, "frames": frames, "size": size}
    items = Call("wm_pipelines.diorama.quiz.diorama_items", drawn)
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
