"""lmms-eval (EvolvingLMMs-Lab/lmms-eval, 0.7): a folder of tasks for `--include_path`, and what they call.

Tasks are YAML files beside their questions; they name the functions of this file. Errors are clustered by video.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from wm_pipelines.evaluation.kits.documents import documents, score, video_of
from wm_pipelines.evaluation.mcq.items import Item
from wm_pipelines.evaluation.mcq.prompts import NEW_TOKENS
from wm_pipelines.runtime.files import atomic_folder

VARIANTS = {
    "direct": ("full", "direct"), "cot": ("full", "cot"), "blind": ("blind", "direct"),
    "circular": ("circular", "direct"), "mirror": ("mirror", "direct"), "reverse": ("reverse", "direct"),
}  # fmt: skip
"""The end of a task's name -> control and protocol."""

_HERE = __name__


def manifest() -> Any:
    """The entry point `lmms_eval.models`: our model class, as `--model wm_pipelines`."""
    from lmms_eval.models.registry_v2 import ModelManifest

    return ModelManifest("wm_pipelines", chat_class_path="wm_pipelines.evaluation.kits.lmms_eval_model.WMLmms")


def write_tasks(
    out: str | Path, tasks: Mapping[str, Sequence[Item]], groups: Mapping[str, Sequence[str]] | None = None
) -> list[str]:
    """Write tasks, all or none: for each name `{name}_{variant}`, where any item can be asked so.

    A name that ends in "!" gives its direct task the name alone, as `mmworld_wm!` gives `mmworld_wm`,
    `mmworld_wm_cot` and so on.

    Args:
        out: folder. tasks: name -> items, with files as videos.
        groups: name -> tasks; those that were not written are left out.

    Returns:
        The names of the tasks.
    """
    written: list[str] = []
    with atomic_folder(out) as folder:
        for name, items in tasks.items():
            bare = name.removesuffix("!")
            for variant, (control, protocol) in VARIANTS.items():
                found = documents(items, control, protocol)
                if not found:
                    continue
                task = bare if name != bare and variant == "direct" else f"{bare}_{variant}"
                twins = str((Path(out) / "twins").absolute())
                lines = (json.dumps({**document, "twins": twins}, ensure_ascii=False) + "\n" for document in found)
                (folder / f"{task}.jsonl").write_text("".join(lines), encoding="utf-8")
                (folder / f"{task}.yaml").write_text(_yaml(task, protocol, variant), encoding="utf-8")
                written.append(task)
        for name, members in (groups or {}).items():
            there = [member for member in members if member in written]
            if there:
                lines = "".join(f"  - {member}\n" for member in there)
                (folder / f"{name}.yaml").write_text(f"group: {name}\ntask:\n{lines}", encoding="utf-8")
    return written


def _yaml(task: str, protocol: str, variant: str) -> str:
    metrics = ["accuracy", "format_failures", *(["all_orders"] if variant == "circular" else [])]
    listed = "".join(
        f"  - metric: wm_{name}\n    aggregation: !function {_HERE}.{name}\n"
        f"    higher_is_better: {'false' if name == 'format_failures' else 'true'}\n"
        for name in metrics
    )
    return f"""\
task: {task}
dataset_path: json
dataset_kwargs:
  data_files:
    test: {task}.jsonl
test_split: test
output_type: generate_until
doc_to_visual: !function {_HERE}.doc_to_visual
doc_to_text: !function {_HERE}.doc_to_text
doc_to_messages: !function {_HERE}.doc_to_messages
doc_to_target: target
process_results: !function {_HERE}.process_{"circular" if variant == "circular" else "results"}
cluster_key: video_id
score_key: score
generation_kwargs:
  max_new_tokens: {NEW_TOKENS[protocol]}
  temperature: 0
  do_sample: false
metric_list:
{listed}metadata:
  - version: 1.0
"""


def doc_to_visual(doc: Mapping[str, Any]) -> list[str]:
    """The path of the video, or nothing."""
    path = video_of(dict(doc))
    return [] if path is None else [str(path)]


def doc_to_text(doc: Mapping[str, Any], lmms_eval_specific_kwargs: Any = None) -> str:
    return doc["prompt"]


def doc_to_messages(doc: Mapping[str, Any], lmms_eval_specific_kwargs: Any = None) -> list[dict[str, Any]]:
    """One turn: the video, if there is one, and the text."""
    shown = [{"type": "video", "url": path} for path in doc_to_visual(doc)]
    return [{"role": "user", "content": [*shown, {"type": "text", "text": doc["prompt"]}]}]


def process_results(doc: Mapping[str, Any], results: Sequence[str]) -> dict[str, Any]:
    """Metric -> record of the question with its `score`; `wm eval rescore` reads it in the samples."""
    found = score(dict(doc), results[0])
    failed = {"score": found["format_failure"], "video_id": found["video_id"]}
    return {"wm_accuracy": found, "wm_format_failures": failed}


def process_circular(doc: Mapping[str, Any], results: Sequence[str]) -> dict[str, Any]:
    found = process_results(doc, results)
    whole = {name: found["wm_accuracy"][name] for name in ("uid", "video_id", "score")}
    return {**found, "wm_all_orders": whole}


def accuracy(results: Iterable[Mapping[str, Any]]) -> float:
    scores = [result["score"] for result in results]
    return sum(scores) / len(scores)


format_failures = accuracy


def all_orders(results: Iterable[Mapping[str, Any]]) -> float:
    """The share of items that are right in every order of their options."""
    of: dict[str, float] = {}
    for result in results:
        of[result["uid"]] = min(of.get(result["uid"], 1.0), result["score"])
    return sum(of.values()) / len(of)
