"""The benchmarks of compositional matching as their authors lay them out, from the user's local copies.

Every reader gives `Example`s: some images, some captions, which of them belong together. Nothing is downloaded. The
dense captions (GRiT), matches and parsed captions that ComCLIP's own scripts write are read too.
"""

import csv
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from wm_pipelines.comclip.components import Linker
from wm_pipelines.flickr import is_karpathy, read_flickr30k
from wm_pipelines.tables import Source, find_picture, located, read_json, read_text
from wm_pipelines.text.parser import ParsedText, from_json, parse_triplet, split_triplet

COMVG_COLUMNS = (
    "id", "sentence", "pos_triplet", "neg_triplet", "pos_image_id", "neg_image_id", "neg_value", "sentence_id",
)  # fmt: skip
SVO_COLUMNS = (
    "sentence", "pos_triplet", "neg_triplet", "pos_image_id", "neg_image_id", "subj_neg", "verb_neg", "obj_neg",
)  # fmt: skip


@dataclass(frozen=True)
class Example:
    """Images and captions of which image 0 belongs to caption 0 (and 1 to 1, where there are two of both).

    Args:
        id: of the example in its file.
        kind: what the foil gets wrong ("subject", "verb", "object"), or the file's own group.
        images: paths; a file may be missing, then the example counts as failed.
        captions: one or two.
        parsed: a reading of each caption, where the file has one.
        names: names of the images in the layouts of dense captions and matches.
    """

    id: str
    kind: str
    images: tuple[Path, ...]
    captions: tuple[str, ...]
    parsed: tuple[ParsedText | None, ...] = (None, None)
    names: tuple[str, ...] = ()


@dataclass(frozen=True)
class Query:
    """A caption whose image is to be found among candidates; `order` is theirs by plain similarity.

    Without an `order` the candidates are for `evaluate.rerank` to find.
    """

    id: str
    caption: str
    truth: int
    order: tuple[int, ...] | None = None


def read_comvg(table: Source, images: Source) -> list[Example]:
    """ComVG's CSV: one caption, its image and a foil whose subject, verb or object differs.

    Args:
        images: folder of Visual Genome images named by their ids.

    Raises:
        ValueError: another table, or a malformed row; names the line.
    """
    found = []
    for line, row in _rows(table, COMVG_COLUMNS):
        names = (row["pos_image_id"], row["neg_image_id"])
        with located(table, line):
            parsed = parse_triplet(row["pos_triplet"])
        found.append(_foil(row["id"], row["neg_value"], names, row["sentence"], parsed, Path(images)))
    return found


def read_svo_probes(table: Source, images: Source) -> list[Example]:
    """SVO-Probes' CSV; the foil's kind comes from its three columns of True and False.

    Raises:
        ValueError: another table, or a row that says of none or of several parts that they are wrong.
    """
    found = []
    for line, row in _rows(table, SVO_COLUMNS):
        wrong = [kind for kind in ("subj", "verb", "obj") if row[f"{kind}_neg"].strip().lower() == "true"]
        with located(table, line):
            if len(wrong) != 1:
                raise ValueError(f"one of subj_neg, verb_neg, obj_neg must be True, got {wrong or 'none'}")
            parsed = parse_triplet(row["pos_triplet"])
            split_triplet(row["neg_triplet"])
        kind = {"subj": "subject", "verb": "verb", "obj": "object"}[wrong[0]]
        names = (row["pos_image_id"], row["neg_image_id"])
        found.append(_foil(str(line - 2), kind, names, row["sentence"], parsed, Path(images)))
    return found


def read_winoground(folder: Source) -> list[Example]:
    """Winoground's folder: `examples.jsonl` beside `images/`; two images and two captions with the same words.

    Raises:
        ValueError: no such file, or a line without the fields.
    """
    path, found = Path(folder) / "examples.jsonl", []
    for line, text in enumerate(read_text(path).splitlines(), 1):
        with located(path, line):
            row = json.loads(text)
            fields = {name: row.get(name) for name in ("id", "image_0", "image_1", "caption_0", "caption_1")}
            missing = [name for name, value in fields.items() if value is None]
            if missing:
                raise ValueError(f"the line lacks {', '.join(missing)}")
        images = tuple(find_picture(Path(folder) / "images", str(fields[f"image_{i}"])) for i in range(2))
        kind = str(row.get("collapsed_tag") or row.get("tag") or "all")
        id = str(fields["id"])
        names = tuple(f"{id}_image{i}" for i in range(2))
        captions = (fields["caption_0"], fields["caption_1"])
        found.append(Example(id, kind, images, captions, names=names))
    return found


