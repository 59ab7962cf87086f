"""What ComCLIP's own scripts read and write: Flickr30k's queries, dense captions (GRiT), matches, parsed captions."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wm_pipelines.comclip.components import Linker
from wm_pipelines.data.flickr import is_karpathy, read_flickr30k
from wm_pipelines.data.tables import find_picture, read_json
from wm_pipelines.runtime.readers import Source, located
from wm_pipelines.text.parser import ParsedText, from_json


@dataclass(frozen=True)
class Query:
    """A caption whose image is to be found among candidates; `order` is theirs by plain similarity.

    Without an `order` the candidates are for `evaluate.rerank` to find.
    """

    id: str
    caption: str
    truth: int
    order: tuple[int, ...] | None = None


def read_flickr(file: Source, images: Source, split: str = "test", each: int = 1) -> tuple[list[Query], list[Path]]:
    """Captions of Flickr30k whose image is to be found, and the images that they index.

    Three files are read. Karpathy's `dataset_flickr30k.json` and the data set's own `results_20130124.token` (see
    `wm_pipelines.data.flickr`) give captions without candidates. The authors' pickle, made a JSON file by `wm convert
    flickr30k IN.pkl OUT.json`, gives ten candidates each: a list of rows with `image`, `sentence`
    and `clip_baseline` (pairs of row and cosine, best first), which may be left out; row i's image is image i.

    Args:
        split, each: which part, and how many captions of each image, the first ones, in the files of the first two
            kinds. The authors' table has one for each image of the test part.

    Raises:
        ValueError: a pickle, another layout, or an image with fewer captions than `each`.
    """
    path = Path(file)
    if path.suffix in (".pkl", ".pickle", ".p"):
        command = f"wm convert flickr30k {path.name} OUT.json"
        raise ValueError(f"refusing pickled {path.name}; convert it with `{command}`")
    rows = None if path.suffix == ".token" else read_json(path)
    if rows is None or is_karpathy(rows):
        return _captioned(path, images, split, each)
    if not isinstance(rows, list) or not rows:
        raise ValueError(f"{path} must hold a non-empty list of rows, or Karpathy's table")
    queries, found = [], []
    for n, row in enumerate(rows):
        with located(path, n):
            if not isinstance(row, Mapping) or not {"image", "sentence"} <= set(row):
                raise ValueError("a row needs image and sentence")
            given = row.get("clip_baseline")
            order = None if given is None else _order(given)
            if not isinstance(row["sentence"], str):
                raise ValueError(f"sentence must be a string, got {row['sentence']!r}")
            if order and (any(not 0 <= i < len(rows) for i in order) or len(set(order)) != len(order)):
                raise ValueError(f"clip_baseline must name different rows from 0 to {len(rows) - 1}, got {order}")
            found.append(find_picture(Path(images), row["image"]))
        queries.append(Query(str(n), row["sentence"], n, order))
    return queries, found


def _order(given: Any) -> tuple[int, ...]:
    """The rows of a list of (row, cosine)."""
    pairs = given if isinstance(given, list) else [given]
    if not all(isinstance(pair, list) and pair and type(pair[0]) is int for pair in pairs):
        raise ValueError(f"clip_baseline must be pairs of a row's number and a cosine, got {given!r:.80}")
    return tuple(pair[0] for pair in pairs)


def _captioned(path: Path, images: Source, split: str, each: int) -> tuple[list[Query], list[Path]]:
    if type(each) is not int or each < 1:
        raise ValueError(f"each must be an integer of at least 1, got {each!r}")
    queries, found = [], []
    for n, picture in enumerate(read_flickr30k(path, images, split)):
        if len(picture.captions) < each:
            raise ValueError(f"{path}: {picture.path.name} has {len(picture.captions)} captions, each={each}")
        queries += [Query(f"{picture.path.stem}#{c}", picture.captions[c], n) for c in range(each)]
        found.append(picture.path)
    return queries, found


def read_dense_captions(path: Source) -> dict[str, list[list[float]]]:
    """GRiT's dense captions of a picture, `{caption: [[x0, y0, x1, y1], ..]}`: what the pipeline takes as `boxes`.

    Raises:
        ValueError: another layout; the boxes themselves are checked by the pipeline.
    """
    data = read_json(path)
    if not isinstance(data, dict) or not all(isinstance(boxes, list) for boxes in data.values()):
        raise ValueError(f"{path} must map dense captions to lists of boxes")
    return data


def read_matches(path: Source) -> Linker:
    """A linker that looks up `{entity: [labels]}` of a match file; an entity that is not in it has no label.

    Raises:
        ValueError: another layout.
    """
    data = read_json(path)
    if not isinstance(data, dict) or not all(isinstance(labels, list) for labels in data.values()):
        raise ValueError(f"{path} must map entities to lists of labels")
    return lambda entity, labels: list(data.get(entity.name, ()))


def read_parsed(path: Source) -> ParsedText:
    """A caption as a language model parsed it, `{"objects": .., "connections": ..}`, also doubly encoded.

    Raises:
        ValueError: another layout.
    """
    data = read_json(path)
    with located(path):
        if not isinstance(data, Mapping):
            raise ValueError(f"a parsed caption must be an object, got {type(data).__name__}")
        return from_json(data)


def match_file(folder: Source, image: str, **key: str) -> Path:
    """Where the authors' scripts keep the matches of a caption and an image.

    Args:
        key: `sentence_id` (ComVG), `row` (Flickr30k, VL-Checklist), or `row` and `caption` (Winoground).
    """
    if "sentence_id" in key:
        return Path(folder) / f"sentence_{key['sentence_id']}_image_{image}.json"
    if "caption" in key:
        return Path(folder) / f"{key['row']}_caption{key['caption']}_image{image}.json"
    return Path(folder) / f"row_{key['row']}_image_{image}.json"
