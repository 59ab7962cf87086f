"""What a classifier says about a person's pictures, as files: a table, a report, and the classifier itself."""

import csv
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from wm_pipelines.runtime.reports import report_folder


def prediction_rows(
    files: Sequence[Path], names: Sequence[str], labels: Sequence[str], probs: torch.Tensor
) -> list[dict[str, Any]]:
    """A row for each file: `file`, `label`, its likeliest name, and `probs`, every name with its probability.

    Args:
        probs: `(files, names)`.
    """
    return [
        {"file": str(path), "label": label, "probs": {n: round(p, 6) for n, p in zip(names, row, strict=True)}}
        for path, label, row in zip(files, labels, probs.tolist(), strict=True)
    ]


def write_results(
    out: str | os.PathLike,
    report: Mapping[str, Any],
    names: Sequence[str],
    fitted: Any = None,
    pictures: Mapping[str, Image.Image] | None = None,
) -> None:
    """Writes `report.json`, and `predictions.csv`, `model/` and pictures where there are any; all at once.

    Args:
        report: with `predictions` as `prediction_rows` makes them. names: as there.
        fitted: the pipeline that a fit changed; it writes `model/`.
        pictures: file name -> picture.
    """
    with report_folder(out, report) as folder:
        if fitted is not None:
            fitted.save_adapter(folder / "model")
        if report["predictions"]:
            with open(folder / "predictions.csv", "w", newline="", encoding="utf-8") as file:
                table = csv.writer(file)
                table.writerow(["file", "label", *names])
                table.writerows([row["file"], row["label"], *row["probs"].values()] for row in report["predictions"])
        for name, picture in (pictures or {}).items():
            picture.save(folder / name)
