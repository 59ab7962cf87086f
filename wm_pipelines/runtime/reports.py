"""The folder that a command leaves: its files move into place together, and the report that speaks of them last."""

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from wm_pipelines.runtime.files import atomic_folder, write_atomic

REPORT = "report.json"


@contextmanager
def report_folder(out: str | os.PathLike, report: Mapping[str, Any]) -> Iterator[Path]:
    """A new folder whose files come to `out`, with `report.json`, only if the block ends well.

    Args:
        report: may be filled inside the block.

    Raises:
        ValueError: as `atomic_folder`.
    """
    with atomic_folder(out, last=REPORT) as folder:
        yield folder
        write_json(folder / REPORT, report)


def write_json(path: str | os.PathLike, value: Any) -> Path:
    """Writes indented JSON that people read too, atomically."""
    return write_atomic(Path(path), json.dumps(value, indent=2, ensure_ascii=False) + "\n")
