"""Questions as documents: what a kit asks, with all that is needed to score and group the reply, as plain values."""

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from wm_pipelines.evaluation.mcq.controls import cases, unfit
from wm_pipelines.evaluation.mcq.extract import extract_answer
from wm_pipelines.evaluation.mcq.items import Item
from wm_pipelines.evaluation.mcq.prompts import TEMPLATES, prompt
from wm_pipelines.evaluation.mcq.rows import SHOWN

CONTROLS = ("full", "blind", "circular", "mirror", "reverse")
FPS = 8.0


def documents(items: Iterable[Item], control: str = "full", protocol: str = "direct") -> list[dict[str, Any]]:
    """A document for each question that a control asks of each item that has it; `circular` asks every order.

    `prompt` is the whole text, `target` the right letter as it is shown, `video` a path ("" for none), `transform`
    what is to be done to it, `record` all else as JSON. Every document has the same fields of the same types, as
    tables of Arrow need.

    Raises:
        ValueError: another control or protocol, or a video that is no file.
    """
    if control not in CONTROLS:
        raise ValueError(f"`control` is {control!r}; it must be one of {', '.join(CONTROLS)}")
    if protocol not in ("direct", "cot"):
        raise ValueError(f"`protocol` is {protocol!r}; it must be direct or cot")
    found = []
    for item in items:
        for name in ("full", "circular") if control == "circular" else (control,):
            if name in ("mirror", "reverse") and unfit(item, name):
                continue
            found += [_document(item, case, protocol) for case in cases(item, name)]
    return found


def score(document: dict[str, Any], reply: str) -> dict[str, Any]:
    """What a reply is worth: `score` (0 or 1), `letter` (as shown, None for none), and the record of the question."""
    record = json.loads(document["record"])
    letter = extract_answer(reply, record["shown"]).letter
    right = [_shown(record, x) for x in record["right"]]
    return {**record, "score": float(letter in right), "letter": letter, "format_failure": float(letter is None)}


def video_of(document: dict[str, Any]) -> Path | None:
    """The file to show: the video, or its twin, which is written to the document's folder `twins` the first time.

    Raises:
        ValueError: the video is missing or can't be read; names the item.
    """
    if not document["video"]:
        return None
    path = Path(document["video"])
    if not path.is_file():
        raise ValueError(f"{document['uid']}: {path} not found")
    return path if not document["transform"] else _twin(path, document["transform"], Path(document["twins"]))


def with_files(items: Sequence[Item], folder: Path) -> list[Item]:
    """The items with a file for each video: frames are written to `folder` as videos of `FPS` frames a second."""
    found = []
    for item in items:
        if item.video is not None and not isinstance(item.video, Path):
            item = replace(item, video=_write(item, folder))
        found.append(item)
    return found


def _document(item: Item, case: Any, protocol: str) -> dict[str, Any]:
    if item.video is not None and not isinstance(item.video, Path):
        raise item.error("video", type(item.video).__name__, "a file; see `with_files`")
    right = item.right if case.transform is None else item.twin(case.transform)[1]
    record = {
        "uid": item.uid, "source": item.source, "subset": item.subset, "id": item.id, "question": case.question,
        "options": dict(item.options), "right": list(right), "video_id": item.cluster, "facet": item.facet,
        "family": item.family, "annotations": dict(item.annotations), "control": case.control, "shift": case.shift,
        "protocol": protocol, "shown": case.shown,
    }  # fmt: skip
    path = "" if item.video is None or case.show == "nothing" else str(item.video.absolute())
    return {
        "uid": item.uid, "prompt": prompt(TEMPLATES[protocol], case.question, case.shown),
        "target": _shown(record, right[0]), "video": path, "transform": case.transform or "", "twins": "",
        "record": json.dumps(record, ensure_ascii=False),
    }  # fmt: skip


def _shown(record: dict[str, Any], letter: str) -> str:
    return SHOWN[(SHOWN.index(letter) + record["shift"]) % len(record["options"])]


def _twin(path: Path, transform: str, folder: Path) -> Path:
    """The mirrored or reversed video, encoded once more with little loss."""
    from wm_pipelines.media.video import read_video, write_video

    state = path.stat()
    key = hashlib.sha256(f"{path} {state.st_size} {state.st_mtime_ns}".encode()).hexdigest()[:16]
    target = folder / f"{path.stem}.{transform}-{key}.mp4"
    if not target.is_file():
        folder.mkdir(parents=True, exist_ok=True)
        frames, fps = read_video(path)
        frames = frames.flip(-1) if transform == "mirror" else frames.flip(0)
        write_video(frames, target, fps=fps or FPS, quality=8)
    return target


def _write(item: Item, folder: Path) -> Path:
    import torch

    from wm_pipelines.evaluation.mcq.frames import Clip
    from wm_pipelines.media.video import write_video

    clip = Clip(item)
    frames = torch.from_numpy(clip.at(range(clip.count)).copy()).permute(0, 3, 1, 2)
    folder.mkdir(parents=True, exist_ok=True)
    name = hashlib.sha256(f"{item.uid} {item.cluster}".encode()).hexdigest()[:16]
    return write_video(frames, folder / f"{name}.mp4", fps=item.fps or FPS, quality=4)
