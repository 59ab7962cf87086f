"""Whether the videos of items are there, before a run begins (our design)."""

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, get_args

from wm_pipelines.evaluation.mcq.items import Item

OnMissing = Literal["error", "skip"]


def with_videos(items: Sequence[Item], root: Path, on_missing: OnMissing = "error") -> list[Item]:
    """The items whose video file is there and begins as a video does; only its first bytes are read.

    A failed download is often saved as a video: a page of HTML, or a pointer to a large file.

    Args:
        items: whose `video` is a path, or None (then nothing is looked for).
        root: the data set's folder, for the message.
        on_missing: "error", or "skip", which leaves those items out and warns how many they are.

    Raises:
        ValueError: another `on_missing`; a video that is missing or no video, which names the first such item and how
            many items are affected; or no item is left.
    """
    if on_missing not in get_args(OnMissing):
        raise ValueError(f"`on_missing` is {on_missing!r}; it must be one of {', '.join(get_args(OnMissing))}")
    paths = {item.video for item in items if isinstance(item.video, Path)}
    faults = {path: fault for path in paths if (fault := _fault(path)) is not None}
    bad = [item for item in items if item.video in faults] if faults else []
    if not bad:
        return list(items)
    affected = f"{len(bad):,} of {len(items):,} items affected"
    first = bad[0]
    path = first.video.relative_to(root) if first.video.is_relative_to(root) else first.video
    what = f"{first.uid}: {path} {faults[first.video]} under {root}"
    if on_missing == "error" or len(bad) == len(items):
        raise ValueError(f"{what}; get the videos, or pass `on_missing='skip'`; {affected}")
    warnings.warn(f"{what}; left out: {affected}", stacklevel=3)
    return [item for item in items if item.video not in faults]


def _fault(path: Path) -> str | None:
    """What is wrong with a file of a video, as it stands in a sentence; None where nothing is seen."""
    try:
        with open(path, "rb") as file:
            head = file.read(12)
    except OSError:
        return "not found"
    if not head:
        return "is empty"
    boxes = {b"ftyp", b"moov", b"mdat", b"free", b"wide", b"skip", b"pnot"}
    known = head[4:8] in boxes or head.startswith((b"\x1a\x45\xdf\xa3", b"RIFF", b"GIF8", b"\0\0\x01\xba", b"FLV"))
    return None if known else f"is no video (it begins with {head[:8]!r})"
