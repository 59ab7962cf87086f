"""One edit and its figures on one picture."""

import torch
from PIL import Image, ImageDraw, ImageFont

from wm_pipelines.aurora_bench.measures import EditScore
from wm_pipelines.media.pictures import to_pil

SIDE, LINE, GAP = 256, 18, 8  # pixels


def score_lines(score: EditScore, copy: EditScore) -> list[str]:
    """The figures of an edit beside those of the unchanged source, a line for each."""
    lines = []
    for name in ("change", "preserve", "l1"):
        mine, theirs = getattr(score, name), getattr(copy, name)
        if mine is not None:
            lines.append(f"{name} {mine:.3f}   (a copy: {theirs:.3f})")
    lines.append(f"copied: {'yes' if score.copied else 'no'}")
    if score.success is None:
        lines.append("no truth: change and preserve are shares of pixels that differ from the source, or don't")
    else:
        lines.append(f"success: {'yes' if score.success else 'no'}   (change 0.5, preserve 0.95)")
    return lines


def score_sheet(
    source: torch.Tensor, edited: torch.Tensor, truth: torch.Tensor | None, action: str, lines: list[str]
) -> Image.Image:
    """Source, edit and truth beside one another, and below the action and lines of text."""
    named = {"source": source, "edited": edited, **({} if truth is None else {"truth": truth})}
    height, width = source.shape[1:]
    factor = SIDE / max(height, width)
    size = max(1, round(width * factor)), max(1, round(height * factor))
    wide = max(len(named) * (size[0] + GAP) + GAP, 3 * (SIDE + GAP))
    text = [f"“{action}”" if action else "", *lines]
    sheet = Image.new("RGB", (wide, size[1] + 2 * GAP + LINE * (len(text) + 1) + GAP), "white")
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(13)
    for n, (name, picture) in enumerate(named.items()):
        left = GAP + n * (size[0] + GAP)
        sheet.paste(to_pil(picture).resize(size, Image.Resampling.NEAREST), (left, GAP))
        pen.text((left, size[1] + GAP), name, fill="grey", font=font)
    for n, line in enumerate(text):
        pen.text((GAP, size[1] + 2 * GAP + LINE * (n + 1)), line, fill="black", font=font)
    return sheet
