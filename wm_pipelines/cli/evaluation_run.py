"""What the commands of `wm eval` that ask a model have in common: its options, and the run."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from wm_pipelines.evaluation.mcq.loading import Call, model_call

Model = Annotated[
    str, typer.Option(help="embedded name, folder, Hub id, python:MODULE.FUNCTION, or its name at --endpoint")
]
Out = Annotated[Path, typer.Option(help="folder for rows, report and page; a run that is there goes on")]
Endpoint = Annotated[
    str | None, typer.Option(help="OpenAI-compatible address, such as http://localhost:8000/v1; key: OPENAI_API_KEY")
]
Protocol = Annotated[str, typer.Option(help="direct | cot | loglik")]
Controls = Annotated[
    str,
    typer.Option(
        help="with commas: blind, blind:grey, blind:other, options_only, one_frame, shuffle, reverse, mirror, "
        "circular, frames:K, oracle_state, dummy; or none"
    ),
]
NumFrames = Annotated[int, typer.Option(min=1, help="frames shown")]
Layout = Annotated[str, typer.Option(help="how frames are given: images | grid | video")]
Sampler = Annotated[str, typer.Option(help="which frames: linspace | transformers | vlmevalkit")]
Pad = Annotated[str, typer.Option(help="where a clip has fewer frames: error | repeat")]
Template = Annotated[Path | None, typer.Option(help="text file with {question} and {options}; default: our wording")]
NewTokens = Annotated[int | None, typer.Option(min=1, help="of a reply, at most; default: 16, with cot 1024")]
Limit = Annotated[int | None, typer.Option(min=1, help="ask the first items only")]
Seed = Annotated[int, typer.Option(min=0, help="of shuffled frames, noise and other videos")]
Missing = Annotated[str, typer.Option(help="videos that are missing or unreadable: error | skip")]
Unfit = Annotated[str, typer.Option(help="items that a control has no answer for: skip | error")]
Executor = Annotated[str, typer.Option(help="here, or with workers: processes | ray")]
Workers = Annotated[int, typer.Option(min=1, help="processes, or actors of Ray")]
Gpus = Annotated[float, typer.Option(min=0, help="GPUs of each Ray actor")]
Device = Annotated[str | None, typer.Option(help="default: a GPU where there is one")]
Dtype = Annotated[str | None, typer.Option(help="such as bfloat16; default: the checkpoint's")]


def run(
    items: Call,
    *,
    out: Path,
    model: str,
    endpoint: str | None,
    layout: str,
    device: str | None,
    dtype: str | None,
    controls: str,
    template: Path | None,
    limit: int | None,
    executor: str,
    workers: int,
    gpus: float,
    **settings: Any,
) -> dict[str, Any]:
    """Evaluate, and say the score; returns the report."""
    from tqdm import tqdm

    from wm_pipelines.evaluation.mcq.runner import evaluate
    from wm_pipelines.evaluation.mcq.scaling import evaluate_in_shards
    from wm_pipelines.evaluation.mcq.settings import Settings, plan
    from wm_pipelines.runtime.readers import read_text

    settings["controls"] = names(controls)
    settings["template"] = None if template is None else read_text(template)
    made = model_call(model, endpoint, layout=layout, device=device, dtype=dtype)
    if executor == "here":
        if workers != 1 or gpus:
            raise ValueError("`--workers` and `--gpus` are for --executor processes or ray")
        found = items()[:limit]
        plan(found, Settings(**settings))  # before a model is loaded
        done = evaluate(found, made(), out=out, progress=True, **settings)
    else:
        bar = tqdm(unit="shard")

        def tell(count: int, total: int) -> None:
            bar.total = total
            bar.update(count - bar.n)

        done = evaluate_in_shards(
            items,
            made,
            out=out,
            executor=executor,
            workers=workers,
            num_gpus=gpus,
            limit=limit,
            on_shard=tell,
            **settings,
        )
        bar.close()
    typer.echo(done.headline)
    typer.echo(f"rows.jsonl, report.json and index.html in {out}")
    return done.report


def names(text: str) -> Sequence[str]:
    """The names in a list with commas; none for "none"."""
    return () if text == "none" else tuple(name.strip() for name in text.split(","))
