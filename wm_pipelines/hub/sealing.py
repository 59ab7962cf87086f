"""From a finished training run to a checkpoint: weights, record, card, and its page under `model_cards/`."""

import json
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from wm_pipelines.config import EvaluationRecord, TrainingRecord, WMConfig
from wm_pipelines.hub import store
from wm_pipelines.hub.cards import write_card
from wm_pipelines.methods import methods
from wm_pipelines.record import Record, explain
from wm_pipelines.runtime.claims import holding
from wm_pipelines.runtime.files import atomic_folder, write_atomic
from wm_pipelines.runtime.readers import located, read_json, read_jsonl


@holding("out")
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
    makers = {name: method for method in methods().values() for name in method.tasks}
    if task not in makers:
        raise ValueError(f"`run` trained {task!r}; checkpoints are made of {', '.join(makers)}")
    method = makers[task]
    config = WMConfig(
        method=method.name,
        pipeline=method.pipeline and method.pipeline.rpartition(".")[2],
        paper=method.paper,
        training=training,
        evaluation=read_evaluations(evaluation),
        **method.record(task, training.recipe.get("options", {})),
    )
    with atomic_folder(out, whole=True) as partial:
        shutil.copytree(run / "export", partial, dirs_exist_ok=True)
        for path in [partial, *partial.rglob("*")]:
            path.chmod(0o755 if path.is_dir() else 0o644)
        _forget_places(partial)
        config = store.seal(partial, config)
        write_card(partial)
    if page is not None:
        _write_page(run, out, Path(page), config)
    return config


def _forget_places(folder: Path) -> None:
    """Takes out of the parts' configurations the folder that they were loaded from on the machine that trained."""
    for path in folder.rglob("config.json"):
        config = read_json(path)
        if isinstance(config, dict) and config.pop("_name_or_path", None) is not None:
            write_atomic(path, json.dumps(config, indent=2) + "\n")


def _training(run: Path, earlier: Sequence[str | os.PathLike]) -> TrainingRecord:
    record = _record(run)
    before = [{"event": "earlier run", **_record(Path(e))} for e in earlier]
    return _checked(TrainingRecord, {**record, "stages": before + record["stages"]})


def _record(run: Path) -> dict[str, Any]:
    """The run's record without the place of its picture cache, on which no number depends.

    A run that was stopped early has none; what its newest state says of it stands in.
    """
    if (run / "record.json").is_file():
        record = _object(run / "record.json", "recipe", "stages")
    else:
        states = sorted((run / "state").glob("step-*/state.json"))
        if not states:
            raise ValueError(f"`earlier` {run} has neither record.json nor a saved state")
        state = _object(states[-1], "step", "recipe", "wall_time_s", "stages")
        record = {"stopped_at": state["step"]} | {k: state[k] for k in ("recipe", "wall_time_s", "stages")}
    record["recipe"].get("options", {}).pop("cache", None)
    return record


def _object(path: Path, *needed: str) -> dict[str, Any]:
    """The JSON object of a file with the fields `needed`, of which a recipe is one too, with its options."""
    values = read_json(path)
    recipe = values.get("recipe") if isinstance(values, dict) else None
    if not isinstance(recipe, dict) or not isinstance(recipe.get("options", {}), dict) or not {*needed} <= {*values}:
        raise ValueError(f"{path} is no record of a run; it needs {', '.join(needed)}")
    if not isinstance(values.get("stages"), list):
        raise ValueError(f"{path}: `stages` must be a list")
    return values


def read_evaluations(files: Sequence[str | os.PathLike]) -> list[EvaluationRecord]:
    """The `evaluation` entries of the rows of JSONL files.

    Raises:
        ValueError: an entry that is no evaluation; names file and line.
    """
    found = []
    for file in files:
        for line, row in read_jsonl(file):
            with located(file, line):
                entries = row.get("evaluation", []) if isinstance(row, dict) else None
                if not isinstance(entries, list):
                    raise ValueError("a row is an object, and its `evaluation` a list")
                found += [_checked(EvaluationRecord, entry) for entry in entries]
    return found


def _checked(kind: type[Record], values: Any) -> Any:
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        raise ValueError(explain(error)) from None


def _write_page(run: Path, checkpoint: Path, page: Path, config: WMConfig) -> None:
    page.mkdir(parents=True, exist_ok=True)
    for name in ("README.md", "wm_config.json"):
        write_atomic(page / name, (checkpoint / name).read_text(encoding="utf-8"))
    write_atomic(page / "recipe.yaml", yaml.safe_dump(config.training.recipe, sort_keys=False))
    write_atomic(page / "log.jsonl", (run / "log.jsonl").read_text(encoding="utf-8"))
