"""The page of all demos: `index.html`, `overview.png` and `report.json` over what each left in its own folder."""

from collections.abc import Callable
from pathlib import Path

from wm_pipelines.media.pages import Shown, write_page
from wm_pipelines.media.pictures import save_image
from wm_pipelines.media.sheets import sheet
from wm_pipelines.runtime.devices import machine
from wm_pipelines.runtime.reports import REPORT, write_json

TEMPLATE = "gallery.html"


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
    rows = [(f"{made[n].title}\n\n{made[n].said}", [list(made[n].row)]) for n in order if made[n].row]
    if rows:
        save_image(sheet([""], rows), out / "overview.png")
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
    report = {"seed": seed, "machine": machine(), "overview": bool(rows), "sections": sections}
    write_json(out / REPORT, report)
    write_page(__package__, TEMPLATE, out, report)
    say(f"all of it: {out / 'index.html'}")
