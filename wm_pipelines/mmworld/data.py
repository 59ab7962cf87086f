"""MMWorld (2406.08407): its questions as items, from the authors' JSON or the Hub's; its submission file.

The authors' file lists videos with their questions, the Hub's has a question in each row. Options are two to five.
"""

import json
import os
import warnings
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from wm_pipelines.evaluation.mcq.files import OnMissing, with_videos
from wm_pipelines.evaluation.mcq.items import LETTERS, Item, check_items, clean
from wm_pipelines.runtime.files import write_atomic
from wm_pipelines.runtime.readers import located, read_json, read_jsonl

SUBSETS = ("main", "synthetic_audio", "synthetic_visual")
"""Questions by people; by a model from the speech alone; by a model from key frames alone."""

DISCIPLINES = (
    "Sports & Arts", "Business", "Science", "Health & Medicine", "Embodied Tasks", "Tech & Engineering", "Game",
)  # fmt: skip

QUESTIONS = dict(zip(DISCIPLINES, (775, 143, 225, 96, 143, 94, 83), strict=True))
"""Questions of the main set in each discipline: derived, as the only numbers that fit the paper's table 5; 1,559."""

FACETS = ("Explanation", "Counterfactual", "Future", "Domain", "Attribution", "Temporal", "Procedure")

FLAGS = ("requires_domain_knowledge", "requires_audio", "requires_visual", "question_only")

_WORDS = {
    "sport": 0, "art": 0, "business": 1, "science": 2, "health": 3, "medicine": 3, "embodied": 4, "tech": 5,
    "engineering": 5, "game": 6,
}  # fmt: skip
_SUFFIXES = (".mp4", ".MP4", ".webm", ".mkv", ".avi", ".mov")


def load_mmworld(
    path: str | os.PathLike,
    subset: str = "main",
    videos: str | os.PathLike | None = None,
    on_missing: OnMissing = "error",
) -> list[Item]:
    """The items of a file of questions, JSON or JSONL, in either form, in its order.

    `facet` is the first word of the question's type, `cluster` the video; `annotations` have the discipline, the
    subdiscipline and the flags, None where the file does not have them. Ids are the video's and the question's place
    among its own, such as "abc-0".

    Args:
        subset: of `SUBSETS`; the file does not say which it is.
        videos: folder with `<video_id>.mp4` or `<video_id>/*.mp4`; None for items without video.
        on_missing: what to do where a video is missing or no video: "error" or "skip".

    Raises:
        ValueError: unknown subset, no such file, a record that is not as it must be (named), a folder with several
            videos for one id, or as `with_videos`.
    """
    if subset not in SUBSETS:
        raise ValueError(f"`subset` is {subset!r}; it must be one of {', '.join(SUBSETS)}")
    places: Counter = Counter()
    items, other_text, strange = [], 0, Counter()
    with located(path):
        for where, record in _questions(path):
            video = _text(where, "video_id", record.get("video_id"))
            where = f"mmworld/{subset}/{video}-{places[video]}"
            options, answer, differs = _answer(where, record)
            other_text += differs
            facet, known = _facet(where, record.get("type"))
            if not known:
                strange[facet] += 1
            items.append(
                Item(
                    source="mmworld", subset=subset, id=f"{video}-{places[video]}", facet=facet, options=options,
                    answer=answer[0], also_right=answer[1:], question=_text(where, "question", record.get("question")),
                    video=None if videos is None else _video(where, Path(videos), video), cluster=video,
                    annotations=_annotations(where, record),
                )
            )  # fmt: skip
            places[video] += 1
    for name, number in strange.items():
        warnings.warn(f"{path}: {number} questions have the type {name!r:.200}, which is not known", stacklevel=2)
    if other_text:
        said = f"{path}: `answer` of {other_text:,} of {len(items):,} questions is not the text of the labelled option"
        warnings.warn(f"{said}; the label counts", stacklevel=2)
    items = check_items(items)
    return with_videos(items, Path(videos), on_missing) if videos is not None else items


