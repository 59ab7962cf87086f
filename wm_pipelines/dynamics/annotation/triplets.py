"""Annotated triplets as training reads them: codes, actions and where each came from, in one Parquet file."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from wm_pipelines.dynamics.annotation import labels
from wm_pipelines.dynamics.coded import CodedPairs, fingerprint
from wm_pipelines.runtime.files import sha256
from wm_pipelines.runtime.readers import located, read_json
from wm_pipelines.runtime.shards.rows import arrow_schema

TRIPLETS, MANIFEST = "triplets.parquet", "triplets.json"
FORMAT = 1
GRIDS = ("source_codes", "target_codes", "distances")
COLUMNS = ("id", "class", "rows", *GRIDS, "action")
"""Those that are read, of the types that `labels` writes."""


def read_manifest(folder: str | Path) -> dict[str, Any]:
    """What `triplets.json` says of the triplets beside it, which are checked against it.

    Raises:
        ValueError: no such folder, another format, or triplets that were altered.
    """
    folder = Path(folder)
    found = read_json(folder / MANIFEST)
    told = isinstance(found, dict) and all(isinstance(found.get(name), str) for name in ("sha256", "tokens"))
    if not told or found.get("format") != FORMAT:
        raise ValueError(f"{folder / MANIFEST} is no list of triplets of format {FORMAT}; run `wm annotate reduce`")
    path = folder / TRIPLETS
    if not path.is_file():
        raise ValueError(f"{folder} has no {TRIPLETS}; run `wm annotate reduce` again")
    if sha256(path) != found["sha256"]:
        raise ValueError(f"{path} was altered since it was written; run `wm annotate reduce` again")
    return found


def read_triplets(folder: str | Path, pictures: Any) -> CodedPairs:
    """The triplets of a folder that `wm annotate reduce` wrote; `distances` are those of `vq_l2`.

    Args:
        pictures: the tokeniser of the model that is to learn from them.

    Raises:
        ValueError: as `read_manifest`; codes of another tokeniser; pyarrow is missing.
    """
    try:
        import pyarrow.parquet as parquet
    except ImportError:
        raise ValueError('triplets need pyarrow: pip install "wm-pipelines[scale]"') from None
    found = read_manifest(folder)
    own = fingerprint(pictures)
    if found["tokens"] != own:
        told = f"{folder} holds codes of tokeniser {found['tokens']:.99}"
        raise ValueError(f"{told}, the model has {own}; annotate again")
    path = Path(folder) / TRIPLETS
    with located(path):
        try:
            kinds = {field.name: field.type for field in parquet.read_schema(path)}
            for field in arrow_schema({name: labels.COLUMNS[name] for name in COLUMNS}):
                if kinds.get(field.name) != field.type:
                    came = kinds.get(field.name, "missing")
                    raise ValueError(f"its column {field.name!r} is {came!s:.99}; it must be {field.type}")
            table = parquet.read_table(path, columns=list(COLUMNS))
            absent = [name for name in COLUMNS if table[name].null_count]
            cells = {len(cell) for name in GRIDS for cell in table[name].to_pylist() or ()}
            rows = set(table["rows"].to_pylist())
        except (TypeError, KeyError, OSError) as error:
            raise ValueError(f"it is no table of triplets: {str(error)[:200]}") from None
        if absent or len(cells) != 1 or len(rows) != 1 or min(rows) < 1 or max(cells) % max(rows) or not max(cells):
            raise ValueError("its rows must have grids of codes of one size, and no value may be missing")
    rows = rows.pop()

    def grid(name: str, dtype: torch.dtype) -> torch.Tensor:
        flat = torch.tensor(table[name].combine_chunks().flatten().to_numpy(zero_copy_only=False).copy(), dtype=dtype)
        return flat.reshape(len(table), rows, -1)

    actions = table["action"].to_pylist()
    return CodedPairs(
        grid("source_codes", torch.long), grid("target_codes", torch.long), grid("distances", torch.float32),
        tuple((action,) for action in actions), _texts(table["class"]), ("",) * len(actions), _texts(table["id"]),
    )  # fmt: skip


def _texts(column: Any) -> Sequence[str]:
    return tuple(column.to_pylist())
