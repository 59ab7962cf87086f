"""The API reference, from docstrings: every public name of `wm_pipelines`, what its calls give, and what pages import.

    python docs/reference.py outputs/docs    # make docs

Needs pdoc, which `.[dev]` brings. A warning of it is an error: a name or an annotation of ours that does not resolve.
"""

import re
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
TEMPLATES = Path(__file__).with_name("reference_templates")
IMPORTED = re.compile(r"^\s*(?:from|import) (wm_pipelines(?:\.\w+)+)", re.MULTILINE)


def modules(public: dict[str, object]) -> list[str]:
    """The package; modules that README or docs import, that hold what public classes give, or how they are called."""
    pages = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
    found = {module for page in pages for module in IMPORTED.findall(page.read_text(encoding="utf-8"))}
    found |= {output.__module__ for output in outputs()}
    kinds = {kind for value in public.values() if isinstance(value, type) for kind in value.__mro__}
    calls = {kind.__module__ for kind in kinds if "__call__" in vars(kind)}
    found |= calls - {value.__module__ for value in public.values()}
    return ["wm_pipelines", *sorted(name for name in found if name.startswith("wm_pipelines."))]


def outputs() -> Iterator[type]:
    """The output classes of all modules that are loaded."""
    from diffusers.utils import BaseOutput

    return (kind for kind in BaseOutput.__subclasses__() if kind.__module__.startswith("wm_pipelines."))


def build(folder: Path) -> list[Path]:
    """Write the pages into `folder`; returns them.

    Raises:
        Warning: whatever pdoc warns of.
    """
    import pdoc

    import wm_pipelines

    public = {name: getattr(wm_pipelines, name) for name in wm_pipelines.__all__}
    # pdoc looks into the module's dictionary, where names that load on first use are not
    vars(wm_pipelines).update(public)
    pdoc.render.env.globals["front"] = frozenset(public)
    pdoc.render.configure(
        docformat="google",
        show_source=False,
        footer_text=f"wm_pipelines {wm_pipelines.__version__}",
        template_directory=TEMPLATES,
    )
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        # fields that it has of PEFT's classes are annotated in the words of PEFT's module
        warnings.filterwarnings("ignore", r"Error parsing type annotation .* for .*KroneckerConfig\.__init__")
        pdoc.pdoc(*modules(public), output_directory=folder)
    return sorted(folder.rglob("*.html"))


if __name__ == "__main__":
    pages = build(Path(sys.argv[1]))
    print(f"{len(pages)} pages: {Path(sys.argv[1]) / 'index.html'}")
