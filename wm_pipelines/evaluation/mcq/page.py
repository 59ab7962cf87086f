"""The page of an evaluation: figures with their intervals, and items to look at (our design)."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from wm_pipelines.evaluation.mcq.frames import Clip
from wm_pipelines.evaluation.mcq.items import Item
from wm_pipelines.evaluation.mcq.rows import Row
from wm_pipelines.evaluation.mcq.summary import headline

EACH, ALL = 3, 12
"""Items that a control brings to the page, and all controls."""

COLUMNS = 8
HEIGHT = 96


def write_report(out: Path, report: Mapping[str, Any], rows: Sequence[Row], items: Sequence[Item]) -> None:
    """Writes `index.html`, and `frames/` with the frames of the items on it."""
    from wm_pipelines.media.pages import write_page

    by_uid = {item.uid: item for item in items}
    shown = [_entry(out, n, by_uid[a.uid], a, b) for n, (a, b) in enumerate(discordant(rows))]
    page = {**report, "headline": headline(report), "discordant": shown}
    write_page("wm_pipelines.evaluation", "mcq.html", out, page)


def discordant(rows: Iterable[Row]) -> list[tuple[Row, Row]]:
    """Pairs of rows of an item, `full` and another control, of which one is right and one wrong; a few of each."""
    rows = list(rows)
    full = {row.uid: row for row in rows if row.control == "full" and row.answered}
    found: dict[str, list[tuple[Row, Row]]] = {}
    for row in rows:
        pair = full.get(row.uid)
        if pair is not None and row.answered and row.control != "full" and row.correct != pair.correct:
            found.setdefault(row.control, []).append((pair, row))
    first = {name: n for n, name in enumerate(("mirror", "reverse", "shuffle", "blind"))}
    names = sorted(found, key=lambda name: (first.get(name, len(first)), name))
    return [pair for name in names for pair in found[name][:EACH]][:ALL]


def _entry(out: Path, number: int, item: Item, full: Row, other: Row) -> dict[str, Any]:
    name = f"frames/{number:02}.png"
    drawn = full.frame_indices is not None
    if drawn:
        _draw(out / name, item, full.frame_indices)
    sides = [
        {
            "control": row.control + (f", moved by {row.shift}" if row.shift else ""),
            "said": row.letter or "no option",
            "right": ", ".join(row.right),
            "correct": row.correct,
            "raw": (row.raw or "")[:300],
        }
        for row in (full, other)
    ]
    return {
        "uid": item.uid,
        "question": item.question,
        "options": dict(item.options),
        "sides": sides,
        "file": name if drawn else None,
    }


def _draw(path: Path, item: Item, indices: Sequence[int]) -> None:
    from wm_pipelines.media.pictures import image_grid, save_image, to_pil

    indices = indices[:: -(-len(indices) // COLUMNS)]
    frames = [to_pil(frame) for frame in Clip(item).at(indices)]
    width = max(1, round(frames[0].width * HEIGHT / frames[0].height))
    path.parent.mkdir(exist_ok=True)
    save_image(image_grid([frame.resize((width, HEIGHT)) for frame in frames], columns=len(frames), gap=2), path)