def write_submission(path: str | os.PathLike, items: Sequence[Item], letters: Mapping[str, str | None]) -> Path:
    """Write answers as the authors' server reads them: `{"detailed_results": [{"video_id", "model_answer"}]}`.

    The form has no id of a question, so the order within a video is that of the questions in the data set.

    Args:
        items: as `load_mmworld` gives them, all of them. letters: `uid` -> letter, None for no answer.

    Raises:
        ValueError: an item without an entry, an entry without an item, or a letter that is no option.
    """
    lacking = [item.uid for item in items if item.uid not in letters]
    more = sorted(set(letters) - {item.uid for item in items})
    if lacking or more:
        what = f"lacks {lacking[0]!r}" if lacking else f"has {more[0]!r}, which is no item"
        raise ValueError(f"`letters` {what}; it must have every item once, with None for no answer")
    for item in items:
        if letters[item.uid] is not None and letters[item.uid] not in item.options:
            raise ValueError(
                f"`letters[{item.uid}]` is {letters[item.uid]!r}; the options are {', '.join(item.options)}"
            )
    found = [{"video_id": item.cluster, "model_answer": (letters[item.uid] or "").lower()} for item in items]
    return write_atomic(Path(path), json.dumps({"detailed_results": found}, indent=1, ensure_ascii=False) + "\n")


def read_submission(path: str | os.PathLike, items: Sequence[Item]) -> dict[str, str]:
    """`uid` -> `model_answer` of a submission, whose answers are taken in the order of each video's questions.

    Raises:
        ValueError: no such file or another form; a video of no item; more or fewer answers than a video has questions.
    """
    with located(path):
        return _submitted(path, items)


def _submitted(path: str | os.PathLike, items: Sequence[Item]) -> dict[str, str]:
    data = read_json(path)
    results = data.get("detailed_results") if isinstance(data, dict) else None
    if not isinstance(results, list):
        raise ValueError(f"{path} is no submission: it must be an object with a list `detailed_results`")
    of: dict[str, list[str]] = {}
    for item in items:
        of.setdefault(item.cluster, []).append(item.uid)
    said: dict[str, list[str]] = {}
    for place, result in enumerate(results):
        where = f"{path}, result {place}"
        if not isinstance(result, dict) or not isinstance(result.get("model_answer"), str):
            raise ValueError(f"{where}: it must be an object with `video_id` and `model_answer`, which are text")
        video = _text(where, "video_id", result.get("video_id"))
        if video not in of:
            raise ValueError(f"{where}: `video_id` is {video!r}, of which there is no question")
        said.setdefault(video, []).append(result["model_answer"])
    for video, uids in of.items():
        if len(said.get(video, [])) != len(uids):
            raise ValueError(
                f"{path}: {len(said.get(video, []))} answers for video {video!r}, of {len(uids)} questions"
            )
    return {uid: answer for video, uids in of.items() for uid, answer in zip(uids, said[video], strict=True)}


def _questions(path: str | os.PathLike) -> list[tuple[str, dict[str, Any]]]:
    """(where it stands, record) of every question, in the flat form."""
    lines = Path(path).suffix == ".jsonl"
    records = [value for _, value in read_jsonl(path)] if lines else read_json(path)
    if not isinstance(records, list) or not records:
        raise ValueError(f"{path} holds {type(records).__name__}; it must be a list of videos or of questions")
    found = []
    for place, record in enumerate(records):
        where = f"{path}, record {place}"
        if not isinstance(record, dict):
            raise ValueError(f"{where}: it is {type(record).__name__}; it must be an object")
        if "questions" not in record:
            found.append((where, record))
            continue
        of_video = {key: value for key, value in record.items() if key not in ("questions", "captions")}
        if not isinstance(record["questions"], list) or not all(isinstance(q, dict) for q in record["questions"]):
            raise ValueError(f"{where}: `questions` must be a list of objects")
        found += [(f"{where}, question {i}", of_video | question) for i, question in enumerate(record["questions"])]
    return found


