"""VLM4D (2508.02095): its questions as items, from the authors' repository or from the Hub's data set.

Both hold `real_mc.json` and `synthetic_mc.json`, whose ids collide and whose answers are text or integers. Types of
question were not published: ours are inferred from words and say so.
"""

import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from wm_pipelines.evaluation.mcq.files import OnMissing, with_videos
from wm_pipelines.evaluation.mcq.items import LETTERS, Item, check_items, clean
from wm_pipelines.runtime.readers import located, read_json
from wm_pipelines.vlm4d.twins import transform_ok, twin_maps

SUBSETS = ("real", "synthetic")
BUCKETS = ("ego", "exo", "directional", "false positive")
"""Columns of the paper's table 1: views of real clips, and what synthetic ones are asked about."""

TYPES = ("translational", "rotational", "counting", "false positive")

LAST_EXO = 922
"""Real questions up to this number are about clips seen from outside, as the authors' script counts them."""

_PLACES = ("data", "QA", ".")
_ROTATION = re.compile(r"clockwise|spin|rotat|turn|twist|roll|flip")


def load_vlm4d(
    root: str | os.PathLike,
    subsets: Sequence[str] = SUBSETS,
    videos: bool = True,
    on_missing: OnMissing = "error",
) -> list[Item]:
    """The items of a folder that holds the data set.

    `facet` is the bucket, `family` the inferred type, `cluster` the video; `annotations` have the clip's source and
    whether the words of the item warn against its mirrored or reversed twin.

    Args:
        root: with `data/` (the authors' repository) or `QA/` (the Hub), and with `videos_real/`, `videos_synthetic/`.
        subsets: of `SUBSETS`. videos: False makes items without video, for text alone and for what was logged.
        on_missing: what to do where a video is missing or no video: "error" or "skip".

    Raises:
        ValueError: unknown subset, no such file, a record that is not as it must be (named), or as `with_videos`.
    """
    root = Path(root)
    strange = [name for name in subsets if name not in SUBSETS]
    if strange or not subsets or len(set(subsets)) < len(subsets):
        raise ValueError(f"`subsets` is {list(subsets)!r}; it must name some of {', '.join(SUBSETS)}, each once")
    items = []
    for subset in subsets:
        path = question_file(root, subset)
        items += read_questions(path, subset, root if videos else None)
    items = check_items(items)
    return with_videos(items, root, on_missing) if videos else items


def question_file(root: Path, subset: str) -> Path:
    """Where a folder holds a subset's questions.

    Raises:
        ValueError: in no place where they may be.
    """
    places = [root / place / f"{subset}_mc.json" for place in _PLACES]
    found = next((path for path in places if path.is_file()), None)
    if found is None:
        raise ValueError(f"no {subset}_mc.json under {root}: looked in {', '.join(_PLACES[:2])} and the folder itself")
    return found


def read_questions(path: str | os.PathLike, subset: str, root: Path | None = None) -> list[Item]:
    """The items of one file of questions; with `root`, the folder of the videos' folders, with their videos.

    Raises:
        ValueError: names the file, the record and what is wrong with it.
    """
    records = read_json(path)
    if not isinstance(records, list) or not records:
        raise ValueError(f"{path} holds {type(records).__name__}; it must be a list of questions")
    items = []
    for place, record in enumerate(records):
        with located(f"{path}, question {place}"):
            items.append(read_question(subset, record, root))
    return items


def read_question(subset: str, record: Any, root: Path | None = None) -> Item:
    """The item of one record; with `root`, with its video.

    Raises:
        ValueError: names what is wrong with it.
    """
    name = record.get("id") if isinstance(record, dict) else None
    found = re.fullmatch(r"\w+_(\d+)", name) if isinstance(name, str) else None
    if found is None:
        raise ValueError(f"`id` is {name!r}; it must be text that ends in _ and a number")
    where = f"vlm4d/{subset}/{name}"
    choices = record.get("choices")
    if not isinstance(choices, dict) or list(choices) != list(LETTERS[: len(choices)]):
        raise ValueError(f"{where}: `choices` is {choices!r}; it must have the letters A, B, ... in order")
    options = {letter: _text(where, f"choices[{letter}]", value) for letter, value in choices.items()}
    answer, question = _text(where, "answer", record.get("answer")), _text(where, "question", record.get("question"))
    right = [letter for letter, text in options.items() if text == answer]
    if not right:
        raise ValueError(f"{where}: `answer` is {answer!r}; it must be one of the options, {list(options.values())}")
    video = _video(where, record.get("video"))
    kind = inferred_type(question, list(options.values()), answer)
    safe = transform_ok(question, options)
    return Item(
        source="vlm4d", subset=subset, id=name, question=question, options=options, answer=right[0],
        also_right=tuple(right[1:]), video=None if root is None else root / video, cluster=video,
        facet=bucket(subset, int(found[1]), answer), family=f"{kind} (inferred)",
        annotations={"clips": Path(video).parent.name, "mirror_ok": safe["mirror"], "reverse_ok": safe["reverse"]},
        transforms=twin_maps(question, options),
    )  # fmt: skip


def bucket(subset: str, number: int, answer: str) -> str:
    """The column of table 1 that a question counts for, as the authors' script has it."""
    if subset == "real":
        return "exo" if number <= LAST_EXO else "ego"
    low = answer.lower()
    return "false positive" if low == "no" or low.startswith("no ") else "directional"


def inferred_type(question: str, options: Sequence[str], answer: str) -> str:
    """One of `TYPES`, by words alone; the authors' labels are not published."""
    if answer.isdigit() or "how many" in question.lower():
        return "counting"
    if re.match(r"(?:there (?:are|is) )?no\b(?! (?:rotation|turn))", answer.lower()):
        return "false positive"
    return "rotational" if _ROTATION.search(" ".join([question, *options]).lower()) else "translational"


def _text(where: str, name: str, value: Any) -> str:
    """A value as text; answers and options are integers where they count."""
    if isinstance(value, bool) or not isinstance(value, str | int | float) or not str(value).strip():
        raise ValueError(f"{where}: `{name}` is {value!r}; it must be text or a number")
    return clean(str(value))


def _video(where: str, address: Any) -> str:
    """The path of a video in the data set, from its address on the Hub: "videos_real/davis/x.mp4"."""
    parts = address.split("/") if isinstance(address, str) else []
    starts = [i for i, part in enumerate(parts) if part in ("videos_real", "videos_synthetic")]
    if not starts or ".." in parts[starts[-1] :] or not parts[-1]:
        raise ValueError(f"{where}: `video` is {address!r}; it must lead to videos_real/ or videos_synthetic/")
    return "/".join(parts[starts[-1] :])
