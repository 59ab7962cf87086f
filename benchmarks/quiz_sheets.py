"""Clips of each family of questions to look at: eight frames, the question, its truth and that of its twins.

    python benchmarks/quiz_sheets.py --out sheets/

One PNG a family; frames of 96 pixels, read from left to right.
"""

import argparse
import textwrap
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from wm_pipelines.diorama.questions import FAMILIES, KNOWING
from wm_pipelines.diorama.quiz import diorama_items
from wm_pipelines.evaluation.mcq.items import Item

SIDE, SHOWN, TEXT = 96, 8, 560


def truths(item: Item) -> str:
    """The options, the right one, and what is right of the twins."""
    lines = [f"{k}: {text}{'   <- right' if k == item.answer else ''}" for k, text in item.options.items()]
    said = item.options[item.answer]
    for name in ("mirror", "reverse"):
        table = item.transforms.get(name)
        twin = "not known" if table is None else table.get(said) or "none of them"
        changed = table.get(item.question) if table else None
        lines.append(f"{name}: {twin}" + (f" ({changed})" if changed and changed != item.question else ""))
    return "\n".join(lines)


def strip(item: Item) -> Image.Image:
    frames = item.video()
    taken = frames[np.linspace(0, len(frames) - 1, SHOWN).round().astype(int)]
    lines = f"[{item.subset}] {item.question}\n{truths(item)}".split("\n")
    wrapped = "\n".join(textwrap.fill(line, 90) for line in lines)
    rows = wrapped.count("\n") + 1
    page = Image.new("RGB", (SIDE * SHOWN + TEXT, max(SIDE, 13 * rows) + 6), "white")
    for i, frame in enumerate(taken):
        page.paste(Image.fromarray(frame), (i * SIDE, 0))
    ImageDraw.Draw(page).text((SIDE * SHOWN + 8, 1), wrapped, fill="black", font=ImageFont.load_default(11), spacing=2)
    return page


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--clips", type=int, default=10, help="of each family")
    moving = [name for name, family in FAMILIES.items() if family.medium != "picture"]
    parser.add_argument("--families", nargs="*", default=moving)
    args = parser.parse_args(argv)
    args.out.mkdir(parents=True, exist_ok=True)
    for family in args.families:
        worlds = ("normal", "counter") if family in KNOWING else ("normal",)
        each = -(-args.clips // len(worlds))
        items = [i for world in worlds for i in diorama_items(each, seed=7, families=[family], world=world, size=SIDE)]
        strips = [strip(item) for item in items]
        sheet = Image.new("RGB", (strips[0].width, sum(s.height for s in strips)), "white")
        y = 0
        for each_strip in strips:
            sheet.paste(each_strip, (0, y))
            y += each_strip.height
        sheet.save(args.out / f"{family}.png")
        print(args.out / f"{family}.png", flush=True)


if __name__ == "__main__":
    main()
