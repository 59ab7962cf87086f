"""VLMEvalKit (open-compass/VLMEvalKit): a data set class of it, and the tables that it reads.

It has no path for others' data sets, so `register()` puts the class among its own; call it before its `run.py` does
its work. Its own frame reader needs decord; ours needs PyAV. Replies are scored by our extractor; no judge is asked.
"""

import csv
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from wm_pipelines.evaluation.kits.documents import documents, video_of
from wm_pipelines.evaluation.mcq.frames import sample
from wm_pipelines.evaluation.mcq.items import LETTERS, Item
from wm_pipelines.evaluation.mcq.logs import vlmevalkit_rows
from wm_pipelines.evaluation.mcq.summary import summarise
from wm_pipelines.runtime.files import atomic_folder
from wm_pipelines.runtime.reports import write_json

PREFIX = "WM_"
COLUMNS = ("index", "uid", "video", "question", *LETTERS, "answer", "category", "prompt", "path")


def write_tables(out: str | Path, tasks: Mapping[str, Sequence[Item]]) -> list[str]:
    """Write `WM_{name}.tsv` of each name, all or none; the folder is then VLMEvalKit's `LMUData`.

    Returns:
        The names of the data sets.
    """
    with atomic_folder(out) as folder:
        for name, items in tasks.items():
            with open(folder / f"{PREFIX}{name}.tsv", "w", newline="", encoding="utf-8") as file:
                table = csv.writer(file, delimiter="\t", lineterminator="\n")
                table.writerow(COLUMNS)
                table.writerows(map(_line, range(len(items)), items, documents(items)))
    return [f"{PREFIX}{name}" for name in tasks]


def register() -> type:
    """Make VLMEvalKit know `WM_...` data sets whose tables lie in its `LMUData`; returns the class.

    Raises:
        ImportError: there is no VLMEvalKit.
    """
    import vlmeval.dataset as kit

    found = next((known for known in kit.DATASET_CLASSES if known.__name__ == "WMVideoMCQ"), None)
    if found is None:
        found = _make_class()
        kit.VIDEO_DATASET.append(found)
        kit.DATASET_CLASSES.append(found)
        kit.SUPPORTED_DATASETS.extend(found.supported_datasets())
        kit.WMVideoMCQ = found
    return found


def _line(place: int, item: Item, document: dict[str, Any]) -> list[Any]:
    options = [item.options.get(letter, "") for letter in LETTERS]
    return [place, item.uid, item.cluster, item.question, *options, item.answer, item.facet, document["prompt"],
            document["video"]]  # fmt: skip


def _make_class() -> type:
    from vlmeval.dataset.video_base import VideoBaseDataset
    from vlmeval.smp import LMUDataRoot

    class WMVideoMCQ(VideoBaseDataset):
        """Multiple choice about videos, from a table of `write_tables`."""

        TYPE = "Video-MCQ"

        @classmethod
        def supported_datasets(cls) -> list[str]:
            return sorted(path.stem for path in Path(LMUDataRoot()).glob(f"{PREFIX}*.tsv"))

        def prepare_dataset(self, dataset: str) -> dict[str, str]:
            root = LMUDataRoot()
            path = os.path.join(root, f"{dataset}.tsv")
            if not os.path.isfile(path):
                raise ValueError(f"no table {path}; make it by `wm eval kit vlmevalkit DATA --out {root}`")
            return {"root": root, "data_file": path}

        def build_prompt(self, line: Any, video_llm: bool) -> list[dict[str, str]]:
            line = self.data.iloc[line] if isinstance(line, int) else line
            path = video_of({"uid": line["uid"], "video": line["path"], "transform": ""})
            if video_llm:
                shown = [{"type": "video", "value": str(path)}]
            else:
                shown = [{"type": "image", "value": frame} for frame in self.frames_of(line["uid"], path)]
            return [*shown, {"type": "text", "value": line["prompt"]}]

        def frames_of(self, uid: str, path: Path) -> list[str]:
            """Files of the frames that VLMEvalKit samples, (i + 1) T / (k + 1), written the first time."""
            from wm_pipelines.media.pictures import save_image, to_pil
            from wm_pipelines.media.video import iter_video

            if self.nframe < 1:
                raise ValueError(f"`nframe` is {self.nframe}; a model without videos needs at least 1 (no `fps` here)")
            folder = Path(self.frame_root) / uid.replace("/", "_")
            files = [folder / f"frame-{i + 1}-of-{self.nframe}.png" for i in range(self.nframe)]
            if not all(file.is_file() for file in files):
                folder.mkdir(parents=True, exist_ok=True)
                wanted = sample(self.nframe, sum(1 for _ in iter_video(path)), "vlmevalkit")
                kept = {n: frame.pixels for n, frame in enumerate(iter_video(path)) if n in wanted}
                for file, n in zip(files, wanted, strict=True):
                    save_image(to_pil(kept[n]), file)
            return [str(file) for file in files]

        def evaluate(self, eval_file: str, **judge_kwargs: Any) -> dict[str, Any]:
            """The figures of `summarise` of a prediction file, which are also written beside it."""
            report = summarise(vlmevalkit_rows(eval_file))
            write_json(f"{os.path.splitext(eval_file)[0]}_wm.json", report)
            full = report["controls"]["full"]
            return {"Overall": full["score"], "low": full["low"], "high": full["high"], "n": full["n"],
                    "format_failures": full["format_failures"] + full["truncated"]}  # fmt: skip

    return WMVideoMCQ
