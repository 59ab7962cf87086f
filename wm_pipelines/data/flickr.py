"""Flickr30k (Young et al. 2014): pictures with their five captions each, from the user's local copy.

Two tables are read: `dataset_flickr30k.json`, Karpathy's, which also says what is train, val and test (29,000, 1,014
and 1,000 pictures), and `results_20130124.token`, the data set's own, beside which `train.txt`, `val.txt` and
`test.txt` list the parts, a picture to a line with or without its suffix.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from wm_pipelines.data.tables import check_inside, find_picture, read_json
from wm_pipelines.runtime.readers import Source, located, read_lines

TABLES = ("dataset_flickr30k.json", "results_20130124.token")
FOLDERS = ("images", "flickr30k-images", "flickr30k_images")
SPLITS = ("train", "val", "test")


class Captioned(NamedTuple):
    """A picture's file, which may be missing, and its captions."""

    path: Path
    captions: tuple[str, ...]


def find_flickr30k(folder: Source) -> tuple[Path, Path]:
    """(table, folder of pictures) in the data set's folder.

    Raises:
        ValueError: one of them is not there.
    """
    folder = Path(folder)
    table = next((folder / name for name in TABLES if (folder / name).is_file()), None)
    pictures = next((folder / name for name in FOLDERS if (folder / name).is_dir()), None)
    if table is None or pictures is None:
        raise ValueError(f"{folder} must hold {' or '.join(TABLES)}, and a folder {' or '.join(FOLDERS)}")
    return table, pictures


def read_flickr30k(table: Source, pictures: Source, split: str) -> list[Captioned]:
    """The pictures of one part in the order of the table, with all their captions.

    Args:
        table: a `.json` or `.token` file of the layouts above. pictures: the folder of the pictures.
        split: "train", "val" or "test".

    Raises:
        ValueError: another layout, naming the line; an unknown `split`, or one without a picture.
    """
    if split not in SPLITS:
        raise ValueError(f"split must be one of {', '.join(SPLITS)}, got {split!r}")
    path = Path(table)
    if path.suffix not in (".json", ".token"):
        raise ValueError(f"{path} is neither a .json nor a .token table of Flickr30k")
    found = _karpathy(path, split) if path.suffix == ".json" else _token(path, split)
    if not found:
        raise ValueError(f"{path} has no picture for {split}")
    return [Captioned(find_picture(Path(pictures), name), captions) for name, captions in found.items()]


def is_karpathy(data: Any) -> bool:
    """Whether a JSON value has the outer form of Karpathy's tables."""
    return isinstance(data, Mapping) and isinstance(data.get("images"), list)


def _karpathy(path: Path, split: str) -> dict[str, tuple[str, ...]]:
    data, found = read_json(path), {}
    if not is_karpathy(data):
        raise ValueError(f'{path} must hold {{"images": [{{"filename", "split", "sentences"}}, ..]}}')
    for n, row in enumerate(data["images"]):
        with located(path, n):
            if not isinstance(row, Mapping) or not {"filename", "split", "sentences"} <= set(row):
                raise ValueError("an image needs filename, split and sentences")
            sentences = row["sentences"]
            listed = sentences if isinstance(sentences, list) else []
            raw = [s.get("raw") if isinstance(s, Mapping) else None for s in listed]
            if row["split"] == split:
                _add(found, row["filename"], raw)
    return found


def _token(path: Path, split: str) -> dict[str, tuple[str, ...]]:
    """Lines "1000092795.jpg#0<tab>Two young guys .."; a picture's lines need not be neighbours."""
    listed = path.with_name(f"{split}.txt")
    if not listed.is_file():
        raise ValueError(f"{path} does not say what is {split}: no {listed}, which lists its pictures")
    wanted = {Path(line.strip()).stem for _, line in read_lines(listed)}
    captions: dict[str, list[str]] = {}
    for line, text in read_lines(path):
        with located(path, line):
            key, tab, caption = text.partition("\t")
            name, mark, number = key.rpartition("#")
            if not (tab and mark and number.isdigit()):
                raise ValueError(f"a line must be FILE#NUMBER<tab>CAPTION, got {text[:60]!r}")
            if Path(name).stem in wanted:
                captions.setdefault(name, []).append(caption)
    absent = wanted - {Path(name).stem for name in captions}
    if absent:
        raise ValueError(f"{listed} names {sorted(absent)[0]!r}, which {path.name} has no caption of")
    found: dict[str, tuple[str, ...]] = {}
    for name, own in captions.items():
        with located(path):
            _add(found, name, own)
    return found


def _add(found: dict[str, tuple[str, ...]], name: Any, captions: list[Any]) -> None:
    if check_inside(name) in found:
        raise ValueError(f"{name!r} is there twice")
    if not captions or not all(isinstance(c, str) and c.strip() for c in captions):
        raise ValueError(f"{name!r} needs captions that are not blank, got {captions!r}")
    found[name] = tuple(c.strip(" \t\r\n") for c in captions)
