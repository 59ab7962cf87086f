"""Pages: one self-contained HTML file from a template and the pictures beside it."""

import base64
import mimetypes
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

from wm_pipelines.media.sheets import Tile
from wm_pipelines.runtime.files import atomic


@dataclass(frozen=True)
class Shown:
    """What a method's demo left in its folder, for the page of all of them.

    Args:
        title: whose it is.
        said: a sentence about what was made, or why nothing was.
        place: where it stands on the page, the lowest first.
        row: still pictures with their words, for the picture of all methods.
        files: names of pictures and GIFs in the folder, and what each shows.
        page: name of a page in the folder that shows more.
    """

    title: str
    said: str
    place: int
    row: Sequence[Tile] = ()
    files: Sequence[tuple[str, str]] = ()
    page: str | None = None


def write_page(package: str, template: str, folder: Path, report: dict[str, Any]) -> None:
    """Renders `templates/TEMPLATE` of a package of ours to `folder/index.html`, atomically.

    The template extends "page.html", whose blocks are `title`, `style` and `page`, and has `report`, and
    `inline(name)`: a picture of `folder` as a data URL.
    """
    from jinja2 import DictLoader, Environment

    def inline(name: str) -> str:
        kind = mimetypes.guess_type(name)[0]
        return f"data:{kind};base64," + base64.b64encode((folder / name).read_bytes()).decode()

    sources = {"page.html": _source(__package__, "page.html"), template: _source(package, template)}
    environment = Environment(autoescape=True, loader=DictLoader(sources))
    page = environment.get_template(template).render(report=report, inline=inline)
    with atomic(folder / "index.html") as partial:
        partial.write_text(page, encoding="utf-8")


def _source(package: str, template: str) -> str:
    return (files(package) / "templates" / template).read_text(encoding="utf-8")
