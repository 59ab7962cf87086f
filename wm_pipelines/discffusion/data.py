"""The benchmarks of the paper and two more, from the user's local copies. Nothing is downloaded.

Every reader gives `Example`s whose first image and first caption belong together.
"""

from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, NonNegativeInt

from wm_pipelines.data.caption_pairs import Example, read_comvg, read_winoground
from wm_pipelines.data.tables import find_picture, read_json
from wm_pipelines.runtime.random import keyed
from wm_pipelines.runtime.readers import Source, located, read_csv

CANDIDATES = 10
FREQUENT = 3129  # answers of VQAv2 that wrong ones are drawn from
PAIR_COLUMNS = ("image", "caption", "kind", "foil")


class _Sentence(BaseModel, strict=True):
    sent: str


class _Reference(BaseModel, strict=True):
    image_id: NonNegativeInt
    sentences: list[_Sentence]
    split: str = ""


class _Question(BaseModel, strict=True):
    question_id: NonNegativeInt
    image_id: NonNegativeInt
    question: str


class _Annotation(BaseModel, strict=True):
    question_id: NonNegativeInt
    multiple_choice_answer: str
    answer_type: str = ""


_Row = TypeVar("_Row", bound=BaseModel)


def read_refcocog(root: Source, split: str = "val", seed: int = 0) -> list[Example]:
    """RefCOCOg (google split): a picture, a sentence about it, and nine sentences about other pictures.

    Args:
        root: folder with `refs.json` (made of `refs(google).p` by `wm convert refcocog`)
            and `images/` with COCO's `COCO_train2014_*.jpg`.
        seed: draws the nine.

    Raises:
        ValueError: no such file, another layout, or fewer than ten pictures.
    """
    path, said = Path(root) / "refs.json", []
    rows = read_json(path)
    with located(path):
        for row in _listed(_Reference, rows, "references"):
            if row.split == split:
                said += [(row.image_id, one.sent) for one in row.sentences]
        if len({image for image, _ in said}) < CANDIDATES:
            raise ValueError(f"split {split!r} has sentences of fewer than {CANDIDATES} pictures")
    found = []
    for n, (image, sentence) in enumerate(said):
        rng, others = keyed("refcocog", seed, n), []
        while len(others) < CANDIDATES - 1:
            other, text = said[int(rng.integers(len(said)))]
            if other != image and text not in (sentence, *others):
                others.append(text)
        picture = find_picture(Path(root) / "images", f"COCO_train2014_{image:012d}")
        found.append(Example(str(n), "all", (picture,), (sentence, *others)))
    return found


def read_vqa(root: Source, seed: int = 0) -> list[Example]:
    """VQAv2's questions of type "other": a picture and "question answer" for the right answer and nine frequent ones.

    Args:
        root: folder with the official `v2_OpenEnded_mscoco_val2014_questions.json` and
            `v2_mscoco_val2014_annotations.json`, and `val2014/`.
        seed: draws the nine from the 3,129 commonest answers but "yes" and "no".

    Raises:
        ValueError: no such file, another layout, or fewer than ten answers.
    """
    folder = Path(root)
    asked_in = folder / "v2_OpenEnded_mscoco_val2014_questions.json"
    told_in = folder / "v2_mscoco_val2014_annotations.json"
    with located(asked_in):
        listed = _listed(_Question, _field(read_json(asked_in), "questions"), "questions")
        asked = {q.question_id: (q.image_id, q.question) for q in listed}
    with located(told_in):
        told = _listed(_Annotation, _field(read_json(told_in), "annotations"), "annotations")
        counts = Counter(a.multiple_choice_answer for a in told)
        frequent = [a for a, _ in counts.most_common(FREQUENT) if a not in ("yes", "no")]
        if len(frequent) < CANDIDATES:
            raise ValueError(f"it has {len(frequent)} answers beside yes and no; {CANDIDATES} are needed")
        found = []
        for row in told:
            if row.answer_type != "other" or row.question_id not in asked:
                continue
            image, question = asked[row.question_id]
            right, rng = row.multiple_choice_answer, keyed("vqa", seed, row.question_id)
            wrong = [frequent[i] for i in rng.permutation(len(frequent)) if frequent[i] != right]
            texts = tuple(f"{question} {answer}" for answer in (right, *wrong[: CANDIDATES - 1]))
            picture = find_picture(folder / "val2014", f"COCO_val2014_{image:012d}")
            found.append(Example(str(row.question_id), "other", (picture,), texts))
    return found


def read_pairs(root: Source) -> list[Example]:
    """A table of one's own, `pairs.csv`, beside its pictures: image, caption, kind ("image" or "caption"), foil.

    Raises:
        ValueError: no such file, another header, an empty cell, or another kind.
    """
    path, found = Path(root) / "pairs.csv", []
    for line, row in read_csv(path, PAIR_COLUMNS):
        with located(path, line):
            kind = row["kind"].strip()
            if kind not in ("image", "caption"):
                raise ValueError(f"kind must be image or caption, what the foil is, got {kind!r}")
            names = (row["image"], row["foil"]) if kind == "image" else (row["image"],)
            images = tuple(find_picture(Path(root), name) for name in names)
        captions = (row["caption"], row["foil"]) if kind == "caption" else (row["caption"],)
        found.append(Example(str(line), kind, images, captions))
    return found


def _comvg(root: Source) -> list[Example]:
    return read_comvg(Path(root) / "compositional_visual_genome.csv", Path(root) / "images")


READERS: dict[str, Callable[[Source], list[Example]]] = {
    "comvg": _comvg,
    "refcocog": read_refcocog,
    "vqa": read_vqa,
    "winoground": read_winoground,
    "pairs": read_pairs,
}


def read_benchmark(name: str, root: Source, limit: int | None = None) -> list[Example]:
    """The examples of a benchmark by its name, the first `limit` of them.

    Raises:
        ValueError: an unknown name, a `limit` below 1, or as its reader.
    """
    if name not in READERS:
        raise ValueError(f"`benchmark` is {name!r}; it must be one of {', '.join(READERS)}")
    if limit is not None and (type(limit) is not int or limit < 1):
        raise ValueError(f"`limit` is {limit!r}; it must be an integer of at least 1")
    found = READERS[name](root)[:limit]
    if not found:
        raise ValueError(f"{root} has no example of {name}")
    return found


def _field(data: Any, name: str) -> Any:
    if not isinstance(data, Mapping) or name not in data:
        raise ValueError(f"it must be an object with {name!r}")
    return data[name]


def _listed(kind: type[_Row], rows: Any, what: str) -> list[_Row]:
    if not isinstance(rows, list) or not rows:
        raise ValueError(f"it must hold a non-empty list of {what}")
    return [kind.model_validate(row) for row in rows]
