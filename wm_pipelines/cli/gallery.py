"""The page of all demos: `index.html`, `overview.png` and `report.json` over what each left in its own folder."""

from collections.abc import Callable, Sequence
from pathlib import Path

from PIL import Image

from wm_pipelines.media.pages import Shown, write_page
from wm_pipelines.media.pictures import save_image
from wm_pipelines.media.sheets import sheet
from wm_pipelines.runtime.devices import machine
from wm_pipelines.runtime.reports import REPORT, write_json

TEMPLATE = "gallery.html"
ACROSS, TILES, SIDE = 3, 3, 96


def show_all(demos: dict[str, Callable[[Path, int], Shown]], out: Path, seed: int, say: Callable[[str], None]) -> None:
    """Runs `demos`, each into a folder of `out` with its name, and writes the page over them.

    Args:
        say: told what each of them says, when it is done.
    """
    made = {}
    for name, demo in demos.items():
        made[name] = demo(out / name, seed)
        say(f"{made[name].title}. {made[name].said}")
    order = sorted(made, key=lambda name: (not made[name].files, made[name].place))  # what shows nothing, last
    with_pictures = [made[name] for name in order if made[name].row]
    if with_pictures:
        save_image(overview(with_pictures), out / "overview.png")
    sections = [
        {
            "name": name,
            "title": made[name].title,
            "said": made[name].said,
            "files": [{"file": f"{name}/{file}", "shows": words} for file, words in made[name].files],
            "page": made[name].page and f"{name}/{made[name].page}",
        }
        for name in order
    ]
    report = {"seed": seed, "machine": machine(), "overview": bool(with_pictures), "sections": sections}
    write_json(out / REPORT, report)
    write_page(__package__, TEMPLATE, out, report)
    say(f"all of it: {out / 'index.html'}")


def overview(methods: Sequence[Shown]) -> Image.Image:
    """One screen of all: a block for each method with its title, its first tile, its middle one and its last."""
    blocks = []
    for method in methods:
        tiles = list(method.row)
        some = [tiles[n] for n in sorted({round(k * (len(tiles) - 1) / (TILES - 1)) for k in range(TILES)})]
        blocks.append(sheet([method.title], [("", [some])], side=SIDE))
    lines = [blocks[n : n + ACROSS] for n in range(0, len(blocks), ACROSS)]
    width, heights = max(block.width for block in blocks), [max(b.height for b in line) for line in lines]
    page = Image.new("RGB", (width * min(ACROSS, len(blocks)), sum(heights)), "white")
    for row, line in enumerate(lines):
        for n, block in enumerate(line):
            page.paste(block, (n * width, sum(heights[:row])))
    return page
