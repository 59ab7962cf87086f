"""An evaluation in shards: in several processes, or as actors of Ray Data, one a GPU (our design).

Workers make items and model themselves, by name. A shard is done whole or not at all: what a killed worker had in its
hands is asked again, and nothing else. The rows are those of one process, byte for byte.
"""

import hashlib
import json
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from wm_pipelines.evaluation.mcq.asking import Asker, BadVideo, video_name
from wm_pipelines.evaluation.mcq.loading import Call
from wm_pipelines.evaluation.mcq.models import as_model
from wm_pipelines.evaluation.mcq.rows import Row
from wm_pipelines.evaluation.mcq.runner import Evaluation, finish, open_folder, order, run_record
from wm_pipelines.evaluation.mcq.settings import Settings, Task, plan
from wm_pipelines.runtime.files import write_atomic
from wm_pipelines.runtime.readers import read_json
from wm_pipelines.runtime.shards import Failed, Plan, Shard, dead_letters, divide, make_plan, plan_rows, run_stage

SHARD = 16
"""Files that a shard has; each names the items of one video."""


class AskShard:
    """The stage: rows of the items that a shard's files name."""

    def __init__(self, config: dict[str, Any]):
        self.settings = Settings(**config["settings"])
        self.task = plan(Call(**config["items"])()[: config["limit"]], self.settings)
        self.items = {item.uid: item for item in self.task.items}
        self.asker = Asker(self.task, as_model(Call(**config["model"])()), self.settings)

    def __call__(self, shard: Shard) -> Iterable[dict[str, Any] | Failed]:
        for path in shard.paths:
            for uid in read_json(path):
                item = self.items[uid]
                try:
                    rows = [row.to_dict() for row in self.asker.rows(item, self.asker.questions(item))]
                except BadVideo as error:
                    yield Failed(uid, str(error))
                    continue
                yield from rows


def evaluate_in_shards(
    items: Call,
    model: Call,
    *,
    out: str | os.PathLike,
    executor: str = "ray",
    workers: int = 1,
    num_gpus: float = 0.0,
    limit: int | None = None,
    on_shard: Callable[[int, int], None] | None = None,
    **settings: Any,
) -> Evaluation:
    """As `evaluate`, by several workers.

    Args:
        items: makes the items, a list. model: makes the model.
        out: folder that all workers see under one path.
        executor, workers, num_gpus, on_shard: as `run_stage` takes them.
        limit: take the first items only.
        settings: as for `evaluate`; without timings.

    Raises:
        ValueError: as `evaluate`; a shard failed. Others as `run_stage`.
    """
    chosen, out = Settings(**settings), Path(out)
    if chosen.timings:
        raise ValueError("`timings` is True, but rows in shards must not depend on the time; leave it out")
    task = plan(items()[:limit], chosen)
    named = as_model(model())  # fails here, once, where it can't be made or asked
    named.check(chosen.protocol)
    name, record = named.name, run_record(chosen, named)
    del named
    open_folder(out, record)
    config = {
        "items": vars(items),
        "model": vars(model),
        "settings": chosen.plain(),
        "limit": limit,
        "record": record,
    }
    work = _plan(out, task, config)
    run_stage(work, AskShard, executor, workers, max_failures=len(task.items), num_gpus=num_gpus, on_shard=on_shard)
    for letter in dead_letters(work):
        if letter["key"] in {item.uid for item in task.items}:
            if chosen.on_missing == "error":
                raise ValueError(f"{letter['reason']}; `on_missing='skip'` leaves such items out")
            task.skipped[letter["key"]] = letter["reason"]
    rows = sorted((Row.from_dict(row) for row in plan_rows(work)), key=order)
    if not rows:
        raise ValueError(f"no item is left: of {len(task.skipped)} the video can't be read")
    return finish(task, rows, chosen, name, out)


def _plan(out: Path, task: Task, config: dict[str, Any]) -> Plan:
    """The plan of a run, in a folder of its own: a file for each video, which names its items."""
    asked = {name: [] for name in sorted(map(video_name, task.items))}
    for item in task.items:
        asked[video_name(item)].append(item.uid)
    text = json.dumps([config, asked], sort_keys=True)
    folder = out / f"shards-{hashlib.sha256(text.encode()).hexdigest()[:12]}"
    files = []
    for number, uids in enumerate(asked.values()):
        files.append(folder / "items" / f"{number:06}.json")
        if not files[-1].exists():
            files[-1].parent.mkdir(parents=True, exist_ok=True)
            write_atomic(files[-1], json.dumps(uids))
    return make_plan(folder / "work", divide(files, SHARD), root=folder / "items", config=config)
