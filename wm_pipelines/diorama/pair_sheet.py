"""Pairs of states of the miniature world for a person to look at, with the actions between them in words."""

import json
import os
import textwrap
from collections.abc import Sequence
from pathlib import Path

from PIL import Image, ImageDraw

from wm_pipelines.diorama.actions import ACTIONS
from wm_pipelines.diorama.pairs import Chain, sample_chain
from wm_pipelines.diorama.render import render
from wm_pipelines.media.pictures import image_grid
from wm_pipelines.media.video import save_gif
from wm_pipelines.runtime.files import atomic_folder

LETTER = (6, 11)  # pixels that a letter of Pillow's own font takes at most
WIDTH = 144  # pixels that words have at least


def write_pair_sheet(out: str | os.PathLike, seed: int = 0, size: int = 64) -> list[Path]:
    """Writes `pairs.json`, `pairs.png` and `pairs.gif` and returns their paths.

    The sheet has a pair of each kind of action, before and after, with the phrase beneath, and below them a chain of
    four states. The GIF shows the chain, a state each second. The JSON has the states and actions of all.
    """
    with atomic_folder(out) as folder:
        chains = [sample_chain("pair sheet", seed, kind, actions=(kind,)) for kind in ACTIONS]
        chains.append(sample_chain("pair sheet", seed, states=4))
        rows = json.dumps([_json(chain, seed) for chain in chains], indent=1)
        (folder / "pairs.json").write_text(rows + "\n", encoding="utf-8")
        _stack([draw_chain(chain, size, seed) for chain in chains], columns=2).save(folder / "pairs.png")
        save_gif(list(render(chains[-1].states, size=size).rgb[:, 0]), folder / "pairs.gif", fps=1.0)
    print("\n".join(text for chain in chains for text in chain.phrases(seed)))
    return [Path(out) / name for name in ("pairs.json", "pairs.png", "pairs.gif")]


def draw_chain(chain: Chain, size: int = 64, seed: int = 0) -> Image.Image:
    """The states of `chain` side by side, and beneath them its phrases, a line or more each, numbered in a chain."""
    states = render(chain.states, size=size).rgb[:, 0]
    row = image_grid(list(states), len(states), gap=2)
    texts = chain.phrases(seed)
    if len(texts) > 1:
        texts = [f"{n}. {text}" for n, text in enumerate(texts, 1)]
    width = max(row.width, WIDTH)
    lines = [line for text in texts for line in textwrap.wrap(text, width // LETTER[0])]
    cell = Image.new("RGB", (width, row.height + LETTER[1] * len(lines) + 6), "white")
    cell.paste(row, (0, 0))
    pen = ImageDraw.Draw(cell)
    for n, line in enumerate(lines):
        pen.text((1, row.height + 2 + LETTER[1] * n), line, fill="black")
    return cell


def _stack(cells: Sequence[Image.Image], columns: int, gap: int = 6) -> Image.Image:
    """Pictures of any sizes in rows of `columns` on white, each column and row as large as its largest."""
    rows = [cells[n : n + columns] for n in range(0, len(cells), columns)]
    widths = [max(row[n].width for row in rows if n < len(row)) for n in range(min(columns, len(cells)))]
    heights = [max(cell.height for cell in row) for row in rows]
    sheet = Image.new("RGB", (sum(widths) + gap * (len(widths) + 1), sum(heights) + gap * (len(rows) + 1)), "white")
    for r, row in enumerate(rows):
        for c, cell in enumerate(row):
            sheet.paste(cell, (gap + sum(widths[:c]) + gap * c, gap + sum(heights[:r]) + gap * r))
    return sheet


def _json(chain: Chain, seed: int) -> dict:
    return {
        "states": [json.loads(state.to_json()) for state in chain.states],
        "actions": [json.loads(action.to_json()) for action in chain.actions],
        "phrases": chain.phrases(seed),
    }
