"""`wm eval kit`: our data sets as tasks of other evaluation kits."""

from pathlib import Path
from typing import Annotated

import typer

KITS = ("lmms-eval", "vlmevalkit", "lm-eval")


def kit(
    kit: Annotated[str, typer.Argument(help=", ".join(KITS))],
    data: Annotated[str, typer.Argument(help="VLM4D's folder, MMWorld's questions, items as JSONL, or diorama")],
    out: Annotated[Path, typer.Option(help="folder for tasks and questions")],
    videos: Annotated[Path | None, typer.Option(help="folder of MMWorld's videos")] = None,
    on_missing: Annotated[str, typer.Option(help="videos that are missing: error | skip")] = "error",
    count: Annotated[int, typer.Option(min=1, help="questions of the miniature world")] = 110,
    seed: Annotated[int, typer.Option(min=0, help="of the miniature world")] = 0,
) -> None:
    """Write a data set as tasks for lmms-eval (--include_path), VLMEvalKit or lm-eval."""
    from wm_pipelines.cli.evaluation_data import data_items
    from wm_pipelines.evaluation.kits.documents import with_files

    if kit not in KITS:
        raise ValueError(f"`kit` is {kit!r}; it must be one of {', '.join(KITS)}")
    blind = kit == "lm-eval"
    if data == "diorama":
        from wm_pipelines.diorama.quiz import diorama_items

        items = diorama_items(count, seed=seed)
        items = items if blind else with_files(items, out / "videos")
    else:
        items = data_items(Path(data), not blind, videos, on_missing)
    if not blind and all(item.video is None for item in items):
        raise ValueError(f"no item of {data} has a video; give `--videos`")
    sets: dict[str, list] = {}
    for item in items:
        name = {"vlm4d": f"vlm4d_{item.subset}", "mmworld": "mmworld_wm!"}.get(
            item.source, f"{item.source}_{item.subset}"
        )
        sets.setdefault(name.replace(" ", "_"), []).append(item)
    if kit == "lmms-eval":
        from wm_pipelines.evaluation.kits.lmms_eval import write_tasks

        groups = {"vlm4d": ["vlm4d_real_direct", "vlm4d_synthetic_direct"]} if "vlm4d_real" in sets else {}
        names = write_tasks(out, sets, groups)
        said = f"lmms-eval --include_path {out} --model wm_pipelines --model_args pretrained=NAME --tasks {names[0]}"
    elif kit == "lm-eval":
        from wm_pipelines.evaluation.kits.lm_eval import write_blind_tasks

        names = write_blind_tasks(out, {name.removesuffix("!"): some for name, some in sets.items()})
        said = f"lm_eval --include_path {out} --model hf --model_args pretrained=NAME --tasks {names[0]}"
    else:
        from wm_pipelines.evaluation.kits.vlmevalkit import write_tables

        names = write_tables(out, {name.removesuffix("!"): some for name, some in sets.items()})
        said = f"LMUData={out} and `wm_pipelines.evaluation.kits.vlmevalkit.register()` before vlmeval's run"
    typer.echo(f"{out}: {', '.join(names)}")
    typer.echo(said)
