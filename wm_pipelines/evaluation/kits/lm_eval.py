"""lm-eval (EleutherAI/lm-evaluation-harness): the questions without videos, by the log-likelihood of the letter.

It has no videos; what a language model scores here is what the text gives away.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from wm_pipelines.evaluation.mcq.items import Item
from wm_pipelines.evaluation.mcq.prompts import LOGLIK, prompt
from wm_pipelines.runtime.files import atomic_folder


def write_blind_tasks(out: str | Path, tasks: Mapping[str, Sequence[Item]]) -> list[str]:
    """Write `{name}_blind` of each name, all or none: YAML for `--include_path`, and the questions as JSONL.

    Returns:
        The names of the tasks.
    """
    with atomic_folder(out) as folder:
        for name, items in tasks.items():
            task = f"{name}_blind"
            path = (Path(out) / f"{task}.jsonl").absolute()  # lm-eval looks for it from where it was started
            (folder / path.name).write_text("".join(map(_line, items)), encoding="utf-8")
            (folder / f"{task}.yaml").write_text(_yaml(task, path), encoding="utf-8")
    return [f"{name}_blind" for name in tasks]


def _line(item: Item) -> str:
    letters = list(item.options)
    found = {"uid": item.uid, "text": prompt(LOGLIK, item.question, item.options), "letters": letters,
             "gold": letters.index(item.answer)}  # fmt: skip
    return json.dumps(found, ensure_ascii=False) + "\n"


def _yaml(task: str, path: Path) -> str:
    return f"""\
task: {task}
dataset_path: json
dataset_kwargs:
  data_files:
    test: {json.dumps(str(path))}
test_split: test
output_type: multiple_choice
doc_to_text: "{{{{text}}}}"
doc_to_choice: letters
doc_to_target: gold
target_delimiter: " "
metric_list:
  - metric: acc
    aggregation: mean
    higher_is_better: true
metadata:
  version: 1.0
"""
