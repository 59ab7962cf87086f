"""The benchmarks of compositional matching as their authors lay them out, from the user's local copies.

Every reader gives `Example`s: some images, some captions, which of them belong together. Nothing is downloaded.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from wm_pipelines.data.tables import find_picture, read_json
from wm_pipelines.runtime.readers import Source, located, read_csv, read_jsonl
from wm_pipelines.text.parser import ParsedText, parse_triplet, split_triplet

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
        names: names of the images in the layouts of dense captions and matches. sentence: the caption's, in ComVG.
    """

    id: str
    kind: str
    images: tuple[Path, ...]
    captions: tuple[str, ...]
    parsed: tuple[ParsedText | None, ...] = (None, None)
    names: tuple[str, ...] = ()
    sentence: str = ""


def read_comvg(table: Source, images: Source) -> list[Example]:
    """ComVG's CSV: one caption, its image and a foil whose subject, verb or object differs.

    Args:
        images: folder of Visual Genome images named by their ids.

    Raises:
        ValueError: another table, or a malformed row; names the line.
    """
    found = []
    for line, row in read_csv(table, COMVG_COLUMNS):
        names = (row["pos_image_id"], row["neg_image_id"])
        with located(table, line):
            parsed = parse_triplet(row["pos_triplet"])
            example = _foil(row["id"], row["neg_value"], names, row["sentence"], parsed, Path(images))
            found.append(replace(example, sentence=row["sentence_id"]))
    return found


def read_svo_probes(table: Source, images: Source) -> list[Example]:
    """SVO-Probes' CSV; the foil's kind comes from its three columns of True and False.

    Raises:
        ValueError: another table, or a row that says of none or of several parts that they are wrong.
    """
    found = []
    for n, (line, row) in enumerate(read_csv(table, SVO_COLUMNS)):
        wrong = [kind for kind in ("subj", "verb", "obj") if row[f"{kind}_neg"].strip().lower() == "true"]
        with located(table, line):
            if len(wrong) != 1:
                raise ValueError(f"one of subj_neg, verb_neg, obj_neg must be True, got {wrong or 'none'}")
            parsed = parse_triplet(row["pos_triplet"])
            split_triplet(row["neg_triplet"])
            kind = {"subj": "subject", "verb": "verb", "obj": "object"}[wrong[0]]
            names = (row["pos_image_id"], row["neg_image_id"])
            found.append(_foil(str(n), kind, names, row["sentence"], parsed, Path(images)))
    return found


def read_winoground(folder: Source) -> list[Example]:
    """Winoground's folder: `examples.jsonl` beside `images/`; two images and two captions with the same words.

    Raises:
        ValueError: no such file, or a line without the fields.
    """
    path, found = Path(folder) / "examples.jsonl", []
    for line, row in read_jsonl(path):
        with located(path, line):
            if not isinstance(row, Mapping):
                raise ValueError(f"the line must be an object, got {type(row).__name__}")
            fields = {name: row.get(name) for name in ("id", "image_0", "image_1", "caption_0", "caption_1")}
            missing = [name for name, value in fields.items() if value is None]
            if missing:
                raise ValueError(f"the line lacks {', '.join(missing)}")
            captions = (fields["caption_0"], fields["caption_1"])
            if not all(isinstance(caption, str) for caption in captions):
                raise ValueError(f"the captions must be strings, got {captions}")
            images = tuple(find_picture(Path(folder) / "images", str(fields[f"image_{i}"])) for i in range(2))
        kind = str(row.get("collapsed_tag") or row.get("tag") or "all")
        id = str(fields["id"])
        names = tuple(f"{id}_image{i}" for i in range(2))
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
            picture = find_picture(Path(images), str(entry[0]))
        name = Path(str(entry[0])).stem
        found.append(Example(str(n), path.stem, (picture,), tuple(captions), names=(name,)))
    return found


def _foil(id: str, kind: str, names: tuple[str, str], caption: str, parsed: ParsedText, folder: Path) -> Example:
    return Example(id, kind, tuple(find_picture(folder, name) for name in names), (caption,), (parsed,), names)
