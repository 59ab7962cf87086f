"""A sheet of pictures with words: a named column for each kind of picture, a row for each case."""

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image, ImageDraw, ImageFont

from wm_pipelines.media.pictures import Picture, to_pil

TONES = {"plain": "#333333", "good": "#1a7f37", "bad": "#b3261e"}
_FONT, _LINE, _GAP, _LABEL = 13, 16, 8, 190


@dataclass(frozen=True)
class Tile:
    """A picture and the words below it.

    Args:
        picture: as `media.pictures.to_pil` takes it; shown at the sheet's size, its pixels kept square.
        said: one line or more; long ones are wrapped.
        tone: colour of the words and of a frame, "good" (green), "bad" (red), or "plain" (grey, no frame).
    """

    picture: Picture
    said: str = ""
    tone: str = "plain"


def judged(picture: Picture, found: str, truth: str) -> Tile:
    """`picture` with what was `found` in it: green where that is the truth, red with the truth where it isn't."""
    right = found == truth
    return Tile(picture, found if right else f"{found}, truly {truth}", "good" if right else "bad")


def sheet(
    columns: Sequence[str], rows: Sequence[tuple[str, Sequence[Sequence[Tile]]]], side: int = 128
) -> Image.Image:
    """A page on white: nothing stands where a row has no tiles.

    Args:
        columns: their names.
        rows: (label, for each column its tiles, side by side); without any label there is no margin for them.
        side: of a tile, pixels.

    Raises:
        ValueError: a row has another number of cells than there are columns, or a tone is none of `TONES`.
    """
    for label, cells in rows:
        if len(cells) != len(columns):
            raise ValueError(f"`rows`: {label!r} has {len(cells)} cells for {len(columns)} columns")
        for tile in (tile for cell in cells for tile in cell):
            if tile.tone not in TONES:
                raise ValueError(f"`tone` is {tile.tone!r}; allowed: {', '.join(TONES)}")
    font, step = ImageFont.load_default(_FONT), side + _GAP
    widths = [max(1, *(len(cells[n]) for _, cells in rows)) * step + 2 * _GAP for n in range(len(columns))]
    margin = _GAP + _LABEL * any(label for label, _ in rows)
    lefts = [margin + sum(widths[:n]) for n in range(len(columns))]
    labels = [_wrapped(label, _LABEL, font) for label, _ in rows]
    said = [[[_wrapped(t.said, side, font) for t in cell] for cell in cells] for _, cells in rows]
    heights = [
        max(side + _LINE * max((len(t) for cell in row for t in cell), default=0), _LINE * len(lines)) + 2 * _GAP
        for row, lines in zip(said, labels, strict=True)
    ]
    page = Image.new("RGB", (lefts[-1] + widths[-1], sum(heights) + _LINE + 2 * _GAP), "white")
    pen = ImageDraw.Draw(page)
    for left, name in zip(lefts, columns, strict=True):
        pen.text((left, _GAP), name, fill="black", font=font)
    top = _LINE + 2 * _GAP
    for (_, cells), lines, words, height in zip(rows, labels, said, heights, strict=True):
        pen.line([(_GAP, top - _GAP // 2), (page.width - _GAP, top - _GAP // 2)], fill="#dddddd")
        for n, line in enumerate(lines):
            pen.text((_GAP, top + n * _LINE), line, fill="black", font=font)
        for left, cell, told in zip(lefts, cells, words, strict=True):
            for n, (tile, text) in enumerate(zip(cell, told, strict=True)):
                x = left + n * step
                page.paste(to_pil(tile.picture).resize((side, side), Image.Resampling.NEAREST), (x, top))
                if tile.tone != "plain":
                    pen.rectangle([x - 2, top - 2, x + side + 1, top + side + 1], outline=TONES[tile.tone], width=2)
                for k, line in enumerate(text):
                    pen.text((x, top + side + 2 + k * _LINE), line, fill=TONES[tile.tone], font=font)
        top += height
    return page


def _wrapped(text: str, width: int, font: ImageFont.FreeTypeFont) -> list[str]:
    """Lines of at most about `width` pixels."""
    letters = max(8, int(width / font.getlength("e")))
    return [part for line in text.splitlines() for part in textwrap.wrap(line, letters)]