def read_vl_checklist(file: Source, images: Source) -> list[Example]:
    """A list of VL-CheckList: `[[image, {"POS": [caption, ..], "NEG": [caption, ..]}], ..]`; first captions count.

    Raises:
        ValueError: another layout; names the entry.
    """
    path, found = Path(file), []
    data = read_json(path)
    if not isinstance(data, list) or not data:
        raise ValueError(f"{path} must hold a non-empty list of [image, captions]")
    for n, entry in enumerate(data):
        with located(path, n):
            if not (isinstance(entry, list) and len(entry) == 2 and isinstance(entry[1], Mapping)):
                raise ValueError('an entry must be [image, {"POS": [..], "NEG": [..]}]')
            captions = []
            for side in ("POS", "NEG"):
                listed = entry[1].get(side)
                if not isinstance(listed, list) or not listed or not isinstance(listed[0], str):
                    raise ValueError(f"{side} must be a list of captions, got {listed!r}")
                captions.append(listed[0])
        name = Path(str(entry[0])).stem
        found.append(
            Example(str(n), path.stem, (find_picture(Path(images), str(entry[0])),), tuple(captions), names=(name,))
        )
    return found


def read_flickr(file: Source, images: Source, split: str = "test", each: int = 1) -> tuple[list[Query], list[Path]]:
    """Captions of Flickr30k whose image is to be found, and the images that they index.

    Three files are read. Karpathy's `dataset_flickr30k.json` and the data set's own `results_20130124.token` (see
    `wm_pipelines.flickr`) give captions without candidates. The authors' pickle, made a JSON file by `python -m
    wm_pipelines.comclip.convert IN.pkl OUT.json`, gives ten candidates each: a list of rows with `image`, `sentence`
    and `clip_baseline` (pairs of row and cosine, best first), which may be left out; row i's image is image i.

    Args:
        split, each: which part, and how many captions of each image, the first ones, in the files of the first two
            kinds. The authors' table has one for each image of the test part.

    Raises:
        ValueError: a pickle, another layout, or an image with fewer captions than `each`.
    """
    path = Path(file)
    if path.suffix in (".pkl", ".pickle", ".p"):
        command = f"python -m wm_pipelines.comclip.convert {path.name} OUT.json"
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
            order = None if given is None else tuple(int(pair[0]) for pair in given)
            if order and (any(not 0 <= i < len(rows) for i in order) or len(set(order)) != len(order)):
                raise ValueError(f"clip_baseline must name different rows from 0 to {len(rows) - 1}, got {order}")
        queries.append(Query(str(n), row["sentence"], n, order))
        found.append(find_picture(Path(images), row["image"]))
    return queries, found


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


def _foil(id: str, kind: str, names: tuple[str, str], caption: str, parsed: ParsedText, folder: Path) -> Example:
    return Example(id, kind, tuple(find_picture(folder, name) for name in names), (caption,), (parsed,), names)


def _rows(table: Source, columns: tuple[str, ...]) -> list[tuple[int, dict[str, str]]]:
    """(line, row) of a CSV file with at least these columns."""
    lines = read_text(table).splitlines()
    reader = csv.DictReader(lines)
    absent = [name for name in columns if name not in (reader.fieldnames or ())]
    if absent:
        raise ValueError(
            f"{table} lacks the column(s) {', '.join(absent)}; it has {', '.join(reader.fieldnames or ())}"
        )
    rows = list(enumerate(reader, 2))
    if not rows:
        raise ValueError(f"{table} holds no row")
    for line, row in rows:
        short = [name for name in columns if not row[name]]
        if short:
            raise ValueError(f"{table}, line {line}: no value for {', '.join(short)}")
    return rows
