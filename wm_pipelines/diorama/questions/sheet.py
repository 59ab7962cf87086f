"""Questions for a person to look at: frames, question, options, truth, and the truths of the twins (our design)."""

import os
import textwrap
from pathlib import Path

import torch
from PIL import Image, ImageDraw, ImageFont

from wm_pipelines.diorama.questions.items import FAMILIES, Item, sample_question
from wm_pipelines.diorama.questions.record import LETTERS
from wm_pipelines.diorama.render import render
from wm_pipelines.media.pictures import save_image, to_pil
from wm_pipelines.media.video import save_gif
from wm_pipelines.runtime.files import atomic_folder

COLUMNS = 8  # frames of a clip that the sheet shows
TILE = 96  # pixels of a frame on the sheet, at least
TEXT = 470  # pixels beside it
LINE, FONT = 15, 12
ITEMS = 5  # of one family


def write_question_sheet(
    out: str | os.PathLike, seed: int = 0, size: int = 64, family: str | None = None
) -> list[Path]:
    """Writes `questions.jsonl`, `sheet.png` and `questions.gif` and returns their paths.

    Args:
        out: a folder, made if it is absent.
        size: pixels of the rendered frames.
        family: five questions of it; default: one of each family. A question that takes knowledge of the physics is
            followed by its twin in a counter-world; one that needs a context has facts, a table, or a graph by turns.

    Raises:
        ValueError: no such family, or `out` is a file.
    """
    if family is not None and family not in FAMILIES:
        raise ValueError(f"`family` is {family!r}; allowed: {', '.join(FAMILIES)}")
    items = [item for n, name in enumerate([family] * ITEMS if family else FAMILIES) for item in _drawn(name, seed, n)]
    clips = [render(i.clip.scene, range(i.clip.shown), size, ("rgb",)).rgb[0] for i in items]
    columns = min(COLUMNS, max(len(clip) for clip in clips))
    rows = [_row(item, clip, columns) for item, clip in zip(items, clips, strict=True)]
    sheet = Image.new("RGB", (max(r.width for r in rows), sum(r.height for r in rows)), "white")
    top = 0
    for row in rows:
        sheet.paste(row, (0, top))
        top += row.height
    with atomic_folder(out) as folder:
        text = "".join(item.to_json() + "\n" for item in items)
        (folder / "questions.jsonl").write_text(text, encoding="utf-8")
        save_image(sheet, folder / "sheet.png")
        save_gif(_together(clips), folder / "questions.gif", 8.0)
    return [Path(out) / name for name in ("questions.jsonl", "sheet.png", "questions.gif")]


def _drawn(name: str, seed: int, n: int) -> list[Item]:
    family = FAMILIES[name]
    context = family.contexts[n % len(family.contexts)] if family.contexts and (family.told or n % 2) else None
    worlds = ("normal", "counter") if family.world else ("normal",)
    return [sample_question(name, "sheet", seed, n, context=context, world=world) for world in worlds]


def _together(clips: list[torch.Tensor]) -> list[torch.Tensor]:
    """All clips side by side in one, frame by frame; a short one waits at its end."""
    last = max(len(clip) for clip in clips)
    columns = min(len(clips), 6)
    frames = []
    for t in range(last):
        tiles = [clip[min(t, len(clip) - 1)] for clip in clips]
        tiles += [torch.ones_like(tiles[0])] * (-len(tiles) % columns)
        frames.append(torch.cat([torch.cat(tiles[i : i + columns], 2) for i in range(0, len(tiles), columns)], 1))
    return frames


def _row(item: Item, clip: torch.Tensor, columns: int) -> Image.Image:
    count = min(columns, len(clip))
    side = max(TILE, clip.shape[-1])
    lines = [line for part in describe(item) for line in textwrap.wrap(part, 74, subsequent_indent="    ")]
    row = Image.new("RGB", (columns * (side + 2) + TEXT, max(side + 8, LINE * len(lines) + 8)), "white")
    for k in range(count):
        t = round(k * (len(clip) - 1) / max(1, count - 1))
        row.paste(to_pil(clip[t]).resize((side, side), Image.Resampling.NEAREST), (k * (side + 2), 4))
    pen, font = ImageDraw.Draw(row), ImageFont.load_default(FONT)
    for n, line in enumerate(lines):
        pen.text((columns * (side + 2) + 6, 4 + n * LINE), line, fill="black", font=font)
    return row


def describe(item: Item) -> list[str]:
    """What is known about an item, in lines for a person."""
    question = item.question
    twins = {"mirrored": item.mirrored(), "backwards": item.backwards()}
    truths = [f"truth {question.letter}", *(f"{name} {t.question.letter if t else '-'}" for name, t in twins.items())]
    conflict = "conflict" if question.conflict else "no conflict"
    world = "" if question.world == "normal" else f"; {question.world}, {conflict}"
    return [
        f"{question.family}{world}; prior {question.prior:.2f}; decided by frames {list(question.frames)}",
        *([question.context.text] if question.context else []),
        question.text,
        *(f"{LETTERS[n]}  {option}" for n, option in enumerate(question.options)),
        "; ".join(truths),
    ]
