"""From a finished training run to a checkpoint: weights, record, card, and its page under `model_cards/`."""

import json
import os
import shutil
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import yaml

from wm_pipelines.config import EvaluationRecord, TrainingRecord, WMConfig, write_atomic
from wm_pipelines.hub import store
from wm_pipelines.hub.cards import write_card

_SIZE = 64


def _diorama_sd(options: dict[str, Any]) -> dict[str, Any]:
    from wm_pipelines.diorama.language import VOCABULARY

    return {
        "method": "diorama-sd",
        "pipeline": "StableDiffusionPipeline",
        "method_config": {"image_size": _SIZE, "guidance_scale": 4.0, "num_inference_steps": 25},
        "vocabulary": list(VOCABULARY),
    }


def _diorama_judge(options: dict[str, Any]) -> dict[str, Any]:
    from wm_pipelines.diorama.scene import COLOURS, SHAPES

    return {
        "method": "diorama-judge",
        "method_config": {"image_size": _SIZE, "colours": list(COLOURS), "shapes": list(SHAPES)},
    }


def _diorama_clip(options: dict[str, Any]) -> dict[str, Any]:
    from wm_pipelines.diorama.clip_training import CLIP_WORDS

    return {"method": "diorama-clip", "method_config": {"image_size": _SIZE}, "vocabulary": list(CLIP_WORDS)}


def _diorama_video(options: dict[str, Any]) -> dict[str, Any]:
    settings = {"image_size": _SIZE, "num_frames": 16, "guidance_scale": 4.0, "num_inference_steps": 20}
    # by `mojito_dmc.py --tune`; ten iterations are a little better and cost twice as much
    taps = ["up_blocks.1", "up_blocks.2"]
    settings["guidance"] = {"eta": 30.0, "iterations": 5, "fraction": 0.2, "threshold": 0.2, "taps": taps}
    return {
        "method": "diorama-video",
        "pipeline": "MojitoPipeline",
        "base_model": store.base_ref("diorama-sd"),
        "method_config": {**settings, "shared_noise": options.get("shared_noise", 0.0)},
        "paper": "arXiv:2412.08948",
    }


def _mojito(options: dict[str, Any]) -> dict[str, Any]:
    from wm_pipelines.mojito.fit import FolderTask

    options = {**FolderTask.defaults, **options}
    return {
        "method": "mojito",
        "pipeline": "MojitoPipeline",
        "base_model": store.base_ref(options["base"]),
        "method_config": {
            "image_size": options["size"],
            "num_frames": options["frames"],
            "shared_noise": options["shared_noise"],
        },
        "paper": "arXiv:2412.08948",
    }


def _flexecontrol(options: dict[str, Any]) -> dict[str, Any]:
    from wm_pipelines.flexecontrol.training import DEFAULTS

    return {
        "method": "flexecontrol",
        "pipeline": "FlexEControlPipeline",
        "base_model": store.base_ref(options.get("base", DEFAULTS["base"])),
        "method_config": {"image_size": _SIZE, "guidance_scale": 4.0, "num_inference_steps": 25},
        "paper": "arXiv:2405.04834",
    }


def _flexecontrol_folder(options: dict[str, Any]) -> dict[str, Any]:
    from wm_pipelines.flexecontrol.data import FolderTask

    options = {**FolderTask.defaults, **options}
    return {**_flexecontrol(options), "method_config": {"image_size": options["size"]}}


# Task -> what its record says beside its training, given the options of the recipe.
RECORDS: dict[str, Callable[[dict[str, Any]], dict[str, Any]]] = {
    "diorama-sd": _diorama_sd,
    "diorama-judge": _diorama_judge,
    "diorama-clip": _diorama_clip,
    "diorama-video": _diorama_video,
    "flexecontrol": _flexecontrol,
    "flexecontrol-folder": _flexecontrol_folder,
    "flexecontrol-global": _flexecontrol,
    "flexecontrol-global-folder": _flexecontrol_folder,
    "mojito": _mojito,
}


def seal_run(
    run: str | os.PathLike,
    out: str | os.PathLike,
    evaluation: Sequence[str | os.PathLike] = (),
    earlier: Sequence[str | os.PathLike] = (),
    page: str | os.PathLike | None = None,
) -> WMConfig:
    """Makes the checkpoint folder `out` from the run folder `run`, whole or not at all; replaces an older one.

    Args:
        run: what `wm train` left: `export/`, `record.json`, `log.jsonl`.
        evaluation: JSONL files of the benchmarks; their rows' `evaluation` entries go into the record.
        earlier: runs that this one stands on (the VAE of a base); their records become stages.
        page: folder for the card, the record, the recipe and the log, as `model_cards/` keeps them.

    Raises:
        ValueError: the run isn't finished, or its task has no record.
    """
    run, out = Path(run), Path(out)
    if not (run / "export").is_dir() or not (run / "record.json").is_file():
        raise ValueError(f"`run` {run} has no export/ and record.json; let `wm train` finish first")
    training = _training(run, earlier)
    task = training.recipe.get("task")
    if task not in RECORDS:
        raise ValueError(f"`run` trained {task!r}; checkpoints are made of {', '.join(RECORDS)}")
    values = RECORDS[task](training.recipe.get("options", {}))
    config = WMConfig(**values, training=training, evaluation=_evaluations(evaluation))
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{out.name}.") as temporary:
        partial = Path(temporary) / out.name
        shutil.copytree(run / "export", partial)
        for path in [partial, *partial.rglob("*")]:
            path.chmod(0o755 if path.is_dir() else 0o644)
        config = store.seal(partial, config)
        write_card(partial)
        if out.exists():
            os.replace(out, Path(temporary) / "old")
        os.replace(partial, out)
    if page is not None:
        _write_page(run, out, Path(page), config)
    return config


def _training(run: Path, earlier: Sequence[str | os.PathLike]) -> TrainingRecord:
    record = _record(run)
    before = [{"event": "earlier run", **_record(Path(e))} for e in earlier]
    return TrainingRecord(**{**record, "stages": before + record["stages"]})


def _record(run: Path) -> dict[str, Any]:
    """The run's record without the place of its picture cache, on which no number depends.

    A run that was stopped early has none; what its newest state says of it stands in.
    """
    if (run / "record.json").is_file():
        record = json.loads((run / "record.json").read_text(encoding="utf-8"))
    else:
        states = sorted((run / "state").glob("step-*/state.json"))
        if not states:
            raise ValueError(f"`earlier` {run} has neither record.json nor a saved state")
        state = json.loads(states[-1].read_text(encoding="utf-8"))
        record = {"stopped_at": state["step"]} | {k: state[k] for k in ("recipe", "wall_time_s", "stages")}
    record["recipe"]["options"].pop("cache", None)
    return record


def _evaluations(files: Sequence[str | os.PathLike]) -> list[EvaluationRecord]:
    rows = [json.loads(line) for file in files for line in Path(file).read_text(encoding="utf-8").splitlines()]
    return [EvaluationRecord(**entry) for row in rows for entry in row.get("evaluation", ())]


def _write_page(run: Path, checkpoint: Path, page: Path, config: WMConfig) -> None:
    page.mkdir(parents=True, exist_ok=True)
    for name in ("README.md", "wm_config.json"):
        write_atomic(page / name, (checkpoint / name).read_text(encoding="utf-8"))
    write_atomic(page / "recipe.yaml", yaml.safe_dump(config.training.recipe, sort_keys=False))
    write_atomic(page / "log.jsonl", (run / "log.jsonl").read_text(encoding="utf-8"))