def _answer(where: str, record: Mapping[str, Any]) -> tuple[dict[str, str], tuple[str, ...], bool]:
    """Options, the right letters, and whether the answer's text is another than the labelled option's."""
    given = record.get("options")
    if not isinstance(given, dict):
        raise ValueError(f"{where}: `options` is {given!r}; it must map letters to text")
    options = {}
    for letter, value in given.items():
        if value is None:  # a column of a table that this question does not use
            continue
        options[letter.strip().upper()] = _text(where, f"options[{letter}]", value)
    options = dict(sorted(options.items()))
    if list(options) != list(LETTERS[: len(options)]) or len(options) < 2:
        raise ValueError(f"{where}: `options` has {', '.join(given)}; it must have two to five letters from a onwards")
    text, label = record.get("answer"), record.get("correct_answer_label")
    text = clean(str(text)) if isinstance(text, str | int | float) and not isinstance(text, bool) else None
    if label is None:
        right = [letter for letter, option in options.items() if option == text]
        if not right:
            raise ValueError(f"{where}: `answer` is {text!r}; it must be one of the options, {list(options.values())}")
        return options, tuple(right), False
    letter = label.strip().upper() if isinstance(label, str) else None
    if letter not in options:
        raise ValueError(f"{where}: `correct_answer_label` is {label!r}; it must be one of {', '.join(options)}")
    equal = [other for other in options if other != letter and options[other] == options[letter]]
    return options, (letter, *equal), text is not None and text != options[letter]


def _facet(where: str, kind: Any) -> tuple[str, bool]:
    if kind is None:
        return "", True
    name = _text(where, "type", kind)
    first = name.split()[0].capitalize()
    return (first, True) if first in FACETS else (name, False)


def _annotations(where: str, record: Mapping[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {"discipline": _discipline(where, record.get("discipline"))}
    found["subdiscipline"] = str(record["subdiscipline"]) if record.get("subdiscipline") is not None else None
    for flag in FLAGS:
        value = record.get(flag)
        if value is not None and not isinstance(value, bool):
            raise ValueError(f"{where}: `{flag}` is {value!r}; it must be true or false")
        found[flag] = value
    return found


def _discipline(where: str, name: Any) -> str:
    words = _text(where, "discipline", name).lower().replace("&", " ").split()
    places = {place for word in words for key, place in _WORDS.items() if word in (key, f"{key}s")}
    if len(places) != 1:
        raise ValueError(f"{where}: `discipline` is {name!r}; it must be one of {', '.join(DISCIPLINES)}")
    return DISCIPLINES[places.pop()]


def _video(where: str, root: Path, video: str) -> Path:
    """A file of the video's name, or the only one in a folder of its name; where there is none, what it should be."""
    name = video.split("/")[-1]
    found = [root / f"{name}{suffix}" for suffix in _SUFFIXES if (root / f"{name}{suffix}").is_file()]
    if (root / name).is_file() and Path(name).suffix in _SUFFIXES:
        return root / name
    if not found and (root / name).is_dir():
        found = sorted(path for path in (root / name).iterdir() if path.suffix in _SUFFIXES)
    if len(found) > 1:
        raise ValueError(
            f"{where}: {len(found)} videos for {video!r}, {found[0].name}, {found[1].name}, ...; leave one"
        )
    return found[0] if found else root / f"{name}{_SUFFIXES[0]}"


def _text(where: str, name: str, value: Any) -> str:
    if isinstance(value, bool) or not isinstance(value, str | int | float) or not str(value).strip():
        raise ValueError(f"{where}: `{name}` is {value!r}; it must be text")
    return clean(str(value))
